// INVERSE: symmetric positive definite matrices, each on its own.
#pragma once
#include "kernels.hpp"
#include "worker.hpp"

namespace fastmeta {

template <class T>
class Inverse final : public Instruction {
 public:
  Inverse(int tag, const InverseSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  void invert(Worker& worker, const T* x, T* out, T* pivots) const;
  InverseSpec spec_;
  void (*block_)(const InverseArgs<T>&, int64_t from);
  int64_t parts_;
  bool long_;  // a block of rows
};

}  // namespace fastmeta
