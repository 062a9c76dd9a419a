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
  bool write(Tape& tape) const override;
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override { return c_scratch_ + phase_scratch_; }
  int64_t packed_bytes() const override { return tiles_.packed; }

 private:
  struct Place {  // of a matrix
    int base = 0;
    int64_t offset = 0;
    int64_t row = 0, col = 0;  // elements
  };
  enum Matrix { kC, kCin, kGate, kFactors, kMatrices = kFactors + 2 * kMaxProducts };  // from kFactors on A and B of each product in turn
  struct Following {
    bool rowwise;
    BoundPhase phase;
  };

  void set_place(int matrix, const Operand& operand, int64_t rows, int64_t cols);
  T* at(const Worker& worker, int matrix, const int64_t* batch) const {
    const Place& place = places_[matrix];
    char* p = worker.bases[place.base] + place.offset;
    for (int d = 0; d < batch_rank_; ++d) p += batch[d] * batch_strides_[matrix][d];
    return reinterpret_cast<T*>(p);
  }
  struct Blocks {
    int64_t rows = 1, count = 1;
  };

  bool absorb(const GemmSpec& spec, const Phase& phase);
  void merge_batches();
  void choose_blocks();
  void prepare();
  void swap();
  void run_unit(Worker& worker, const Blocks& blocks, int64_t unit) const;
  GemmData<T> data_at(const Worker& worker, const int64_t* batch, int64_t first) const;
  void run_row(Worker& worker) const;
  void multiply(Worker& worker, const int64_t* batch, int64_t first, int64_t last) const;

  int batch_rank_;  // without the axis of tasks side by side, if there is one
  bool has_cin_, swapped_ = false, any_rowwise_ = false;
  bool team_ = false;  // blocks are independent, and enough work to share
  bool row_ = false;   // small products, each as far from the last as that from the one before
  enum class Target { Direct, Transposed, Scratch } target_ = Target::Direct;
  int64_t batches_ = 1;
  Blocks blocks_, shared_;  // of rows: by one thread; by a team
  int64_t m_, n_;
  double work_ = 0;  // multiply-adds of one batch element
  std::vector<Following> phases_;
  GemmArgs<T> args_{};  // of a block of rows; with the roles of rows and columns swapped, if they are
  Place places_[kMatrices];
  GemmTiles<T> tiles_{};

  int64_t batch_[kMaxRank] = {};
  int64_t batch_strides_[kMatrices][kMaxRank] = {};  // bytes
  int64_t c_scratch_ = 0, phase_scratch_ = 0;
  const Kernels* kernels_;
  void (*kernel_)(const GemmArgs<T>&, const GemmData<T>&);
};

}  // namespace fastmeta
