// Distances between rows: vectors along the features, a tile of rows by rows in registers, lane sums at the end.
//
// Included INSIDE the target's namespace, after gemm.hpp.  The bits of a distance do not depend on the tile that computes
// it, so a caller may split the rows as it likes.
#pragma once

// A sum over features of what `add` makes of two vectors of them.  Every operation is said outright: left to itself the
// compiler contracts some copies of an expression and not others.
template <class T>
struct SquaredDifference {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr bool scaled = false, absolute = false;
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
  static constexpr bool scaled = false, absolute = true;
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
  static constexpr bool scaled = true, absolute = false;
  // y is minus the direction
  static FASTMETA_INLINE V add(V x, V y, V scale, V sum) {
    const V d = S::fma(scale, x, y);
    return S::fma(d, d, sum);
  }
  static FASTMETA_INLINE T finish(T sum, T x_scale, T y_scale) { return x_scale == 0 || y_scale == 0 ? T(1) : sum * T(0.5); }
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

template <class T>
void row_norms(Metric metric, const T* x, int64_t row, int64_t rows, int64_t features, T* norm) {
  for (int64_t i = 0; i < rows; i++, x += row) norm[i] = metric == kCosine ? inverse_length(x, features) : squared_length(x, features, T(1));
}

// ---- Tiles.

template <class T, template <class> class Metric, int MR, int NR>
__attribute__((noinline)) void distance_tile(const DistanceArgs<T>& g, const T* x_norm, int64_t m0, int64_t m1, int64_t n0) {
  using S = Simd<T>;
  using V = typename S::V;
  using M = Metric<T>;
  constexpr int L = S::lanes, group = 16 / sizeof(T), padded = (NR + group - 1) / group * group;
  const int64_t ahead = MR * g.x_row;
  for (; m0 < m1; m0 += MR) {
    V acc[MR][padded], x_scale[MR];
    const T *x[MR], *y[NR];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < padded; j++) acc[i][j] = V{};
      x[i] = g.x + (m0 + i) * g.x_row;
      x_scale[i] = M::scaled ? S::splat(x_norm[m0 + i]) : V{};
    }
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) y[j] = g.y + (n0 + j) * g.y_row;
    auto step = [&](auto load) __attribute__((always_inline)) {
      V a[MR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        a[i] = load(x[i]);
        FASTMETA_PIN(a[i]);
      }
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        V b = load(y[j]);
        if constexpr (M::scaled) b *= S::splat(-g.y_norm[n0 + j]);
        FASTMETA_PIN(b);
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) acc[i][j] = M::add(a[i], b, x_scale[i], acc[i][j]);
      }
    };
    int64_t k = 0;
    for (; k + L <= g.features; k += L) {
      // The next rows: hardware foresees a stream only after its first lines, and those of rows are short.
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) __builtin_prefetch(x[i] + ahead + k);
      step([k](const T* q) __attribute__((always_inline)) { return S::load(q + k); });
    }
    if (k < g.features) {
      const auto mask = S::mask(int(g.features - k));
      step([k, &mask](const T* q) __attribute__((always_inline)) { return S::load(q + k, mask); });
    }
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      T sum[padded];
      FASTMETA_UNROLL
      for (int j = 0; j < padded; j += group) {
        const auto v = lane_sums<T>(acc[i] + j, typename CountTo<L>::type{});
        __builtin_memcpy(sum + j, &v, sizeof v);
      }
      T* out = g.out + (m0 + i) * g.out_x + n0 * g.out_y;
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++)
        out[j * g.out_y] = M::scaled ? M::finish(sum[j], x_norm[m0 + i], g.y_norm[n0 + j]) : M::finish(sum[j], 0, 0);
    }
  }
}

// A few rows of x against `count` of y.
template <class T, template <class> class Metric, int NR>
inline void distance_rows(const DistanceArgs<T>& g, const T* x_norm, int64_t n, int64_t count) {
  if (count < NR) {
    if constexpr (NR > 1) distance_rows<T, Metric, NR - 1>(g, x_norm, n, count);
    return;
  }
  constexpr int MR = FASTMETA_LANES_BYTES == 64 ? 4 : 2;
  int64_t m = g.x_rows - g.x_rows % MR;
  if (m > 0) distance_tile<T, Metric, MR, NR>(g, x_norm, 0, m, n);
  if (m < g.x_rows) distance_tile<T, Metric, 1, NR>(g, x_norm, m, g.x_rows, n);
}

// ---- Long rows: a few of x stay in the first-level cache while rows of y pass by, as many as stay in the second.

