// Gather, scatter-add, cumulative sums, the position of extremes and the order of values.
#pragma once
#include "kernels.hpp"
#include "worker.hpp"

namespace fastmeta {

// Byte strides of an operand over up to three dims.
struct Strided {
  int base = 0;
  int64_t offset = 0;
  int64_t stride[3] = {};
  Strided() = default;
  Strided(const Operand& operand, int rank, const int64_t* dims);
  char* at(const Worker& worker) const { return worker.bases[base] + offset; }
};

class Gather final : public Instruction {
 public:
  Gather(int tag, const GatherSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;

 private:
  template <class T> void run_typed(Worker& worker) const;
  template <class T> void run_single(Worker& worker) const;
  int64_t o_, n_, j_, i_, item_;
  Strided x_, index_, out_;
  RowsFn rows_ = nullptr;  // where one index is for a whole row of adjacent elements
};

class Scatter final : public Instruction {
 public:
  Scatter(int tag, const ScatterSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;

 private:
  template <class T> void run_typed(Worker& worker) const;
  bool zero(Worker& worker) const;
  DType dtype_;
  int64_t o_, n_, j_, i_, item_;
  bool adds_;
  Strided ct_, index_, out_;
  RowsFn rows_ = nullptr;
};

class Cumsum final : public Instruction {
 public:
  Cumsum(int tag, const CumsumSpec& spec);
  void run(Worker& worker) const override;

 private:
  template <class T> void run_typed(Worker& worker) const;
  template <class T, int Lines> void run_lines(Worker& worker, int64_t o) const;
  DType dtype_;
  int64_t o_, n_, i_;
  bool reverse_;
  Strided x_, out_;
};

class ArgReduce final : public Instruction {
 public:
  ArgReduce(int tag, const ArgReduceSpec& spec);
  void run(Worker& worker) const override;

 private:
  template <class T, bool smallest> void run_typed(Worker& worker) const;
  DType dtype_;
  int64_t o_, n_, i_;
  bool smallest_;
  Strided x_, out_;
};

class Order final : public Instruction {
 public:
  Order(int tag, const OrderSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;

 private:
  void run_part(Worker& worker, int64_t part) const;
  template <class T, bool descending> void by_heap(Worker& worker, int64_t first, int64_t last) const;
  template <class T, bool descending> void by_counting(Worker& worker, int64_t first, int64_t last) const;
  void ranks(const int32_t* key, int32_t* at) const { kernels_.ranks4(key, n_, at); }
  void ranks(const int64_t* key, int64_t* at) const { kernels_.ranks8(key, n_, at); }
  const Kernels& kernels_;
  DType dtype_;
  int64_t parts_ = 1;
  bool counted_;
  int64_t o_, n_, k_, i_;
  bool descending_;
  Strided x_, out_;
};

}  // namespace fastmeta
