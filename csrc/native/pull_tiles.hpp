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
  static constexpr bool centred = false;
  static FASTMETA_INLINE V add(V weight, V d, V sum) { return S::fma(weight, d, sum); }
  static FASTMETA_INLINE void both(V weight, V x, V y, V& sum_x, V& sum_y) {
    const V d = x - y;
    sum_x = S::fma(weight, d, sum_x);
    sum_y = S::fma(weight, d, sum_y);
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
  static constexpr bool centred = false;
  static FASTMETA_INLINE V add(V weight, V d, V sum) { return sum + signed_weight(weight, d); }
  static FASTMETA_INLINE void both(V weight, V x, V y, V& sum_x, V& sum_y) {
    const V w = signed_weight(weight, x - y);
    sum_x += w;
    sum_y += w;
  }
};
template <class T>
struct PullCentred {  // each side the other's row: what is left of 2 (x - y) where a row's weights add up to 0, see proto_rows.hpp
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr T factor = 1;
  static constexpr bool centred = true;
  static FASTMETA_INLINE void both(V weight, V x, V y, V& sum_x, V& sum_y) {
    sum_x = S::fma(weight, y, sum_x);
    sum_y = S::fma(weight, x, sum_y);
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

// ---- Both sides at once: rows of x pass by, a few with all their weights in registers, and what they add to y's stays in the
// first-level cache.

template <class T>
struct PulledRows {
  const T *x, *centre, *y, *weight;  // centre: of rows of x, where the metric is centred
  int64_t x_row, y_row, weight_x, weight_y;
  T *out, *back;  // back: what rows of x add to rows of y, here with the other sign; it holds sums already
  int64_t out_row, back_row;
  int64_t x_rows, y_rows, features;
  bool streamed;  // out is larger than the caches keep
};
constexpr int64_t kPulledRows = 16, kPulledBytes = 16 << 10;  // rows of x at a time; of what they pass by at a time

// Features from..to of rows m..m_end of x, MR at a time, and NR of y, n their first; sums that later rows of y add to are kept.
template <class T, template <class> class Metric, int MR, int NR>
__attribute__((noinline)) void pull_both_tile(const PulledRows<T>& g, int64_t m, int64_t m_end, int64_t n, int64_t from, int64_t to, T* kept, int64_t kept_row) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const bool more = n > 0, last = n + NR == g.y_rows, streamed = last && g.streamed;
  const V factor = S::splat(last ? Metric<T>::factor : T(1));
  // Copies, since the compiler must take a store to change anything it finds by a pointer.
  const int64_t x_row = g.x_row, y_row = g.y_row, out_row = last ? g.out_row : kept_row, back_row = g.back_row;
  const T *x = g.x + m * x_row, *y = g.y + n * y_row, *centre = g.centre;
  T *out = last ? g.out + m * out_row : kept - from, *back = g.back + n * back_row;
  for (kept -= from; m < m_end; m += MR, x += MR * x_row, out += MR * out_row, kept += MR * kept_row) {
    V w[MR][NR];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) w[i][j] = S::splat(g.weight[(m + i) * g.weight_x + (n + j) * g.weight_y]);
    }
    auto step = [&](int64_t k, auto load, auto store, auto store_out) __attribute__((always_inline)) {
      V a[MR], sum[MR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        a[i] = load(x + i * x_row + k);
        if constexpr (Metric<T>::centred) a[i] -= load(centre + k);
        FASTMETA_PIN(a[i]);
        sum[i] = more ? load(kept + i * kept_row + k) : V{};
      }
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        V b = load(y + j * y_row + k), sum_y = load(back + j * back_row + k);
        FASTMETA_PIN(b);
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) Metric<T>::both(w[i][j], a[i], b, sum[i], sum_y);
        store(back + j * back_row + k, sum_y);
      }
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) store_out(out + i * out_row + k, sum[i] * factor);
    };
    auto load = [](const T* p) __attribute__((always_inline)) { return S::load(p); };
    auto store = [](T* p, V v) __attribute__((always_inline)) { S::store(p, v); };
    int64_t k = from;
    if (streamed)
      for (; k + L <= to; k += L) step(k, load, store, [](T* p, V v) __attribute__((always_inline)) { S::stream(p, v); });
    for (; k + L <= to; k += L) step(k, load, store, store);
    if (k < to) {
      const auto mask = S::mask(int(to - k));
      auto store_some = [&](T* p, V v) __attribute__((always_inline)) { S::store(p, v, mask); };
      step(k, [&](const T* p) __attribute__((always_inline)) { return S::load(p, mask); }, store_some, store_some);
    }
  }
}

