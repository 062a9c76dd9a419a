// Distances between long rows: vectors along the features, a tile of rows by rows in registers, lane sums at the end.
//
// Included INSIDE the target's namespace, after gemm.hpp.  The bits of a distance depend on its two rows and on how many rows
// the shorter side has, so a caller may split the longer side's rows as it likes.
#pragma once

// A sum over features of what `add` makes of two vectors of them.  Every operation is said outright: left to itself the
// compiler contracts some copies of an expression and not others.
template <class T>
struct SquaredDifference {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr bool scaled = false, absolute = false, centred = false, squares = false;
  static FASTMETA_INLINE V add(V x, V y, V, V sum) {
    const V d = x - y;
    return S::fma(d, d, sum);
  }
  static FASTMETA_INLINE T finish(T sum, T, T) { return sum; }
};
template <class T>
struct AbsoluteDifference {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr bool scaled = false, absolute = true, centred = false, squares = false;
  static FASTMETA_INLINE V add(V x, V y, V, V sum) {
    const V d = x - y;
    const typename S::I sign = (typename S::I)S::splat(T(-0.0));
    return sum + (V)((typename S::I)d & ~sign);
  }
  static FASTMETA_INLINE T finish(T sum, T, T) { return sum; }
};
// 1 - cos, as half the squared difference of the directions: of two that are almost equal, 1 - cos would leave only rounding.
template <class T>
struct DirectionDifference {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr bool scaled = true, absolute = false, centred = false, squares = false;
  // y is minus the direction
  static FASTMETA_INLINE V add(V x, V y, V scale, V sum) {
    const V d = S::fma(scale, x, y);
    return S::fma(d, d, sum);
  }
  static FASTMETA_INLINE T finish(T sum, T x_scale, T y_scale) { return x_scale == 0 || y_scale == 0 ? T(1) : sum * T(0.5); }
};
template <class T>
struct ProductOf {
  using V = typename Simd<T>::V;
  static constexpr bool scaled = false, absolute = false, centred = false, squares = false;
  static FASTMETA_INLINE V add(V x, V y, V, V sum) { return Simd<T>::fma(x, y, sum); }
  static FASTMETA_INLINE T finish(T sum, T, T) { return sum; }
};
// and the squared length of x, beside
template <class T>
struct ProductAndSquare : ProductOf<T> {
  static constexpr bool squares = true;
};
// (x - centre) y, for PROTO
template <class T>
struct CentredProduct : ProductOf<T> {
  static constexpr bool centred = true;
};

// ---- What a metric needs of each row.

template <class T>
FASTMETA_INLINE T squared_length(const T* x, int64_t features, T factor) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const V by = S::splat(factor);
  V a{}, b{};
  auto add = [&](V v, V& sum) __attribute__((always_inline)) {
    v *= by;
    FASTMETA_PIN(v);
    sum = S::fma(v, v, sum);
  };
  int64_t k = 0;
  for (; k + 2 * L <= features; k += 2 * L) {
    add(S::load(x + k), a);
    add(S::load(x + k + L), b);
  }
  for (; k < features; k += L) add(features - k < L ? S::load(x + k, S::mask(int(features - k))) : S::load(x + k), a);
  return S::sum(a + b);
}

FASTMETA_INLINE float root(float x) { return __builtin_sqrtf(x); }
FASTMETA_INLINE double root(double x) { return __builtin_sqrt(x); }

// Whether squares have neither overflowed nor vanished.
template <class T>
FASTMETA_INLINE bool safe_length(T squared) {
  constexpr T least = sizeof(T) == 4 ? T(1e-30) : T(1e-290);
  return squared >= least && squared <= 1 / least;
}

// 1 / length of a row; 0 for one of zeros, or of numbers so small that they have no inverse.
template <class T>
FASTMETA_INLINE T inverse_length(const T* x, int64_t features) {
  constexpr T normal = sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__);
  const T sum = squared_length(x, features, T(1));
  if (safe_length(sum)) return 1 / root(sum);
  // The squares of the row over its largest element are safe.
  T largest = 0;
  for (int64_t k = 0; k < features && largest == largest; k++) {
    const T a = x[k] < 0 ? -x[k] : x[k];
    if (!(a <= largest)) largest = a;
  }
  return largest < normal ? T(0) : 1 / largest / root(squared_length(x, features, 1 / largest));
}

// ---- Tiles.

// The length of nearly equal pieces of n elements in whole vectors: `longest`, but for rounding up, or less.
template <class T>
FASTMETA_INLINE int64_t equal_pieces(int64_t n, int64_t longest) {
  constexpr int64_t L = Simd<T>::lanes;
  const int64_t pieces = (n + longest - 1) / longest;
  return ((n + pieces - 1) / pieces + L - 1) / L * L;
}

