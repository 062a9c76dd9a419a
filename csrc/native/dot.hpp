// The tiles of a product whose factors both have unit stride along k: vectors along k.
//
// Included INSIDE the target's namespace, after kernels.hpp and simd.hpp.
#pragma once

// The lane sums of 16 / sizeof(T) vectors as one vector, always in the same order: within 16 bytes, then across.
template <class T, int... I>
FASTMETA_INLINE auto lane_sums(const typename Simd<T>::V* x, Lanes<I...>) {
  constexpr int L = Simd<T>::lanes;
  if constexpr (sizeof(T) == 4) {
    // p = [x0 x1 x0 x1] in every 16 bytes, each the sum of two lanes; q = [x2 x3 x2 x3]
    const auto p = __builtin_shufflevector(x[0], x[1], (I / 4 * 4 + I % 4 / 2 + I % 2 * L)...) +
                   __builtin_shufflevector(x[0], x[1], (I / 4 * 4 + I % 4 / 2 + I % 2 * L + 2)...);
    const auto q = __builtin_shufflevector(x[2], x[3], (I / 4 * 4 + I % 4 / 2 + I % 2 * L)...) +
                   __builtin_shufflevector(x[2], x[3], (I / 4 * 4 + I % 4 / 2 + I % 2 * L + 2)...);
    return Simd<T>::fold(__builtin_shufflevector(p, q, (I / 4 * 4 + I % 2 + I % 4 / 2 * L)...) +
                         __builtin_shufflevector(p, q, (I / 4 * 4 + I % 2 + I % 4 / 2 * L + 2)...));
  } else {
    return Simd<T>::fold(__builtin_shufflevector(x[0], x[1], (I / 2 * 2 + I % 2 * L)...) +
                         __builtin_shufflevector(x[0], x[1], (I / 2 * 2 + I % 2 * L + 1)...));
  }
}

// Of so many vectors that N are asked for, whole groups.
template <class T, int N>
constexpr int kLaneSums = (N + 16 / int(sizeof(T)) - 1) / (16 / int(sizeof(T))) * (16 / int(sizeof(T)));
template <class T, int N>
FASTMETA_INLINE void store_lane_sums(const typename Simd<T>::V* x, T* sum) {
  FASTMETA_UNROLL
  for (int j = 0; j < N; j += 16 / int(sizeof(T))) {
    const auto v = lane_sums<T>(x + j, typename FirstLanes<Simd<T>::lanes>::type{});
    __builtin_memcpy(sum + j, &v, sizeof v);
  }
}

// What becomes of element m, n of C.
template <class T>
FASTMETA_INLINE T after(const GemmArgs<T>& g, const GemmData<T>& d, T c, int64_t m, int64_t n) {
  if (g.after == After::kRelu) return c < 0 ? 0 : c;
  if (is_gate(g.after)) {
    const T gate = d.gate[m * g.gate_m + n * g.gate_n];
    return gate > 0 ? c : gate == 0 && g.after == After::kHalfGate ? c * T(0.5) : 0;
  }
  return c;
}

// A tile of MR x NR elements of C, or one row of at most kDotRow.  A and B have unit stride along k.
constexpr int kDotRow = 12;
template <class T, int MR, int NR>
__attribute__((noinline)) void dot(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int columns) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int L = S::lanes, padded = kLaneSums<T, NR>;
  const int64_t c_n = g.c_n;
  for (; m0 < m1; m0 += MR) {
    V acc[MR][padded];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < padded; j++) acc[i][j] = V{};
    }
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      const T *a[MR], *b[NR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) a[i] = d.factors[2 * p] + (m0 + i) * f.a_m;
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) b[j] = d.factors[2 * p + 1] + (n0 + (NR < kDotRow || j < columns ? j : 0)) * f.b_n;
      auto step = [&](auto load) __attribute__((always_inline)) {
        V x[MR];
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) {
          x[i] = load(a[i]);
          FASTMETA_PIN(x[i]);
        }
        FASTMETA_UNROLL
        for (int j = 0; j < NR; j++) {
          V y = load(b[j]);
          FASTMETA_PIN(y);
          FASTMETA_UNROLL
          for (int i = 0; i < MR; i++) acc[i][j] = S::fma(x[i], y, acc[i][j]);
        }
      };
      int64_t k = 0;
      for (; k + L <= f.k; k += L)
        step([k](const T* q) __attribute__((always_inline)) { return S::load(q + k); });
      if (k < f.k) {
        const auto mask = S::mask(int(f.k - k));
        step([k, &mask](const T* q) __attribute__((always_inline)) { return S::load(q + k, mask); });
      }
    }
    const int there = NR < kDotRow ? NR : columns;
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      T sum[padded];
      store_lane_sums<T, NR>(acc[i], sum);
      T* c = d.c + (m0 + i) * g.c_m + n0 * c_n;
      if (d.cin) {
        const T* cin = d.cin + (m0 + i) * g.cin_m + n0 * g.cin_n;
        for (int j = 0; j < there; j++) c[j * c_n] = after(g, d, S::fma_scalar(g.alpha, sum[j], cin[j * g.cin_n]), m0 + i, n0 + j);
      } else {
        for (int j = 0; j < there; j++) c[j * c_n] = after(g, d, g.alpha * sum[j], m0 + i, n0 + j);
      }
    }
  }
}

template <class T, int NR, class Call>
inline void dot_rows(int64_t m0, int64_t m1, int64_t n, Call call) {
  constexpr int MR = FASTMETA_LANES_BYTES == 64 ? 4 : 3;  // what fills the registers with NR = 4
  const int64_t m = m1 - (m1 - m0) % MR;
  if (m > m0) call(dot<T, MR, NR>, m0, m, n, NR);
  if (m1 - m == 3) call(dot<T, 3, NR>, m, m1, n, NR);
  else if (m1 - m == 2) call(dot<T, 2, NR>, m, m1, n, NR);
  else if (m1 - m == 1) call(dot<T, 1, NR>, m, m1, n, NR);
}

// Columns n .. n_end for the rows m0 .. m1.
template <class T, class Call>
inline void dot_columns(int64_t m0, int64_t m1, int64_t n, int64_t n_end, Call call) {
  if (m1 - m0 == 1)  // many at once, to cover the latency of an FMA
    for (; n_end - n > 4; n += kDotRow) {
      const int columns = n_end - n < kDotRow ? int(n_end - n) : kDotRow;
      call(dot<T, 1, kDotRow>, m0, m1, n, columns);
      if (columns < kDotRow) return;
    }
  for (; n + 4 <= n_end; n += 4) dot_rows<T, 4>(m0, m1, n, call);
  for (; n + 2 <= n_end; n += 2) dot_rows<T, 2>(m0, m1, n, call);
  if (n < n_end) dot_rows<T, 1>(m0, m1, n, call);
}
