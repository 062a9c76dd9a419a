// A plan as structs: what notes/PLAN_FORMAT.md describes as words, decoded once and checked entirely.
//
// `decode` is the only maker of these structs. Whatever it returns can be run without looking again: every address an
// instruction touches lies within its base, every write goes to memory that may be written, and the work is bounded.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "native/kernels.hpp"

namespace fastmeta {

constexpr int kMaxRank = 8;
constexpr int kMaxRegisters = 32;
constexpr int64_t kMaxMemory = int64_t{16} << 30;  // shared and arena bytes
constexpr int64_t kMaxWork = int64_t{1} << 44;
constexpr int64_t kRuntimeLength = -1;  // T, the number of tasks of a call

inline int64_t item_size(DType dtype) { return dtype == F64 ? 8 : dtype == BOOL ? 1 : 4; }

struct PlanError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct ArraySpec {
  DType dtype;
  int rank;
  bool per_task;           // dim 0 is T
  int64_t dims[kMaxRank];  // dims[0] is -1 where per_task
  int64_t bytes;           // of one task where per_task, else of all
};

enum class BaseKind { Input, Output, Const, Shared, Arena, Slice, Sum, Carry };

struct Base {
  BaseKind kind;
  int64_t a, b, c;
};

struct Operand {
  int base;
  DType dtype;
  int64_t offset;            // bytes
  int64_t stride[kMaxRank];  // elements
};

struct MicroOp {
  int op;
  DType type;    // of the result, and of the arguments unless this is a cast
  DType source;  // of the arguments
  int reg;       // register tile, or -1-s: straight to the memory of store s, or a tile of its own where that is strided
  int n_args;
  int args[3];  // value ids
};

enum StoreMode { kStore = 0, kSum = 1, kMax = 2, kMin = 3, kAccumulate = 4 };

struct Store {
  int value;
  int mode;
  Operand target;
};

struct Phase {
  bool rowwise;
  int rank;
  int64_t dims[kMaxRank];
  std::vector<Operand> loads;
  std::vector<MicroOp> ops;
  std::vector<Store> stores;
};

struct PassSpec {
  std::vector<Phase> phases;
};

struct Factors {
  int64_t k;
  Operand a, b;
};

struct GemmSpec {
  DType dtype;
  int batch_rank;
  int64_t dims[kMaxRank];  // batch.., M, N
  double alpha;
  std::vector<Factors> products;
  Operand c;
  bool has_cin;
  Operand cin;
  std::vector<Phase> phases;
};

// Two dims of a map at a time, [0] down and [1] across.
struct ConvSpec {
  DType dtype;
  int kind;  // 0 forward, 1 input gradient, 2 weight gradient
  int64_t n, c, o;
  int64_t in[2], taps[2], out[2], stride[2], pad[2];  // x [n, in, c], w [taps, c, o], y [n, out, o]
  std::vector<std::pair<Operand, Operand>> products;  // kind 0: x w; 1: y w; 2: x y
  Operand target;
  bool has_cin;
  Operand cin;
  std::vector<Phase> phases;

  std::array<int64_t, 4> x_dims() const { return {n, in[0], in[1], c}; }
  std::array<int64_t, 4> w_dims() const { return {taps[0], taps[1], c, o}; }
  std::array<int64_t, 4> y_dims() const { return {n, out[0], out[1], o}; }
  std::array<int64_t, 4> target_dims() const { return kind == 0 ? y_dims() : kind == 1 ? x_dims() : w_dims(); }
};

struct GatherSpec {
  DType dtype;
  int64_t o, n, j, i;
  Operand x, index, out;
};

struct ScatterSpec {
  DType dtype;
  int64_t o, n, j, i;
  Operand ct, index, out;
  bool adds;  // to what OUT holds; else to zeros
};

struct CumsumSpec {
  DType dtype;
  int64_t o, n, i;
  bool reverse;
  Operand x, out;
};

struct ArgReduceSpec {
  DType dtype;
  int64_t o, n, i;
  bool smallest;
  Operand x, out;
};

struct OrderSpec {
  DType dtype;
  int64_t o, n, k, i;
  bool descending;
  Operand x, out;
};

// Rows x [n, features] and y [m, features], out [n, m].
struct DistanceSpec {
  DType dtype;
  int metric;  // of kernels.hpp
  int64_t n, m, features;
  Operand x, y, out;
};

// Rows x [n, features] and y [m, features], weight [n, m], results like x and like y.
struct PullSpec {
  DType dtype;
  int metric;
  int64_t n, m, features;
  Operand x, y, weight;
  bool has_x, has_y;
  Operand out_x, out_y;
};

// Rows x [n, features] and y [m, features], label and share [n], absent [m], results scalars or like x and like y.
struct ProtoSpec {
  DType dtype;
  int64_t n, m, features;
  double factor;
  Operand x, y, label, share, absent;
  bool has_loss, has_right, has_x, has_y;
  Operand loss, right, out_x, out_y;
};

// `count` matrices [n, n].
struct InverseSpec {
  DType dtype;
  int64_t count, n;
  Operand x, out;
  bool has_pivots;
  Operand pivots;
};

// x [n, in, c] under kernels w [taps, c], each channel under its own: y [n, out, c]; or the gradient of w by x and y's.
struct DepthwiseSpec {
  DType dtype;
  bool weight;
  int64_t n, in[2], c, taps[2], out[2], stride[2], dilation[2];
  Operand x, other, target;
};

struct SumSpec {
  int base;
  DType dtype;
  int64_t count;
  int target;
  int64_t target_offset;  // bytes
};

struct LoopSpec {
  int block;
  int64_t length;  // or kRuntimeLength
  bool parallel, reverse;
  std::vector<int> slices;
  std::vector<std::pair<int, int>> swaps;
  std::vector<SumSpec> sums;
  int64_t sum_bytes;  // accumulator block of one group, a multiple of 64
  int64_t work;       // of one iteration; counted, for loops of the outermost block
};

struct Instr {
  int tag;
  std::variant<PassSpec, GemmSpec, GatherSpec, ScatterSpec, CumsumSpec, ArgReduceSpec, LoopSpec, ConvSpec, OrderSpec, DistanceSpec, PullSpec, ProtoSpec, InverseSpec, DepthwiseSpec> body;
};

struct Block {
  std::vector<Instr> instrs;
};

struct PlanSpec {
  std::vector<ArraySpec> inputs, outputs;
  std::vector<Base> bases;
  std::vector<Block> blocks;
  int64_t const_bytes, shared_bytes, arena_bytes;
  int64_t work;       // counted, not declared
  bool has_runtime_length;  // some array is per task
};

// Throws PlanError, whose text starts with "[plan] ".
PlanSpec decode_plan(const int64_t* words, size_t n_words, size_t const_bytes);

}  // namespace fastmeta