template <class T, template <class> class Metric>
inline void distances_of_long_rows(const DistanceArgs<T>& g) {
  constexpr int64_t few = 16;
  constexpr int NR = FASTMETA_LANES_BYTES == 64 ? 5 : 4;
  const int64_t fit = kBlockBytes / int64_t(sizeof(T)) / g.features, step = fit < 32 ? 32 : fit;
  DistanceArgs<T> h = g;
  for (int64_t n0 = 0; n0 < g.y_rows; n0 += step) {
    const int64_t rows = n0 + step < g.y_rows ? step : g.y_rows - n0, blocks = (rows + NR - 1) / NR;
    for (int64_t m = 0; m < g.x_rows; m += few) {
      h.x_rows = m + few < g.x_rows ? few : g.x_rows - m;
      h.x = g.x + m * g.x_row;
      h.out = g.out + m * g.out_x;
      T x_norm[few];
      if constexpr (Metric<T>::scaled)
        for (int64_t i = 0; i < h.x_rows; i++) x_norm[i] = inverse_length(h.x + i * h.x_row, h.features);
      for (int64_t i = 0; i < blocks; i++) {
        const int64_t n = rows * i / blocks;
        distance_rows<T, Metric, NR>(h, x_norm, n0 + n, rows * (i + 1) / blocks - n);
      }
    }
  }
}

// ---- Short rows, whose lane sums would cost as much as their differences: a panel of two vectors of rows of x, transposed.
// Squares and cosines are first taken from the product x y; where what is left of the rows' lengths is so little that rounding
// shows, a distance is computed again, from differences.

template <class T>
struct Panel {
  static constexpr int64_t width = 2 * Simd<T>::lanes, features = 512 / sizeof(T), rows = 32;  // of x; at most; of y at a time
};

// What passes each pair of a panel's vectors: `rows` rows of y.
template <class T, template <class> class Metric, int Rows>
__attribute__((noinline)) void panel_tile(const T* panel, const T* y, int64_t y_row, int64_t features, T* out) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  V acc[Rows][2];
  const T* at[Rows];
  FASTMETA_UNROLL
  for (int j = 0; j < Rows; j++) {
    acc[j][0] = acc[j][1] = V{};
    at[j] = y + j * y_row;
  }
  for (int64_t k = 0; k < features; k++, panel += 2 * L) {
    V a = S::load(panel), b = S::load(panel + L);
    FASTMETA_PIN(a);
    FASTMETA_PIN(b);
    FASTMETA_UNROLL
    for (int j = 0; j < Rows; j++) {
      V c = S::splat(at[j][k]);
      FASTMETA_PIN(c);
      acc[j][0] = Metric<T>::add(a, c, V{}, acc[j][0]);
      acc[j][1] = Metric<T>::add(b, c, V{}, acc[j][1]);
    }
  }
  FASTMETA_UNROLL
  for (int j = 0; j < Rows; j++) {
    S::store(out + j * 2 * L, acc[j][0]);
    S::store(out + j * 2 * L + L, acc[j][1]);
  }
}

template <class T>
struct ProductOf {
  using V = typename Simd<T>::V;
  static FASTMETA_INLINE V add(V x, V y, V, V sum) { return Simd<T>::fma(x, y, sum); }
};

template <class T, template <class> class Metric, int Rows>
inline void panel_rows(const T* panel, const T* y, int64_t y_row, int64_t rows, int64_t features, T* out) {
  int64_t j = 0;
  for (; j + Rows <= rows; j += Rows) panel_tile<T, Metric, Rows>(panel, y + j * y_row, y_row, features, out + j * Panel<T>::width);
  if constexpr (Rows > 1)
    if (j < rows) panel_rows<T, Metric, (Rows + 1) / 2>(panel, y + j * y_row, y_row, rows - j, features, out + j * Panel<T>::width);
}

template <class T, template <class> class Metric>
struct ShortRows {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes, W = Panel<T>::width;
  static constexpr bool absolute = Metric<T>::absolute, scaled = Metric<T>::scaled;
  static constexpr int Rows = FASTMETA_LANES_BYTES == 64 ? 8 : 4;

  const DistanceArgs<T>& g;
  alignas(64) T x[Panel<T>::features * W];  // the panel
  alignas(64) T y[Panel<T>::rows * Panel<T>::features];  // directions
  alignas(64) T out[Panel<T>::rows * W], exact[Panel<T>::rows * W];
  alignas(64) T scale[W];  // what makes directions of the panel's rows
  alignas(64) T directions[scaled ? Panel<T>::features * W : 1];
  bool turned;             // the directions are there
  V length[2];             // squared; of directions a half of it

  FASTMETA_INLINE explicit ShortRows(const DistanceArgs<T>& g) : g(g) {}

