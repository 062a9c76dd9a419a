// fastmeta._core: the only file that knows Python.
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>

#include "checked.hpp"
#include "native/executor.hpp"
#include "native/memory.hpp"
#include "native/pool.hpp"
#include "plan.hpp"

namespace py = pybind11;

namespace fastmeta {

namespace {

const Kernels* current_kernels = nullptr;  // read and written under the GIL
PyObject* bad_index_type = nullptr;
unsigned long main_thread = 0;

// ---------------------------------------------------------------------------------------------------------------
// Memory of large outputs. Fresh pages cost as much as filling them, so a buffer comes back when its array is dropped.
// All of this runs under the GIL.

class OutputPool {
 public:
  static constexpr int64_t kSmallest = int64_t{1} << 20, kMaxIdle = int64_t{1} << 30;
  static constexpr int64_t kHeader = 64;  // before the data: the size

  static OutputPool& get() {
    static OutputPool* pool = new OutputPool;  // arrays may outlive static destructors
    return *pool;
  }
  char* take(int64_t bytes) {
    for (size_t k = idle_.size(); k-- > 0;) {  // the warmest first
      const int64_t size = size_of(idle_[k]);
      if (size < bytes || size > bytes + bytes / 4) continue;
      char* data = idle_[k];
      idle_.erase(idle_.begin() + std::ptrdiff_t(k));
      idle_bytes_ -= size;
      return data;
    }
    char* memory = allocate_aligned(bytes + kHeader);
    std::memcpy(memory, &bytes, sizeof bytes);
    return memory + kHeader;
  }
  void give(char* data) {
    idle_.push_back(data);
    idle_bytes_ += size_of(data);
    while (idle_bytes_ > kMaxIdle) {
      idle_bytes_ -= size_of(idle_.front());
      std::free(idle_.front() - kHeader);
      idle_.pop_front();
    }
  }

