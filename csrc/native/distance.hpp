// DISTANCE: distances of the rows of two matrices. PULL: their derivatives, back to the rows of one or of both.
#pragma once
#include "kernels.hpp"
#include "streamed.hpp"

namespace fastmeta {

template <class T>
class Distance final : public Instruction {
 public:
  Distance(int tag, const DistanceSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  void run_unit(Worker& worker, T* prepared, int64_t unit) const;

  DistanceArgs<T> args_{};  // of all rows, pointers left out
  Operand x_, y_, out_;
  DistanceFns<T> kernel_;
  int64_t unit_rows_ = 0, units_ = 0;  // of x
  bool long_ = false;
};

template <class T>
class Pull final : public Instruction {
 public:
  Pull(int tag, const PullSpec& spec, const Kernels& kernels, const PlanSpec& plan);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  struct Shared;  // of all units
  void run_unit(Worker& worker, const Shared& shared, int64_t unit) const;

  PullArgs<T> args_{};  // of all rows and features, pointers left out
  Operand x_, y_, weight_, out_, out_y_;
  bool both_;
  bool products_;
  Streamed streamed_;
  void (*kernel_)(const PullArgs<T>&);
  void (*sum_weights_)(const T*, int64_t, int64_t, int64_t, int64_t, T*, T*);
  bool by_rows_ = true;  // units are rows of x, or else features
  int64_t unit_ = 1, units_ = 0;
  bool long_ = false;
};

}  // namespace fastmeta
