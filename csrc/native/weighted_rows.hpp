// Weighted sums of rows: tiles of products of matrices, strips of a few vectors of features.
//
// Included INSIDE the target's namespace, after simd.hpp.  Each element is one chain of additions in order of the rows that
// are summed, so the bits do not show how rows and features are split.
#pragma once

// The results begin with rows of `start`; less a centre and each times its scale, if there are any; or with 0.
template <class T>
struct Start {
  const T* rows = nullptr;
  int64_t row = 0;
  const T *scale = nullptr, *centre = nullptr;
};

// Row r of out: the start, and the sum over k < count of weight[r * w_row + k * w_k] times row k of b.
template <class T>
struct Weighted {
  const T* weight;
  int64_t w_row, w_k;
  const T* b;
  int64_t b_row, count;
  T* out;
  int64_t out_row;
  Start<T> start = {};
  const T* centre = nullptr;  // what is taken off the rows of b, in whole vectors
  bool streamed = false;      // out is on whole lines, and larger than the caches keep
};

constexpr int kStripVectors = FASTMETA_LANES_BYTES == 64 ? 4 : 2;
template <class T>
constexpr int64_t kStrip = kStripVectors * Simd<T>::lanes;  // features
// Strips by one call: calls take long beside small tiles, and beside large ones a loop does, of which the compiler keeps more
// at hand than there are registers.
constexpr bool kManyStrips = FASTMETA_LANES_BYTES < 64;

// Rows from `row` on, and strips of C vectors of features from..to; the last vector of all of `tail` elements.
template <class T, bool Centred, int R, int C>
__attribute__((noinline)) void weighted_tile(const Weighted<T>& g, int64_t row, int64_t from, int64_t to, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes, W = C * L;
  const auto last = S::mask(tail);
  const bool streamed = g.streamed && tail == L;
  int64_t step = g.w_k;
  const int64_t b_row = g.b_row, count = g.count, out_row = g.out_row;
  const Start<T> start{g.start.rows ? g.start.rows + row * g.start.row : nullptr, g.start.row, g.start.scale ? g.start.scale + row : nullptr, g.start.centre};
  FASTMETA_HIDE(step);  // or the compiler makes a loop of its own for 1
  const T *weight = g.weight + row * g.w_row, *w[R];
  FASTMETA_HIDE(weight);  // or it multiplies again for every row
  FASTMETA_UNROLL
  for (int r = 0; r < R; r++) w[r] = weight + r * g.w_row;
  if (!kManyStrips) to = from + W;
  for (int64_t f = from; f < to; f += W) {
    V acc[R][C];
    if (!start.rows) {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        FASTMETA_UNROLL
        for (int c = 0; c < C; c++) acc[r][c] = V{};
      }
    } else {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        const T* first = start.rows + r * start.row + f;
        FASTMETA_UNROLL
        for (int c = 0; c < C - 1; c++) acc[r][c] = S::load(first + c * L);
        acc[r][C - 1] = S::load(first + (C - 1) * L, last);
      }
      if (start.scale) {
        FASTMETA_UNROLL
        for (int r = 0; r < R; r++) {
          FASTMETA_UNROLL
          for (int c = 0; c < C; c++) acc[r][c] = (acc[r][c] - S::load(start.centre + f + c * L)) * S::splat(start.scale[r]);
        }
      }
    }
    auto sum = [&](auto load_last) __attribute__((always_inline)) {
      const T *b = g.b + f, *const centre = Centred ? g.centre + f : nullptr;
      for (int64_t k = count, at = 0; k > 0; k--, b += b_row, at += step) {
        V v[C];
        FASTMETA_UNROLL
        for (int c = 0; c < C; c++) {
          v[c] = c < C - 1 ? S::load(b + c * L) : load_last(b + c * L);
          if constexpr (Centred) {
            v[c] -= S::load(centre + c * L);
            if (c * S::bytes % 64 == 0) __builtin_prefetch(b + W + c * L);  // what hardware foresees are longer pieces of rows
          }
          FASTMETA_PIN(v[c]);
        }
        FASTMETA_UNROLL
        for (int r = 0; r < R; r++) {
          V s = S::splat(w[r][at]);
          FASTMETA_PIN(s);
          FASTMETA_UNROLL
          for (int c = 0; c < C; c++) acc[r][c] = S::fma(s, v[c], acc[r][c]);
        }
      }
    };
    if (Centred && tail < L) sum([&](const T* p) __attribute__((always_inline)) { return S::load(p, last); });
    else sum([](const T* p) __attribute__((always_inline)) { return S::load(p); });
    T* out = g.out + row * out_row + f;
    FASTMETA_HIDE(out);  // or the addresses of all results are kept from strip to strip
    if (streamed) {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++, out += out_row) {
        FASTMETA_UNROLL
        for (int c = 0; c < C; c++) S::stream(out + c * L, acc[r][c]);
      }
    } else {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++, out += out_row) {
        FASTMETA_UNROLL
        for (int c = 0; c < C - 1; c++) S::store(out + c * L, acc[r][c]);
        S::store(out + (C - 1) * L, acc[r][C - 1], last);
      }
    }
  }
}

