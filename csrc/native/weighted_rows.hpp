// Weighted sums of rows: tiles of products of matrices whose right side, a strip of a few vectors of features, is in the
// first-level cache.
//
// Included INSIDE the target's namespace, after simd.hpp.  Each element is one chain of additions in order of the rows that
// are summed, so the bits do not show how rows and features are split.
#pragma once

// Row r: the sum over k < count of weight[r * w_row + k * w_k] times row k of b.
template <class T>
struct Weighted {
  const T* weight;
  int64_t w_row, w_k;
  const T* b;
  int64_t b_row, count;
};

// A strip's features, whole vectors but for the last, of which `tail` elements count.
template <class T>
struct Strip {
  static constexpr int most = FASTMETA_LANES_BYTES == 64 ? 4 : 2;
  static constexpr int64_t L = Simd<T>::lanes, width = most * L;
  int vectors, tail;
  explicit Strip(int64_t features) {
    const int64_t n = features < width ? features : width;
    vectors = int((n + L - 1) / L);
    tail = int(n - (vectors - 1) * L);
  }
};

// The results begin with rows of `start`, each times its scale; or with 0.
template <class T>
struct Start {
  const T* rows = nullptr;
  int64_t row = 0;
  const T* scale = nullptr;
};

template <class T, int R, int C>
__attribute__((noinline)) void weighted_tile(const Weighted<T>& g, const Start<T>& start, T* out, int64_t out_row, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const auto last = S::mask(tail);
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
      const T* from = start.rows + r * start.row;
      FASTMETA_UNROLL
      for (int c = 0; c < C - 1; c++) acc[r][c] = S::load(from + c * L);
      acc[r][C - 1] = S::load(from + (C - 1) * L, last);
    }
    if (start.scale) {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        FASTMETA_UNROLL
        for (int c = 0; c < C; c++) acc[r][c] *= S::splat(start.scale[r]);
      }
    }
  }
  const T *w[R], *b = g.b;
  FASTMETA_UNROLL
  for (int r = 0; r < R; r++) w[r] = g.weight + r * g.w_row;
  int64_t step = g.w_k;
  const int64_t b_row = g.b_row;
  FASTMETA_HIDE(step);  // or the compiler makes a loop of its own for 1
  for (int64_t k = g.count, at = 0; k > 0; k--, b += b_row, at += step) {
    V v[C];
    FASTMETA_UNROLL
    for (int c = 0; c < C; c++) {
      v[c] = S::load(b + c * L);
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
  FASTMETA_UNROLL
  for (int r = 0; r < R; r++, out += out_row) {
    FASTMETA_UNROLL
    for (int c = 0; c < C - 1; c++) S::store(out + c * L, acc[r][c]);
    S::store(out + (C - 1) * L, acc[r][C - 1], last);
  }
}

template <class T>
using WeightedTile = void (*)(const Weighted<T>&, const Start<T>&, T*, int64_t, int);
constexpr int kWeightedRows = FASTMETA_LANES_BYTES > 16 ? 6 : 4;  // of a tile, at most

template <class T>
struct WeightedTiles {
  WeightedTile<T> of[kWeightedRows][Strip<T>::most];  // by rows and vectors, less 1
  template <int R = 1, int C = 1>
  constexpr void fill() {
    of[R - 1][C - 1] = weighted_tile<T, R, C>;
    if constexpr (C < Strip<T>::most) fill<R, C + 1>();
    else if constexpr (R < kWeightedRows) fill<R + 1, 1>();
  }
};
template <class T>
static constexpr WeightedTiles<T> kWeightedTiles = [] {
  WeightedTiles<T> tiles{};
  tiles.fill();
  return tiles;
}();

// A strip of `rows` rows, in tiles of nearly the same size.  b must have whole vectors.
template <class T>
inline void weighted_rows(int64_t rows, const Strip<T>& strip, Weighted<T> g, Start<T> start, T* out, int64_t out_row) {
  const int64_t tiles = (rows + kWeightedRows - 1) / kWeightedRows, size = rows / tiles, larger = rows % tiles;
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t n = size + (i < larger);
    kWeightedTiles<T>.of[n - 1][strip.vectors - 1](g, start, out, out_row, strip.tail);
    g.weight += n * g.w_row;
    if (start.rows) start.rows += n * start.row;
    if (start.scale) start.scale += n;
    out += n * out_row;
  }
}

// to[i] = (row i of `from` - centre) * factor, `to` in whole vectors.
template <class T>
inline void centred_rows(const T* from, int64_t row, int64_t rows, const Strip<T>& strip, const T* centre, T factor, T* to, int64_t to_row) {
  using S = Simd<T>;
  constexpr int64_t L = S::lanes;
  const auto last = S::mask(strip.tail);
  const auto by = S::splat(factor);
  const int64_t whole = (strip.vectors - 1) * L;
  for (int64_t i = 0; i < rows; i++, from += row, to += to_row) {
    for (int64_t k = 0; k < whole; k += L) S::store(to + k, (S::load(from + k) - S::load(centre + k)) * by);
    S::store(to + whole, (S::load(from + whole, last) - S::load(centre + whole)) * by);
  }
}
