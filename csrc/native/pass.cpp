#include "pass.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../generated/opcodes.hpp"

namespace fastmeta {

namespace {

constexpr int64_t kTileMemory = 24 << 10;    // of all tiles of a phase: half of a common L1
constexpr int64_t kTileElements = 2048;
constexpr int64_t kDirectElements = 1 << 16;  // of a "tile" that lives in memory only: bounds the time between polls
constexpr int64_t kFewestElements = 64;
constexpr int64_t kFewElements = 512;  // of a tile: fewer hardly pay for the calls of its steps
constexpr int64_t kCrossedCols = 64;  // tiles to transpose are squarish
constexpr int64_t kLine = 64;          // bytes of a cache's line
constexpr int64_t kFarBytes = 4 << 20;  // operands of more are not in the second-level cache, and hardly in a third
constexpr size_t kFewSteps = 3;         // of a tile: what is asked for meanwhile gains nothing, the processor's own prefetching is as good

// Teams: only what takes longer than kSplitWork is split, in parts of about kPartWork.
constexpr double kStepCost = 0.2;  // ns per element and step
constexpr double kSplitWork = 40e3, kPartWork = 20e3;
constexpr int64_t kMostParts = 64;
constexpr int64_t kMostJoints = 4 << 10;  // bytes of a part's copy

}  // namespace

// Turns values into slots and micro-ops into steps.
struct BoundPhase::Builder {
  BoundPhase& phase;
  const Phase& spec;
  const Kernels& kernels;
  std::vector<int> values;        // by value id: slot
  std::vector<int> materialised;  // by slot: a dense tile with its content
  int registers[kMaxRegisters][9];

  Builder(BoundPhase& p, const Phase& s, const Kernels& k) : phase(p), spec(s), kernels(k) {
    std::fill_n(&registers[0][0], kMaxRegisters * 9, kNone);
    for (int v = 0; v < int(spec.loads.size()); ++v) values.push_back(v);
    materialised.assign(phase.slots_.size(), kNone);
  }

  int new_tile(int64_t item) {
    Slot tile;
    tile.col = tile.item = item;
    phase.slots_.push_back(tile);
    materialised.push_back(kNone);
    ++phase.n_tiles_;
    if (phase.slots_.size() > size_t(kMaxSlots)) throw PlanError("[plan] phase: expected at most " + std::to_string(kMaxSlots) + " operands and tiles, got more");
    return int(phase.slots_.size()) - 1;
  }

  // One tile per register and item size: a cast may so keep its register without writing over what it still reads.
  int tile_of(int reg, int64_t item) {
    if (reg < 0) return new_tile(item);
    int& tile = registers[reg][item];
    if (tile == kNone) tile = new_tile(item);
    return tile;
  }

  Step& add(Kind kind, int dst, int x) {
    Step step{};
    step.kind = kind;
    step.dst = int16_t(dst);
    step.x = int16_t(x);
    step.y = step.z = kNone;
    phase.steps_.push_back(step);
    return phase.steps_.back();
  }

  // The slot of a copy of `slot` with unit column stride.
  int dense(int slot) {
    const Slot& from = phase.slots_[slot];
    if (from.col == from.item) return slot;
    if (materialised[slot] == kNone) {
      const int64_t item = from.item;
      const int tile = new_tile(item);
      materialised[slot] = tile;
      add(Kind::Copy, tile, slot).item = uint8_t(item);
    }
    return materialised[slot];
  }

