#include "parts.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "worker.hpp"

namespace fastmeta {

namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kWait = std::chrono::milliseconds(10);  // between looks at Ctrl-C

// Until there may be news. The caller looks at Ctrl-C, without the lock: a signal handler may call in again.
void doze(Worker& worker, std::condition_variable& news, std::unique_lock<std::mutex>& lock) {
  news.wait_for(lock, kWait);
  if (!worker.caller) return;
  lock.unlock();
  worker.poll();
  lock.lock();
}

}  // namespace

void Parts::run(Worker& worker) {
  worker.task = task;
  for (int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < count && !worker.stopped();) fn(context, worker, part);
}

void run_parts(Worker& worker, int64_t count, PartFn fn, const void* context) {
  if (worker.others() == 0 || count <= 1) {
    for (int64_t part = 0; part < count && !worker.stopped(); ++part) fn(context, worker, part);
    return;
  }
  Parts parts{worker, worker.task, count, fn, context};
  const Worker::Helped helped = std::exchange(worker.helped, Worker::Helped::Alone);  // a part is not split again
  if (helped == Worker::Helped::ByPool) {
    auto body = [](void* argument) {
      Parts& p = *static_cast<Parts*>(argument);
      with_worker(p.leader, p.leader.bases, 0, nullptr, [&](Worker& w) { p.run(w); });
    };
    worker.call->pool->run(int(std::min<int64_t>(count, Pool::kMaxThreads)), body, &parts, [&] { worker.poll(); });
  } else {
    worker.call->spare.run(parts);
  }
  worker.helped = helped;
}

bool Spare::over(const Call& call) const { return left_.load() == 0 || call.stop.load(std::memory_order_relaxed); }

void Spare::end_group() {
  if (left_.fetch_sub(1) != 1) return;
  { std::lock_guard<std::mutex> lock(mutex_); }
  wake_.notify_all();
}

Parts* Spare::take() {
  for (Parts* parts : open_)
    if (parts->left()) return parts->inside.fetch_add(1), parts;
  return nullptr;
}

Parts* Spare::wait(Worker& worker) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (std::chrono::steady_clock::now() < end && !over(*worker.call)) {
    if (open_count_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (Parts* parts = take()) return parts;
    }
    std::this_thread::yield();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  Parts* parts = nullptr;
  while (!over(*worker.call) && !(parts = take())) doze(worker, wake_, lock);
  sleepers_.fetch_sub(1);
  return parts;
}

void Spare::help(Worker& worker) {
  threads_.fetch_add(1);
  while (Parts* parts = wait(worker)) {
    try {
      Worker helper = worker_in(*worker.call, *worker.memory, worker.memory->lent, parts->leader.bases);
      helper.caller = worker.caller;
      parts->run(helper);
    } catch (...) {
      worker.call->fail(std::current_exception());
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (parts->inside.fetch_sub(1) == 1) done_.notify_all();  // the parts may be gone now
  }
  threads_.fetch_sub(1);
}

void Spare::run(Parts& parts) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_.push_back(&parts);
    open_count_.fetch_add(1);
  }
  if (sleepers_.load() > 0) wake_.notify_all();
  parts.run(parts.leader);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_.erase(std::find(open_.begin(), open_.end(), &parts));
    open_count_.fetch_sub(1);
  }
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (parts.inside.load() > 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(mutex_);
  while (parts.inside.load() > 0) doze(parts.leader, done_, lock);
}

}  // namespace fastmeta
