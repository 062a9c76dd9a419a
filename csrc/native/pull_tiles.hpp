// The derivatives of distances: for each row of x a weighted sum over rows of y of what the difference of the two makes, and
// for each row of y minus that over rows of x.
//
// Included INSIDE the target's namespace, after simd.hpp.  Each element is one chain of additions in order of the other
// side's rows, so the bits do not show how rows and features are split, nor whether both sides are computed at once.
#pragma once

template <class T>
struct PullSquared {  // 2 (x - y)
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr T factor = 2;
  static FASTMETA_INLINE V add(V weight, V d, V sum) { return S::fma(weight, d, sum); }
  static FASTMETA_INLINE void both(V weight, V d, V& x, V& y) {
    x = S::fma(weight, d, x);
    y = S::fma(weight, d, y);
  }
};
template <class T>
struct PullAbsolute {  // sign(x - y)
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr T factor = 1;
  static FASTMETA_INLINE V signed_weight(V weight, V d) {
    const I sign = (I)S::splat(T(-0.0));
    return (V)(((I)weight ^ ((I)d & sign)) & (d != V{}));
  }
  static FASTMETA_INLINE V add(V weight, V d, V sum) { return sum + signed_weight(weight, d); }
  static FASTMETA_INLINE void both(V weight, V d, V& x, V& y) {
    const V w = signed_weight(weight, d);
    x = x + w;
    y = y + w;
  }
};

// Rows m0 .. m0 + MR, two vectors of features from k on, the second of `tail` elements; added to out where `more`.
template <class T, template <class> class Metric, int MR>
__attribute__((noinline)) void pull_tile(const PullArgs<T>& g, int64_t m0, int64_t k, int tail, int64_t n0, int64_t n1, bool more) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const bool first_whole = tail > L;
  const auto mask0 = S::mask(first_whole ? int(L) : tail), mask1 = S::mask(first_whole ? tail - int(L) : 0);
  V x[MR][2], acc[MR][2];
  const T* weight[MR];
  T* out[MR];
  FASTMETA_UNROLL
  for (int i = 0; i < MR; i++) {
    const T* row = g.x + (m0 + i) * g.x_row + k;
    out[i] = g.out + (m0 + i) * g.out_row + k;
    weight[i] = g.weight + (m0 + i) * g.weight_x + n0 * g.weight_y;
    x[i][0] = S::load(row, mask0);
    x[i][1] = S::load(row + L, mask1);
    acc[i][0] = more ? S::load(out[i], mask0) : V{};
    acc[i][1] = more ? S::load(out[i] + L, mask1) : V{};
  }
  const T* y = g.y + n0 * g.y_row + k;
  auto rows = [&](auto load) __attribute__((always_inline)) {
    for (int64_t n = n0, at = 0; n < n1; n++, y += g.y_row, at += g.weight_y) {
      V a = load(y, mask0), b = load(y + L, mask1);
      FASTMETA_PIN(a);
      FASTMETA_PIN(b);
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        V w = S::splat(weight[i][at]);
        FASTMETA_PIN(w);
        acc[i][0] = Metric<T>::add(w, x[i][0] - a, acc[i][0]);
        acc[i][1] = Metric<T>::add(w, x[i][1] - b, acc[i][1]);
      }
    }
  };
  if (tail == 2 * L) rows([](const T* p, const auto&) __attribute__((always_inline)) { return S::load(p); });
  else rows([](const T* p, const auto& mask) __attribute__((always_inline)) { return S::load(p, mask); });
  const V factor = S::splat(n1 < g.y_rows ? T(1) : Metric<T>::factor);
  FASTMETA_UNROLL
  for (int i = 0; i < MR; i++) {
    S::store(out[i], acc[i][0] * factor, mask0);
    S::store(out[i] + L, acc[i][1] * factor, mask1);
  }
}

// Rows of y a block at a time, which stays in the first-level cache while rows of x pass by.
template <class T, template <class> class Metric>
void pull(const PullArgs<T>& g) {
  constexpr int64_t width = 2 * Simd<T>::lanes, block_bytes = 24 << 10;
  constexpr int MR = FASTMETA_LANES_BYTES == 64 ? 5 : 2;
  const int64_t fit = block_bytes / int64_t(sizeof(T)) / g.features, block = fit < 16 ? 16 : fit;
  for (int64_t n = 0; n < g.y_rows; n += block) {
    const int64_t end = n + block < g.y_rows ? n + block : g.y_rows;
    int64_t m = 0;
    auto across = [&](auto tile, int64_t rows) __attribute__((always_inline)) {
      for (; m + rows <= g.x_rows; m += rows)
        for (int64_t k = 0; k < g.features; k += width) tile(g, m, k, int(k + width < g.features ? width : g.features - k), n, end, n > 0);
    };
    across(pull_tile<T, Metric, MR>, MR);
    if constexpr (MR > 2) across(pull_tile<T, Metric, 2>, 2);
    across(pull_tile<T, Metric, 1>, 1);
  }
}