  void add_op(const MicroOp& op) {
    int args[3] = {kNone, kNone, kNone};
    int variant = 0;
    for (int a = 0; a < op.n_args; ++a) {
      const int slot = values[op.args[a]];
      if (phase.slots_[slot].col == 0 && op.op != kCast) {
        args[a] = slot;
        variant |= 1 << a;
      } else {
        args[a] = dense(slot);
      }
    }
    TileFn fn = op.op == kCast ? kernels.cast[op.source][op.type] : kernels.tile[op.op][op.type][variant];
    if (!fn && variant != 0) {
      for (int a = 0; a < op.n_args; ++a) args[a] = dense(args[a]);
      fn = kernels.tile[op.op][op.type][0];
    }
    if (!fn) refuse_kernel(op);
    int dst = kNone;
    if (op.reg < 0) {
      const int store = int(spec.loads.size()) - 1 - op.reg;
      if (phase.slots_[store].col == phase.slots_[store].item) dst = store;
    }
    if (dst == kNone) dst = tile_of(op.reg, item_size(op.type));
    Step& step = add(Kind::Op, dst, args[0]);
    step.y = int16_t(args[1]);
    step.z = int16_t(args[2]);
    step.fn = fn;
    values.push_back(dst);
  }

  [[noreturn]] void refuse_kernel(const MicroOp& op) const {
    throw PlanError("[plan] expected a kernel for micro-op " + std::to_string(op.op) + " with dtype " + std::to_string(op.type) + ", got none in " + kernels.name);
  }

