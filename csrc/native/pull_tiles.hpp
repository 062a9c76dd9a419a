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
  static constexpr bool centred = false;
  static FASTMETA_INLINE V signed_weight(V weight, V d) {
    const I sign = (I)S::splat(T(-0.0));
    return (V)(((I)weight ^ ((I)d & sign)) & (d != V{}));
  }
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

// ---- Both sides at once: a strip of a few rows of y, and what is added to them, stay in registers while rows of x pass by.

template <class T>
struct PassingRows {
  int64_t x_rows, y_rows, features;
  const T *x, *centre, *y, *weight;  // centre: of rows of x, where the metric is centred
  int64_t x_row, y_row, weight_x, weight_y;
  T *out, *back;
  int64_t out_row, back_row;
  bool fresh;     // back holds no sums yet
  T factor_back;  // of all sums of back
  bool streamed;  // out is larger than the caches keep, and on whole lines
};
constexpr int64_t kPassingRows = 32;  // at most: more are too many pages for some machines, and for streams
constexpr int kPassingVectors = FASTMETA_LANES_BYTES == 64 ? 2 : 64 / FASTMETA_LANES_BYTES;  // of a strip: a whole line, or streams would write parts of one
constexpr int kPassedRows = 5;  // of y at a time, at most

// NR rows of y from n on, and C vectors of features from k on, the last of `tail` elements.  Sums that later rows of y add to are
// kept.
template <class T, template <class> class Metric, int NR, int C>
__attribute__((noinline)) void pull_both_tile(const PassingRows<T>& g, int64_t n, int64_t k, int tail, T* kept) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  const auto last = S::mask(tail);
  const bool first = n == 0, end = n + NR == g.y_rows, fresh = g.fresh;
  // Copies, since the compiler must take a store to change anything it finds by a pointer.
  const int64_t x_row = g.x_row, weight_x = g.weight_x, weight_y = g.weight_y, out_row = end ? g.out_row : C * L;
  const T *x = g.x + k, *weight = g.weight + n * weight_y, *const centre = Metric<T>::centred ? g.centre + k : nullptr;
  T *out = end ? g.out + k : kept, *const back = g.back + n * g.back_row + k;
  const V factor = S::splat(end ? Metric<T>::factor : T(1)), factor_back = S::splat(g.factor_back);
  auto pass = [&](auto load, auto store, auto store_out) __attribute__((always_inline)) {
    V y[NR][C], sum_y[NR][C];
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) {
      FASTMETA_UNROLL
      for (int c = 0; c < C; c++) {
        y[j][c] = load(g.y + (n + j) * g.y_row + k, c);
        sum_y[j][c] = fresh ? V{} : load(back + j * g.back_row, c);
        FASTMETA_PIN(y[j][c]);
      }
    }
    for (int64_t m = g.x_rows; m > 0; m--, x += x_row, weight += weight_x, out += out_row, kept += C * L) {
      V a[C], sum[C];
      FASTMETA_UNROLL
      for (int c = 0; c < C; c++) {
        a[c] = load(x, c);
        if constexpr (Metric<T>::centred) a[c] -= S::load(centre + c * L);
        FASTMETA_PIN(a[c]);
        if (c * S::bytes % 64 == 0) __builtin_prefetch(x + (C + c) * L);  // what hardware foresees are longer pieces of rows
        sum[c] = first ? V{} : S::load(kept + c * L);
      }
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        V w = S::splat(weight[j * weight_y]);
        FASTMETA_PIN(w);
        FASTMETA_UNROLL
        for (int c = 0; c < C; c++) Metric<T>::both(w, a[c], y[j][c], sum[c], sum_y[j][c]);
      }
      FASTMETA_UNROLL
      for (int c = 0; c < C; c++) store_out(out, c, sum[c] * factor);
    }
    FASTMETA_UNROLL
    for (int j = 0; j < NR; j++) {
      FASTMETA_UNROLL
      for (int c = 0; c < C; c++) store(back + j * g.back_row, c, sum_y[j][c] * factor_back);
    }
  };
  auto load = [](const T* p, int c) __attribute__((always_inline)) { return S::load(p + c * L); };
  auto store = [](T* p, int c, V v) __attribute__((always_inline)) { S::store(p + c * L, v); };
  auto stream = [](T* p, int c, V v) __attribute__((always_inline)) { S::stream(p + c * L, v); };
  auto load_some = [&](const T* p, int c) __attribute__((always_inline)) { return c < C - 1 ? S::load(p + c * L) : S::load(p + c * L, last); };
  auto store_some = [&](T* p, int c, V v) __attribute__((always_inline)) { c < C - 1 ? S::store(p + c * L, v) : S::store(p + c * L, v, last); };
  if (tail < L) pass(load_some, store_some, store_some);
  else if (end && g.streamed) pass(load, store, stream);
  else pass(load, store, store);
}

