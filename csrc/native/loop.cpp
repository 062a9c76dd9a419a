#include "loop.hpp"

#include <algorithm>
#include <cstring>

#include "../generated/opcodes.hpp"

namespace fastmeta {

namespace {

constexpr int64_t kFewGroups = 16, kMostGroups = 64;
constexpr int64_t kMostSumBytes = int64_t{64} << 20;
constexpr int64_t kSumPart = 1 << 14;  // elements of one part of the final addition

}  // namespace

int64_t group_count(int64_t length, int64_t sum_bytes) {
  int64_t groups = length <= kFewGroups ? length : std::clamp(length / 2, kFewGroups, kMostGroups);
  if (sum_bytes > 0) groups = std::min(groups, std::max<int64_t>(1, kMostSumBytes / sum_bytes));
  return groups;
}

struct Loop::Groups {
  int64_t length, count;
  char* sums;  // count x sum_bytes
};

Loop::Loop(int tag, const LoopSpec& spec, const Program& program) : Instruction(tag), spec_(spec), program_(program) {
  const auto& bases = program.plan().bases;
  for (int slice : spec.slices) slices_.push_back({slice, int(bases[slice].a), bases[slice].b, bases[slice].c});
  auto carry = [&](int base) { return Carry{base, int(bases[base].a), bases[base].b}; };
  for (auto [x, y] : spec.swaps) swaps_.emplace_back(carry(x), carry(y));
  for (const SumSpec& sum : spec.sums) {
    sum_offsets_.push_back(bases[sum.base].a);
    sum_sizes_.push_back(bases[sum.base].b);
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

void Loop::run_group(Worker& worker, const Groups& groups, int64_t group) const {
  char* sums = groups.sums + group * spec_.sum_bytes;
  for (size_t s = 0; s < spec_.sums.size(); ++s) {
    worker.bases[spec_.sums[s].base] = sums + sum_offsets_[s];
    std::memset(sums + sum_offsets_[s], 0, size_t(sum_sizes_[s]));
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

void Loop::run_parallel(Worker& worker, int64_t length) const {
  Call& call = *worker.call;
  Groups groups{length, group_count(length, spec_.sum_bytes), nullptr};
  if (spec_.sum_bytes > 0) groups.sums = worker.memory->sums.reserve(groups.count * spec_.sum_bytes);
  char* arena = worker.memory->arena.reserve(program_.plan().arena_bytes);
  for (int base : program_.arenas()) worker.bases[base] = arena;
  if (groups.count == 1) {  // nothing to share but the instructions themselves
    worker.team = call.pool->helpers() > 0;
    run_group(worker, groups, 0);
  } else {
    worker.team = false;
    struct Shared {
      const Loop& loop;
      const Groups& groups;
      Worker& leader;
      std::atomic<int64_t> next{0};
    } shared{*this, groups, worker};
    auto body = [](void* argument) {
      Shared& s = *static_cast<Shared*>(argument);
      with_worker(s.leader, s.loop.program_.plan().arena_bytes, &s.loop.program_.arenas(), [&](Worker& w) {
        for (int64_t group; (group = s.next.fetch_add(1, std::memory_order_relaxed)) < s.groups.count && !w.call->stop.load(std::memory_order_relaxed);)
          s.loop.run_group(w, s.groups, group);
      });
    };
    call.pool->run(int(std::min<int64_t>(groups.count, Pool::kMaxThreads)), body, &shared, [&] { worker.poll(); });
  }
  worker.task = -1;
  worker.team = call.pool->helpers() > 0;
  worker.failed = call.has_bad_index;  // no worker is left that could record
  if (!worker.stopped()) add_groups(worker, groups);
}

// DST = group 0 + group 1 + ..., in this order for every element.
void Loop::add_groups(Worker& worker, const Groups& groups) const {
  for (size_t s = 0; s < spec_.sums.size(); ++s) {
    const SumSpec& sum = spec_.sums[s];
    struct Addition {
      const Groups& groups;
      const SumSpec& sum;
      int64_t group_bytes, offset;
      char* target;
      TileFn add;
    } addition{groups, sum, spec_.sum_bytes, sum_offsets_[s], worker.bases[sum.target] + sum.target_offset,
               program_.kernels()->tile[kAdd][sum.dtype][0]};
    const int64_t parts = (sum.count + kSumPart - 1) / kSumPart;
    run_parts(worker, parts, [](const void* argument, Worker&, int64_t part) {
      const Addition& a = *static_cast<const Addition*>(argument);
      const int64_t item = item_size(a.sum.dtype), first = part * kSumPart, n = std::min(kSumPart, a.sum.count - first);
      char* target = a.target + first * item;
      if (a.groups.count == 0) std::memset(target, 0, size_t(n * item));
      for (int64_t g = 0; g < a.groups.count; ++g) {
        const char* from = a.groups.sums + g * a.group_bytes + a.offset + first * item;
        if (g == 0) std::memcpy(target, from, size_t(n * item));
        else a.add({target, target, from, nullptr, n, n, n, 0, 1, n});
      }
    }, &addition);
  }
}

}  // namespace fastmeta
