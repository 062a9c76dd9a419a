#include "loop.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "../generated/opcodes.hpp"

namespace fastmeta {

namespace {

constexpr int64_t kFewGroups = 16, kMostGroups = 64;
constexpr int64_t kMostSumBytes = int64_t{64} << 20;
// A few workers add their sums in turn where those of all groups leave their caches; many would wait for each other.
constexpr int64_t kFewWorkers = 4, kNearSumBytes = int64_t{1} << 20;
// Operations by byte of sums, where these leave the caches: of a group, that to clear and add its sums may be a fifth of
// its time; and of all tasks, that are not worth a second group's sums.
constexpr double kSumWork = 128, kLittleWork = 2;
constexpr int64_t kLeastGroups = 4;
constexpr int64_t kSumPart = 1 << 14;  // elements of one part of the final addition

}  // namespace

int64_t group_count(const LoopSpec& loop, int64_t length) {
  const int64_t groups = length <= kFewGroups ? length : std::clamp(length / 2, kFewGroups, kMostGroups);
  if (loop.sum_bytes <= kNearSumBytes / kFewGroups) return groups;
  const double work = double(loop.work) * double(length) / double(loop.sum_bytes);
  if (work < kLittleWork) return std::min(groups, int64_t{1});
  return std::min(groups, std::max(kLeastGroups, int64_t(std::min(work / kSumWork, double(kMostGroups)))));
}

GroupSums::GroupSums(int64_t groups, int64_t bytes, int64_t workers)
    : by_group(groups <= 1 || groups * bytes <= (workers <= kFewWorkers ? kNearSumBytes : kMostSumBytes)),
      count(std::max(by_group ? groups - 1 : std::min(groups, workers), int64_t{0})) {}

struct Loop::Groups {
  int64_t length, count;
  bool by_group;
  char* sums = nullptr;  // by_group: of all but the first
  std::atomic<int64_t> next{0}, turn{0};
  int64_t take() { return next.fetch_add(1, std::memory_order_relaxed); }
  char* of(int64_t group, int64_t bytes) const { return group == 0 ? nullptr : sums + (group - 1) * bytes; }
};

Loop::Loop(int tag, const LoopSpec& spec, const Program& program) : Instruction(tag), spec_(spec), program_(program) {
  const auto& bases = program.plan().bases;
  for (int slice : spec.slices) slices_.push_back({slice, int(bases[slice].a), bases[slice].b, bases[slice].c});
  auto carry = [&](int base) { return Carry{base, int(bases[base].a), bases[base].b}; };
  for (auto [x, y] : spec.swaps) swaps_.emplace_back(carry(x), carry(y));
  for (const SumSpec& sum : spec.sums) {
    sum_offsets_.push_back(bases[sum.base].a);
  }
}

void Loop::run(Worker& worker) const {
  const int64_t length = spec_.length == kRuntimeLength ? worker.call->length : spec_.length;
  if (spec_.parallel) run_parallel(worker, length);
  else run_in_order(worker, length);
}

void Loop::run_in_order(Worker& worker, int64_t length) const {
  for (const auto& [x, y] : swaps_) {
    worker.bases[x.base] = worker.bases[x.parent] + x.offset;
    worker.bases[y.base] = worker.bases[y.parent] + y.offset;
  }
  for (int64_t k = 0; k < length; ++k) {
    set_slices(worker, k, length);
    program_.run_block(spec_.block, worker);
    if (worker.stopped()) return;
    for (const auto& [x, y] : swaps_) std::swap(worker.bases[x.base], worker.bases[y.base]);
  }
}

void Loop::run_group(Worker& worker, const Groups& groups, int64_t group, char* sums) const {
  for (size_t s = 0; s < spec_.sums.size(); ++s) {
    const SumSpec& sum = spec_.sums[s];
    char* const at = group == 0 ? worker.bases[sum.target] + sum.target_offset : sums + sum_offsets_[s];
    worker.bases[sum.base] = at;
    std::memset(at, 0, size_t(sum.count * item_size(sum.dtype)));
  }
  const int64_t first = int64_t(__int128(group) * groups.length / groups.count);
  const int64_t last = int64_t(__int128(group + 1) * groups.length / groups.count);
  for (int64_t task = first; task < last; ++task) {
    worker.task = spec_.reverse ? groups.length - 1 - task : task;
    set_slices(worker, task, groups.length);
    program_.run_block(spec_.block, worker);
    worker.failed = false;  // the other tasks go on
    if (worker.call->stop.load(std::memory_order_relaxed)) return;
  }
}

// A group whose sums are the worker's own. Groups are begun in order, so the one whose turn it is always runs.
void Loop::run_in_turn(Worker& worker, Groups& groups, int64_t group) const {
  char* sums = group == 0 ? nullptr : worker.memory->sums.reserve(spec_.sum_bytes);
  run_group(worker, groups, group, sums);
  while (groups.turn.load(std::memory_order_acquire) != group) {
    if (worker.call->stop.load(std::memory_order_relaxed)) return;
    worker.poll();
    std::this_thread::yield();
  }
  for (size_t s = 0; group > 0 && s < spec_.sums.size(); ++s)
    for (int64_t part = 0; part * kSumPart < spec_.sums[s].count; ++part) add_part(worker, s, part, sums);
  groups.turn.store(group + 1, std::memory_order_release);
}

void Loop::run_parallel(Worker& worker, int64_t length) const {
  Call& call = *worker.call;
  const int64_t count = group_count(spec_, length);
  Groups groups{length, count, GroupSums(count, spec_.sum_bytes, call.pool->helpers() + 1).by_group};
  if (groups.by_group && spec_.sum_bytes > 0 && count > 1) groups.sums = worker.memory->sums.reserve((count - 1) * spec_.sum_bytes);
  char* arena = worker.memory->arena.reserve(program_.plan().arena_bytes);
  for (int base : program_.arenas()) worker.bases[base] = arena;
  if (count == 1) {  // nothing to share but the instructions themselves
    run_group(worker, groups, 0, nullptr);
  } else {
    const bool shares = shares_instructions(program_.plan());
    worker.helped = Worker::Helped::Alone;
    if (shares) call.spare.begin(count);
    worker.memory->before.assign(worker.bases, worker.bases + call.n_bases + 1);  // the leader has begun a task when others come
    struct Shared {
      const Loop& loop;
      Groups& groups;
      Worker& leader;
      const bool shares;
    } shared{*this, groups, worker, shares};
    auto body = [](void* argument) {
      Shared& s = *static_cast<Shared*>(argument);
      int64_t group = s.groups.take();
      const bool any = group < s.groups.count;
      with_worker(s.leader, s.leader.memory->before.data(), any ? s.loop.program_.plan().arena_bytes : 0, any ? &s.loop.program_.arenas() : nullptr, [&](Worker& w) {
        if (s.shares) w.helped = Worker::Helped::BySpare;
        for (; group < s.groups.count && !w.call->stop.load(std::memory_order_relaxed); group = s.groups.take()) {
          if (s.groups.by_group) s.loop.run_group(w, s.groups, group, s.groups.of(group, s.loop.spec_.sum_bytes));
          else s.loop.run_in_turn(w, s.groups, group);
          if (s.shares) w.call->spare.end_group();
        }
        if (s.shares) w.call->spare.help(w);
      });
    };
    call.pool->run(shares ? Pool::kMaxThreads : int(count), body, &shared, [&] { worker.poll(); });
  }
  worker.task = -1;
  worker.helped = Worker::Helped::ByPool;
  worker.failed = call.has_bad_index;  // no worker is left that could record
  if (groups.by_group && !worker.stopped()) add_groups(worker, groups);
}

// DST = group 0 + group 1 + ..., in this order for every element.
void Loop::add_groups(Worker& worker, const Groups& groups) const {
  for (size_t s = 0; s < spec_.sums.size(); ++s) {
    struct Addition {
      const Loop& loop;
      const Groups& groups;
      Worker& leader;
      size_t sum;
    } addition{*this, groups, worker, s};
    const SumSpec& sum = spec_.sums[s];
    if (groups.count == 0) std::memset(worker.bases[sum.target] + sum.target_offset, 0, size_t(sum.count * item_size(sum.dtype)));
    const int64_t parts = (sum.count + kSumPart - 1) / kSumPart;
    run_parts(worker, parts, [](const void* argument, Worker&, int64_t part) {
      const Addition& a = *static_cast<const Addition*>(argument);
      for (int64_t g = 1; g < a.groups.count; ++g) a.loop.add_part(a.leader, a.sum, part, a.groups.of(g, a.loop.spec_.sum_bytes));
    }, &addition);
  }
}

void Loop::add_part(const Worker& worker, size_t number, int64_t part, const char* sums) const {
  const SumSpec& sum = spec_.sums[number];
  const int64_t item = item_size(sum.dtype), at = part * kSumPart * item, n = std::min(kSumPart, sum.count - part * kSumPart);
  char* const target = worker.bases[sum.target] + sum.target_offset + at;
  const char* const from = sums + sum_offsets_[number] + at;
  program_.kernels()->tile[kAdd][sum.dtype][0]({target, target, from, nullptr, n, n, n, 0, 1, n});
}

}  // namespace fastmeta