template <class T, template <class> class Metric>
struct PullBothTiles {
  void (*of[kPassedRows][kPassingVectors])(const PassingRows<T>&, int64_t, int64_t, int, T*);  // by rows of y and vectors, less 1
  template <int N = 1, int C = 1>
  constexpr void fill() {
    of[N - 1][C - 1] = pull_both_tile<T, Metric, N, C>;
    if constexpr (C < kPassingVectors) fill<N, C + 1>();
    else if constexpr (N < kPassedRows) fill<N + 1, 1>();
  }
};
template <class T, template <class> class Metric>
static constexpr PullBothTiles<T, Metric> kPullBothTiles = [] {
  PullBothTiles<T, Metric> tiles{};
  tiles.fill();
  return tiles;
}();

template <class T, template <class> class Metric>
inline void pull_both_rows(const PassingRows<T>& g) {
  constexpr int64_t L = Simd<T>::lanes, width = kPassingVectors * L;
  const int64_t blocks = (g.y_rows + kPassedRows - 1) / kPassedRows;  // of nearly the same size
  alignas(64) T kept[kPassingRows * width];
  for (int64_t k = 0; k < g.features; k += width) {
    const int64_t left = k + width < g.features ? width : g.features - k, vectors = (left + L - 1) / L;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t n = g.y_rows * block / blocks, count = g.y_rows * (block + 1) / blocks - n;
      kPullBothTiles<T, Metric>.of[count - 1][vectors - 1](g, n, k, int(left - (vectors - 1) * L), kept);
    }
  }
}

template <class T, template <class> class Metric>
void pull_both(const PullArgs<T>& g) {
  const bool streamed = g.streamed && Simd<T>::on_lines(g.out, g.out_row);
  for (int64_t m = 0; m < g.x_rows; m += kPassingRows) {
    const int64_t rows = m + kPassingRows < g.x_rows ? kPassingRows : g.x_rows - m;
    const bool last = m + rows == g.x_rows;
    pull_both_rows<T, Metric>({rows, g.y_rows, g.features, g.x + m * g.x_row, nullptr, g.y, g.weight + m * g.weight_x, g.x_row, g.y_row, g.weight_x, g.weight_y,
                               g.out + m * g.out_row, g.out_y, g.out_row, g.out_y_row, m == 0, last ? -Metric<T>::factor : T(1), streamed});
  }
  if (streamed) Simd<T>::end_streams();
}

constexpr void fill_pulls(Kernels& k) {
  k.pull_f32[kPullSquared] = {pull<float, PullSquared>, pull_both<float, PullSquared>};
  k.pull_f32[kPullAbsolute] = {pull<float, PullAbsolute>, pull_both<float, PullAbsolute>};
  k.pull_f64[kPullSquared] = {pull<double, PullSquared>, pull_both<double, PullSquared>};
  k.pull_f64[kPullAbsolute] = {pull<double, PullAbsolute>, pull_both<double, PullAbsolute>};
}