 private:
  static int64_t size_of(const char* data) {
    int64_t size;
    std::memcpy(&size, data - kHeader, sizeof size);
    return size;
  }
  std::deque<char*> idle_;  // the oldest first
  int64_t idle_bytes_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------
// NumPy arrays, as raw as they come: a call has a budget of a few microseconds.

struct NumpyTypes {
  PyObject* descr[4];
  int number[4];
  NumpyTypes() {
    using api = py::detail::npy_api;
    const int numbers[4] = {api::NPY_FLOAT_, api::NPY_DOUBLE_, api::NPY_INT32_, api::NPY_BOOL_};
    const char* names[4] = {"float32", "float64", "int32", "bool"};
    for (int k = 0; k < 4; ++k) {
      descr[k] = py::dtype(std::string(names[k])).release().ptr();
      number[k] = py::detail::array_descriptor_proxy(descr[k])->type_num;
    }
    (void)numbers;
  }
  static const NumpyTypes& get() {
    static const NumpyTypes* types = new NumpyTypes;
    return *types;
  }
};

// Is `object` a C-contiguous array just as `spec` says? Sets T at the first array that has it, compares it at the others.
bool matches(PyObject* object, const ArraySpec& spec, const NumpyTypes& types, PyTypeObject* array_type, int64_t& length) {
  using api = py::detail::npy_api;
  if (Py_TYPE(object) != array_type) return false;  // a subclass may mean something else
  const auto* array = py::detail::array_proxy(object);
  constexpr int wanted = api::NPY_ARRAY_C_CONTIGUOUS_ | api::NPY_ARRAY_ALIGNED_;
  if ((array->flags & wanted) != wanted || array->nd != spec.rank) return false;
  if (array->descr != types.descr[spec.dtype]) {
    const auto* descr = py::detail::array_descriptor_proxy(array->descr);
    if (descr->type_num != types.number[spec.dtype] || (descr->byteorder != '=' && descr->byteorder != '|')) return false;
  }
  int d = 0;
  if (spec.per_task) {
    const int64_t rows = array->dimensions[0];
    if (length == 0 && rows >= 1 && rows <= INT32_MAX) length = rows;
    if (rows != length || rows == 0) return false;
    d = 1;
  }
  for (; d < spec.rank; ++d)
    if (array->dimensions[d] != spec.dims[d]) return false;
  return true;
}

py::object new_output(const ArraySpec& spec, const NumpyTypes& types, int64_t length) {
  auto& api = py::detail::npy_api::get();
  Py_intptr_t dims[kMaxRank];
  for (int d = 0; d < spec.rank; ++d) dims[d] = spec.dims[d];
  if (spec.per_task) dims[0] = length;
  const Checked bytes = Checked(spec.bytes) * (spec.per_task ? length : 1);
  if (!bytes.within(0, int64_t{1} << 48)) throw NoMemory(bytes.ok() ? bytes.value() : INT64_MAX);
  char* data = bytes.value() >= OutputPool::kSmallest ? OutputPool::get().take(bytes.value()) : nullptr;
  Py_INCREF(types.descr[spec.dtype]);  // NewFromDescr steals one
  constexpr int flags = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, types.descr[spec.dtype], spec.rank, dims, nullptr, data, data ? flags : 0, nullptr);
  if (!array) {
    if (data) OutputPool::get().give(data);
    throw py::error_already_set();
  }
  py::object out = py::reinterpret_steal<py::object>(array);
  if (data) {
    PyObject* capsule = PyCapsule_New(data, nullptr, [](PyObject* self) { OutputPool::get().give(static_cast<char*>(PyCapsule_GetPointer(self, nullptr))); });
    if (!capsule) {
      OutputPool::get().give(data);
      throw py::error_already_set();
    }
    if (api.PyArray_SetBaseObject_(array, capsule) != 0) throw py::error_already_set();
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------------

// Releases the GIL for its scope, and takes it back now and then to let Python's signal handlers run.
class Released final : public Poller {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  ~Released() override { PyEval_RestoreThread(state_); }
  bool wants_stop() override {
    if (PyThread_get_thread_ident() != main_thread) return false;  // handlers run on that thread only
    PyEval_RestoreThread(state_);
    raised_ = raised_ || PyErr_CheckSignals() != 0;
    state_ = PyEval_SaveThread();
    return raised_;
  }
  bool raised() const { return raised_; }

 private:
  PyThreadState* state_;
  bool raised_ = false;
};

class Plan {
 public:
  Plan(const py::array& words, const py::bytes& consts, bool winograd) : winograd_(winograd) {
    if (!py::isinstance<py::array_t<int64_t>>(words) || words.ndim() != 1 || !(words.flags() & py::array::c_style))
      throw PlanError("[plan] words: expected a contiguous int64 array of one dimension, got another array");
    char* blob = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(consts.ptr(), &blob, &size) != 0) throw py::error_already_set();
    spec_ = std::make_shared<const PlanSpec>(decode_plan(static_cast<const int64_t*>(words.data()), size_t(words.size()), size_t(size)));
    consts_ = std::make_shared<Buffer>();
    std::memcpy(consts_->reserve(std::max<int64_t>(size, 64)), blob, size_t(size));
    bind();
  }

  // A tuple of arrays, or None where the inputs are not exactly what the plan was made for.
  py::object run(const py::object& arrays, int threads) {
    Arguments arguments;
    if (!collect(arrays, arguments)) return py::none();
    execute(arguments, threads, arguments.length, nullptr);
    return std::move(arguments.outputs);
  }

  py::object profile(const py::object& arrays, int rounds) {
    Arguments arguments;
    if (!collect(arrays, arguments)) return py::none();
    Profile profile;
    for (const Block& block : spec_->blocks) profile.nanoseconds.emplace_back(block.instrs.size(), HUGE_VAL);
    for (int round = 0; round < rounds; ++round) execute(arguments, 1, 1, &profile);
    py::list out;
    for (size_t b = 0; b < spec_->blocks.size(); ++b)
      for (size_t k = 0; k < spec_->blocks[b].instrs.size(); ++k) {
        const Instr& instr = spec_->blocks[b].instrs[k];
        out.append(py::make_tuple(b, k, instr.body.index() + 1, instr.tag, profile.nanoseconds[b][k]));
      }
    return std::move(out);
  }

  const PlanSpec& spec() const { return *spec_; }
  const Program& program() const { return *program_; }

 private:
  static constexpr size_t kFewArrays = 32;
  struct Arguments {
    char* few[kFewArrays];
    std::vector<char*> many;
    char** pointers = few;
    int64_t length = 0;
    py::object items, outputs;  // keep the memory alive
  };

  void bind() {
    // The program points into the constants: they live as long as it does.
    auto hold = std::make_shared<std::pair<std::shared_ptr<Buffer>, Program>>(std::piecewise_construct, std::forward_as_tuple(consts_), std::forward_as_tuple(spec_, consts_->data(), current_kernels, winograd_));
    program_ = std::shared_ptr<const Program>(hold, &hold->second);
  }

  bool collect(const py::object& arrays, Arguments& out) const {
    const size_t n_inputs = spec_->inputs.size(), n_outputs = spec_->outputs.size();
    out.items = py::reinterpret_steal<py::object>(PySequence_Fast(arrays.ptr(), "expected a sequence of arrays"));
    if (!out.items) throw py::error_already_set();
    if (size_t(PySequence_Fast_GET_SIZE(out.items.ptr())) != n_inputs) return false;
    if (n_inputs + n_outputs > kFewArrays) {
      out.many.resize(n_inputs + n_outputs);
      out.pointers = out.many.data();
    }
    // A list may change while the GIL is released: its arrays are then held by a tuple of our own.
    if (!PyTuple_Check(out.items.ptr())) out.items = py::reinterpret_steal<py::object>(PySequence_Tuple(out.items.ptr()));
    const NumpyTypes& types = NumpyTypes::get();
    PyTypeObject* array_type = py::detail::npy_api::get().PyArray_Type_;
    for (size_t k = 0; k < n_inputs; ++k) {
      PyObject* item = PyTuple_GET_ITEM(out.items.ptr(), Py_ssize_t(k));
      if (!matches(item, spec_->inputs[k], types, array_type, out.length)) return false;
      out.pointers[k] = py::detail::array_proxy(item)->data;
    }
    if (out.length == 0) {
      // T from nowhere: outputs alone cannot say how many tasks there are.
      if (spec_->has_runtime_length) return false;
      out.length = 1;
    }
    out.outputs = py::reinterpret_steal<py::object>(PyTuple_New(Py_ssize_t(n_outputs)));
    if (!out.outputs) throw py::error_already_set();
    for (size_t k = 0; k < n_outputs; ++k) {
      py::object array = new_output(spec_->outputs[k], types, out.length);
      out.pointers[n_inputs + k] = py::detail::array_proxy(array.ptr())->data;
      PyTuple_SET_ITEM(out.outputs.ptr(), Py_ssize_t(k), array.release().ptr());
    }
    return true;
  }

  void execute(const Arguments& arguments, int threads, int64_t length, Profile* profile) {
    if (threads < 1) throw std::invalid_argument("[run] threads: expected at least 1, got " + std::to_string(threads));
    if (program_->kernels() != current_kernels) bind();
    const std::shared_ptr<const Program> program = program_;  // another thread may change the instruction set meanwhile
    Call call;
    call.length = length;
    bool raised;
    {
      Released released;
      call.poller = &released;
      PoolLease pool(threads);
      program->run(call, arguments.pointers, pool, profile);
      raised = released.raised();
    }
    if (raised) throw py::error_already_set();
    if (call.has_bad_index) {
      const BadIndex& bad = call.bad_index;
      PyErr_SetObject(bad_index_type, py::make_tuple(bad.tag, bad.task, bad.index, bad.bound).ptr());
      throw py::error_already_set();
    }
  }

  std::shared_ptr<const PlanSpec> spec_;
  std::shared_ptr<Buffer> consts_;
  bool winograd_;
  std::shared_ptr<const Program> program_;
};

void set_isa(const std::string& name) {
  const Kernels* kernels = kernels_by_name(name.c_str());
  if (!kernels) throw std::invalid_argument("[set_isa] expected baseline, avx2, avx512 or avx512-halves that this build and processor have, got " + name);
  current_kernels = kernels;
}

}  // namespace

}  // namespace fastmeta

PYBIND11_MODULE(_core, m) {
  using namespace fastmeta;
  m.doc() = "The native core of fastmeta: checks plans and runs them.";
  current_kernels = best_kernels();
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
  bad_index_type = PyErr_NewExceptionWithDoc("fastmeta._core.BadIndex", "An index outside its array; args are (tag, task, index, bound).", PyExc_IndexError, nullptr);
  m.attr("BadIndex") = py::reinterpret_borrow<py::object>(bad_index_type);

  py::class_<Plan>(m, "Plan", "A checked plan, ready to run.")
      .def(py::init<const py::array&, const py::bytes&, bool>(), py::arg("words"), py::arg("consts"), py::arg("winograd") = true)
      .def("run", &Plan::run, py::arg("arrays"), py::arg("threads"),
           "Runs the plan on C-contiguous arrays; a tuple of arrays, or None where the inputs are not exactly the plan's.")
      .def("profile", &Plan::profile, py::arg("arrays"), py::arg("rounds"),
           "Runs the first task on one thread; a list of (block, index, opcode, tag, least nanoseconds).")
      .def("footprint", [](const Plan& p, int64_t tasks, int threads) {
             const Footprint f = p.program().footprint(tasks, threads);
             return py::make_tuple(f.arenas, f.scratch, f.shared, f.sums, f.constants);
           }, py::arg("tasks"), py::arg("threads"), "Bytes of a run's arenas and scratch, of values that tasks share, of sums over tasks, of constants.")
      .def_property_readonly("work", [](const Plan& p) { return p.spec().work; }, "Elementary operations of a run of one task.")
      .def_property_readonly("arena_bytes", [](const Plan& p) { return p.spec().arena_bytes; })
      .def_property_readonly("shared_bytes", [](const Plan& p) { return p.spec().shared_bytes; });
  m.def("isa", [] { return current_kernels->name; }, "The instruction set in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Chooses baseline, avx2, avx512 or avx512-halves for all later runs.");
  m.def("kernels", [] { return reinterpret_cast<uintptr_t>(current_kernels); }, "Where the table of kernels in use lies, for tests of single ones.");
  m.def("default_threads", &default_threads, "Threads that the affinity and the cgroup quota allow.");
  // Joined while the interpreter still stands; later calls would only start them again.
  py::module_::import("atexit").attr("register")(py::cpp_function([] { Pool::join_all(); }));
}
