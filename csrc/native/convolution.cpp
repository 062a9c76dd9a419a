#include "convolution.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr int64_t kUnitBytes = 16 << 10;   // of the target: what the phases after a unit find in L1
constexpr int64_t kFewestPixels = 48;      // of a unit: tiles of a dozen pixels
constexpr int64_t kTapPixels = 128;        // of a unit of kind 2: long chains, but what they read stays in L1
constexpr int64_t kShortRow = 16;          // elements of a row of taps
constexpr int64_t kPartRows = 5;           // of kind 2's target, at least

}  // namespace

template <class T>
Convolution<T>::Convolution(int tag, const ConvSpec& spec, const Kernels& kernels) : Instruction(tag), spec_(spec) {
  if constexpr (sizeof(T) == 4) kernel_ = kernels.conv_f32, transpose_ = kernels.transpose4;
  else kernel_ = kernels.conv_f64, transpose_ = kernels.transpose8;
  const bool transposed = spec.kind == 1;
  depth_ = transposed ? spec.o : spec.c;
  width_ = transposed ? spec.c : spec.o;
  int64_t extent[2], classes[2];
  Axis axes[2];
  for (int d : {0, 1}) {
    const int64_t step = spec.stride[d], taps = spec.taps[d];
    maps_[d] = transposed ? spec.in[d] : spec.out[d];
    if (transposed) {
      // Pixel h of x has h + pad = step * u + residue; it reads y at u, u - 1, .. for the taps residue, residue + step, ..
      const int64_t first = spec.pad[d] / step - (ceil_div(taps, step) - 1), last = (spec.in[d] - 1 + spec.pad[d]) / step;
      axes[d] = {spec.out[d], 1, 1, -first};
      extent[d] = last - first + 1;
      classes[d] = std::min(step, maps_[d]);
    } else {
      const int64_t kept = std::min(step, taps);
      axes[d] = {spec.in[d], step, kept, spec.pad[d]};
      extent[d] = (spec.out[d] - 1) * kept + taps;
      classes[d] = 1;
    }
  }
  copy_ = {axes[0], axes[1], extent[1], depth_ * int64_t(sizeof(T))};
  single_ = spec.kind != 2 && spec.taps[1] * depth_ < kShortRow;
  row_size_ = extent[1] * depth_;
  for (int64_t k = 0; k < classes[0] * classes[1]; ++k) {
    Class one;
    const int64_t number[2] = {k / classes[1], k % classes[1]};
    for (int d : {0, 1}) {
      one.residue[d] = transposed ? (spec.pad[d] + number[d]) % spec.stride[d] : 0;
      one.taps[d] = !transposed ? spec.taps[d] : one.residue[d] < spec.taps[d] ? ceil_div(spec.taps[d] - one.residue[d], spec.stride[d]) : 0;
    }
    one.weights = turned_size_;
    turned_size_ += one.taps[0] * one.taps[1] * depth_ * width_;
    classes_.push_back(one);
  }
  long_ = multiply_adds(spec) > kSplitWork;
  const bool by_taps = spec.kind == 2;
  units_ = Units(spec.n, maps_, by_taps ? kTapPixels : std::max(kFewestPixels, kUnitBytes / (width_ * int64_t(sizeof(T)))), long_ && !by_taps ? kMostParts : 1);
  image_size_ = copied_rows(units_.rows) * row_size_;
  map_size_ = units_.images * image_size_;
  phases_ = UnitPhases(spec.phases, kernels, !by_taps && (units_.count > 1 || long_));
  if (long_ && !by_taps) parts_ = phases_.parts(units_.count);
  lay_out_scratch();
}

// Of the padded copy, at most, for so many rows of the target (of y in kind 2).
template <class T>
int64_t Convolution<T>::copied_rows(int64_t rows) const {
  if (spec_.kind != 1) return (rows - 1) * copy_.down.kept + spec_.taps[0];
  return (rows - 1) / spec_.stride[0] + 1 + ceil_div(spec_.taps[0], spec_.stride[0]);
}

