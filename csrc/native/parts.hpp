// Instructions that many threads share: the parts of one, and the threads that have no task of their own to run.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fastmeta {

struct Call;
struct Worker;

// fn(worker, part) for every part, in any order, by the whole pool where the worker leads a team, and with the help of threads
// that have no task (see Spare). The parts must be independent of each other and, where they show in the bits, a function of
// shapes only: then threads do not show.
using PartFn = void (*)(const void* context, Worker& worker, int64_t part);
void run_parts(Worker& worker, int64_t parts, PartFn fn, const void* context);

// The parts of an instruction, each taken once.
struct Parts {
  Worker& leader;
  int64_t task, count;  // the leader's task
  PartFn fn;
  const void* context;
  std::atomic<int64_t> next{0};
  std::atomic<int> inside{0};  // threads that help; they enter under the mutex of Spare

  bool left() const { return next.load(std::memory_order_relaxed) < count; }
  void run(Worker& worker);
};

// The threads of a call that have no task while others still run theirs: fewer tasks than threads, or the last tasks. They take
// parts of the instructions of those.
class Spare {
 public:
  int threads() const { return threads_.load(std::memory_order_relaxed); }
  void begin(int64_t groups) { left_.store(groups); }
  void end_group();  // a group of tasks has been run
  // Takes parts until no group is left. Worker: the thread's own, which has no task any more.
  void help(Worker& worker);
  void run(Parts& parts);  // on the leader's thread, together with those that help

 private:
  Parts* wait(Worker& worker);
  Parts* take();  // one that has parts left, entered; under the mutex
  bool over(const Call& call) const;

  std::atomic<int> threads_{0}, sleepers_{0}, open_count_{0};
  std::atomic<int64_t> left_{0};
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Parts*> open_;
};

}  // namespace fastmeta