  void add_store(const Store& store, int slot) {
    const int value = values[store.value];
    if (value == slot) return;  // written straight there
    if (store.mode == kStore) {
      add(Kind::Copy, slot, value).item = uint8_t(phase.slots_[slot].item);
      return;
    }
    const int x = dense(value);
    const int64_t col = phase.slots_[slot].col;
    const bool any = col != 0 && col != phase.slots_[slot].item;
    Step& step = add(any ? Kind::ReduceAny : Kind::Reduce, slot, x);
    step.mode = uint8_t(store.mode == kAccumulate ? kSum : store.mode);
    step.type = store.target.dtype;
    step.reduce = kernels.reduce[step.mode][step.type];
  }
};

BoundPhase::BoundPhase(const Phase& phase, const Kernels& kernels, bool by_rows) : kernels_(&kernels) {
  choose_layout(phase, by_rows);
  Builder build(*this, phase, kernels);
  // A lone `copy` moves memory to memory.
  const bool moves = phase.ops.size() == 1 && phase.ops[0].op == kCopy && phase.stores.size() == 1 && phase.stores[0].value == int(phase.loads.size());
  if (moves) build.values.push_back(build.values[phase.ops[0].args[0]]);
  else
    for (const MicroOp& op : phase.ops) build.add_op(op);
  for (int s = 0; s < int(phase.stores.size()); ++s) {
    const int slot = int(phase.loads.size()) + s;
    build.add_store(phase.stores[s], slot);
    const int mode = phase.stores[s].mode;
    if (mode != kStore && mode != kAccumulate) fills_.emplace_back(slot, Fill(mode, phase, phase.stores[s].target));
  }
  size_tiles();
  finish_steps();
  find_joints(phase, by_rows);
  if (!by_rows && joinable_ && !empty_) choose_parts();
  if (parts_ > 1) find_far();
}

void BoundPhase::choose_layout(const Phase& phase, bool by_rows) {
  nest_.rank = phase.rank;
  std::copy_n(phase.dims, phase.rank, nest_.dims);
  for (const Operand& load : phase.loads) nest_.add(load);
  for (const Store& store : phase.stores) nest_.add(store.target);
  n_memory_ = int(nest_.strides.size());
  empty_ = nest_.elements() == 0;
  auto item = [&](int k) { return item_size(k < int(phase.loads.size()) ? phase.loads[k].dtype : phase.stores[k - phase.loads.size()].target.dtype); };
  auto unit_operands = [&](int d) {
    int n = 0;
    for (int k = 0; k < n_memory_; ++k) n += nest_.strides[k][d] == 0 || nest_.strides[k][d] == item(k);
    return n;
  };
  if (!by_rows) {
    nest_.drop_ones();
    nest_.sort();
    nest_.merge();
    const int last = nest_.rank - 1;
    if (last >= 1) {
      // Short rows cost a kernel its vectors: walk the other way where that is no worse.
      if (nest_.dims[last] < 8 && nest_.dims[last - 1] > nest_.dims[last] && unit_operands(last - 1) >= unit_operands(last)) nest_.exchange(last - 1, last);
      // An operand whose unit stride is along another dim is transposed tile by tile: that dim becomes the rows.
      for (int k = 0; k < n_memory_ && !crossed_; ++k) {
        if (nest_.strides[k][last] == 0 || nest_.strides[k][last] == item(k)) continue;
        for (int d = last - 1; d >= 0 && !crossed_; --d) {
          if (nest_.strides[k][d] != item(k)) continue;
          for (int e = d; e + 1 < last; ++e) nest_.exchange(e, e + 1);
          crossed_ = true;
        }
      }
      // Few rows (of an operand that repeats along them, say) are few elements per step: a longer dim takes their place.
      if (!crossed_ && nest_.dims[last] * nest_.dims[last - 1] < kFewElements) {
        int best = last - 1;
        for (int d = last - 2; d >= 0 && nest_.dims[last] * nest_.dims[best] < kFewElements; --d)
          if (nest_.dims[d] > nest_.dims[best]) best = d;
        for (int d = best; d + 1 < last; ++d) nest_.exchange(d, d + 1);
      }
    }
  }
  outer_rank_ = std::max(0, nest_.rank - 2);
  if (nest_.rank >= 1) cols_ = nest_.dims[nest_.rank - 1];
  if (nest_.rank >= 2) rows_ = nest_.dims[nest_.rank - 2];
  flat_ = by_rows;
  for (int k = 0; k < n_memory_; ++k) {
    const bool load = k < int(phase.loads.size());
    const Operand& operand = load ? phase.loads[k] : phase.stores[k - phase.loads.size()].target;
    places_.push_back({operand.base, operand.offset});
    Slot slot;
    slot.item = item(k);
    slot.col = nest_.rank >= 1 && cols_ != 1 ? nest_.strides[k][nest_.rank - 1] : slot.item;
    slot.row = nest_.rank >= 2 && rows_ != 1 ? nest_.strides[k][nest_.rank - 2] : cols_ * slot.col;
    flat_ = flat_ && slot.row == cols_ * slot.col;
    slots_.push_back(slot);
  }
}

void BoundPhase::size_tiles() {
  int64_t widest = 4;
  bool reduces = false;
  for (size_t k = size_t(n_memory_); k < slots_.size(); ++k) widest = std::max(widest, slots_[k].item);
  for (const Step& step : steps_) reduces |= step.kind == Kind::Reduce || step.kind == Kind::ReduceAny;
  int64_t elements = kTileElements;
  if (n_tiles_ > 0) elements = std::clamp(kTileMemory / (n_tiles_ * widest) / 16 * 16, kFewestElements, kTileElements);
  else if (steps_.size() == 1 && !reduces) elements = kDirectElements;
  const int64_t cols = flat_ ? rows_ * cols_ : cols_;
  tile_cols_ = std::max<int64_t>(1, std::min({cols, elements, crossed_ ? kCrossedCols : elements}));
  tile_rows_ = flat_ || (tile_cols_ < cols && !crossed_) ? 1 : std::max<int64_t>(1, elements / tile_cols_);
  tile_bytes_ = (elements * widest + 63) / 64 * 64;
  for (int64_t t = 0; t < n_tiles_; ++t) {
    slots_[n_memory_ + t].row = tile_cols_ * slots_[n_memory_ + t].item;
    places_.push_back({kNone, t * tile_bytes_});
  }
}

bool BoundPhase::is_dense(int slot) const {
  const Slot& s = slots_[slot];
  return s.row == tile_cols_ * s.col && (s.col == s.item || s.col == 0);
}

void BoundPhase::finish_steps() {
  for (Step& step : steps_) {
    step.one_row = true;
    for (int slot : {step.dst, step.x, step.y, step.z}) step.one_row &= slot == kNone || is_dense(slot);
    step.dst_row = row_elements(step.dst);
    step.dst_col = slots_[step.dst].col / slots_[step.dst].item;
    step.x_row = row_elements(step.x);
    step.y_row = step.y == kNone ? 0 : row_elements(step.y);
    step.z_row = step.z == kNone ? 0 : row_elements(step.z);
  }
}

// Reductions that do not keep apart what parts do: blocks of rows and batch elements or, without by_rows, tiles.
void BoundPhase::find_joints(const Phase& phase, bool by_rows) {
  const size_t n_loads = phase.loads.size();
  for (size_t s = 0; s < phase.stores.size(); ++s) {
    const Store& store = phase.stores[s];
    if (store.mode == kStore) continue;
    const auto& strides = nest_.strides[n_loads + s];
    bool apart = true;
    for (int d = 0; d < outer_rank_; ++d) apart = apart && (strides[d] != 0 || nest_.dims[d] == 1);
    if (nest_.rank >= 2) apart = apart && (strides[nest_.rank - 2] != 0 || rows_ == 1);
    if (nest_.rank >= 1 && !by_rows) apart = apart && (strides[nest_.rank - 1] != 0 || cols_ <= tile_cols_);
    if (apart) continue;
    const int mode = store.mode == kAccumulate ? kSum : store.mode;
    Joint joint{int(n_loads + s), joint_bytes_, 0, kernels_->reduce[mode][store.target.dtype], Fill(mode, phase, store.target)};
    joint.count = joint.fill.run_length();
    joint_bytes_ += (joint.count * item_size(store.target.dtype) + 63) / 64 * 64;
    joinable_ = joinable_ && joint.count > 0;
    joints_.push_back(joint);
  }
  joinable_ = joinable_ && joint_bytes_ <= kMostJoints;
}

void BoundPhase::find_far() {
  if (steps_.size() <= kFewSteps) return;
  for (int k = 0; k < n_memory_; ++k) {
    int64_t bytes = slots_[k].item;
    for (int d = 0; d < nest_.rank; ++d)
      if (nest_.strides[k][d] != 0) bytes *= nest_.dims[d];
    if (bytes <= kFarBytes || slots_[k].col != slots_[k].item) continue;
    far_.push_back(k);
    lines_ += tile_rows_ * (tile_cols_ * slots_[k].item / kLine + 1);
  }
  lines_ = lines_ / int64_t(steps_.size()) + 1;
}

void BoundPhase::choose_parts() {
  const int64_t row_tiles = (rows_ + tile_rows_ - 1) / tile_rows_, col_tiles = (cols_ + tile_cols_ - 1) / tile_cols_;
  total_tiles_ = nest_.elements() / (rows_ * cols_) * row_tiles * col_tiles;
  const double work = double(nest_.elements()) * double(steps_.size()) * kStepCost;
  if (work > kSplitWork) parts_ = std::min({int64_t(work / kPartWork), kMostParts, total_tiles_});
}

void BoundPhase::begin(char* joints) const {
  for (const Joint& joint : joints_) joint.fill.run(joints + joint.at);
}

void BoundPhase::join(Worker& worker, const char* joints) const {
  for (const Joint& joint : joints_) {
    const Place& target = places_[joint.slot];
    joint.reduce({worker.bases[target.base] + target.offset, joints + joint.at, 0, 1, 0, 1, joint.count});
  }
}

void BoundPhase::fill(Worker& worker) const {
  for (const auto& [slot, fill] : fills_) fill.run(worker.bases[places_[slot].base] + places_[slot].offset);
}

inline void BoundPhase::place(Worker& worker, char** at, char* joints) const {
  char** next = at;
  for (const Place& p : places_) *next++ = (p.base == kNone ? worker.scratch : worker.bases[p.base]) + p.offset;
  if (joints)
    for (const Joint& joint : joints_) at[joint.slot] = joints + joint.at;
}

void BoundPhase::run(Worker& worker) const {
  if (!fills_.empty()) fill(worker);
  if (!empty_) run_tiles(worker);
}

bool BoundPhase::is_short() const {
  const bool one_tile = outer_rank_ == 0 && rows_ <= tile_rows_ && cols_ <= tile_cols_;
  return one_tile && !empty_ &&
         std::none_of(steps_.begin(), steps_.end(), [](const Step& step) { return step.kind == Kind::ReduceAny; });
}

void BoundPhase::write(Tape& tape) const {
  auto spot = [&](int slot) {
    if (slot == kNone) return Spot();
    const Place& p = places_[slot];
    return p.base == kNone ? tape.scratch(p.offset) : Spot(int(p.base), p.offset);
  };
  for (const Step& step : steps_) {
    const auto [r, c] = extent(step, rows_, cols_);
    const Spot dst = spot(step.dst), x = spot(step.x);
    switch (step.kind) {
      case Kind::Op: tape.tile(step.fn, tile_args(step, r, c), dst, x, spot(step.y), spot(step.z)); break;
      case Kind::Copy: tape.copy(plane_copy(step, r, c), dst, x); break;
      case Kind::Reduce: {
        // One tile is all that is reduced: no fill beforehand.
        ReduceArgs args = reduce_args(step, r, c);
        args.fresh = std::any_of(fills_.begin(), fills_.end(), [&](const auto& f) { return f.first == step.dst; });
        tape.reduce(step.reduce, args, dst, x);
        break;
      }
      case Kind::ReduceAny: break;  // never here
    }
  }
}

void BoundPhase::run_tiles(Worker& worker) const {
  if (parts_ > 1) {
    struct Context {
      const BoundPhase* self;
      char* joints;
    } context{this, joints_.empty() ? nullptr : worker.scratch + n_tiles_ * tile_bytes_};
    run_parts(worker, parts_, [](const void* c, Worker& w, int64_t part) {
      const auto& [self, joints] = *static_cast<const Context*>(c);
      char* const own = joints ? joints + part * self->joint_bytes_ : nullptr;
      if (own) self->begin(own);
      self->run_part(w, part, own);
    }, &context);
    if (context.joints && !worker.stopped())
      for (int64_t part = 0; part < parts_; ++part) join(worker, context.joints + part * joint_bytes_);
    return;
  }
  char* at[kMaxSlots];
  place(worker, at);
  if (outer_rank_ == 0) return run_plane(worker, at, rows_, cols_);
  char* origin[kMaxSlots];
  std::copy_n(at, n_memory_, origin);
  int64_t offsets[kMaxSlots] = {};
  for_each_outer(nest_, outer_rank_, offsets, [&] {
    for (int k = 0; k < n_memory_; ++k) at[k] = origin[k] + offsets[k];
    run_plane(worker, at, rows_, cols_);
    return !worker.stopped();
  });
}

// Moves at to tile `number`, counted along columns, rows, then outer dims, and returns its rows and columns.
std::pair<int64_t, int64_t> BoundPhase::find_tile(int64_t number, char* const* origin, char** at) const {
  const int64_t row_tiles = (rows_ + tile_rows_ - 1) / tile_rows_, col_tiles = (cols_ + tile_cols_ - 1) / tile_cols_;
  const int64_t col = number % col_tiles * tile_cols_, row = number / col_tiles % row_tiles * tile_rows_;
  for (int k = 0; k < n_memory_; ++k) at[k] = origin[k] + row * slots_[k].row + col * slots_[k].col;
  int64_t outer = number / col_tiles / row_tiles;
  for (int d = outer_rank_ - 1; d >= 0; --d) {
    const int64_t index = outer % nest_.dims[d];
    outer /= nest_.dims[d];
    for (int k = 0; k < n_memory_; ++k) at[k] += index * nest_.strides[k][d];
  }
  return {std::min(tile_rows_, rows_ - row), std::min(tile_cols_, cols_ - col)};
}

// Asks for the memory of a tile, some lines with each step of the tile before it: a processor waits for few lines at a time, and
// what is asked for in one go is waited for. To the second-level cache, since the first is full of the tile at hand.
class BoundPhase::Ahead {
 public:
  Ahead(const BoundPhase& phase, char* const* at, std::pair<int64_t, int64_t> size) : phase_(phase), at_(at), rows_(size.first), cols_(size.second) { open(); }
  inline __attribute__((always_inline)) void fetch(int64_t lines) {  // GCC drops calls of functions that only prefetch
    for (; lines > 0 && far_ < phase_.far_.size(); --lines) {
      __builtin_prefetch(line_, 0, 2);
      if ((line_ += kLine) < end_) continue;
      if (end_ == last_) row_ = 0, ++far_;
      else ++row_;
      open();
    }
  }