template <class T>
void Convolution<T>::lay_out_scratch() {
  const int64_t item = sizeof(T), n_products = int64_t(spec_.products.size());
  const int64_t rows = spec_.kind == 2 ? spec_.taps[0] * spec_.taps[1] * spec_.c : units_.images * units_.rows * maps_[1];
  scratch_.x_at = phases_.scratch_bytes();
  scratch_.y_at = scratch_.x_at + round_up(rows * 8);
  scratch_.sources = scratch_.y_at + round_up(rows * 8);
  const int64_t sources = spec_.kind == 2 ? units_.images * units_.rows : spec_.taps[0] * (single_ ? spec_.taps[1] * depth_ : 1);
  scratch_.maps = scratch_.sources + round_up(n_products * sources * int64_t(sizeof(ConvSource<T>)));
  scratch_.weights = scratch_.maps + round_up(n_products * map_size_ * item);
  scratch_.joints = scratch_.weights;
  if (spec_.kind == 1) scratch_.joints += round_up(n_products * turned_size_ * item);
  scratch_.end = scratch_.joints + parts_ * phases_.joint_bytes();
}

// The maps that a unit reads, by product and image.
template <class T>
void Convolution<T>::pad_maps(Worker& worker, const Unit& unit) const {
  constexpr int64_t item = sizeof(T);
  T* to = scratch<T>(worker, scratch_.maps);
  int64_t first = unit.row * copy_.down.kept, rows = copied_rows(unit.rows);
  if (spec_.kind == 1) {
    first = (unit.row + spec_.pad[0]) / spec_.stride[0] - spec_.pad[0] / spec_.stride[0];
    rows = (unit.row + unit.rows - 1 + spec_.pad[0]) / spec_.stride[0] - (unit.row + spec_.pad[0]) / spec_.stride[0] + ceil_div(spec_.taps[0], spec_.stride[0]);
  }
  for (const auto& product : spec_.products) {
    const Operand& map = product.first;
    for (int64_t k = 0; k < unit.images; ++k)
      copy_.copy(worker.bases[map.base] + map.offset + (unit.image + k) * map.stride[0] * item, map.stride[1] * item, map.stride[2] * item,
                 reinterpret_cast<char*>(to + k * image_size_), first, rows);
    to += map_size_;
  }
}

// Kind 1's weights: each tap [C, O] as [O, C], the taps of a class together and backwards.
template <class T>
void Convolution<T>::turn_weights(Worker& worker) const {
  const int64_t tap = spec_.c * spec_.o;
  T* to = scratch<T>(worker, scratch_.weights);
  for (const auto& product : spec_.products) {
    const T* w = worker.at<T>(product.second);
    for (const Class& one : classes_)
      for (int64_t i = one.taps[0] - 1; i >= 0; --i)
        for (int64_t j = one.taps[1] - 1; j >= 0; --j, to += tap)
          transpose_(w + ((one.residue[0] + i * spec_.stride[0]) * spec_.taps[1] + one.residue[1] + j * spec_.stride[1]) * tap, spec_.o, to, spec_.c, spec_.c, spec_.o);
  }
}

// Kinds 0 and 1: the pixels of one class in a unit. weights: those of turn_weights.
template <class T>
void Convolution<T>::sum_pixels(Worker& worker, const T* weights, const Unit& unit, const Class& one) const {
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  const bool transposed = spec_.kind == 1;
  const int64_t step[2] = {transposed ? spec_.stride[0] : 1, transposed ? spec_.stride[1] : 1};
  // The first row and column of the target in this class, and where in the copy their windows begin.
  int64_t row = unit.row, column = 0, x_row = 0, x_column = 0;
  if (transposed) {
    auto next = [&](int d, int64_t from) { return from + ((one.residue[d] - from - spec_.pad[d]) % step[d] + step[d]) % step[d]; };
    auto begin = [&](int d, int64_t from, int64_t origin) { return (from + spec_.pad[d]) / step[d] - (origin + spec_.pad[d]) / step[d] + ceil_div(spec_.taps[d], step[d]) - one.taps[d]; };
    row = next(0, row), column = next(1, 0);
    x_row = begin(0, row, unit.row), x_column = begin(1, column, 0);
  }
  const int64_t x_down = transposed ? 1 : copy_.down.kept, x_across = transposed ? 1 : copy_.across.kept;
  int64_t m = 0;
  for (int64_t k = 0; k < unit.images; ++k)
    for (int64_t p = row, x_p = x_row; p < unit.row + unit.rows; p += step[0], x_p += x_down)
      for (int64_t q = column, x_q = x_column; q < maps_[1]; q += step[1], x_q += x_across, ++m) {
        x_at[m] = k * image_size_ + x_p * row_size_ + x_q * depth_;
        y_at[m] = (((unit.image + k) * maps_[0] + p) * maps_[1] + q) * width_;
      }
  ConvSource<T>* const sources = scratch<ConvSource<T>>(worker, scratch_.sources);
  const int64_t n_products = int64_t(spec_.products.size());
  const int64_t row_of_taps = one.taps[1] * depth_, elements = single_ ? 1 : row_of_taps;
  int64_t n = 0;
  for (int64_t p = 0; p < n_products; ++p) {
    const T* w = transposed ? weights + p * turned_size_ + one.weights : worker.at<T>(spec_.products[size_t(p)].second);
    for (int64_t i = 0; i < one.taps[0]; ++i)
      for (int64_t k = 0; k < row_of_taps; k += elements, w += elements * width_) sources[n++] = {p * map_size_ + i * row_size_ + k, w};
  }
  kernel_({m, width_, scratch<T>(worker, scratch_.maps), x_at, y_at, sources, n, elements, 1, width_, spec_.has_cin ? worker.at<T>(spec_.cin) : nullptr, worker.at<T>(spec_.target)});
}

