#include "product.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr int64_t kBlockBytes = 16 << 10;     // of C: what the phases after a product find in L1
constexpr int64_t kBlockStep = 24;            // rows: a multiple of the kernels' tiles, and enough to read B for
constexpr double kLongWork = 3e8;             // multiply-adds between two looks at the clock
constexpr double kSplitWork = 2e6;            // multiply-adds, about 40 us: less is not worth a team
constexpr int64_t kMostParts = 16;
constexpr int64_t kScratchBytes = 64 << 10;   // of C where it cannot be written in place

int64_t round_block(int64_t rows) { return std::max<int64_t>(1, rows / kBlockStep) * kBlockStep; }

}  // namespace

template <class T>
typename Gemm<T>::Place Gemm<T>::place_of(const Operand& operand, int64_t rows, int64_t cols) const {
  Place place;
  place.base = operand.base;
  place.offset = operand.offset;
  // A stride that is never taken may be anything: it becomes what the kernels like best.
  const bool empty = rows == 0 || cols == 0 || batches_ == 0;
  place.row = rows > 1 && !empty ? operand.stride[batch_rank_] : cols;
  place.col = cols > 1 && !empty ? operand.stride[batch_rank_ + 1] : 1;
  for (int d = 0; d < batch_rank_; ++d)
    if (batch_[d] > 1 && !empty) place.batch[d] = operand.stride[d] * int64_t(sizeof(T));
  return place;
}

template <class T>
Gemm<T>::Gemm(int tag, const GemmSpec& spec, const Kernels& kernels)
    : Instruction(tag), kernels_(&kernels), batch_rank_(spec.batch_rank), m_(spec.dims[spec.batch_rank]), n_(spec.dims[spec.batch_rank + 1]),
      alpha_(T(spec.alpha)), has_cin_(spec.has_cin) {
  if constexpr (sizeof(T) == 4) kernel_ = kernels.gemm_f32;
  else kernel_ = kernels.gemm_f64;
  if (m_ == 0 || n_ == 0) batches_ = 0;
  for (int d = 0; d < batch_rank_; ++d) {
    batch_[d] = spec.dims[d];
    batches_ *= spec.dims[d];
  }
  double depth = 1;
  for (const Factors& factors : spec.products) {
    pairs_.push_back({factors.k, place_of(factors.a, m_, factors.k), place_of(factors.b, factors.k, n_)});
    depth += double(factors.k);
  }
  c_ = place_of(spec.c, m_, n_);
  if (has_cin_) cin_ = place_of(spec.cin, m_, n_);
  work_ = double(m_) * double(n_) * depth;  // of one batch element
  // A small product is one block; then its phases are free to choose their own layout. Rowwise phases that follow
  // one that is not wait for that one, so they are run whole too.
  bool rowwise = batches_ != 1 || m_ * n_ * int64_t(sizeof(T)) > kBlockBytes || work_ > kSplitWork;
  for (const Phase& phase : spec.phases) {
    rowwise = rowwise && phase.rowwise;
    phases_.push_back({rowwise, BoundPhase(phase, kernels, rowwise)});
    any_rowwise_ |= rowwise;
    phase_scratch_ = std::max(phase_scratch_, phases_.back().phase.scratch_bytes());
  }
  phase_scratch_ = (phase_scratch_ + 63) / 64 * 64;
  if (batches_ > 0) choose_blocks();
}

template <class T>
void Gemm<T>::choose_blocks() {
  if (n_ == 1 || c_.col == 1) target_ = Target::Direct;
  else if (m_ == 1 || c_.row == 1) target_ = Target::Transposed;  // C^T = B^T A^T has rows of unit stride
  else target_ = Target::Scratch;
  block_rows_ = m_;
  auto at_most = [&](double rows) {
    if (rows < double(block_rows_)) block_rows_ = std::min(m_, round_block(int64_t(rows)));
  };
  at_most(kLongWork / work_ * double(m_));
  bool independent = true;
  for (const Following& f : phases_) independent &= !f.rowwise || f.phase.independent();
  team_ = independent && work_ * double(batches_) > kSplitWork;
  if (target_ == Target::Transposed) {
    block_rows_ = m_;  // blocks of rows would be blocks of columns there
    team_ = team_ && batches_ > 1;
  } else {
    if (any_rowwise_ && m_ * n_ * int64_t(sizeof(T)) > kBlockBytes) at_most(double(kBlockBytes) / double(n_ * int64_t(sizeof(T))));
    if (team_ && batches_ < kMostParts) at_most(std::max(double(2 * kBlockStep), double(m_) * double(batches_) / double(kMostParts)));
    if (target_ == Target::Scratch) {
      block_rows_ = std::min(block_rows_, std::max<int64_t>(1, kScratchBytes / (n_ * int64_t(sizeof(T)))));
      c_scratch_ = (block_rows_ * n_ * int64_t(sizeof(T)) + 63) / 64 * 64;
    }
  }
  blocks_ = (m_ + block_rows_ - 1) / block_rows_;
  prepare();
}