 private:
  void open() {
    if (far_ == phase_.far_.size()) return;
    const Slot& slot = phase_.slots_[phase_.far_[far_]];
    const char* const first = at_[phase_.far_[far_]];
    const int64_t bytes = cols_ * slot.item;
    line_ = first + row_ * slot.row;
    last_ = first + (rows_ - 1) * slot.row + bytes;
    end_ = slot.row == bytes ? last_ : line_ + bytes;
  }

  const BoundPhase& phase_;
  char* const* at_;
  int64_t rows_, cols_, row_ = 0;
  size_t far_ = 0;
  const char *line_ = nullptr, *end_ = nullptr, *last_ = nullptr;  // of a run of memory, and the end of the operand's last
};

// Tiles part/parts of all: the same tiles as without parts.
void BoundPhase::run_part(Worker& worker, int64_t part, char* joints) const {
  char *origin[kMaxSlots], *places[2][kMaxSlots];
  place(worker, origin, joints);
  for (auto& at : places) std::copy_n(origin, slots_.size(), at);
  char **at = places[0], **next = places[1];
  int64_t tile = int64_t(__int128(total_tiles_) * part / parts_);
  const int64_t last = int64_t(__int128(total_tiles_) * (part + 1) / parts_) - 1;
  for (auto size = find_tile(tile, origin, at); tile <= last && !worker.stopped(); ++tile) {
    const auto next_size = find_tile(std::min(tile + 1, last), origin, next);
    Ahead ahead(*this, next, next_size);
    run_tile(at, size.first, size.second, &ahead);
    std::swap(at, next);
    size = next_size;
  }
}

void BoundPhase::run_rows(Worker& worker, const int64_t* batch, int64_t first, int64_t last, char* joints) const {
  if (empty_) return;
  char* at[kMaxSlots];
  place(worker, at, joints);
  for (int k = 0; k < n_memory_; ++k) {
    at[k] += first * slots_[k].row;
    for (int d = 0; d < outer_rank_; ++d) at[k] += batch[d] * nest_.strides[k][d];
  }
  if (flat_) run_plane(worker, at, 1, (last - first) * cols_);
  else run_plane(worker, at, last - first, cols_);
}

void BoundPhase::run_plane(Worker& worker, char* const* at, int64_t rows, int64_t cols) const {
  if (rows <= tile_rows_ && cols <= tile_cols_) return run_tile(at, rows, cols);
  char* here[kMaxSlots];
  std::copy_n(at + n_memory_, n_tiles_, here + n_memory_);
  for (int64_t row = 0; row < rows; row += tile_rows_) {
    for (int64_t col = 0; col < cols; col += tile_cols_) {
      for (int k = 0; k < n_memory_; ++k) here[k] = at[k] + row * slots_[k].row + col * slots_[k].col;
      run_tile(here, std::min(tile_rows_, rows - row), std::min(tile_cols_, cols - col));
      if (worker.stopped()) return;
    }
  }
}

// Of a step's arguments all but the pointers.
inline std::pair<int64_t, int64_t> BoundPhase::extent(const Step& step, int64_t rows, int64_t cols) const {
  if (step.one_row && cols == tile_cols_) return {1, rows * cols};
  return {rows, cols};
}
inline TileArgs BoundPhase::tile_args(const Step& s, int64_t rows, int64_t cols) const {
  return {nullptr, nullptr, nullptr, nullptr, s.dst_row, s.x_row, s.y_row, s.z_row, rows, cols};
}
inline PlaneCopy BoundPhase::plane_copy(const Step& step, int64_t rows, int64_t cols) const {
  const Slot &to = slots_[step.dst], &from = slots_[step.x];
  return {nullptr, nullptr, to.row, to.col, from.row, from.col, rows, cols, step.item};
}
inline ReduceArgs BoundPhase::reduce_args(const Step& s, int64_t rows, int64_t cols) const {
  return {nullptr, nullptr, s.dst_row, s.dst_col, s.x_row, rows, cols, false};
}

void BoundPhase::run_tile(char* const* at, int64_t rows, int64_t cols, Ahead* ahead) const {
  for (const Step& step : steps_) {
    if (ahead) ahead->fetch(lines_);
    const auto [r, c] = extent(step, rows, cols);
    char *const dst = at[step.dst], *const x = at[step.x];
    switch (step.kind) {
      case Kind::Op: {
        TileArgs args = tile_args(step, r, c);
        args.dst = dst;
        args.x = x;
        if (step.y != kNone) args.y = at[step.y];
        if (step.z != kNone) args.z = at[step.z];
        step.fn(args);
        break;
      }
      case Kind::Copy: {
        PlaneCopy copy = plane_copy(step, r, c);
        copy.dst = dst;
        copy.src = x;
        copy_plane(*kernels_, copy);
        break;
      }
      case Kind::Reduce: {
        ReduceArgs args = reduce_args(step, r, c);
        args.dst = dst;
        args.x = x;
        step.reduce(args);
        break;
      }
      case Kind::ReduceAny:
        reduce_any(step, at[step.dst], step.dst_row, step.dst_col, at[step.x], step.x_row, rows, cols);
        break;
    }
  }
}

namespace {

template <class T>
T combine(int mode, T x, T y) {
  if (mode == kSum) {
    if constexpr (std::is_same_v<T, int32_t>) return T(uint32_t(x) + uint32_t(y));  // wraps
    else return x + y;
  }
  if (x != x) return x;  // NaN stays
  if (y != y) return y;
  return mode == kMax ? std::max(x, y) : std::min(x, y);
}

template <class T>
void reduce_plane(int mode, T* dst, int64_t dst_row, int64_t dst_col, const T* x, int64_t x_row, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      T& to = dst[r * dst_row + c * dst_col];
      to = combine(mode, to, x[r * x_row + c]);
    }
}

}  // namespace