// ---- Both sides at once: rows of x pass by, and what they add to y's, here with the other sign, stays in the first-level cache.

// Features from..to of rows m0..m1 of x, a few, and NR of y.
template <class T, template <class> class Metric, int NR>
__attribute__((noinline)) void pull_both_tile(const PullArgs<T>& g, int64_t m0, int64_t m1, int64_t n0, int64_t from, int64_t to) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const bool more = n0 > 0;
  const V factor = S::splat(n0 + NR < g.y_rows ? T(1) : Metric<T>::factor);
  // Copies, since the compiler must take a store to change anything it finds by a pointer.
  const int64_t rows = m1 - m0, x_row = g.x_row, y_row = g.y_row, out_row = g.out_row, back_row = g.out_y_row, weight_row = g.y_rows;
  const T *x = g.x + m0 * x_row + from, *y = g.y + n0 * y_row + from, *weight = g.weight + m0 * weight_row + n0;
  T *out = g.out + m0 * out_row + from, *back = g.out_y + n0 * back_row + from;
  auto step = [&](auto load, auto store) __attribute__((always_inline)) {
    V b[NR], sum_y[NR];
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) {
      b[j] = load(y + j * y_row);
      sum_y[j] = load(back + j * back_row);
      FASTMETA_PIN(b[j]);
    }
    const T *xi = x, *w = weight;
    T* to = out;
    for (int64_t i = rows; i > 0; i--, xi += x_row, w += weight_row, to += out_row) {
      V a = load(xi);
      FASTMETA_PIN(a);
      V sum = more ? load(to) : V{};
      __builtin_prefetch(to + rows * out_row, 1);  // the next rows: see distance_tiles.hpp
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        V v = S::splat(w[j]);
        FASTMETA_PIN(v);
        Metric<T>::both(v, a - b[j], sum, sum_y[j]);
      }
      store(to, sum * factor);
    }
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) store(back + j * back_row, sum_y[j]);
    x += L, y += L, out += L, back += L;
  };
  int64_t left = to - from;
  for (; left >= L; left -= L)
    step([](const T* p) __attribute__((always_inline)) { return S::load(p); }, [](T* p, V v) __attribute__((always_inline)) { S::store(p, v); });
  if (left > 0) {
    const auto mask = S::mask(int(left));
    step([&](const T* p) __attribute__((always_inline)) { return S::load(p, mask); },
         [&](T* p, V v) __attribute__((always_inline)) { S::store(p, v, mask); });
  }
}

template <class T, template <class> class Metric, int NR>
inline void pull_both_rows(const PullArgs<T>& g, int64_t m0, int64_t m1, int64_t n, int64_t count, int64_t from, int64_t to) {
  if (count == NR) pull_both_tile<T, Metric, NR>(g, m0, m1, n, from, to);
  else if constexpr (NR > 1) pull_both_rows<T, Metric, NR - 1>(g, m0, m1, n, count, from, to);
}

template <class T, template <class> class Metric>
void pull_both(const PullArgs<T>& g) {
  constexpr int64_t L = Simd<T>::lanes, NR = FASTMETA_LANES_BYTES == 64 ? 10 : 5, few = 16, cached = 24 << 10;
  const int64_t blocks = (g.y_rows + NR - 1) / NR, fit = cached / (2 * g.y_rows * int64_t(sizeof(T))) / L * L, width = fit < 8 * L ? 8 * L : fit;
  for (int64_t from = 0; from < g.features; from += width) {
    const int64_t to = from + width < g.features ? from + width : g.features;
    for (int64_t j = 0; j < g.y_rows; j++)
      for (int64_t k = from; k < to; k++) g.out_y[j * g.out_y_row + k] = 0;
    for (int64_t m = 0; m < g.x_rows; m += few)
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t n = g.y_rows * block / blocks, count = g.y_rows * (block + 1) / blocks - n;
        pull_both_rows<T, Metric, NR>(g, m, m + few < g.x_rows ? m + few : g.x_rows, n, count, from, to);
      }
    for (int64_t j = 0; j < g.y_rows; j++)
      for (int64_t k = from; k < to; k++) g.out_y[j * g.out_y_row + k] *= -Metric<T>::factor;
  }
}

constexpr void fill_pulls(Kernels& k) {
  k.pull_f32[kPullSquared] = {pull<float, PullSquared>, pull_both<float, PullSquared>};
  k.pull_f32[kPullAbsolute] = {pull<float, PullAbsolute>, pull_both<float, PullAbsolute>};
  k.pull_f64[kPullSquared] = {pull<double, PullSquared>, pull_both<double, PullSquared>};
  k.pull_f64[kPullAbsolute] = {pull<double, PullAbsolute>, pull_both<double, PullAbsolute>};
}