template <class T>
using WeightedTile = void (*)(const Weighted<T>&, int64_t, int64_t, int64_t, int);
constexpr int kWeightedRows = FASTMETA_LANES_BYTES > 16 ? 6 : 4;  // of a tile, at most

template <class T>
struct WeightedTiles {
  WeightedTile<T> of[2][kWeightedRows][kStripVectors];  // whether less a centre; by rows and vectors, less 1
  template <int R = 1, int C = 1>
  constexpr void fill() {
    of[0][R - 1][C - 1] = weighted_tile<T, false, R, C>;
    of[1][R - 1][C - 1] = weighted_tile<T, true, R, C>;
    if constexpr (C < kStripVectors) fill<R, C + 1>();
    else if constexpr (R < kWeightedRows) fill<R + 1, 1>();
  }
};
template <class T>
static constexpr WeightedTiles<T> kWeightedTiles = [] {
  WeightedTiles<T> tiles{};
  tiles.fill();
  return tiles;
}();

// `rows` rows, in tiles of nearly the same size.  Where there is no centre, b must have whole vectors.
template <class T>
inline void weighted_rows(int64_t rows, int64_t features, const Weighted<T>& g) {
  constexpr int64_t L = Simd<T>::lanes, W = kStrip<T>;
  const int64_t tiles = (rows + kWeightedRows - 1) / kWeightedRows, size = rows / tiles, larger = rows % tiles;
  const int64_t whole = features / W * W, vectors = (features - whole + L - 1) / L, piece = kManyStrips ? whole : W;
  for (int64_t i = 0, row = 0; i < tiles; i++) {
    const int64_t n = size + (i < larger);
    const auto& of = kWeightedTiles<T>.of[g.centre != nullptr][n - 1];
    for (int64_t f = 0; f < whole; f += piece) of[kStripVectors - 1](g, row, f, f + piece, int(L));
    if (whole < features) of[vectors - 1](g, row, whole, features, int(features - whole - (vectors - 1) * L));
    row += n;
  }
}

// to[i] = (row i of `from` - centre) * factor, centre and `to` in whole vectors.
template <class T>
inline void centred_rows(const T* from, int64_t row, int64_t rows, int64_t features, const T* centre, T factor, T* to, int64_t to_row) {
  using S = Simd<T>;
  constexpr int64_t L = S::lanes;
  const int64_t whole = features / L * L;
  const auto last = S::mask(int(features - whole));
  const auto by = S::splat(factor);
  for (int64_t i = 0; i < rows; i++, from += row, to += to_row) {
    for (int64_t k = 0; k < whole; k += L) S::store(to + k, (S::load(from + k) - S::load(centre + k)) * by);
    if (whole < features) S::store(to + whole, (S::load(from + whole, last) - S::load(centre + whole)) * by);
  }
}