// Targets whose columns are neither adjacent nor one: rare, so plain.
void BoundPhase::reduce_any(const Step& step, char* dst, int64_t dst_row, int64_t dst_col, const char* x, int64_t x_row, int64_t rows, int64_t cols) {
  auto run = [&](auto type) {
    using T = decltype(type);
    reduce_plane(step.mode, reinterpret_cast<T*>(dst), dst_row, dst_col, reinterpret_cast<const T*>(x), x_row, rows, cols);
  };
  if (step.type == F32) run(float{});
  else if (step.type == F64) run(double{});
  else run(int32_t{});
}

Pass::Pass(int tag, const PassSpec& spec, const Kernels& kernels) : Instruction(tag) {
  for (const Phase& phase : spec.phases) phases_.emplace_back(phase, kernels, false);
}

bool Pass::write(Tape& tape) const {
  if (!std::all_of(phases_.begin(), phases_.end(), [](const BoundPhase& phase) { return phase.is_short(); })) return false;
  for (const BoundPhase& phase : phases_) phase.write(tape);
  return true;
}

void Pass::run(Worker& worker) const {
  for (const BoundPhase& phase : phases_) phase.run(worker);
}

int64_t Pass::scratch_bytes() const {
  int64_t bytes = 0;
  for (const BoundPhase& phase : phases_) bytes = std::max(bytes, phase.scratch_bytes());
  return bytes;
}

}  // namespace fastmeta
