#include "product.hpp"

#include <algorithm>

#include "../generated/opcodes.hpp"

namespace fastmeta {

namespace {

constexpr int64_t kBlockBytes = 16 << 10;     // of C: what the phases after a product find in L1
constexpr int64_t kBlockStep = 24;            // rows: a multiple of the kernels' tiles, and enough to read B for
constexpr double kLongWork = 3e8;             // multiply-adds between two looks at the clock
constexpr double kSplitWork = 2e6;            // multiply-adds, about 40 us: less is not worth a team
constexpr double kSmallWork = 1e5;            // multiply-adds of a product that is small beside what surrounds it
constexpr int64_t kMostParts = 16;
constexpr int64_t kScratchBytes = 64 << 10;   // of C where it cannot be written in place

int64_t round_block(int64_t rows) { return std::max<int64_t>(1, rows / kBlockStep) * kBlockStep; }

// The length of the last batch axis where its elements lie side by side in every matrix, else 1.
int64_t side_by_side(const GemmSpec& spec) {
  const int last = spec.batch_rank - 1;
  bool unit = last >= 0 && spec.dims[last] > 1 && spec.c.stride[last] == 1 && (!spec.has_cin || spec.cin.stride[last] == 1);
  for (const Factors& f : spec.products) unit = unit && f.a.stride[last] == 1 && f.b.stride[last] == 1;
  return unit ? spec.dims[last] : 1;
}

}  // namespace

template <class T>
void Gemm<T>::set_place(int matrix, const Operand& operand, int64_t rows, int64_t cols) {
  // A stride that is never taken may be anything: it becomes what the kernels like best.
  const bool empty = rows == 0 || cols == 0 || batches_ == 0;
  const int64_t* const strides = operand.stride + batch_rank_ + (args_.lanes > 1);
  places_[matrix] = {operand.base, operand.offset, rows > 1 && !empty ? strides[0] : cols, cols > 1 && !empty ? strides[1] : 1};
  for (int d = 0; d < batch_rank_; ++d)
    if (batch_[d] > 1 && !empty) batch_strides_[matrix][d] = operand.stride[d] * int64_t(sizeof(T));
}

template <class T>
Gemm<T>::Gemm(int tag, const GemmSpec& spec, const Kernels& kernels)
    : Instruction(tag), batch_rank_(spec.batch_rank), has_cin_(spec.has_cin), m_(spec.dims[spec.batch_rank]), n_(spec.dims[spec.batch_rank + 1]),
      kernels_(&kernels) {
  if constexpr (sizeof(T) == 4) kernel_ = kernels.gemm_f32;
  else kernel_ = kernels.gemm_f64;
  args_.alpha = T(spec.alpha);
  args_.lanes = side_by_side(spec);
  if (args_.lanes > 1) --batch_rank_;
  if (m_ == 0 || n_ == 0) batches_ = 0;
  for (int d = 0; d < batch_rank_; ++d) {
    batch_[d] = spec.dims[d];
    batches_ *= spec.dims[d];
  }
  double depth = 1;
  for (const Factors& factors : spec.products) {
    const int p = int(args_.n_products++);
    set_place(kFactors + 2 * p, factors.a, m_, factors.k);
    set_place(kFactors + 2 * p + 1, factors.b, factors.k, n_);
    const Place *a = &places_[kFactors + 2 * p], *b = a + 1;
    args_.products[p] = {factors.k, a->row, a->col, b->row, b->col};
    depth += double(factors.k);
  }
  set_place(kC, spec.c, m_, n_);
  if (has_cin_) set_place(kCin, spec.cin, m_, n_);
  work_ = double(m_) * double(n_) * double(args_.lanes) * depth;  // of one batch element
  // A small product is one block; then its phases are free to choose their own layout. Rowwise phases that follow
  // one that is not wait for that one, so they are run whole too.
  const bool lanes = args_.lanes > 1, absorbed = !lanes && !spec.phases.empty() && absorb(spec, spec.phases[0]);
  bool rowwise = !lanes && (batches_ != 1 || m_ * n_ * int64_t(sizeof(T)) > kBlockBytes || work_ > kSplitWork);
  for (size_t k = absorbed; k < spec.phases.size(); ++k) {
    const Phase& phase = spec.phases[k];
    rowwise = rowwise && phase.rowwise;
    phases_.push_back({rowwise, BoundPhase(phase, kernels, rowwise)});
    any_rowwise_ |= rowwise;
    phase_scratch_ = std::max(phase_scratch_, phases_.back().phase.scratch_bytes());
  }
  phase_scratch_ = (phase_scratch_ + 63) / 64 * 64;
  if (batches_ > 0) {
    if (!any_rowwise_) merge_batches();  // phases of rows count batches as the plan does
    choose_blocks();
  }
}

// Batch axes that continue each other in every matrix are one; of length 1 none.
template <class T>
void Gemm<T>::merge_batches() {
  int kept = 0;
  for (int d = 0; d < batch_rank_; ++d) {
    if (batch_[d] == 1) continue;
    bool continues = kept > 0;
    for (const auto& strides : batch_strides_) continues = continues && strides[kept - 1] == strides[d] * batch_[d];
    if (continues) batch_[kept - 1] *= batch_[d];
    else batch_[kept++] = batch_[d];
    for (auto& strides : batch_strides_) strides[kept - 1] = strides[d];
  }
  batch_rank_ = kept;
}

// A phase that the kernels do themselves: what hidden layers with relu and their gradients come to.
template <class T>
bool Gemm<T>::absorb(const GemmSpec& spec, const Phase& phase) {
  const Place& c = places_[kC];
  if (!phase.rowwise || n_ <= 1 || c.col != 1 || phase.ops.size() != 1 || phase.stores.size() != 1) return false;
  const MicroOp& op = phase.ops[0];
  const Store& store = phase.stores[0];
  auto is_c = [&](const Operand& operand) {
    if (operand.base != spec.c.base || operand.offset != spec.c.offset) return false;
    for (int d = 0; d < spec.batch_rank + 2; ++d)
      if (spec.dims[d] > 1 && operand.stride[d] != spec.c.stride[d]) return false;
    return true;
  };
  const int n_loads = int(phase.loads.size());
  if (op.type != spec.dtype || store.mode != kStore || store.value != n_loads || !is_c(store.target)) return false;
  if (op.args[0] >= n_loads || !is_c(phase.loads[op.args[0]])) return false;
  if (op.op == Op::kRelu) {
    args_.after = After::kRelu;
    return true;
  }
  if ((op.op != Op::kGate && op.op != Op::kHalfGate) || op.args[1] >= n_loads || is_c(phase.loads[op.args[1]])) return false;
  set_place(kGate, phase.loads[op.args[1]], m_, n_);
  if (places_[kGate].col != 1) return false;
  args_.after = op.op == Op::kGate ? After::kGate : After::kHalfGate;
  args_.gate_m = places_[kGate].row;
  return true;
}

template <class T>
void Gemm<T>::choose_blocks() {
  const Place& c = places_[kC];
  if (n_ == 1 || c.col == 1 || args_.lanes > 1) target_ = Target::Direct;
  else if (m_ == 1 || c.row == 1) target_ = Target::Transposed;  // C^T = B^T A^T has rows of unit stride
  else target_ = Target::Scratch;
  bool independent = true;
  for (const Following& f : phases_) independent &= !f.rowwise || f.phase.independent();
  team_ = independent && work_ * double(batches_) > kSplitWork;
  int64_t rows = m_;
  auto at_most = [&](double most) {
    if (most < double(rows)) rows = std::min(m_, round_block(int64_t(most)));
  };
  if (target_ == Target::Transposed || args_.lanes > 1) {
    team_ = team_ && batches_ > 1;  // blocks of rows would be blocks of columns, or too small
    blocks_ = shared_ = {m_, 1};
    return prepare();
  }
  at_most(kLongWork / work_ * double(m_));
  if (any_rowwise_ && m_ * n_ * int64_t(sizeof(T)) > kBlockBytes) at_most(double(kBlockBytes) / double(n_ * int64_t(sizeof(T))));
  if (target_ == Target::Scratch) {
    rows = std::min(rows, std::max<int64_t>(1, kScratchBytes / (n_ * int64_t(sizeof(T)))));
    c_scratch_ = (rows * n_ * int64_t(sizeof(T)) + 63) / 64 * 64;
  }
  blocks_ = {rows, (m_ + rows - 1) / rows};
  if (team_ && batches_ < kMostParts) at_most(std::max(double(2 * kBlockStep), double(m_) * double(batches_) / double(kMostParts)));
  shared_ = {rows, (m_ + rows - 1) / rows};
  prepare();
}

template <class T>
void Gemm<T>::prepare() {
  const Place &c = places_[kC], &cin = places_[kCin];
  args_.m = blocks_.rows;
  args_.n = n_;
  args_.rows = m_;
  args_.cin_m = cin.row;
  args_.cin_n = cin.col;
  args_.c_m = target_ == Target::Scratch ? n_ : c.row;
  if (target_ == Target::Transposed) {
    args_.c_m = c.col;
    swap();
  }
  if (args_.lanes > 1) args_.c_n = c.col;
  if constexpr (sizeof(T) == 4) tiles_ = kernels_->gemm_tiles_f32(args_);
  else tiles_ = kernels_->gemm_tiles_f64(args_);
  if (shared_.count > 1) tiles_.count = 0;
  row_ = batch_rank_ == 1 && tiles_.count > 0 && target_ != Target::Scratch && !any_rowwise_ && work_ < kSmallWork;
  if (tiles_.swapped && tiles_.count > 0) {
    std::swap(args_.c_m, args_.c_n);
    swap();
  }
}

// C^T = B^T A^T
template <class T>
void Gemm<T>::swap() {
  swapped_ = !swapped_;
  std::swap(args_.m, args_.n);
  args_.rows = args_.m;
  std::swap(args_.cin_m, args_.cin_n);
  for (Product& f : args_.products) f = {f.k, f.b_n, f.b_k, f.a_k, f.a_m};
}

template <class T>
GemmData<T> Gemm<T>::data_at(const Worker& worker, const int64_t* batch, int64_t first) const {
  GemmData<T> data{};
  for (int p = 0; p < args_.n_products; ++p) {
    const int a = kFactors + 2 * p;
    data.factors[2 * p + swapped_] = at(worker, a, batch) + first * places_[a].row;
    data.factors[2 * p + !swapped_] = at(worker, a + 1, batch);
  }
  if (has_cin_) data.cin = at(worker, kCin, batch) + first * places_[kCin].row;
  if (is_gate(args_.after)) data.gate = at(worker, kGate, batch) + first * places_[kGate].row;
  data.c = at(worker, kC, batch) + first * places_[kC].row;
  return data;
}

template <class T>
void Gemm<T>::multiply(Worker& worker, const int64_t* batch, int64_t first, int64_t last) const {
  GemmData<T> data = data_at(worker, batch, first);
  const Place& place = places_[kC];
  T* const c = data.c;
  if (target_ == Target::Scratch) data.c = reinterpret_cast<T*>(worker.scratch + phase_scratch_);
  if (tiles_.count > 0) {
    for (int t = 0; t < tiles_.count; ++t) {
      const GemmTile<T>& tile = tiles_.tile[t];
      tile.run(args_, data, tile.m0, tile.m1, tile.n0, tile.tail);
    }
  } else {
    GemmArgs<T> args = args_;
    if (!swapped_) args.m = last - first;  // swapped is one block
    kernel_(args, data);
  }
  if (target_ == Target::Scratch) {
    const int64_t item = sizeof(T);
    copy_plane(*kernels_, {reinterpret_cast<char*>(c), reinterpret_cast<char*>(data.c), place.row * item, place.col * item, n_ * item, item, last - first, n_, item});
  }
}

template <class T>
bool Gemm<T>::write(Tape& tape) const {
  if (batches_ != 1 || blocks_.count != 1 || any_rowwise_ || work_ > kSplitWork || tiles_.count == 0 || target_ == Target::Scratch) return false;
  for (const Following& f : phases_)
    if (!f.phase.is_short()) return false;
  auto spot = [&](int matrix) { return Spot(places_[matrix].base, places_[matrix].offset); };
  Spot factors[2 * kMaxProducts];
  for (int k = 0; k < 2 * args_.n_products; ++k) factors[k] = spot(kFactors + (swapped_ ? k ^ 1 : k));
  const Spot cin = spot(kCin);
  tape.product(args_, tiles_, spot(kC), has_cin_ ? &cin : nullptr, spot(kGate), factors);
  for (const Following& f : phases_) f.phase.write(tape);
  return true;
}

// One block of rows of one batch element, and the phases on it.
template <class T>
void Gemm<T>::run_unit(Worker& worker, const Blocks& blocks, int64_t unit) const {
  int64_t batch[kMaxRank], first = 0;
  if (blocks.count > 1) {  // divisions take as long as a small product
    first = unit % blocks.count * blocks.rows;
    unit /= blocks.count;
  }
  const int64_t last = std::min(m_, first + blocks.rows);
  for (int d = batch_rank_ - 1; d > 0; --d) {
    batch[d] = unit % batch_[d];
    unit /= batch_[d];
  }
  batch[0] = unit;
  multiply(worker, batch, first, last);
  if (any_rowwise_)
    for (const Following& f : phases_)
      if (f.rowwise) f.phase.run_rows(worker, batch, first, last);
  if (work_ > kSplitWork) worker.poll();
}

// Many small products one after the other: what surrounds each would take longer than the product.
template <class T>
void Gemm<T>::run_row(Worker& worker) const {
  constexpr int64_t kSome = 64;  // products between two questions whether to stop
  const int64_t first[kMaxRank] = {};
  GemmData<T> data = data_at(worker, first, 0);
  auto advance = [&](auto*& pointer, int matrix) { pointer = reinterpret_cast<T*>(reinterpret_cast<int64_t>(pointer) + batch_strides_[matrix][0]); };
  for (int64_t unit = 0; unit < batches_; ++unit) {
    for (int t = 0; t < tiles_.count; ++t) {
      const GemmTile<T>& tile = tiles_.tile[t];
      tile.run(args_, data, tile.m0, tile.m1, tile.n0, tile.tail);
    }
    for (int p = 0; p < 2 * args_.n_products; ++p) advance(data.factors[p], kFactors + (swapped_ ? p ^ 1 : p));
    if (data.cin) advance(data.cin, kCin);
    if (data.gate) advance(data.gate, kGate);
    advance(data.c, kC);
    if (unit % kSome == kSome - 1 && worker.stopped()) return;
  }
}

template <class T>
void Gemm<T>::run(Worker& worker) const {
  const bool shared = team_ && worker.others() > 0;
  const Blocks& blocks = shared ? shared_ : blocks_;
  const int64_t units = batches_ * blocks.count;
  for (const Following& f : phases_)
    if (f.rowwise) f.phase.fill(worker);
  if (shared && units > 1) {
    run_parts(worker, units, [](const void* argument, Worker& w, int64_t unit) {
      const Gemm& self = *static_cast<const Gemm*>(argument);
      self.run_unit(w, self.shared_, unit);
    }, this);
  } else if (row_) {
    run_row(worker);
  } else {
    for (int64_t unit = 0; unit < units; ++unit) {
      run_unit(worker, blocks, unit);
      if (worker.stopped()) return;
    }
  }
  for (const Following& f : phases_)
    if (!f.rowwise) f.phase.run(worker);
}

template class Gemm<float>;
template class Gemm<double>;

}  // namespace fastmeta
