#include "winograd.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr int64_t kPlaneBytes = 384 << 10;  // of a unit's matrices of one side: they and the weights stay in the second-level cache
constexpr int64_t kFewestTiles = 24, kMostTiles = 320;  // of a unit: rows of a matrix product
constexpr int64_t kCachedWeights = 1 << 15;  // c * o: the matrices of more leave the second-level cache
constexpr int64_t kVector = 16;  // channels that are computed at a time: a multiple of all vectors
// Few tiles do little with weights that fill the caches: these are turned and used by blocks of channels.
constexpr int64_t kBlockBytes = 2 << 20, kBlockChannels = 32, kBlockTiles = 64;
// A team shares a single unit by blocks of so many channels. Shapes decide, since how a product is cut along its columns may
// show in the bits.
constexpr int64_t kTeamChannels = 64;

// What decides, from shapes alone. Fitted to times with AVX-512 and AVX2 on 1 to 75 maps of 2 x 2 to 84 x 84 and 1 to 640 channels,
// in the time of a multiply-add: what the transforms of a tile cost for each of its channels, and those of nine taps.
struct Cost {
  int64_t side;
  double tile, taps;
};
constexpr Cost kCosts[] = {{2, 110, 200}, {4, 270, 400}};
constexpr double kWindow = 12;  // nine multiply-adds and what is around them

}  // namespace

int64_t Winograd::side(const ConvSpec& spec) {
  for (int d : {0, 1})
    if (spec.taps[d] != 3 || spec.stride[d] != 1) return 0;
  if (spec.dtype != F32) return 0;
  const int64_t* const map = spec.kind == 1 ? spec.in : spec.out;
  const int64_t depth = spec.kind == 1 ? spec.o : spec.c, width = spec.kind == 1 ? spec.c : spec.o;
  auto per = [](int64_t channels) { return 1 / double(channels); };
  auto computed = [](int64_t channels) { return double(ceil_div(channels, kVector) * kVector); };
  int64_t best = 0;
  double least = kWindow * double(spec.n) * double(map[0]) * double(map[1]) * computed(width) * per(width);
  for (const Cost& cost : kCosts) {
    const double tiles = double(spec.n) * double(ceil_div(map[0], cost.side)) * double(ceil_div(map[1], cost.side));
    const double products = (tiles * double((cost.side + 2) * (cost.side + 2)) + cost.taps) * computed(width) * per(width);
    const double work = products + tiles * cost.tile * (computed(depth) + computed(width)) * per(depth) * per(width);
    if (work < least) least = work, best = cost.side;
  }
  return best;
}

Winograd::Planes::Planes(int64_t count, int64_t rows, int64_t channels) : count(count), row(ceil_div(channels, kVector) * kVector) {
  plane = rows * row + 16;  // a cache line more: stores to all places at once must not meet in one set
}

