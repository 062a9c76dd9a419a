// The DISTANCE instruction: distances of the rows of two matrices.
#pragma once
#include "worker.hpp"
#include "kernels.hpp"

namespace fastmeta {

template <class T>
class Distance final : public Instruction {
 public:
  Distance(int tag, const DistanceSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  void run_unit(Worker& worker, const T* y_norm, int64_t unit) const;
  T* at(Worker& worker, const Operand& operand) const { return reinterpret_cast<T*>(worker.bases[operand.base] + operand.offset); }

  Metric metric_;
  DistanceArgs<T> args_{};  // of all rows, pointers left out
  Operand x_, y_, out_;
  void (*kernel_)(const DistanceArgs<T>&);
  void (*row_norms_)(Metric, const T*, int64_t, int64_t, int64_t, T*);
  int64_t unit_rows_ = 0, units_ = 0;  // of x
  bool long_ = false;
};

}  // namespace fastmeta