template <class T, template <class> class Metric>
struct PullBothTiles {
  static constexpr int x_rows = FASTMETA_LANES_BYTES == 64 ? 4 : 2, y_rows = 5;
  void (*of[2][y_rows])(const PulledRows<T>&, int64_t, int64_t, int64_t, int64_t, int64_t, T*, int64_t);  // of one row of x, or x_rows; by rows of y, less 1
  template <int N = 1>
  constexpr void fill() {
    of[0][N - 1] = pull_both_tile<T, Metric, 1, N>;
    of[1][N - 1] = pull_both_tile<T, Metric, x_rows, N>;
    if constexpr (N < y_rows) fill<N + 1>();
  }
};
template <class T, template <class> class Metric>
static constexpr PullBothTiles<T, Metric> kPullBothTiles = [] {
  PullBothTiles<T, Metric> tiles{};
  tiles.fill();
  return tiles;
}();

template <class T, template <class> class Metric>
void pull_both_rows(PulledRows<T> g) {
  using Tiles = PullBothTiles<T, Metric>;
  constexpr int64_t L = Simd<T>::lanes, least = 8 * L, line = Simd<T>::bytes;
  const int64_t fit = kPulledBytes / (2 * g.y_rows * int64_t(sizeof(T))), piece = equal_pieces<T>(g.features, fit < least ? least : fit);
  const int64_t blocks = (g.y_rows + Tiles::y_rows - 1) / Tiles::y_rows;  // of nearly the same size
  alignas(64) T kept[kPulledRows * (kPulledBytes / (2 * Tiles::y_rows) / int64_t(sizeof(T)) + L)];  // used where there are several blocks
  g.streamed = g.streamed && (int64_t(g.out) | g.out_row * int64_t(sizeof(T))) % line == 0;
  for (int64_t from = 0; from < g.features; from += piece) {
    const int64_t to = from + piece < g.features ? from + piece : g.features;
    for (int64_t m = 0; m < g.x_rows; m += kPulledRows) {
      const int64_t end = m + kPulledRows < g.x_rows ? m + kPulledRows : g.x_rows, some = end - (end - m) % Tiles::x_rows;
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t n = g.y_rows * block / blocks, count = g.y_rows * (block + 1) / blocks - n;
        kPullBothTiles<T, Metric>.of[1][count - 1](g, m, some, n, from, to, kept, piece);
        kPullBothTiles<T, Metric>.of[0][count - 1](g, some, end, n, from, to, kept + (some - m) * piece, piece);
      }
    }
  }
  if (g.streamed) Simd<T>::end_streams();
}

template <class T, template <class> class Metric>
void pull_both(const PullArgs<T>& g) {
  auto rows_of_y = [&](auto f) __attribute__((always_inline)) {
    for (int64_t j = 0; j < g.y_rows; j++)
      for (int64_t k = 0; k < g.features; k++) f(g.out_y[j * g.out_y_row + k]);
  };
  rows_of_y([](T& y) __attribute__((always_inline)) { y = 0; });
  pull_both_rows<T, Metric>({g.x, nullptr, g.y, g.weight, g.x_row, g.y_row, g.weight_x, g.weight_y, g.out, g.out_y, g.out_row, g.out_y_row, g.x_rows, g.y_rows, g.features,
                             g.streamed});
  rows_of_y([](T& y) __attribute__((always_inline)) { y *= -Metric<T>::factor; });
}

constexpr void fill_pulls(Kernels& k) {
  k.pull_f32[kPullSquared] = {pull<float, PullSquared>, pull_both<float, PullSquared>};
  k.pull_f32[kPullAbsolute] = {pull<float, PullAbsolute>, pull_both<float, PullAbsolute>};
  k.pull_f64[kPullSquared] = {pull<double, PullSquared>, pull_both<double, PullSquared>};
  k.pull_f64[kPullAbsolute] = {pull<double, PullAbsolute>, pull_both<double, PullAbsolute>};
}
