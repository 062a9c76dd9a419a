#include "convolution.hpp"

#include <algorithm>
#include <cstring>

namespace fastmeta {

namespace {

constexpr int64_t kUnitBytes = 16 << 10;   // of the target: what the phases after a unit find in L1
constexpr int64_t kFewestPixels = 48;      // of a unit: tiles of a dozen pixels
constexpr int64_t kTapPixels = 128;        // of a unit of kind 2: long chains, but what they read stays in L1
constexpr int64_t kShortRow = 16;          // elements of a row of taps
constexpr double kSplitWork = 2e6;         // multiply-adds, about 20 us: less is not worth a team
constexpr int64_t kMostParts = 16;
constexpr int64_t kPartRows = 48;          // of kind 2's target

int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The phase with dims d and d + 1 as one; false where some operand does not walk them so.
bool merge(Phase& phase, int d) {
  auto one = [&](Operand& operand) {
    int64_t& outer = operand.stride[d];
    int64_t& inner = operand.stride[d + 1];
    if (phase.dims[d] == 1) outer = inner * phase.dims[d + 1];
    else if (phase.dims[d + 1] == 1) inner = outer;
    if (outer != inner * phase.dims[d + 1]) return false;
    std::copy(operand.stride + d + 1, operand.stride + phase.rank, operand.stride + d);
    return true;
  };
  for (Operand& load : phase.loads)
    if (!one(load)) return false;
  for (Store& store : phase.stores)
    if (!one(store.target)) return false;
  phase.dims[d] *= phase.dims[d + 1];
  std::copy(phase.dims + d + 2, phase.dims + phase.rank, phase.dims + d + 1);
  --phase.rank;
  return true;
}

}  // namespace

template <class T>
Convolution<T>::Convolution(int tag, const ConvSpec& spec, const Kernels& kernels) : Instruction(tag), spec_(spec) {
  if constexpr (sizeof(T) == 4) kernel_ = kernels.conv_f32, transpose_ = kernels.transpose4;
  else kernel_ = kernels.conv_f64, transpose_ = kernels.transpose8;
  const bool transposed = spec.kind == 1;
  depth_ = transposed ? spec.o : spec.c;
  width_ = transposed ? spec.c : spec.o;
  int64_t extent[2], classes[2];
  for (int d : {0, 1}) {
    const int64_t step = spec.stride[d], taps = spec.taps[d];
    maps_[d] = transposed ? spec.in[d] : spec.out[d];
    if (transposed) {
      // Pixel h of x has h + pad = step * u + residue; it reads y at u, u - 1, .. for the taps residue, residue + step, ..
      const int64_t first = spec.pad[d] / step - (ceil_div(taps, step) - 1), last = (spec.in[d] - 1 + spec.pad[d]) / step;
      axes_[d] = {spec.out[d], 1, 1, -first};
      extent[d] = last - first + 1;
      classes[d] = std::min(step, maps_[d]);
    } else {
      const int64_t kept = std::min(step, taps);
      axes_[d] = {spec.in[d], step, kept, spec.pad[d]};
      extent[d] = (spec.out[d] - 1) * kept + taps;
      classes[d] = 1;
    }
  }
  columns_ = extent[1];
  single_ = spec.kind == 2 || spec.taps[1] * depth_ < kShortRow;
  row_size_ = columns_ * depth_;
  int64_t weights = 0;
  for (int64_t k = 0; k < classes[0] * classes[1]; ++k) {
    Class one;
    const int64_t number[2] = {k / classes[1], k % classes[1]};
    for (int d : {0, 1}) {
      one.residue[d] = transposed ? (spec.pad[d] + number[d]) % spec.stride[d] : 0;
      one.taps[d] = !transposed ? spec.taps[d] : one.residue[d] < spec.taps[d] ? ceil_div(spec.taps[d] - one.residue[d], spec.stride[d]) : 0;
    }
    one.weights = weights;
    weights += one.taps[0] * one.taps[1] * depth_ * width_;
    classes_.push_back(one);
  }
  const double work = double(spec.n) * double(spec.out[0] * spec.out[1]) * double(spec.taps[0] * spec.taps[1]) * double(spec.c) * double(spec.o) * double(spec.products.size());
  choose_units(work);
  bind_phases(kernels, work);
  lay_out_scratch();
}

template <class T>
void Convolution<T>::choose_units(double work) {
  const int64_t pixels = spec_.kind == 2 ? kTapPixels : std::max(kFewestPixels, kUnitBytes / (width_ * int64_t(sizeof(T))));
  const int64_t per_image = maps_[0] * maps_[1];
  long_ = work > kSplitWork;
  if (per_image <= pixels) {
    unit_images_ = std::min(spec_.n, pixels / per_image);
    if (long_ && spec_.kind != 2) unit_images_ = std::min(unit_images_, ceil_div(spec_.n, kMostParts));
    unit_rows_ = maps_[0];
  } else {
    bands_ = ceil_div(maps_[0], std::max<int64_t>(1, pixels / maps_[1]));
    unit_rows_ = ceil_div(maps_[0], bands_);
    bands_ = ceil_div(maps_[0], unit_rows_);
  }
  units_ = ceil_div(spec_.n, unit_images_) * bands_;
  image_size_ = copied_rows(unit_rows_) * row_size_;
  map_size_ = unit_images_ * image_size_;
  if (spec_.kind == 2 && long_) parts_ = std::min(kMostParts / 2, ceil_div(spec_.taps[0] * spec_.taps[1] * spec_.c, kPartRows));
}

// Of the padded copy, at most, for so many rows of the target (of y in kind 2).
template <class T>
int64_t Convolution<T>::copied_rows(int64_t rows) const {
  if (spec_.kind != 1) return (rows - 1) * axes_[0].kept + spec_.taps[0];
  return (rows - 1) / spec_.stride[0] + 1 + ceil_div(spec_.taps[0], spec_.stride[0]);
}

template <class T>
void Convolution<T>::bind_phases(const Kernels& kernels, double work) {
  // After one unit the phases are free to choose their own layout; what follows a phase that runs at the end waits for it.
  bool rowwise = spec_.kind != 2 && (units_ > 1 || work > kSplitWork);
  bool independent = true;
  for (const Phase& phase : spec_.phases) {
    Phase merged = phase;
    int rank = 4;
    if (rowwise && phase.rowwise && merge(merged, 1)) {
      Phase more = merged;
      rank = 3;
      if (merge(more, 0)) merged = more, rank = 2;
    }
    rowwise = rank < 4;
    phases_.push_back({rowwise, rank, BoundPhase(rowwise ? merged : phase, kernels, rowwise)});
    const BoundPhase& bound = phases_.back().phase;
    any_rowwise_ |= rowwise;
    if (rowwise) independent = independent && bound.rows_independent() && bound.batch_independent();
    scratch_.x_at = std::max(scratch_.x_at, round_up(bound.scratch_bytes()));
  }
  team_ = long_ && independent && (spec_.kind == 2 ? parts_ : units_) > 1;
}

template <class T>
void Convolution<T>::lay_out_scratch() {
  const int64_t item = sizeof(T), n_products = int64_t(spec_.products.size());
  const int64_t rows = spec_.kind == 2 ? spec_.taps[0] * spec_.taps[1] * spec_.c : unit_images_ * unit_rows_ * maps_[1];
  scratch_.y_at = scratch_.x_at + round_up(rows * 8);
  scratch_.sources = scratch_.y_at + round_up(rows * 8);
  const int64_t sources = spec_.kind == 2 ? unit_images_ * unit_rows_ * maps_[1] : spec_.taps[0] * (single_ ? spec_.taps[1] * depth_ : 1);
  scratch_.maps = scratch_.sources + round_up(n_products * sources * int64_t(sizeof(ConvSource<T>)));
  scratch_.weights = scratch_.maps + round_up(n_products * map_size_ * item);
  scratch_.end = scratch_.weights;
  if (spec_.kind == 1) scratch_.end += round_up(n_products * spec_.taps[0] * spec_.taps[1] * spec_.c * spec_.o * item);
}

template <class T>
typename Convolution<T>::Unit Convolution<T>::unit(int64_t number) const {
  const int64_t image = number / bands_ * unit_images_, row = number % bands_ * unit_rows_;
  return {image, std::min(unit_images_, spec_.n - image), row, std::min(unit_rows_, maps_[0] - row)};
}

// Rows of one image's padded copy.
template <class T>
void Convolution<T>::pad_map(const char* from, const Operand& map, T* to, int64_t first_row, int64_t rows) const {
  const int64_t item = sizeof(T), pixel = depth_ * item;
  const Axis &down = axes_[0], &across = axes_[1];
  // Columns first .. last of the copy are in the map, at one run of places where no column is left out.
  const bool run = across.kept == across.step;
  const int64_t first = std::clamp<int64_t>(across.pad, 0, columns_), last = std::clamp<int64_t>(across.pad + across.size, first, columns_);
  for (int64_t r = 0; r < rows; ++r, to += row_size_) {
    const int64_t h = down.source(first_row + r);
    if (h < 0 || h >= down.size) {
      std::memset(to, 0, size_t(row_size_ * item));
      continue;
    }
    const char* row = from + h * map.stride[1] * item;
    if (!run) {
      for (int64_t q = 0; q < columns_; ++q) {
        const int64_t w = across.source(q);
        if (w < 0 || w >= across.size) std::memset(to + q * depth_, 0, size_t(pixel));
        else std::memcpy(to + q * depth_, row + w * map.stride[2] * item, size_t(pixel));
      }
      continue;
    }
    row += across.source(first) * map.stride[2] * item;
    std::memset(to, 0, size_t(first * pixel));
    if (map.stride[2] == depth_) std::memcpy(to + first * depth_, row, size_t((last - first) * pixel));
    else
      for (int64_t q = first; q < last; ++q, row += map.stride[2] * item) std::memcpy(to + q * depth_, row, size_t(pixel));
    std::memset(to + last * depth_, 0, size_t((columns_ - last) * pixel));
  }
}

// The maps that a unit reads, by product and image.
template <class T>
void Convolution<T>::pad_maps(Worker& worker, const Unit& unit) const {
  T* to = scratch<T>(worker, scratch_.maps);
  int64_t first = unit.row * axes_[0].kept, rows = copied_rows(unit.rows);
  if (spec_.kind == 1) {
    first = (unit.row + spec_.pad[0]) / spec_.stride[0] - spec_.pad[0] / spec_.stride[0];
    rows = (unit.row + unit.rows - 1 + spec_.pad[0]) / spec_.stride[0] - (unit.row + spec_.pad[0]) / spec_.stride[0] + ceil_div(spec_.taps[0], spec_.stride[0]);
  }
  for (const auto& product : spec_.products) {
    const Operand& map = product.first;
    for (int64_t k = 0; k < unit.images; ++k)
      pad_map(worker.bases[map.base] + map.offset + (unit.image + k) * map.stride[0] * int64_t(sizeof(T)), map, to + k * image_size_, first, rows);
    to += map_size_;
  }
}

// Kind 1's weights: each tap [C, O] as [O, C], the taps of a class together and backwards.
template <class T>
void Convolution<T>::turn_weights(Worker& worker) const {
  const int64_t tap = spec_.c * spec_.o;
  T* to = scratch<T>(worker, scratch_.weights);
  for (const auto& product : spec_.products) {
    const T* w = at(worker, product.second);
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
  const int64_t x_down = transposed ? 1 : axes_[0].kept, x_across = transposed ? 1 : axes_[1].kept;
  int64_t m = 0;
  for (int64_t k = 0; k < unit.images; ++k)
    for (int64_t p = row, x_p = x_row; p < unit.row + unit.rows; p += step[0], x_p += x_down)
      for (int64_t q = column, x_q = x_column; q < maps_[1]; q += step[1], x_q += x_across, ++m) {
        x_at[m] = k * image_size_ + x_p * row_size_ + x_q * depth_;
        y_at[m] = (((unit.image + k) * maps_[0] + p) * maps_[1] + q) * width_;
      }
  ConvSource<T>* const sources = scratch<ConvSource<T>>(worker, scratch_.sources);
  const int64_t n_products = int64_t(spec_.products.size()), all = spec_.taps[0] * spec_.taps[1] * spec_.c * spec_.o;
  const int64_t row_of_taps = one.taps[1] * depth_, elements = single_ ? 1 : row_of_taps;
  int64_t n = 0;
  for (int64_t p = 0; p < n_products; ++p) {
    const T* w = transposed ? weights + p * all + one.weights : at(worker, spec_.products[size_t(p)].second);
    for (int64_t i = 0; i < one.taps[0]; ++i)
      for (int64_t k = 0; k < row_of_taps; k += elements, w += elements * width_) sources[n++] = {p * map_size_ + i * row_size_ + k, w};
  }
  kernel_({m, width_, scratch<T>(worker, scratch_.maps), x_at, y_at, sources, n, elements, spec_.has_cin ? at(worker, spec_.cin) : nullptr, at(worker, spec_.target)});
}

template <class T>
void Convolution<T>::run_unit(Worker& worker, const T* weights, int64_t number) const {
  const Unit here = unit(number);
  pad_maps(worker, here);
  for (const Class& one : classes_) sum_pixels(worker, weights, here, one);
  const int64_t per_image = maps_[0] * maps_[1];
  for (const Following& f : phases_) {
    if (!f.rowwise) continue;
    const int64_t first = here.row * maps_[1], last = (here.row + here.rows) * maps_[1];
    if (f.rank == 2) f.phase.run_rows(worker, nullptr, here.image * per_image + first, (here.image + here.images - 1) * per_image + last);
    else
      for (int64_t image = here.image; image < here.image + here.images; ++image) f.phase.run_rows(worker, &image, first, last);
  }
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
  T* const target = at(worker, spec_.target);
  const T* start = spec_.has_cin ? at(worker, spec_.cin) : nullptr;
  for (int64_t number = 0; number < units_ && !worker.stopped(); ++number) {
    const Unit here = unit(number);
    pad_maps(worker, here);
    int64_t n = 0;
    for (size_t product = 0; product < spec_.products.size(); ++product) {
      const Operand& y = spec_.products[product].second;
      for (int64_t k = 0; k < here.images; ++k)
        for (int64_t p = 0; p < here.rows; ++p) {
          const int64_t x_row = int64_t(product) * map_size_ + k * image_size_ + p * axes_[0].kept * row_size_, x_step = axes_[1].kept * depth_;
          const T* const y_row = at(worker, y) + (here.image + k) * y.stride[0] + (here.row + p) * y.stride[1];
          for (int64_t q = 0; q < maps_[1]; ++q) sources[n++] = {x_row + q * x_step, y_row + q * y.stride[2]};
        }
    }
    kernel_({last - first, width_, scratch<T>(worker, scratch_.maps), x_at, y_at, sources, n, 1, start, target});
    start = target;
    if (long_) worker.poll();
  }
}

template <class T>
void Convolution<T>::run(Worker& worker) const {
  for (const Following& f : phases_)
    if (f.rowwise) f.phase.fill(worker);
  struct Context {
    const Convolution* self;
    const T* weights;
    int64_t parts;
  } context{this, scratch<T>(worker, scratch_.weights), spec_.kind != 2 ? units_ : team_ && worker.team ? parts_ : 1};
  if (spec_.kind == 1) turn_weights(worker);
  auto part = [](const void* c, Worker& w, int64_t k) {
    const auto& [self, weights, parts] = *static_cast<const Context*>(c);
    const int64_t rows = self->spec_.taps[0] * self->spec_.taps[1] * self->spec_.c;
    if (self->spec_.kind == 2) self->sum_taps(w, rows * k / parts, rows * (k + 1) / parts);
    else self->run_unit(w, weights, k);
  };
  if (team_ && worker.team) run_parts(worker, context.parts, part, &context);
  else
    for (int64_t k = 0; k < context.parts && !worker.stopped(); ++k) part(&context, worker, k);
  if (worker.stopped()) return;
  for (const Following& f : phases_)
    if (!f.rowwise) f.phase.run(worker);
}

template class Convolution<float>;
template class Convolution<double>;

}  // namespace fastmeta