Winograd::Winograd(int tag, const ConvSpec& spec, const Kernels& kernels, int64_t side)
    : Instruction(tag), spec_(spec), kernels_(&kernels), transforms_(side == 4 ? kernels.winograd4 : kernels.winograd2), side_(side), edge_(side + 2), places_(edge_ * edge_) {
  const bool transposed = spec.kind == 1;
  const int64_t n_products = int64_t(spec.products.size());
  depth_ = transposed ? spec.o : spec.c;
  width_ = transposed ? spec.c : spec.o;
  Axis axes[2];
  for (int d : {0, 1}) {
    maps_[d] = transposed ? spec.in[d] : spec.out[d];
    tiles_[d] = ceil_div(maps_[d], side);
    // Pixel h of x reads y at h + pad - 2 .. h + pad, the last tap first.
    axes[d] = transposed ? Axis{spec.out[d], 1, 1, 2 - spec.pad[d]} : Axis{spec.in[d], 1, 1, spec.pad[d]};
  }
  long_ = multiply_adds(spec) > kSplitWork;
  auto bytes_of = [&](int64_t channels) { return places_ * 4 * channels * n_products; };  // in the matrices of all products
  // Where the weights are read from afar, once for many tiles.
  const int64_t fewest = spec.c * spec.o <= kCachedWeights ? kFewestTiles : kMostTiles;
  units_ = Units(spec.n, tiles_, std::max(fewest, kPlaneBytes / bytes_of(std::max(depth_, width_))), 1);
  const int64_t tiles = units_.images * units_.rows * tiles_[1];
  const int64_t channels = spec.kind == 2 ? depth_ : width_, channel_bytes = bytes_of(spec.kind == 2 ? width_ : depth_);
  block_ = channels;
  if (units_.count == 1 && tiles <= kBlockTiles && channels * channel_bytes > kBlockBytes)
    block_ = std::min(channels, std::max(kBlockBytes / channel_bytes / kVector * kVector, kBlockChannels));
  if (units_.count == 1 && long_ && spec.kind != 2) block_ = std::min(block_, kTeamChannels);
  turned_ = transposed && block_ == channels && (spec.c * spec.o <= kCachedWeights || units_.count > 2);
  by_rows_ = transposed && !turned_;
  const int64_t depth = spec.kind == 2 ? block_ : depth_, width = spec.kind == 2 ? width_ : block_;
  read_ = Planes(places_, tiles, depth);
  other_ = Planes(places_, tiles, width);
  weights_ = by_rows_ ? Planes(places_, width, depth) : Planes(places_, depth, width);
  copy_ = {axes[0], axes[1], side * tiles_[1] + 2, 0};
  phases_ = UnitPhases(spec.phases, kernels, spec.kind != 2 && units_.count > 1);
  if (long_ && spec.kind != 2) parts_ = phases_.parts(units_.count);

  auto place = [&](int64_t& at, int64_t bytes) { at = scratch_.end, scratch_.end += round_up(bytes); };
  scratch_.end = phases_.scratch_bytes();
  const int64_t rows = std::max({tiles, spec.c, spec.o});
  place(scratch_.x_at, rows * 8);
  place(scratch_.y_at, rows * 8);
  place(scratch_.missing, tiles);
  place(scratch_.copy, (side * units_.rows + 2) * copy_.columns * depth_ * 4);
  place(scratch_.read, n_products * read_.size() * 4);
  place(scratch_.other, (spec.kind == 2 ? n_products : 1) * other_.size() * 4);
  place(scratch_.weights, (spec.kind == 2 ? 1 : n_products) * weights_.size() * 4);
  if (turned_) place(scratch_.taps, 9 * spec.c * spec.o * 4);
  place(scratch_.joints, parts_ * phases_.joint_bytes());
}

// Kinds 0 and 1: the places of the taps of all products, of some rows and columns of their matrices. In kind 1 the order of
// taps is turned.
void Winograd::turn_weights(Worker& worker, Range rows, Range columns, float* to) const {
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  const int64_t tap = depth_ * width_, row = by_rows_ ? depth_ : width_;
  for (int64_t k = 0; k < rows.count; ++k) x_at[k] = (turned_ ? k : rows.first + k) * row + columns.first, y_at[k] = k * weights_.row;
  for (const auto& product : spec_.products) {
    const float* w = worker.at<float>(product.second);
    int64_t step = tap;
    if (turned_) {
      float* const taps = scratch<float>(worker, scratch_.taps);
      step = rows.count * width_;
      for (int64_t k = 0; k < 9; ++k) kernels_->transpose4(w + k * tap + rows.first, depth_, taps + k * step, width_, width_, rows.count);
      w = taps;
    }
    if (spec_.kind == 1) w += 8 * step, step = -step;
    transforms_[kWinogradWeights]({rows.count, columns.count, w, x_at, 3 * step, step, to, y_at, edge_ * weights_.plane, weights_.plane});
    to += weights_.size();
  }
}

// The windows of a unit's tiles, for channels first .. first + channels of a map.
void Winograd::copy_tiles(Worker& worker, const Operand& map, const Unit& unit, int64_t first, int64_t channels, float* to) const {
  PaddedCopy padded = copy_;
  padded.pixel = channels * 4;
  const int64_t row = copy_.columns * channels, tiles = unit.rows * tiles_[1];
  float* const copy = scratch<float>(worker, scratch_.copy);
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  for (int64_t t = 0; t < tiles; ++t) {
    x_at[t] = side_ * (t / tiles_[1] * row + t % tiles_[1] * channels);
    y_at[t] = t * read_.row;
  }
  const char* const from = worker.bases[map.base] + map.offset + first * 4;
  for (int64_t k = 0; k < unit.images; ++k, to += tiles * read_.row) {
    padded.copy(from + (unit.image + k) * map.stride[0] * 4, map.stride[1] * 4, map.stride[2] * 4, reinterpret_cast<char*>(copy), side_ * unit.row, side_ * unit.rows + 2);
    transforms_[kWinogradMap]({tiles, channels, copy, x_at, row, channels, to, y_at, edge_ * read_.plane, read_.plane});
  }
}

