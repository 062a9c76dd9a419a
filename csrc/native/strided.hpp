// Copies and fills of strided planes, and the order in which the dims of a loop nest are best walked.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../plan.hpp"
#include "kernels.hpp"

namespace fastmeta {

// rows x cols elements of `item` bytes (1, 4 or 8). Strides in bytes, of any sign; source strides may be 0.
struct PlaneCopy {
  char* dst;
  const char* src;
  int64_t dst_row, dst_col, src_row, src_col;
  int64_t rows, cols;
  int64_t item;
};
void copy_plane(const Kernels& kernels, const PlaneCopy& copy);

// A loop nest over `rank` dims with the byte strides of some operands.
struct Nest {
  int rank = 0;
  int64_t dims[kMaxRank];
  std::vector<std::array<int64_t, kMaxRank>> strides;  // by operand

  int64_t elements() const {
    int64_t out = 1;
    for (int d = 0; d < rank; ++d) out *= dims[d];
    return out;
  }
  void add(const Operand& operand);
  void drop_ones();   // dims of size 1 have no stride
  void sort();        // outermost the largest strides, by the votes of the operands; ties leave the order
  void merge();       // neighbours that all operands walk as one
  void exchange(int d, int e);
};

// Walks the outer dims of a nest, keeping the operands' byte offsets up to date.
template <class Visit>
void for_each_outer(const Nest& nest, int outer_rank, int64_t* offsets, Visit visit) {
  int64_t index[kMaxRank] = {};
  const size_t n = nest.strides.size();
  for (;;) {
    if (!visit()) return;
    int d = outer_rank - 1;
    for (; d >= 0; --d) {
      const bool carry = ++index[d] == nest.dims[d];
      const int64_t steps = carry ? 1 - nest.dims[d] : 1;
      for (size_t k = 0; k < n; ++k) offsets[k] += steps * nest.strides[k][d];
      if (!carry) break;
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

// Sets every element of a target to the start value of a reduction, once each (dims with stride 0 are skipped).
class Fill {
 public:
  Fill(int mode, const Phase& phase, const Operand& target);
  void run(char* target) const;
  // How many elements follow each other, if that is all; else 0.
  int64_t run_length() const { return run_length_; }

 private:
  int64_t run_length_ = 0;
  int64_t item_;
  uint64_t pattern_;
  Nest nest_;
};

}  // namespace fastmeta
