// Elementwise phases: micro-ops on tiles of rows x columns that stay in L1.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "../plan.hpp"
#include "kernels.hpp"
#include "strided.hpp"
#include "tape.hpp"
#include "worker.hpp"

namespace fastmeta {

// A phase with its layout and kernels chosen.
//
// The iteration space becomes outer dims x rows x columns, and rows x columns is cut into tiles. A tile is a list of
// steps, each one kernel call. The steps' operands are slots: first the phase's loads and stores, read and written in
// place wherever a kernel can, then tiles of scratch.
class BoundPhase {
 public:
  // by_rows: the last two dims stay the rows and columns, the others the batch, so that blocks of rows can be run alone.
  BoundPhase(const Phase& phase, const Kernels& kernels, bool by_rows);

  void run(Worker& worker) const;
  // One tile, and nothing that a tape lacks: then it can be written there instead of being run. Without by_rows only.
  bool is_short() const;
  void write(Tape& tape) const;
  // For by_rows: fill once, then every block of rows of every batch element, in any order. joints: nullptr, or a part's own.
  void fill(Worker& worker) const;
  void run_rows(Worker& worker, const int64_t* batch, int64_t first, int64_t last, char* joints = nullptr) const;
  // May blocks of rows of all batch elements run at the same time? Not where a reduction joins them.
  bool independent() const { return joints_.empty() && joinable_; }

  // Where reductions join them, parts still may if each has joints of its own: copies of what is reduced. They begin empty,
  // and are joined part by part, in order: so the parts decide the bits, and must be a function of shapes.
  bool joinable() const { return joinable_; }
  int64_t joint_bytes() const { return joint_bytes_; }
  void begin(char* joints) const;
  void join(Worker& worker, const char* joints) const;

  int64_t scratch_bytes() const { return n_tiles_ * tile_bytes_ + (parts_ > 1 ? parts_ * joint_bytes_ : 0); }

 private:
  static constexpr int kMaxSlots = 320;
  static constexpr int kNone = -1;
  struct Slot {
    int64_t row = 0, col = 0;  // byte strides
    int64_t item = 4;
  };
  struct Place {  // of a slot: in a base or, where that is kNone, in the scratch
    int64_t base, offset;
  };
  enum class Kind : uint8_t { Op, Copy, Reduce, ReduceAny };
  struct Step {
    Kind kind;
    bool one_row;       // dense over rows: may run as a single row
    uint8_t mode, item;
    DType type;
    int16_t dst, x, y, z;
    int64_t dst_row, x_row, y_row, z_row, dst_col;  // elements
    TileFn fn;
    ReduceFn reduce;
  };
  struct Joint {
    int slot;
    int64_t at, count;  // byte offset in the copies; elements
    ReduceFn reduce;
    Fill fill;
  };
  struct Builder;
  class Ahead;

  void choose_layout(const Phase& phase, bool by_rows);
  void size_tiles();
  void finish_steps();
  void find_joints(const Phase& phase, bool by_rows);
  void find_far();
  void choose_parts();
  bool is_dense(int slot) const;
  int64_t row_elements(int slot) const { return slots_[slot].row / slots_[slot].item; }
  void place(Worker& worker, char** at, char* joints = nullptr) const;
  void run_tiles(Worker& worker) const;
  std::pair<int64_t, int64_t> extent(const Step& step, int64_t rows, int64_t cols) const;
  TileArgs tile_args(const Step& step, int64_t rows, int64_t cols) const;
  PlaneCopy plane_copy(const Step& step, int64_t rows, int64_t cols) const;
  ReduceArgs reduce_args(const Step& step, int64_t rows, int64_t cols) const;
  void run_tile(char* const* at, int64_t rows, int64_t cols, Ahead* ahead = nullptr) const;
  void run_plane(Worker& worker, char* const* at, int64_t rows, int64_t cols) const;
  std::pair<int64_t, int64_t> find_tile(int64_t number, char* const* origin, char** at) const;
  void run_part(Worker& worker, int64_t part, char* joints) const;
  static void reduce_any(const Step& step, char* dst, int64_t dst_row, int64_t dst_col, const char* x, int64_t x_row, int64_t rows, int64_t cols);

  bool empty_ = false;
  int64_t tile_rows_ = 1, tile_cols_ = 1;
  int64_t rows_ = 1, cols_ = 1;
  std::vector<Step> steps_;
  std::vector<Place> places_;  // of the slots
  std::vector<std::pair<int, Fill>> fills_;  // by slot
  int64_t parts_ = 1, total_tiles_ = 1;
  std::vector<Slot> slots_;
  const Kernels* kernels_;
  int n_memory_ = 0, n_tiles_ = 0;
  bool flat_ = false;  // by_rows: a block of rows is one run of memory in every operand
  bool crossed_ = false;  // some operand has unit stride along the rows
  bool joinable_ = true;
  int outer_rank_ = 0;
  int64_t tile_bytes_ = 0, joint_bytes_ = 0;
  std::vector<Joint> joints_;
  std::vector<int> far_;  // slots of long arrays
  int64_t lines_ = 0;     // of a tile's memory in them that are asked for by a step of the tile before
  Nest nest_;  // of the memory operands
};

class Pass final : public Instruction {
 public:
  Pass(int tag, const PassSpec& spec, const Kernels& kernels);
  bool write(Tape& tape) const override;
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  std::vector<BoundPhase> phases_;
};

}  // namespace fastmeta