// x_at: a unit's tiles in the matrices; y_at: in a map; missing: what of them lies outside it. Returns their number.
int64_t Winograd::find_tiles(Worker& worker, const Unit& unit, const Operand& map, int64_t row) const {
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  uint8_t* const missing = scratch<uint8_t>(worker, scratch_.missing);
  auto beyond = [&](int d, int64_t tile) { return std::max<int64_t>(side_ * (tile + 1) - maps_[d], 0); };
  int64_t t = 0;
  for (int64_t k = 0; k < unit.images; ++k)
    for (int64_t p = unit.row; p < unit.row + unit.rows; ++p)
      for (int64_t q = 0; q < tiles_[1]; ++q, ++t) {
        x_at[t] = t * row;
        y_at[t] = (unit.image + k) * map.stride[0] + side_ * (p * map.stride[1] + q * map.stride[2]);
        missing[t] = uint8_t(beyond(0, p) | beyond(1, q) << 2);
      }
  return t;
}

// Kinds 0 and 1: channels first .. first + channels of a unit's tiles.
void Winograd::sum_tiles(Worker& worker, const Unit& unit, const float* read, const float* weights, int64_t first, int64_t channels) const {
  const int64_t tiles = unit.images * unit.rows * tiles_[1], n_products = int64_t(spec_.products.size());
  float* const sums = scratch<float>(worker, scratch_.other);
  const int64_t down = by_rows_ ? 1 : weights_.row, across = by_rows_ ? weights_.row : 1;
  GemmArgs<float> args{tiles, channels, n_products, 1};
  args.c_m = other_.row;
  std::fill_n(args.products, n_products, Product{depth_, read_.row, 1, down, across});
  for (int64_t place = 0; place < places_; ++place) {
    GemmData<float> data{sums + place * other_.plane, nullptr, nullptr, {}};
    for (int64_t p = 0; p < n_products; ++p) {
      data.factors[2 * p] = read + p * read_.size() + place * read_.plane;
      data.factors[2 * p + 1] = weights + p * weights_.size() + place * weights_.plane;
    }
    kernels_->gemm_f32(args, data);
  }
  Operand target = spec_.target;  // dense, whatever its strides say where a dim is 1
  target.stride[2] = width_, target.stride[1] = maps_[1] * width_, target.stride[0] = maps_[0] * maps_[1] * width_;
  find_tiles(worker, unit, target, other_.row);
  transforms_[kWinogradSum]({tiles, channels, sums, scratch<int64_t>(worker, scratch_.x_at), edge_ * other_.plane, other_.plane, worker.at<float>(target) + first,
                             scratch<int64_t>(worker, scratch_.y_at), target.stride[1], target.stride[2], scratch<uint8_t>(worker, scratch_.missing),
                             spec_.has_cin ? worker.at<float>(spec_.cin) + first : nullptr});
}

// Kinds 0 and 1. weights: those of all channels; a single unit turns them itself, a block of channels after the other.
void Winograd::run_unit(Worker& worker, const float* weights, int64_t number, char* joints) const {
  const Unit unit = units_[number];
  float* const read = scratch<float>(worker, scratch_.read);
  for (size_t p = 0; p < spec_.products.size(); ++p) copy_tiles(worker, spec_.products[p].first, unit, 0, depth_, read + int64_t(p) * read_.size());
  if (units_.count > 1) {
    sum_tiles(worker, unit, read, weights, 0, width_);
  } else {
    struct Context {
      const Winograd* self;
      const Unit& unit;
      const float* read;
    } context{this, unit, read};
    run_parts(worker, ceil_div(width_, block_), [](const void* argument, Worker& w, int64_t part) {
      const Context& c = *static_cast<const Context*>(argument);
      const Winograd& self = *c.self;
      const Range channels{part * self.block_, std::min(self.block_, self.width_ - part * self.block_)}, all{0, self.depth_};
      float* const own = self.scratch<float>(w, self.scratch_.weights);
      self.turn_weights(w, self.by_rows_ ? channels : all, self.by_rows_ ? all : channels, own);
      self.sum_tiles(w, c.unit, c.read, own, channels.first, channels.count);
      if (self.long_) w.poll();
    }, &context);
    if (worker.stopped()) return;
  }
  const int64_t row = side_ * unit.row;
  phases_.after(worker, {unit.image, unit.images, row, std::min(side_ * unit.rows, maps_[0] - row)}, maps_, joints);
  if (long_) worker.poll();
}

// Kind 2: a unit's tiles of y.
void Winograd::spread_tiles(Worker& worker, const Unit& unit, float* spread) const {
  for (const auto& product : spec_.products) {
    const Operand& y = product.second;
    const int64_t tiles = find_tiles(worker, unit, y, other_.row);
    transforms_[kWinogradSpread]({tiles, width_, worker.at<float>(y), scratch<int64_t>(worker, scratch_.y_at), y.stride[1], y.stride[2], spread, scratch<int64_t>(worker, scratch_.x_at),
                                  edge_ * other_.plane, other_.plane, scratch<uint8_t>(worker, scratch_.missing)});
    spread += other_.size();
  }
}

