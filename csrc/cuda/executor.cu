// The device's side of a run: memory, streams, launches and recorded graphs of the CUDA runtime.
#include <cuda_runtime.h>

#if CUDART_VERSION < 12080
#error "fastmeta needs CUDA 12.8 or later"
#endif

#include "cublas.hpp"
#include "walk.hpp"

namespace fastmeta {

namespace {

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f GB", double(bytes) * 1e-9);
  return text;
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that can be survived is not met again
  throw DeviceError(std::string(what) + " failed: " + cudaGetErrorString(status));
}

template <class Kernel> __global__ void __launch_bounds__(device::kTeamLanes) enter(const Kernel kernel, bool fast) {
  extern __shared__ __align__(256) char arena[];
  __shared__ __align__(16) char stage[device::kStageBytes];
  const device::Team team{int(threadIdx.x), int(blockDim.x), stage};
  kernel(team, device::Grid{blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}, fast ? arena : nullptr);
}

// What a block may have of an arena beside its stage.
int64_t own_memory(int number) {
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, number), "cudaDeviceGetAttribute");
  return most - device::kStageBytes - 1024;
}

// A device is the current one for the length of a scope.
class Current {
 public:
  explicit Current(int number) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != number) check(cudaSetDevice(number), "cudaSetDevice");
    changed_ = before_ != number;
  }
  ~Current() {
    if (changed_) cudaSetDevice(before_);
  }
  Current(const Current&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

class CudaDevice {
 public:
  explicit CudaDevice(int) {
    check(cudaGetDevice(&number_), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, number_), "cudaDeviceGetAttribute");
    most_fast_ = own_memory(number_);
    check(cudaFuncSetAttribute(enter<device::TasksKernel<device::Interpreter>>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(most_fast_)), "cudaFuncSetAttribute");
    check(cudaStreamCreateWithFlags(&recorder_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreateWithFlags(&last_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaDevice() {
    forget();
    try {
      const Current current(number_);
      cublas_.reset();
    } catch (const DeviceError&) {  // the driver has gone
    }
    for (cudaLibrary_t library : libraries_) cudaLibraryUnload(library);
    cudaFree(workspace_);
    cudaEventDestroy(last_);
    cudaStreamDestroy(recorder_);
  }
  CudaDevice(const CudaDevice&) = delete;

  // One run: on this plan's device, in the caller's stream, behind the last run of this plan, which used the same memory.
  class Call {
   public:
    Call(CudaDevice& device, uintptr_t stream) : device_(device), current_(device.number_) {
      device.stream_ = reinterpret_cast<cudaStream_t>(stream);
      check(cudaStreamWaitEvent(device.stream_, device.last_, 0), "cudaStreamWaitEvent");
    }
    ~Call() { cudaEventRecord(device_.last_, device_.stream_); }
    Call(const Call&) = delete;

   private:
    CudaDevice& device_;
    const Current current_;
  };
  int number() const { return number_; }

  char* allocate(int64_t bytes, const char* what) {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, size_t(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, all = 0;
      cudaMemGetInfo(&free, &all);
      throw DeviceMemoryError("[cuda] expected " + gigabytes(bytes) + " of device memory for " + what + ", got " + gigabytes(int64_t(free)) + " free of " +
                              gigabytes(int64_t(all)));
    }
    check(status, "cudaMalloc");
    return static_cast<char*>(data);
  }
  void release(char* data) { cudaFree(data); }  // waits for the device
  void upload(char* to, const void* from, int64_t bytes) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyHostToDevice, stream_), "copying to the device");
  }
  void download(char* to, const char* from, int64_t bytes) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDeviceToHost, stream_), "copying from the device");
  }
  void clear(char* at, int64_t bytes) {
    if (bytes > 0) check(cudaMemsetAsync(at, 0, size_t(bytes), stream_), "cudaMemset");
  }
  void finish() { check(cudaStreamSynchronize(stream_), "running the plan"); }

  // What fn launches, recorded once for each number of tasks: addresses of arrays are read from device memory. The first time
  // it is launched as it is, for what the driver and libraries load then cannot be recorded; and so for ever where the
  // recording is refused.
  template <class Fn> void replay(int64_t length, Fn fn) {
    const auto found = graphs_.find(length);
    if (found == graphs_.end()) {
      fn();
      if (graphs_.size() >= kMostGraphs) forget();
      graphs_[length] = {};
      return;
    }
    Graph& graph = found->second;
    if (!graph.made && !graph.refused) {
      try {
        graph.made = record(fn);
      } catch (const DeviceError&) {
        graph.refused = true;
      }
    }
    if (graph.refused) return fn();
    check(cudaGraphLaunch(graph.made, stream_), "cudaGraphLaunch");
  }
  void forget() {
    for (auto& [length, graph] : graphs_)
      if (graph.made) cudaGraphExecDestroy(graph.made);
    graphs_.clear();
  }

  // Products whose sides are all this long are cuBLAS's, where it is there.
  static constexpr int64_t kLeastProduct = 128;
  bool multiplies() {
    if (!cublas_) cublas_ = std::make_unique<Cublas>();
    if (cublas_->there() && !workspace_) workspace_ = allocate(Cublas::kWorkspace, "cuBLAS");
    return cublas_->there();
  }
  void multiply(const Multiplication& x) {
    if (const int status = cublas_->multiply(x, stream_, workspace_)) throw DeviceError("cuBLAS failed with status " + std::to_string(status));
  }

  // The bytes of an arena in a block's own memory; 0 where it does not fit.
  int64_t fast_arena(int64_t bytes) const { return bytes > 0 && bytes <= most_fast_ ? bytes : 0; }
  // How many teams run at once.
  int64_t teams(int64_t fast_bytes) const {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, enter<device::TasksKernel<device::Interpreter>>, device::kTeamLanes, size_t(fast_bytes)), "cudaOccupancy");
    return std::max(1, blocks) * int64_t(processors_);
  }
  int64_t available() const {
    size_t free = 0, all = 0;
    check(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
    return int64_t(free);
  }

  // Functions of text compiled for a plan.
  using Function = cudaKernel_t;
  void load(const std::string& code) {
    cudaLibrary_t library = nullptr;
    check(cudaLibraryLoadData(&library, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0), "loading the plan's text");
    libraries_.push_back(library);
  }
  Function find(int code, const std::string& name, int64_t fast_bytes = 0) const {
    Function function = nullptr;
    check(cudaLibraryGetKernel(&function, libraries_.at(size_t(code)), name.c_str()), name.c_str());
    if (fast_bytes > 0) check(cudaKernelSetAttributeForDevice(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(fast_bytes), number_), "cudaKernelSetAttribute");
    return function;
  }
  template <class Arguments> void call(Function function, const Arguments& arguments, int lanes, int64_t width, int64_t height, int64_t fast_bytes = 0) {
    void* list[] = {const_cast<Arguments*>(&arguments)};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(function), dim3(unsigned(width), unsigned(height)), dim3(unsigned(lanes)), list, size_t(fast_bytes), stream_), "the launch");
  }
  int64_t teams(Function function, int lanes, int64_t fast_bytes) const {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reinterpret_cast<const void*>(function), lanes, size_t(fast_bytes)), "cudaOccupancy");
    return std::max(1, blocks) * int64_t(processors_);
  }

  template <class Kernel> void launch(const Kernel& kernel, int64_t width, int64_t height, int64_t fast_bytes = 0) {
    enter<<<dim3(unsigned(width), unsigned(height)), device::kTeamLanes, size_t(fast_bytes), stream_>>>(kernel, fast_bytes > 0);
    check(cudaGetLastError(), "the launch");
  }

 private:
  static constexpr size_t kMostGraphs = 8;

  template <class Fn> cudaGraphExec_t record(Fn fn) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(recorder_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    const cudaStream_t caller = std::exchange(stream_, recorder_);
    try {
      fn();
    } catch (...) {
      cudaStreamEndCapture(recorder_, &graph);
      cudaGetLastError();  // that this failed is no news
      if (graph) cudaGraphDestroy(graph);
      stream_ = caller;
      throw;
    }
    stream_ = caller;
    check(cudaStreamEndCapture(recorder_, &graph), "cudaStreamEndCapture");
    cudaGraphExec_t made = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    return made;
  }

  int number_ = 0, processors_ = 1;
  int64_t most_fast_ = 0;
  cudaStream_t stream_ = nullptr, recorder_ = nullptr;
  cudaEvent_t last_ = nullptr;
  std::vector<cudaLibrary_t> libraries_;
  struct Graph {
    cudaGraphExec_t made = nullptr;  // at the second run
    bool refused = false;
  };
  std::map<int64_t, Graph> graphs_;  // by number of tasks
  std::unique_ptr<Cublas> cublas_;
  char* workspace_ = nullptr;
};

}  // namespace

std::unique_ptr<Runner> make_runner(std::shared_ptr<const PlanSpec> plan, const int64_t* words, size_t n_words, const char* consts, Way way, int lanes,
                                    std::optional<FixedText> fixed) {
  const std::string missing = device_missing();
  if (!missing.empty()) throw DeviceError(missing);
  return std::make_unique<Walker<CudaDevice>>(std::move(plan), words, n_words, consts, way, lanes, std::move(fixed));
}

std::string device_missing() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no CUDA driver is installed";
  auto version = [](int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); };
  if (driver / 1000 < CUDART_VERSION / 1000)
    return "the driver knows CUDA " + version(driver) + ", and fastmeta was built with " + version(CUDART_VERSION) + ": update the driver";
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("the driver reports: ") + cudaGetErrorString(status);
  }
  return count > 0 ? "" : "the driver reports no GPU";
}

DeviceFacts device_facts() {
  int number = 0, major = 0, minor = 0, shared = 0;
  check(cudaGetDevice(&number), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, number), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, number), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, number), "cudaDeviceGetAttribute");
  return {10 * major + minor, own_memory(number), shared};
}

}  // namespace fastmeta
