// What an instruction sees while it runs: its thread's pointers and scratch, and the call it belongs to.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../plan.hpp"
#include "memory.hpp"
#include "parts.hpp"
#include "pool.hpp"

namespace fastmeta {

// An index outside 0..bound-1, met by a GATHER, SCATTER or PROTO. task is -1 outside a parallel loop.
struct BadIndex {
  int tag;
  int64_t task, index, bound;
};

// Asks whether the caller wants the run to end (Ctrl-C). Called on the calling thread only.
class Poller {
 public:
  virtual ~Poller() = default;
  virtual bool wants_stop() = 0;
};

// One run of a program: shared by the workers.
struct Call {
  int64_t length = 1;  // T
  int64_t n_bases = 0, scratch_bytes = 0;  // what each worker needs
  Poller* poller = nullptr;
  PoolLease* pool = nullptr;
  Spare spare;
  std::thread::id caller = std::this_thread::get_id();
  int threads = 1;
  std::atomic<bool> stop{false};

  std::mutex mutex;  // guards the rest
  bool has_bad_index = false;
  BadIndex bad_index{};
  std::exception_ptr error;

  void record(const BadIndex& bad) {  // the smallest task wins, whoever comes first
    std::lock_guard<std::mutex> lock(mutex);
    if (!has_bad_index || bad.task < bad_index.task) bad_index = bad;
    has_bad_index = true;
  }
  void fail(std::exception_ptr what) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!error) error = what;
    stop.store(true);
  }
};

struct Profile {  // by instruction: the least time
  std::vector<std::vector<double>> nanoseconds;
};

struct Worker {
  char** bases = nullptr;  // the plan's, and one more: the scratch
  char* scratch = nullptr;
  Call* call = nullptr;
  int64_t task = -1;
  bool failed = false;   // the task ended at a bad index
  bool caller = false;   // polls
  enum class Helped : uint8_t { Alone, ByPool, BySpare } helped = Helped::Alone;  // by whom, in an instruction's parts
  WorkerMemory* memory = nullptr;
  Profile* profile = nullptr;

  // An operand's first element.
  template <class T>
  T* at(const Operand& operand) const { return reinterpret_cast<T*>(bases[operand.base] + operand.offset); }

  // The threads besides this one that could take parts of an instruction now.
  int others() const { return helped == Helped::Alone ? 0 : helped == Helped::ByPool ? call->pool->helpers() : call->spare.threads(); }

  // Between instructions and between the parts of long ones: is the task or the call to end?
  bool stopped() {
    if (--patience_ <= 0) poll();
    return failed || call->stop.load(std::memory_order_relaxed);
  }
  void poll();

 private:
  static constexpr int kPatience = 64;  // looks at the clock after so many questions: 25 ns against 64 instructions
  int patience_ = kPatience;
  std::chrono::steady_clock::time_point next_poll_{};
};

class Tape;

// A decoded instruction with its kernels chosen. Immutable; run by many workers at once.
class Instruction {
 public:
  explicit Instruction(int tag) : tag(tag) {}
  virtual ~Instruction() = default;
  virtual void run(Worker& worker) const = 0;
  // Writes what run() does on the tape, if it is short.
  virtual bool write(Tape&) const { return false; }
  virtual int64_t scratch_bytes() const { return 0; }
  virtual int64_t packed_bytes() const { return 0; }  // that kernels keep for each thread besides
  const int tag;
};

// A worker in a thread's memory that sees what `bases` are; `own`: its copy of them.
inline Worker worker_in(Call& call, WorkerMemory& memory, std::vector<char*>& own, char* const* bases) {
  own.assign(bases, bases + call.n_bases + 1);
  Worker worker;
  worker.bases = own.data();
  worker.scratch = worker.bases[call.n_bases] = memory.scratch.reserve(call.scratch_bytes);
  worker.call = &call;
  worker.memory = &memory;
  return worker;
}

// fn(worker) with this thread's worker: the leader itself on the calling thread, elsewhere one of its own that sees the
// leader's memory by `bases`, but with an arena of its own where `arenas` lists the bases. No exception leaves it.
template <class Fn>
void with_worker(Worker& leader, char* const* bases, int64_t arena_bytes, const std::vector<int>* arenas, Fn fn) noexcept {
  Call& call = *leader.call;
  try {
    if (std::this_thread::get_id() == call.caller) return fn(leader);
    MemoryLease memory;
    Worker worker = worker_in(call, *memory, memory->bases, bases);
    if (arenas && !arenas->empty()) {
      char* arena = memory->arena.reserve(arena_bytes);
      for (int base : *arenas) worker.bases[base] = arena;
    }
    fn(worker);
  } catch (...) {
    call.fail(std::current_exception());
  }
}

}  // namespace fastmeta
