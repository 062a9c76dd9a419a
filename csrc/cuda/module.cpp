// fastmeta._cuda and fastmeta._cuda_host: one source, two runners. Arrays come as addresses; Python has checked them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "executor.hpp"

namespace py = pybind11;

namespace fastmeta {

namespace {

PyObject *bad_index_type = nullptr, *device_error_type = nullptr;

class DevicePlan {
 public:
  DevicePlan(const py::buffer& words, const py::bytes& consts, const std::string& way, int lanes, const py::object& fixed) {
    if (lanes < 1 || lanes > 64) throw std::invalid_argument("[plan] lanes: expected 1..64, got " + std::to_string(lanes));
    const std::string_view blob = consts;
    plan_ = checked(words, blob.size());
    const py::buffer_info info = words.request();
    const auto* data = static_cast<const int64_t*>(info.ptr);
    const Way chosen = way == "resident" ? Way::Resident : way == "batched" ? Way::Batched : Way::Auto;
    runner_ = make_runner(plan_, data, size_t(info.size), blob.data(), chosen, lanes, text(fixed, size_t(info.size)));
  }

  static std::shared_ptr<const PlanSpec> checked(const py::buffer& words, size_t const_bytes) {
    const py::buffer_info info = words.request();
    if (info.ndim != 1 || info.itemsize != 8 || info.strides[0] != 8) throw PlanError("[plan] words: expected a contiguous int64 array of one dimension, got another array");
    return std::make_shared<const PlanSpec>(decode_plan(static_cast<const int64_t*>(info.ptr), size_t(info.size), const_bytes));
  }

  void run(const std::vector<uintptr_t>& arrays, bool on_host, int64_t length, uintptr_t stream, bool wait) {
    if (arrays.size() != plan_->inputs.size() + plan_->outputs.size() || length < 1 || length > INT32_MAX)
      throw std::invalid_argument("[run] expected an address for each array of the plan and at least one task, got others");
    py::gil_scoped_release released;
    runner_->run(reinterpret_cast<char* const*>(arrays.data()), on_host, length, stream, wait);
  }
  int device() const { return runner_->device(); }

  py::list arrays(bool outputs) const {
    py::list out;
    for (const ArraySpec& array : outputs ? plan_->outputs : plan_->inputs) {
      py::tuple shape(size_t(array.rank));
      for (int d = 0; d < array.rank; ++d) shape[size_t(d)] = array.dims[d];
      out.append(py::make_tuple(int(array.dtype), shape));
    }
    return out;
  }
  const PlanSpec& spec() const { return *plan_; }

 private:
  // (codes, bodies, stages, alone, lanes, partial bytes, near bytes), or None.
  static std::optional<FixedText> text(const py::object& fixed, size_t n_words) {
    if (fixed.is_none()) return {};
    const auto parts = fixed.cast<py::tuple>();
    FixedText out;
    out.codes = parts[0].cast<std::vector<std::string>>();
    out.bodies = parts[1].cast<std::vector<int32_t>>();
    for (const auto& body : parts[2].cast<std::vector<std::vector<std::tuple<int64_t, int, int>>>>()) {
      out.stages.emplace_back();
      for (const auto& [units, lanes, code] : body) out.stages.back().push_back({units, lanes, code});
    }
    out.alone = parts[3].cast<std::vector<bool>>();
    out.lanes = parts[4].cast<int>();
    out.partial_bytes = parts[5].cast<int64_t>();
    out.near_bytes = parts[6].cast<int64_t>();
    if (out.bodies.size() != n_words || out.alone.size() != out.stages.size()) throw std::invalid_argument("[plan] fixed: expected a body for each word, got others");
    return out;
  }

  std::shared_ptr<const PlanSpec> plan_;
  std::unique_ptr<Runner> runner_;
};

}  // namespace

}  // namespace fastmeta

PYBIND11_MODULE(FASTMETA_MODULE, m) {
  using namespace fastmeta;
  bad_index_type = PyErr_NewExceptionWithDoc("fastmeta._core.BadIndex", "An index outside its array; args are (tag, task, index, bound).", PyExc_IndexError, nullptr);
  device_error_type = PyErr_NewExceptionWithDoc("fastmeta._cuda.DeviceError", "What the device refused; args are (message, tag of the instruction or -1).", PyExc_RuntimeError, nullptr);
  m.attr("BadIndex") = py::reinterpret_borrow<py::object>(bad_index_type);
  m.attr("DeviceError") = py::reinterpret_borrow<py::object>(device_error_type);
  m.attr("version") = FASTMETA_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const BadIndexError& e) {
      PyErr_SetObject(bad_index_type, py::make_tuple(e.tag, e.task, e.index, e.bound).ptr());
    } catch (const DeviceMemoryError& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    } catch (const DeviceError& e) {
      PyErr_SetObject(device_error_type, py::make_tuple(std::string(e.what()), e.tag).ptr());
    }
  });
  py::class_<DevicePlan>(m, "Plan", "A checked plan on a device.")
      .def(py::init<const py::buffer&, const py::bytes&, const std::string&, int, const py::object&>(), py::arg("words"), py::arg("consts"), py::arg("way") = "auto", py::arg("lanes") = 1,
           py::arg("fixed") = py::none())
      .def("run", &DevicePlan::run, py::arg("arrays"), py::arg("on_host"), py::arg("length"), py::arg("stream") = 0, py::arg("wait") = false,
           "Runs the plan on the addresses of its inputs, then outputs, behind what the stream holds.")
      .def_property_readonly("device", &DevicePlan::device, "The number of the GPU.")
      .def_property_readonly("inputs", [](const DevicePlan& p) { return p.arrays(false); }, "A list of (dtype code, shape).")
      .def_property_readonly("outputs", [](const DevicePlan& p) { return p.arrays(true); })
      .def_property_readonly("work", [](const DevicePlan& p) { return p.spec().work; });
  m.def("check", [](const py::buffer& words, size_t const_bytes) { DevicePlan::checked(words, const_bytes); }, "Raises where the words are no plan.");
  m.def("facts", [] {
    const DeviceFacts facts = device_facts();
    return py::make_tuple(facts.architecture, facts.resident_bytes, facts.shared_bytes);
  }, "The architecture (0: the host), the largest arena that is run resident with fixed text, and the memory of which that is a part, shared by the blocks of a processor (0: none).");
  m.def("missing", &device_missing, "Why there is no device, or an empty string.");
}