// Rows m0..m1 of x, MR at a time, and NR of y: a piece of their features. Its vectors are added to those of the pieces before
// it (`sums`), and after the last their lanes.
template <class T, template <class> class Metric, int MR, int NR>
__attribute__((noinline)) void distance_tile(const DistanceArgs<T>& g, const T* x_norm, int64_t m0, int64_t m1, int64_t n0, int64_t from, int64_t to, T* sums) {
  using S = Simd<T>;
  using V = typename S::V;
  using M = Metric<T>;
  constexpr int L = S::lanes, all = NR + M::squares, padded = kLaneSums<T, all>;
  const int64_t ahead = MR * g.x_row;
  const bool first = from == 0, last = to == g.features;
  for (sums += m0 * all * L; m0 < m1; m0 += MR, sums += MR * all * L) {
    V acc[MR][padded], x_scale[MR];
    const T *x[MR], *y[NR];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < padded; j++) acc[i][j] = first || j >= all ? V{} : S::load(sums + (i * all + j) * L);
      x[i] = g.x + (m0 + i) * g.x_row;
      x_scale[i] = M::scaled ? S::splat(x_norm[m0 + i]) : V{};
    }
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) y[j] = g.y + (n0 + j) * g.y_row;
    auto step = [&](int64_t k, auto load) __attribute__((always_inline)) {
      V a[MR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        a[i] = load(x[i] + k);
        if constexpr (M::centred) a[i] -= load(g.centre + k);
        FASTMETA_PIN(a[i]);
        if constexpr (M::squares) acc[i][NR] = S::fma(a[i], a[i], acc[i][NR]);
      }
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        V b = load(y[j] + k);
        if constexpr (M::scaled) b *= S::splat(-g.prepared[n0 + j]);
        FASTMETA_PIN(b);
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) acc[i][j] = M::add(a[i], b, x_scale[i], acc[i][j]);
      }
    };
    int64_t k = from;
    for (; k + L <= to; k += L) {
      // The next rows: hardware foresees a stream only after its first lines, and those of rows are short.
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) __builtin_prefetch(x[i] + ahead + k);
      step(k, [](const T* p) __attribute__((always_inline)) { return S::load(p); });
    }
    if (k < to) {
      const auto mask = S::mask(int(to - k));
      step(k, [&mask](const T* p) __attribute__((always_inline)) { return S::load(p, mask); });
    }
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      if (!last) {
        FASTMETA_UNROLL
        for (int j = 0; j < all; j++) S::store(sums + (i * all + j) * L, acc[i][j]);
        continue;
      }
      T sum[padded];
      store_lane_sums<T, all>(acc[i], sum);
      if constexpr (M::squares) g.squares[m0 + i] = sum[NR];
      T* out = g.out + (m0 + i) * g.out_x + n0 * g.out_y;
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++)
        out[j * g.out_y] = M::scaled ? M::finish(sum[j], x_norm[m0 + i], g.prepared[n0 + j]) : M::finish(sum[j], 0, 0);
    }
  }
}

// A few rows of x against `count` of y.
template <class T, template <class> class Metric, int NR>
inline void distance_rows(const DistanceArgs<T>& g, const T* x_norm, int64_t n, int64_t count, int64_t from, int64_t to, T* sums) {
  if (count < NR) {
    if constexpr (NR > 1) distance_rows<T, Metric, NR - 1>(g, x_norm, n, count, from, to, sums);
    return;
  }
  constexpr int MR = FASTMETA_LANES_BYTES == 64 ? 4 : 2;
  const int64_t m = g.x_rows - g.x_rows % MR;
  if (m > 0) distance_tile<T, Metric, MR, NR>(g, x_norm, 0, m, n, from, to, sums);
  if (m < g.x_rows) distance_tile<T, Metric, 1, NR>(g, x_norm, m, g.x_rows, n, from, to, sums);
}

// Rows of y at a time, and the piece of their features, which stays in the first-level cache.
constexpr int kLongRows = 5;
template <class T>
FASTMETA_INLINE int64_t long_piece(int64_t features) {
  return equal_pieces<T>(features, (16 << 10) / int64_t(sizeof(T)) / kLongRows);
}

// f(m, rows, n, count, first) for rows m.. of x and n.. of y, a few by a few, those of y in blocks of nearly the same size; as many
// of them as stay in the second-level cache before the next of x.  first: for these rows of x.
template <class T, class F>
FASTMETA_INLINE void by_blocks(const DistanceArgs<T>& g, int64_t x_rows, int64_t y_rows, const F& f) {
  const int64_t fit = kBlockBytes / int64_t(sizeof(T)) / g.features, step = fit < 32 ? 32 : fit;
  for (int64_t n0 = 0; n0 < g.y_rows; n0 += step) {
    const int64_t some = n0 + step < g.y_rows ? step : g.y_rows - n0, blocks = (some + y_rows - 1) / y_rows;
    for (int64_t m = 0; m < g.x_rows; m += x_rows)
      for (int64_t i = 0; i < blocks; i++) f(m, m + x_rows < g.x_rows ? x_rows : g.x_rows - m, n0 + some * i / blocks, some * (i + 1) / blocks - some * i / blocks, i == 0);
  }
}

template <class T, template <class> class Metric>
inline void distances_of_long_rows(const DistanceArgs<T>& g) {
  constexpr int64_t few = 32;
  const int64_t piece = long_piece<T>(g.features);
  alignas(64) T sums[few * kLongRows * Simd<T>::lanes];
  DistanceArgs<T> h = g;
  T x_norm[few];
  by_blocks<T>(g, few, kLongRows, [&](int64_t m, int64_t rows, int64_t n, int64_t count, bool first) __attribute__((always_inline)) {
    h.x_rows = rows;
    h.x = g.x + m * g.x_row;
    h.out = g.out + m * g.out_x;
    if constexpr (Metric<T>::scaled)
      if (first)
        for (int64_t i = 0; i < rows; i++) x_norm[i] = inverse_length(h.x + i * h.x_row, h.features);
    for (int64_t k = 0; k < g.features; k += piece)
      distance_rows<T, Metric, kLongRows>(h, x_norm, n, count, k, k + piece < g.features ? k + piece : g.features, sums);
  });
}
