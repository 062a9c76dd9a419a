// The words of a checked plan, read where they are: docs/plan.md is the layout of every pointer walk in this folder.
#pragma once
#include "team.cuh"

namespace fastmeta {
namespace device {

enum Opcode { kPass = 1, kGemm, kGather, kScatter, kCumsum, kArgReduce, kLoop, kConv, kOrder };
enum Type { kF32 = 0, kF64 = 1, kI32 = 2, kBool = 3 };
enum BaseKindCode { kInput = 0, kOutput, kConst, kShared, kArena, kSlice, kSum, kCarry };
enum Mode { kStoreMode = 0, kSumMode, kMaxMode, kMinMode, kAccumulateMode };
constexpr int kMostDims = 8;

FM_BOTH int64_t item_bytes(int64_t type) { return type == kF64 ? 8 : type == kBool ? 1 : 4; }

// An index outside its array: the first of an instruction while it is looked for, then what is told. All zeros: all is well.
struct Status {
  unsigned long long first;  // ~position, the highest one that was met
  int64_t tag, task, index, bound;
  int32_t recorded;
  int32_t ended;  // the task of now is over: at a bad index, or there is none
};

// One task, or the program outside its parallel loop, as a team sees it.
struct Frame {
  char** bases;
  char* partials;  // kPartials numbers between the two halves of a reduction
  Status* status;
  int64_t task;
  char* far;  // this slot's arena in device memory, of which the first bytes may be a team's own instead
};
constexpr int64_t kPartials = 4096;

// A plan as kernels see it.
struct Program {
  const int64_t* words;
  const int64_t* blocks;  // by block: word of its first instruction, number of instructions
  int64_t bases_at;       // word of the first base
  int64_t n_bases;
};

FM_BOTH const int64_t* base_words(const Program& p, int64_t base) { return p.words + p.bases_at + 4 * base; }

// OPERAND: base, byte offset, dtype, strides
FM_DEVICE char* address(const Frame& frame, const int64_t* operand) { return frame.bases[operand[0]] + operand[1]; }

}  // namespace device
}  // namespace fastmeta
