// The LOOP instruction, in order or over the workers.
#pragma once
#include "executor.hpp"

namespace fastmeta {

// Groups of a parallel loop over `length` tasks, a function of these two numbers only: sums are added group by group, so
// the groups decide the bits of the result. At most 64, at most 64 MB of sums.
int64_t group_count(int64_t length, int64_t sum_bytes);

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
  void run_group(Worker& worker, const Groups& groups, int64_t group) const;
  void add_groups(Worker& worker, const Groups& groups) const;

  const LoopSpec& spec_;
  const Program& program_;
  std::vector<Slice> slices_;
  std::vector<std::pair<Carry, Carry>> swaps_;
  std::vector<int64_t> sum_offsets_, sum_sizes_;  // bytes, by sum
};

}  // namespace fastmeta
