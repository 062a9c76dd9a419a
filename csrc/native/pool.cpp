#include "pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <system_error>
#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "subnormals.hpp"

namespace fastmeta {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(80);
constexpr auto kWait = std::chrono::milliseconds(10);

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as done() is; false after kSpin.
template <class Done>
bool spin(Done done) {
  const auto end = Clock::now() + kSpin;
  do {
    for (int k = 0; k < 32; ++k) {
      if (done()) return true;
      pause();
    }
  } while (Clock::now() < end);
  return done();
}

// Leaked on purpose: helpers may outlive static destructors, and a forked child must not destroy threads it lacks.
std::atomic<Pool*> the_pool{nullptr};

void renew() { the_pool.store(new Pool); }

}  // namespace

Pool& Pool::get() {
  static const bool once = [] {
    renew();
    pthread_atfork(nullptr, nullptr, renew);
    return true;
  }();
  (void)once;
  return *the_pool.load();
}

int Pool::claim(int threads) {
  const int wanted = std::min(threads, kMaxThreads) - 1;
  if (int(threads_.size()) > wanted) retire(wanted);  // each would wake and spin at every piece of work
  if (int(threads_.size()) < wanted) {
    kept_.store(wanted);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of Python
    try {
      while (int(threads_.size()) < wanted) threads_.emplace_back(&Pool::help, this, int(threads_.size()), state_.load());
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it too
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  const int helpers = std::min(wanted, int(threads_.size()));
  spread(helpers);
  return helpers;
}

// A kernel that packs threads woken for short work onto the waker's core (virtual machines do) would run the two one
// after the other, and balance only after milliseconds. So helpers may run on any core of the caller but the one it is on.
void Pool::spread(int helpers) {
#ifdef __linux__
  const int core = sched_getcpu();
  if (core < 0 || (core == caller_core_ && placed_ == threads_.size())) return;
  caller_core_ = core;
  placed_ = threads_.size();
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return;
  if (core < CPU_SETSIZE && CPU_COUNT(&set) > helpers) CPU_CLR(core, &set);
  for (auto& thread : threads_) pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
#else
  (void)helpers;
#endif
}

void Pool::post(int helpers, Body body, void* argument) {
  body_ = body;
  argument_ = argument;
  busy_.store(helpers, std::memory_order_relaxed);
  const uint64_t number = state_.load(std::memory_order_relaxed) / 256 + 1;
  state_.store(number * 256 + uint64_t(helpers));  // seq_cst against sleepers_: no wake-up is lost
  if (sleepers_.load() > 0) {
    { std::lock_guard<std::mutex> lock(sleep_); }
    wake_.notify_all();
  }
}

void Pool::help(int number, uint64_t seen) {
  const SubnormalsAsZero here;
  for (;;) {
    auto changed = [&] { return state_.load() != seen || number >= kept_.load(std::memory_order_relaxed); };
    if (!spin(changed)) {
      std::unique_lock<std::mutex> lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, changed);
      sleepers_.fetch_sub(1);
    }
    if (number >= kept_.load()) return;
    seen = state_.load();
    if (number >= int(seen % 256)) continue;
    body_(argument_);
    if (busy_.fetch_sub(1) == 1 && waiting_.load()) {
      { std::lock_guard<std::mutex> lock(sleep_); }
      done_.notify_one();
    }
  }
}

void Pool::retire(int kept) {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    kept_.store(kept);
  }
  wake_.notify_all();
  for (; int(threads_.size()) > kept; threads_.pop_back()) threads_.back().join();
}

void Pool::join_all() {
  Pool& pool = get();
  if (pool.taken_.exchange(true)) return;  // a daemon thread is inside a call; the process ends under it
  pool.retire(0);
  pool.taken_.store(false);
}

PoolLease::PoolLease(int threads) {
  if (threads <= 1) return;
  Pool& pool = Pool::get();
  if (pool.taken_.exchange(true)) return;
  pool_ = &pool;
  helpers_ = pool.claim(threads);
}

PoolLease::~PoolLease() {
  if (pool_) pool_->taken_.store(false);
}

bool PoolLease::wait() {
  if (spin([&] { return pool_->finished(); })) return true;
  std::unique_lock<std::mutex> lock(pool_->sleep_);
  pool_->waiting_.store(true);
  const bool done = pool_->done_.wait_for(lock, kWait, [&] { return pool_->finished(); });
  pool_->waiting_.store(false);
  return done;
}

namespace {

// CPUs that the quotas of this process's control groups allow; a huge number where they set none.
double cgroup_cpus() {
  double cpus = 1e9;
  std::string path;  // of the group in the v2 hierarchy; "/" inside most containers
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);)
    if (line.compare(0, 3, "0::") == 0) path = line.substr(3);
  for (;;) {  // a group is held to the quotas of all above it
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    std::string limit;
    double period = 0;
    if (file >> limit >> period && limit != "max" && period > 0) cpus = std::min(cpus, std::atof(limit.c_str()) / period);
    if (path.empty()) break;
    path.erase(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
  double quota = 0, period = 0;  // v1
  std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (q >> quota && p >> period && quota > 0 && period > 0) cpus = std::min(cpus, quota / period);
  return cpus;
}

}  // namespace

int default_threads() {
  int count = int(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
#endif
  count = int(std::min<double>(count, std::ceil(cgroup_cpus())));
  return std::clamp(count, 1, Pool::kMaxThreads);
}

}  // namespace fastmeta
