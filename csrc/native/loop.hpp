// The LOOP instruction, in order or over the workers.
#pragma once
#include "executor.hpp"

namespace fastmeta {

// Groups of a parallel loop over `length` tasks, a function of the plan and this number only: sums are added group by
// group, in order, so the groups decide the bits of the result.
int64_t group_count(const LoopSpec& loop, int64_t length);

// The memory of the groups' sums, for so many workers; the first group's are the results themselves. Has each of the
// others its own, to be added at the end? Else each worker has, and adds it when it is its group's turn.
struct GroupSums {
  GroupSums(int64_t groups, int64_t bytes, int64_t workers);
  bool by_group;
  int64_t count;
};

// Do threads that have no task take parts of other tasks' instructions? Not of short tasks, for which waking them is too much.
inline bool shares_instructions(const PlanSpec& plan) { return plan.work > (int64_t{1} << 26); }

class Loop final : public Instruction {
 public:
  Loop(int tag, const LoopSpec& spec, const Program& program);
  void run(Worker& worker) const override;

 private:
  struct Slice {
    int base, parent;
    int64_t offset, step;
  };
  struct Carry {
    int base, parent;
    int64_t offset;
  };
  struct Groups;
  void set_slices(Worker& worker, int64_t k, int64_t length) const {
    const int64_t at = spec_.reverse ? length - 1 - k : k;
    for (const Slice& s : slices_) worker.bases[s.base] = worker.bases[s.parent] + s.offset + at * s.step;
  }
  void run_in_order(Worker& worker, int64_t length) const;
  void run_parallel(Worker& worker, int64_t length) const;
  void run_group(Worker& worker, const Groups& groups, int64_t group, char* sums) const;  // of the first group null: it has the targets
  void run_in_turn(Worker& worker, Groups& groups, int64_t group) const;
  void add_groups(Worker& worker, const Groups& groups) const;
  void add_part(const Worker& worker, size_t sum, int64_t part, const char* sums) const;

  const LoopSpec& spec_;
  const Program& program_;
  std::vector<Slice> slices_;
  std::vector<std::pair<Carry, Carry>> swaps_;
  std::vector<int64_t> sum_offsets_;  // bytes, by sum
};

}  // namespace fastmeta