  FASTMETA_INLINE void take(int64_t m, int64_t rows) {
    if (rows < W)
      for (int64_t k = 0; k < g.features * W; k++) x[k] = 0;
    transpose(g.x + m * g.x_row, g.x_row, x, W, rows, g.features);
    length[0] = length[1] = V{};
    if constexpr (!absolute)
      for (int64_t k = 0; k < g.features * W; k += W)
        for (int h = 0; h < 2; h++) length[h] = S::fma(S::load(x + k + h * L), S::load(x + k + h * L), length[h]);
    if constexpr (scaled) {
      // Rows whose products could overflow or vanish become directions at once; the others' products are scaled.
      alignas(64) T now[W];
      bool safe = true;
      for (int h = 0; h < 2; h++) S::store(scale + h * L, S::splat(T(1)) / sqrt(length[h]));
      for (int64_t i = 0; i < W; i++) {
        now[i] = 1;
        if (i < rows && safe_length(length[i / L][i % L])) continue;
        scale[i] = 1;
        if (i >= rows) continue;
        now[i] = inverse_length(g.x + (m + i) * g.x_row, g.features);
        safe = false;
      }
      length[0] = length[1] = S::splat(T(0.5));
      if (!safe) turn(now, x);
      turned = false;
    }
  }
  FASTMETA_INLINE void turn(const T* by, T* to) {
    for (int64_t k = 0; k < g.features * W; k += W)
      for (int h = 0; h < 2; h++) S::store(to + k + h * L, S::load(x + k + h * L) * S::load(by + h * L));
  }
  FASTMETA_INLINE V both(int64_t j, int h) const { return length[h] + S::splat(scaled ? T(0.5) : g.y_norm[j]); }
  static FASTMETA_INLINE typename S::I sure(V d, V both) { return d >= both * S::splat(T(1) / 128); }

  // The panel against rows n .. n + count of y.
  FASTMETA_INLINE void against(int64_t n, int64_t count, bool new_y) {
    const T* rows = g.y + n * g.y_row;
    int64_t row = g.y_row;
    if constexpr (scaled) {
      if (new_y)
        for (int64_t j = 0; j < count; j++)
          for (int64_t k = 0; k < g.features; k++) y[j * g.features + k] = rows[j * row + k] * g.y_norm[n + j];
      rows = y;
      row = g.features;
    }
    if constexpr (absolute) return panel_rows<T, Metric, Rows>(x, rows, row, count, g.features, out);
    panel_rows<T, ProductOf, Rows>(x, rows, row, count, g.features, out);
    const V factor[2] = {scaled ? -S::load(scale) : S::splat(T(-2)), scaled ? -S::load(scale + L) : S::splat(T(-2))};
    typename S::I all = ~typename S::I{};
    for (int64_t j = 0; j < count; j++)
      for (int h = 0; h < 2; h++) {
        T* d = out + j * W + h * L;
        const V apart = S::fma(factor[h], S::load(d), both(n + j, h));
        all &= sure(apart, both(n + j, h));
        S::store(d, apart);
      }
    if (!any(~all)) return;
    if (scaled && !turned) turn(scale, directions);
    turned = true;
    panel_rows<T, SquaredDifference, Rows>(scaled ? directions : x, rows, row, count, g.features, exact);
    for (int64_t j = 0; j < count; j++)
      for (int h = 0; h < 2; h++) {
        T* d = out + j * W + h * L;
        const V apart = S::load(d), again = S::load(exact + j * W + h * L) * S::splat(scaled ? T(0.5) : T(1));
        S::store(d, sure(apart, both(n + j, h)) ? apart : again);
      }
  }
  FASTMETA_INLINE void put(int64_t m, int64_t rows, int64_t n, int64_t count) const {
    T* to = g.out + m * g.out_x + n * g.out_y;
    if (g.out_y == 1) transpose(out, W, to, g.out_x, count, rows);
    else
      for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < rows; i++) to[i * g.out_x + j * g.out_y] = out[j * W + i];
  }
  void run() {
    constexpr int64_t most = Panel<T>::rows;
    for (int64_t m = 0; m < g.x_rows; m += W) {
      const int64_t rows = m + W < g.x_rows ? W : g.x_rows - m;
      take(m, rows);
      for (int64_t n = 0; n < g.y_rows; n += most) {
        const int64_t count = n + most < g.y_rows ? most : g.y_rows - n;
        against(n, count, m == 0 || g.y_rows > most);
        put(m, rows, n, count);
      }
    }
  }
};

template <class T, template <class> class Metric>
void distances(const DistanceArgs<T>& g) {
  if (g.features <= Panel<T>::features) ShortRows<T, Metric>(g).run();
  else distances_of_long_rows<T, Metric>(g);
}

constexpr void fill_distances(Kernels& k) {
  k.distance_f32[kSquared] = distances<float, SquaredDifference>;
  k.distance_f32[kAbsolute] = distances<float, AbsoluteDifference>;
  k.distance_f32[kCosine] = distances<float, DirectionDifference>;
  k.distance_f64[kSquared] = distances<double, SquaredDifference>;
  k.distance_f64[kAbsolute] = distances<double, AbsoluteDifference>;
  k.distance_f64[kCosine] = distances<double, DirectionDifference>;
  k.row_norms_f32 = row_norms<float>;
  k.row_norms_f64 = row_norms<double>;
}
