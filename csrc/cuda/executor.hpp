// What the Python side of the CUDA core sees of it; implemented by executor.cu on a device and by host.cpp on the host.
#pragma once
#include <memory>
#include <stdexcept>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

// Text written for one plan (fastmeta/backends/codegen), compiled: functions fastmeta_<body>_<stage> for instructions that run
// stage by stage, and fastmeta_tasks for those that a team runs.
struct FixedText {
  struct Stage {
    int64_t units;
    int lanes, code;
  };
  std::vector<std::string> codes;          // what the device loads; of the host, names of files
  std::vector<int32_t> bodies;             // by word of an instruction; 0: none
  std::vector<std::vector<Stage>> stages;  // by body
  std::vector<bool> alone;                 // by body: the first stage is a product and nothing else
  int lanes = 0;                           // of fastmeta_tasks
  int64_t partial_bytes = 0;               // of a task between two stages
  int64_t near_bytes = 0;                  // of an arena that are a team's own memory: its first
};

std::unique_ptr<Runner> make_runner(std::shared_ptr<const PlanSpec> plan, const int64_t* words, size_t n_words, const char* consts, Way way, int lanes,
                                    std::optional<FixedText> fixed);

// Of the current device: its architecture (90 for 9.0; 0 on the host), the largest arena with which teams run tasks whole
// where there is fixed text, and the memory of which that is a part and which the blocks of a processor share (0: there is none).
struct DeviceFacts {
  int architecture;
  int64_t resident_bytes, shared_bytes;
};
DeviceFacts device_facts();

// Empty where there is a device, else the reason.
std::string device_missing();

}  // namespace fastmeta