template <class T>
void Gemm<T>::prepare() {
  args_.m = block_rows_;
  args_.n = n_;
  args_.alpha = alpha_;
  args_.n_products = int(pairs_.size());
  for (size_t p = 0; p < pairs_.size(); ++p) {
    const Pair& pair = pairs_[p];
    args_.products[p] = {nullptr, nullptr, pair.k, pair.a.row, pair.a.col, pair.b.row, pair.b.col};
  }
  args_.cin_m = cin_.row;
  args_.cin_n = cin_.col;
  args_.c_m = target_ == Target::Scratch ? n_ : c_.row;
  if (target_ != Target::Transposed) return;
  std::swap(args_.m, args_.n);
  std::swap(args_.cin_m, args_.cin_n);
  args_.c_m = c_.col;
  for (int p = 0; p < args_.n_products; ++p) {
    auto& f = args_.products[p];
    f = {nullptr, nullptr, f.k, f.b_n, f.b_k, f.a_k, f.a_m};
  }
}

template <class T>
void Gemm<T>::multiply(Worker& worker, const int64_t* batch, int64_t first, int64_t last) const {
  GemmArgs<T> args = args_;
  auto at = [&](const Place& place) { return reinterpret_cast<T*>(place.at(worker.bases, batch, batch_rank_)); };
  for (int p = 0; p < args.n_products; ++p) {
    const Pair& pair = pairs_[p];
    args.products[p].a = at(pair.a) + first * pair.a.row;
    args.products[p].b = at(pair.b);
  }
  if (has_cin_) args.cin = at(cin_) + first * cin_.row;
  T* c = args.c = at(c_) + first * c_.row;
  if (target_ == Target::Transposed) {  // one block
    for (int p = 0; p < args.n_products; ++p) std::swap(args.products[p].a, args.products[p].b);
  } else {
    args.m = last - first;
    if (target_ == Target::Scratch) args.c = reinterpret_cast<T*>(worker.scratch + phase_scratch_);
  }
  kernel_(args);
  if (target_ == Target::Scratch) {
    const int64_t item = sizeof(T);
    copy_plane(*kernels_, {reinterpret_cast<char*>(c), reinterpret_cast<char*>(args.c), c_.row * item, c_.col * item, n_ * item, item, last - first, n_, item});
  }
}

// One block of rows of one batch element, and the phases on it.
template <class T>
void Gemm<T>::run_unit(Worker& worker, int64_t unit) const {
  int64_t batch[kMaxRank] = {}, first = 0;
  if (unit > 0) {
    first = unit % blocks_ * block_rows_;
    unit /= blocks_;
    for (int d = batch_rank_ - 1; d >= 0; --d) {
      batch[d] = unit % batch_[d];
      unit /= batch_[d];
    }
  }
  const int64_t last = std::min(m_, first + block_rows_);
  multiply(worker, batch, first, last);
  if (any_rowwise_)
    for (const Following& f : phases_)
      if (f.rowwise) f.phase.run_rows(worker, batch, first, last);
  if (work_ > kSplitWork) worker.poll();
}

template <class T>
void Gemm<T>::run(Worker& worker) const {
  for (const Following& f : phases_)
    if (f.rowwise) f.phase.fill(worker);
  const int64_t units = batches_ * blocks_;
  if (units == 1) {
    run_unit(worker, 0);
  } else if (team_ && worker.team) {
    run_parts(worker, units, [](const void* self, Worker& w, int64_t unit) { static_cast<const Gemm*>(self)->run_unit(w, unit); }, this);
  } else {
    for (int64_t unit = 0; unit < units; ++unit) {
      run_unit(worker, unit);
      if (worker.stopped()) return;
    }
  }
  for (const Following& f : phases_)
    if (!f.rowwise) f.phase.run(worker);
}

template class Gemm<float>;
template class Gemm<double>;

}  // namespace fastmeta
