// Helper threads, shared by all calls of the process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace fastmeta {

// One pool per process (a forked child starts with an empty one). Helpers are made when first needed, spin for about
// 100 us after their last work, since the next piece usually follows at once, and then sleep.
class Pool {
 public:
  static constexpr int kMaxThreads = 256;
  using Body = void (*)(void*);

  static Pool& get();
  static void join_all();  // at exit: ends the helpers, if no call is using them

 private:
  friend class PoolLease;
  int claim(int threads);  // helpers that are there, at most threads - 1
  void retire(int kept);  // ends all helpers but so many
  void spread(int helpers);  // keeps them off the caller's core
  void post(int helpers, Body body, void* argument);
  void help(int number, uint64_t seen);
  bool finished() const { return busy_.load(std::memory_order_acquire) == 0; }

  std::atomic<bool> taken_{false};  // by the call that uses the pool
  std::vector<std::thread> threads_;
  int caller_core_ = -1;  // what the helpers' affinity was last made for
  size_t placed_ = 0;

  // The work at hand. `state_` is 256 * (number of the work) + helpers wanted, in one word, so that a helper that comes
  // late and is not wanted never takes the fields of the next work for those of the last.
  std::atomic<uint64_t> state_{0};
  Body body_ = nullptr;
  void* argument_ = nullptr;
  std::atomic<int> busy_{0};
  std::atomic<int> kept_{0};  // helpers whose number is not below it end

  std::mutex sleep_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> waiting_{false};
};

// The pool for the length of one call; without helpers where another call has it (both give the same bits).
class PoolLease {
 public:
  explicit PoolLease(int threads);
  ~PoolLease();
  PoolLease(const PoolLease&) = delete;
  PoolLease& operator=(const PoolLease&) = delete;
  int helpers() const { return helpers_; }

  // body(argument) on this thread and on at most `threads - 1` helpers, each once; returns when all have returned.
  // While it waits it calls idle() about every 10 ms.
  template <class Idle>
  void run(int threads, Pool::Body body, void* argument, Idle idle) {
    const int helpers = threads - 1 < helpers_ ? threads - 1 : helpers_;
    if (helpers > 0) pool_->post(helpers, body, argument);
    body(argument);
    while (helpers > 0 && !wait()) idle();
  }

 private:
  bool wait();  // at most 10 ms; true when the helpers are done
  Pool* pool_ = nullptr;
  int helpers_ = 0;
};

int default_threads();  // what affinity and the cgroup's quota allow

}  // namespace fastmeta
