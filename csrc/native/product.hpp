// The GEMM instruction: batches, blocks of rows, and the phases that follow each block.
#pragma once
#include <vector>

#include "pass.hpp"
#include "worker.hpp"

namespace fastmeta {

template <class T>
class Gemm final : public Instruction {
 public:
  Gemm(int tag, const GemmSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override { return c_scratch_ + phase_scratch_; }

 private:
  struct Place {  // of a matrix
    int base = 0;
    int64_t offset = 0;
    int64_t row = 0, col = 0;           // elements
    int64_t batch[kMaxRank] = {};       // bytes
    char* at(char* const* bases, const int64_t* index, int rank) const {
      char* p = bases[base] + offset;
      for (int d = 0; d < rank; ++d) p += index[d] * batch[d];
      return p;
    }
  };
  struct Pair {
    int64_t k;
    Place a, b;
  };
  Place place_of(const Operand& operand, int64_t rows, int64_t cols) const;
  void choose_blocks();
  void run_unit(Worker& worker, int64_t unit) const;
  void prepare();
  void multiply(Worker& worker, const int64_t* batch, int64_t first, int64_t last) const;

  void (*kernel_)(const GemmArgs<T>&);
  const Kernels* kernels_;
  int batch_rank_;
  int64_t batch_[kMaxRank] = {}, batches_ = 1;
  int64_t m_, n_;
  T alpha_;
  double work_ = 0;  // multiply-adds of one batch element
  std::vector<Pair> pairs_;
  Place c_, cin_;
  bool has_cin_;
  enum class Target { Direct, Transposed, Scratch } target_ = Target::Direct;
  int64_t block_rows_ = 1, blocks_ = 1;
  int64_t c_scratch_ = 0, phase_scratch_ = 0;
  bool team_ = false;  // blocks are independent, and enough work to share
  struct Following {
    bool rowwise;
    BoundPhase phase;
  };
  std::vector<Following> phases_;
  bool any_rowwise_ = false;
  GemmArgs<T> args_{};  // of a block of rows, pointers left out
};

}  // namespace fastmeta
