// What the Python side of the CUDA core sees of it; implemented by executor.cu on a device and by host.cpp on the host.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>

#include "../plan.hpp"

namespace fastmeta {

// Resident: a team runs whole tasks, one launch for all of them. Batched: instruction by instruction over many tasks.
enum class Way { Auto, Resident, Batched };

// What the device or its driver refused, with the instruction that was launched; tag -1: none.
struct DeviceError : std::runtime_error {
  DeviceError(const std::string& text, int tag = -1) : std::runtime_error(text), tag(tag) {}
  int tag;
};
struct DeviceMemoryError : DeviceError {
  using DeviceError::DeviceError;
};
struct BadIndexError : std::runtime_error {
  BadIndexError(int tag, int64_t task, int64_t index, int64_t bound) : std::runtime_error("bad index"), tag(tag), task(task), index(index), bound(bound) {}
  int tag;
  int64_t task, index, bound;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // Inputs, then outputs; on the device, or on the host, from where they are then copied. Work is ordered after what
  // `stream` holds (0: the default stream); returns before its end unless arrays are on the host, indices are checked, or it
  // shall wait.
  virtual void run(char* const* arrays, bool on_host, int64_t length, uintptr_t stream, bool wait) = 0;
  virtual int device() const = 0;  // its number
};

std::unique_ptr<Runner> make_runner(std::shared_ptr<const PlanSpec> plan, const int64_t* words, size_t n_words, const char* consts, Way way, int lanes);

// Empty where there is a device, else the reason.
std::string device_missing();

}  // namespace fastmeta