// Kind 2: channels first .. last of x, over all units. spread: the tiles of y, where they are one unit that others read too.
void Winograd::sum_taps(Worker& worker, int64_t first, int64_t last, const float* spread) const {
  const int64_t n_products = int64_t(spec_.products.size()), channels = last - first;
  float* const read = scratch<float>(worker, scratch_.read);
  float* const sums = scratch<float>(worker, scratch_.weights);
  for (int64_t number = 0; number < units_.count && !worker.stopped(); ++number) {
    const Unit unit = units_[number];
    const int64_t tiles = unit.images * unit.rows * tiles_[1];
    for (int64_t p = 0; p < n_products; ++p) copy_tiles(worker, spec_.products[size_t(p)].first, unit, first, channels, read + p * read_.size());
    const float* others = spread;
    if (!others) {
      float* const own = scratch<float>(worker, scratch_.other);
      spread_tiles(worker, unit, own);
      others = own;
    }
    GemmArgs<float> args{channels, width_, n_products, 1, weights_.row, 1, weights_.row};
    std::fill_n(args.products, n_products, Product{tiles, 1, read_.row, other_.row, 1});
    for (int64_t place = 0; place < places_; ++place) {
      float* const sum = sums + place * weights_.plane;
      GemmData<float> data{sum, number ? sum : nullptr, nullptr, {}};
      for (int64_t p = 0; p < n_products; ++p) {
        data.factors[2 * p] = read + p * read_.size() + place * read_.plane;
        data.factors[2 * p + 1] = others + p * other_.size() + place * other_.plane;
      }
      kernels_->gemm_f32(args, data);
    }
    if (long_) worker.poll();
  }
  if (worker.stopped()) return;
  int64_t* const x_at = scratch<int64_t>(worker, scratch_.x_at);
  int64_t* const y_at = scratch<int64_t>(worker, scratch_.y_at);
  for (int64_t k = 0; k < channels; ++k) x_at[k] = k * weights_.row, y_at[k] = (first + k) * width_;
  const int64_t tap = depth_ * width_;
  transforms_[kWinogradTaps]({channels, width_, sums, x_at, edge_ * weights_.plane, weights_.plane, worker.at<float>(spec_.target), y_at, 3 * tap, tap, nullptr,
                              spec_.has_cin ? worker.at<float>(spec_.cin) : nullptr});
}

// Of so many rows of weights or of their gradient, those of a part: all, or a thread's share. How rows are split does not show
// in the bits.
int64_t Winograd::share(const Worker& worker, int64_t rows) const {
  const int threads = long_ ? worker.others() + 1 : 1;
  return threads == 1 ? rows : ceil_div(ceil_div(rows, threads), kVector) * kVector;
}

void Winograd::run(Worker& worker) const {
  phases_.fill(worker);
  struct Context {
    const Winograd* self;
    int64_t channels;
    float* shared;
  } context{this, block_, nullptr};
  if (spec_.kind == 2) {
    if (block_ < spec_.c) {
      context.shared = scratch<float>(worker, scratch_.other);
      spread_tiles(worker, units_[0], context.shared);
    } else {
      context.channels = share(worker, spec_.c);  // each part spreads all of y, so there are no more than threads
    }
    run_parts(worker, ceil_div(spec_.c, context.channels), [](const void* argument, Worker& w, int64_t part) {
      const auto& [self, channels, spread] = *static_cast<const Context*>(argument);
      self->sum_taps(w, part * channels, std::min(self->spec_.c, (part + 1) * channels), spread);
    }, &context);
  } else {
    context.shared = scratch<float>(worker, scratch_.weights);
    const int64_t rows = by_rows_ ? width_ : depth_;
    context.channels = share(worker, rows);
    if (units_.count > 1)
      run_parts(worker, ceil_div(rows, context.channels), [](const void* argument, Worker& w, int64_t part) {
        const auto& [self, channels, weights] = *static_cast<const Context*>(argument);
        const Range mine{part * channels, std::min(channels, (self->by_rows_ ? self->width_ : self->depth_) - part * channels)};
        self->turn_weights(w, mine, {0, self->by_rows_ ? self->depth_ : self->width_}, weights + mine.first * self->weights_.row);
      }, &context);
    phases_.each(worker, units_.count, parts_, scratch<char>(worker, scratch_.joints), [&](Worker& w, int64_t unit, char* joints) { run_unit(w, context.shared, unit, joints); });
  }
  if (worker.stopped()) return;
  phases_.finish(worker);
}

}  // namespace fastmeta
