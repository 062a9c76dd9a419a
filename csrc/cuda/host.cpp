// The device text on the host: what the tests run where there is no GPU. A team is one lane, or a few threads that meet at
// barriers just as the lanes of a block do.
#include <dlfcn.h>
#include <pthread.h>

#include <thread>

#include "walk.hpp"

namespace fastmeta {

namespace {

class HostDevice {
 public:
  explicit HostDevice(int lanes) : lanes_(lanes) {}
  ~HostDevice() {
    for (void* library : libraries_) dlclose(library);
  }
  HostDevice(const HostDevice&) = delete;
  struct Call {
    Call(HostDevice&, uintptr_t) {}
  };

  char* allocate(int64_t bytes, const char* what) {
    char* data = static_cast<char*>(std::aligned_alloc(64, size_t((bytes + 63) / 64 * 64)));
    if (!data) throw DeviceMemoryError(std::string("expected ") + std::to_string(bytes) + " bytes for " + what + ", got none");
    std::memset(data, 0xA5, size_t(bytes));  // nothing may depend on what fresh memory holds
    return data;
  }
  void release(char* data) { std::free(data); }
  void upload(char* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, size_t(bytes));
  }
  void download(char* to, const char* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, size_t(bytes));
  }
  void clear(char* at, int64_t bytes) {
    if (bytes > 0) std::memset(at, 0, size_t(bytes));
  }
  void finish() {}
  int number() const { return 0; }
  void forget() {}
  template <class Fn> void replay(int64_t, Fn fn) { fn(); }
  int64_t fast_arena(int64_t) const { return 0; }
  int64_t teams(int64_t) const { return 3; }  // few: groups outnumber the teams, as on a device
  int64_t available() const { return int64_t{1} << 30; }

  // As the library of a device, here for products of any size.
  static constexpr int64_t kLeastProduct = 2;
  bool multiplies() const { return true; }
  void multiply(const Multiplication& x) const { x.wide ? multiply<double>(x) : multiply<float>(x); }

  // Functions of text compiled for a plan.
  using Function = void (*)(const void*, const device::Team&, const device::Grid&);
  void load(const std::string& file) {
    void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw DeviceError(dlerror());
    libraries_.push_back(library);
  }
  Function find(int code, const std::string& name, int64_t = 0) const {
    const auto function = reinterpret_cast<Function>(dlsym(libraries_.at(size_t(code)), name.c_str()));
    if (!function) throw DeviceError("the text has no " + name);
    return function;
  }
  template <class Arguments> void call(Function function, const Arguments& arguments, int, int64_t width, int64_t height, int64_t = 0) {
    launch([&](const device::Team& team, const device::Grid& grid, char*) { function(&arguments, team, grid); }, width, height);
  }
  int64_t teams(Function, int, int64_t) const { return 3; }

  template <class Kernel> void launch(const Kernel& kernel, int64_t width, int64_t height, int64_t = 0) {
    if (lanes_ == 1) return run(kernel, width, height, 0, nullptr, stage_);
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, unsigned(lanes_));
    std::vector<std::thread> threads;
    for (int lane = 0; lane < lanes_; ++lane) threads.emplace_back([&, lane] { run(kernel, width, height, lane, &barrier, stage_); });
    for (std::thread& thread : threads) thread.join();
    pthread_barrier_destroy(&barrier);
  }

 private:
  template <class T> static void multiply(const Multiplication& x) {
    if (x.left.ld < (x.left.transposed ? x.k : x.m) || x.right.ld < (x.right.transposed ? x.n : x.k) || x.ld < x.m)
      throw DeviceError("columns that overlap: a library refuses them");
    const auto element = [](const Multiplication::Factor& f, int i, int row, int col) { return reinterpret_cast<T**>(f.at)[i][f.transposed ? row * int64_t(f.ld) + col : row + col * int64_t(f.ld)]; };
    for (int i = 0; i < x.count; ++i)
      for (int col = 0; col < x.n; ++col)
        for (int row = 0; row < x.m; ++row) {
          T sum = 0;
          for (int k = 0; k < x.k; ++k) sum += element(x.left, i, row, k) * element(x.right, i, k, col);
          T& out = reinterpret_cast<T**>(x.result)[i][row + col * int64_t(x.ld)];
          out = T(x.alpha) * sum + (x.add ? out : T(0));
        }
  }
  template <class Kernel> void run(const Kernel& kernel, int64_t width, int64_t height, int lane, pthread_barrier_t* barrier, char* stage) const {
    device::Team team{lane, lanes_, stage};
    if (barrier) {
      team.barrier = barrier;
      team.wait = [](void* b) { pthread_barrier_wait(static_cast<pthread_barrier_t*>(b)); };
    }
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        kernel(team, device::Grid{x, y, width, height}, nullptr);
        team.sync();
      }
  }

  int lanes_;
  std::vector<void*> libraries_;
  alignas(64) char stage_[device::kStageBytes];
};

}  // namespace

std::unique_ptr<Runner> make_runner(std::shared_ptr<const PlanSpec> plan, const int64_t* words, size_t n_words, const char* consts, Way way, int lanes,
                                    std::optional<FixedText> fixed) {
  return std::make_unique<Walker<HostDevice>>(std::move(plan), words, n_words, consts, way, lanes, std::move(fixed));
}

std::string device_missing() { return ""; }

DeviceFacts device_facts() { return {0, 256 << 10, 0}; }

}  // namespace fastmeta