template <class T>
void Convolution<T>::run_unit(Worker& worker, const T* weights, int64_t number, char* joints) const {
  const Unit here = units_[number];
  pad_maps(worker, here);
  for (const Class& one : classes_) sum_pixels(worker, weights, here, one);
  phases_.after(worker, here, maps_, joints);
  if (long_) worker.poll();
}

// Kind 2: rows first .. last of the target, over all units.
template <class T>
void Convolution<T>::sum_taps(Worker& worker, int64_t first, int64_t last) const {
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  const int64_t row = spec_.taps[1] * spec_.c;
  for (int64_t m = first; m < last; ++m) {
    x_at[m - first] = m / row * row_size_ + m % row;
    y_at[m - first] = m * width_;
  }
  ConvSource<T>* const sources = scratch<ConvSource<T>>(worker, scratch_.sources);
  T* const target = worker.at<T>(spec_.target);
  const T* start = spec_.has_cin ? worker.at<T>(spec_.cin) : nullptr;
  for (int64_t number = 0; number < units_.count && !worker.stopped(); ++number) {
    const Unit here = units_[number];
    pad_maps(worker, here);
    for (size_t product = 0; product < spec_.products.size(); ++product) {
      const Operand& y = spec_.products[product].second;
      int64_t n = 0;
      for (int64_t k = 0; k < here.images; ++k)
        for (int64_t p = 0; p < here.rows; ++p) {
          const int64_t x_row = int64_t(product) * map_size_ + k * image_size_ + p * copy_.down.kept * row_size_;
          sources[n++] = {x_row, worker.at<T>(y) + (here.image + k) * y.stride[0] + (here.row + p) * y.stride[1]};
        }
      kernel_({last - first, width_, scratch<T>(worker, scratch_.maps), x_at, y_at, sources, n, maps_[1], copy_.across.kept * depth_, y.stride[2], start, target});
      start = target;
    }
    if (long_) worker.poll();
  }
}

template <class T>
void Convolution<T>::run(Worker& worker) const {
  phases_.fill(worker);
  if (spec_.kind == 2) {
    // Each part reads all of y, so there are no more than threads; how rows are split does not show in the bits.
    struct Context {
      const Convolution* self;
      int64_t rows, parts;
    } context{this, spec_.taps[0] * spec_.taps[1] * spec_.c, 1};
    if (long_) context.parts = std::min<int64_t>(worker.others() + 1, ceil_div(context.rows, kPartRows));
    run_parts(worker, context.parts, [](const void* argument, Worker& w, int64_t part) {
      const auto& [self, rows, parts] = *static_cast<const Context*>(argument);
      self->sum_taps(w, rows * part / parts, rows * (part + 1) / parts);
    }, &context);
  } else {
    const T* const weights = scratch<T>(worker, scratch_.weights);
    if (spec_.kind == 1) turn_weights(worker);
    phases_.each(worker, units_.count, parts_, scratch<char>(worker, scratch_.joints), [&](Worker& w, int64_t unit, char* joints) { run_unit(w, weights, unit, joints); });
  }
  if (worker.stopped()) return;
  phases_.finish(worker);
}

template class Convolution<float>;
template class Convolution<double>;

}  // namespace fastmeta
