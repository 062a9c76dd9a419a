// The tiles of a product that is summed in chains: MR rows x NV vectors of C in registers.
//
// Included INSIDE the target's namespace, after kernels.hpp, simd.hpp and vmath.hpp.
#pragma once

// A row of NV vectors; of the last one `tail` elements, all of them if it is Whole.
template <class T, int NV, bool Whole>
struct TileRowOf {
  using S = Simd<T>;
  using V = typename S::V;
  const int tail;
  const typename S::Mask mask;
  FASTMETA_INLINE explicit TileRowOf(int tail) : tail(tail), mask(S::mask(tail)) {}
  FASTMETA_INLINE V load(const T* p, int j) const {
    if (Whole || j < NV - 1) return S::load(p + j * S::lanes);
    return S::load(p + j * S::lanes, mask);
  }
  FASTMETA_INLINE void store(T* p, int j, V v) const {
    if (Whole || j < NV - 1) S::store(p + j * S::lanes, v);
    else if (tail == S::lanes / 2) S::store_half(p + j * S::lanes, v);
    else S::store(p + j * S::lanes, v, mask);
  }
};

// A tile of CIN with unit stride along n.
template <class T>
__attribute__((noinline)) void gather_cin(const T* cin, int64_t cin_m, int64_t cin_n, int rows, int columns, T* dense, int width) {
  for (int i = 0; i < rows; i++)
    for (int n = 0; n < columns; n++) dense[i * width + n] = cin[i * cin_m + n * cin_n];
}

// C = after(alpha * acc + CIN) at (m0, n0).
template <class T, int MR, int NV, bool Whole>
FASTMETA_INLINE void finish(const GemmArgs<T>& g, const GemmData<T>& d, typename Simd<T>::V (&acc)[MR][NV], int64_t m0, int64_t n0, int tail,
                            const TileRowOf<T, NV, Whole>& row) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int L = S::lanes;
  const V alpha = S::splat(g.alpha);
  if (MR == 1 && d.cin && g.cin_n == 0) {  // one number, as where a column is computed as a row
    const V cin = S::splat(d.cin[m0 * g.cin_m]);
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) acc[0][j] = S::fma(alpha, acc[0][j], cin);
  } else if (d.cin) {
    const T* cin = d.cin + m0 * g.cin_m + n0 * g.cin_n;
    int64_t cin_m = g.cin_m;
    T dense[MR * NV * L];
    if (g.cin_n != 1) {
      gather_cin(cin, cin_m, g.cin_n, MR, (NV - 1) * L + tail, dense, NV * L);
      cin = dense;
      cin_m = NV * L;
    }
    // All loads before the first store: CIN may be C, and a load beside a store that has just left waits for it.
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++, cin += cin_m) {
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = S::fma(alpha, acc[i][j], row.load(cin, j));
    }
  } else if (g.alpha != 1) {
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] *= alpha;
    }
  }
  if (g.after == After::kRelu) {
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = greater_of(V{}, acc[i][j]);
    }
  } else if (is_gate(g.after)) {
    const T* gate = d.gate + m0 * g.gate_m + n0;
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++, gate += g.gate_m) {
      if (g.after == After::kGate) {
        FASTMETA_UNROLL
        for (int j = 0; j < NV; j++) acc[i][j] = row.load(gate, j) > V{} ? acc[i][j] : V{};
      } else {
        FASTMETA_UNROLL
        for (int j = 0; j < NV; j++) {
          const V y = row.load(gate, j);
          acc[i][j] = y > V{} ? acc[i][j] : y == V{} ? acc[i][j] * S::splat(T(0.5)) : V{};
        }
      }
    }
  }
  const int64_t c_m = g.c_m;
  T* c = d.c + m0 * c_m + n0;
  FASTMETA_UNROLL
  for (int i = 0; i < MR; i++, c += c_m) {
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) row.store(c, j, acc[i][j]);
  }
}

// Rows m0 .. m1 (a multiple of MR of them), columns n0 .. n0 + (NV - 1) * lanes + tail.  B has unit stride along n.
template <class T, int MR, int NV, bool Whole>
__attribute__((noinline)) void chain(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  const TileRowOf<T, NV, Whole> row(tail);
  for (; m0 < m1; m0 += MR) {
    V acc[MR][NV];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = V{};
    }
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      const int64_t a_k = f.a_k, b_k = f.b_k, a_m = f.a_m;
      const T* b = d.factors[2 * p + 1] + n0;
      const T* a[MR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) a[i] = i ? a[i - 1] + a_m : d.factors[2 * p] + m0 * a_m;
      int64_t at = 0;
      FASTMETA_UNROLL_4
      for (int64_t k = f.k; k > 0; k--, at += a_k, b += b_k) {
        // The smaller side is held in registers, the other passes through one.
        if constexpr (MR >= NV) {
          V y[NV];
          FASTMETA_UNROLL
          for (int j = 0; j < NV; j++) {
            y[j] = row.load(b, j);
            FASTMETA_PIN(y[j]);
          }
          FASTMETA_UNROLL
          for (int i = 0; i < MR; i++) {
            V x = S::splat(a[i][at]);
            FASTMETA_PIN(x);
            FASTMETA_UNROLL
            for (int j = 0; j < NV; j++) acc[i][j] = S::fma(x, y[j], acc[i][j]);
          }
        } else {
          V x[MR];
          FASTMETA_UNROLL
          for (int i = 0; i < MR; i++) {
            x[i] = S::splat(a[i][at]);
            FASTMETA_PIN(x[i]);
          }
          FASTMETA_UNROLL
          for (int j = 0; j < NV; j++) {
            V y = row.load(b, j);
            FASTMETA_PIN(y);
            FASTMETA_UNROLL
            for (int i = 0; i < MR; i++) acc[i][j] = S::fma(x[i], y, acc[i][j]);
          }
        }
      }
    }
    finish(g, d, acc, m0, n0, tail, row);
  }
}

// Products of columns and rows: the K of all products together is Terms.  The rows of B stay in registers, the rows of C pass
// by, and every element is the chain that it is above.
template <class T, int Terms, int NV, bool Whole>
__attribute__((noinline)) void outer(const GemmArgs<T>& given, const GemmData<T>& data, int64_t m0, int64_t m1, int64_t n0, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  const GemmArgs<T> g = given;  // as far as the compiler knows, a store could change what is behind a reference
  const GemmData<T> d = data;
  const TileRowOf<T, NV, Whole> row(tail);
  const T *a[Terms], *b[Terms];
  int64_t a_m[Terms];
  int found = 0;
  for (int p = 0; p < g.n_products; p++) {
    const Product& f = g.products[p];
    for (int64_t k = 0; k < f.k; k++, found++) {
      a[found] = d.factors[2 * p] + m0 * f.a_m + k * f.a_k;
      b[found] = d.factors[2 * p + 1] + k * f.b_k + n0;
      a_m[found] = f.a_m;
    }
  }
  V y[Terms][NV];
  FASTMETA_UNROLL
  for (int t = 0; t < Terms; t++) {
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) {
      y[t][j] = row.load(b[t], j);
      FASTMETA_PIN(y[t][j]);
    }
  }
  for (; m0 < m1; m0++) {
    V acc[1][NV];
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) acc[0][j] = V{};
    FASTMETA_UNROLL
    for (int t = 0; t < Terms; t++, a[t - 1] += a_m[t - 1]) {
      V x = S::splat(*a[t]);
      FASTMETA_PIN(x);
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[0][j] = S::fma(x, y[t][j], acc[0][j]);
    }
    finish(g, d, acc, m0, n0, tail, row);
  }
}

// The last columns, where they fill half a vector at most: a vector holds them twice, for two k or for two rows.

template <class T, int... I>
FASTMETA_INLINE typename Simd<T>::V in_turns(typename Simd<T>::V x, typename Simd<T>::V y, Lanes<I...>) {
  return __builtin_shufflevector(x, y, (I / 2 + I % 2 * Simd<T>::lanes)...);
}
template <class T, int From, int... I>
FASTMETA_INLINE typename Simd<T>::V every_other(typename Simd<T>::V x, Lanes<I...>) {
  return __builtin_shufflevector(x, x, ((2 * I + From) % Simd<T>::lanes)...);
}

// A has unit stride along k: even and odd k in chains of their own, added at the end.
template <class T, int MR>
__attribute__((noinline)) void chain_of_two_k(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  using All = typename FirstLanes<S::lanes>::type;
  const TileRowOf<T, 1, false> row(tail);
  for (; m0 < m1; m0 += MR) {
    V acc[MR][1];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) acc[i][0] = V{};
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      const int64_t b_k = f.b_k, a_m = f.a_m, pairs = f.k / 2 * 2;
      const T* b = d.factors[2 * p + 1] + n0;
      const T* a[MR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) a[i] = i ? a[i - 1] + a_m : d.factors[2 * p] + m0 * a_m;
      FASTMETA_UNROLL_4
      for (int64_t k = 0; k < pairs; k += 2, b += 2 * b_k) {
        V y = in_turns<T>(row.load(b, 0), row.load(b + b_k, 0), All{});
        FASTMETA_PIN(y);
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) {
          V x = S::splat_pair(a[i] + k);
          FASTMETA_PIN(x);
          acc[i][0] = S::fma(x, y, acc[i][0]);
        }
      }
      if (pairs == f.k) continue;
      const V y = in_turns<T>(row.load(b, 0), V{}, All{});
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        const T last[2] = {a[i][pairs], 0};
        acc[i][0] = S::fma(S::splat_pair(last), y, acc[i][0]);
      }
    }
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      const V v = acc[i][0];
      acc[i][0] = every_other<T, 0>(v, All{}) + every_other<T, 1>(v, All{});
    }
    finish(g, d, acc, m0, n0, tail, row);
  }
}

// A has unit stride along m: rows m0 .. m1, a multiple of 2 * Pairs of them; the same chains as above.
template <class T, int Pairs>
__attribute__((noinline)) void chain_of_two_rows(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  using All = typename FirstLanes<S::lanes>::type;
  const TileRowOf<T, 1, false> row(tail);
  for (; m0 < m1; m0 += 2 * Pairs) {
    V acc[Pairs];
    FASTMETA_UNROLL
    for (int i = 0; i < Pairs; i++) acc[i] = V{};
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      const int64_t b_k = f.b_k, a_k = f.a_k;
      const T *a = d.factors[2 * p] + m0, *b = d.factors[2 * p + 1] + n0;
      FASTMETA_UNROLL_4
      for (int64_t k = f.k; k > 0; k--, a += a_k, b += b_k) {
        V y = row.load(b, 0);
        y = in_turns<T>(y, y, All{});
        FASTMETA_PIN(y);
        FASTMETA_UNROLL
        for (int i = 0; i < Pairs; i++) {
          V x = S::splat_pair(a + 2 * i);
          FASTMETA_PIN(x);
          acc[i] = S::fma(x, y, acc[i]);
        }
      }
    }
    V rows[2 * Pairs][1];
    FASTMETA_UNROLL
    for (int i = 0; i < Pairs; i++) {
      rows[2 * i][0] = every_other<T, 0>(acc[i], All{});
      rows[2 * i + 1][0] = every_other<T, 1>(acc[i], All{});
    }
    finish(g, d, rows, m0, n0, tail, row);
  }
}

template <class T>
using TileOfC = decltype(GemmTile<T>::run);

// The tiles there are: up to max_rows[NV] rows of NV vectors.  They fill the register file, but for one broadcast
// and the smaller side.
template <class T>
struct Tiles {
  static constexpr int max_nv = 6;
#if FASTMETA_LANES_BYTES == 64
  static constexpr int max_rows[max_nv + 1] = {0, 12, 12, 9, 6, 5, 4};
#else
  static constexpr int max_rows[max_nv + 1] = {0, 10, 6, 4, 3, 2, 2};
#endif
  // [whether the last vector is whole]...
  TileOfC<T> fn[2][max_nv + 1][13] = {};
  static constexpr int max_terms = 2;
  TileOfC<T> outer_fn[2][max_terms + 1][max_nv + 1] = {};
  static constexpr int max_two_k = 12, max_two_rows = 10;
  TileOfC<T> two_k[max_two_k + 1] = {}, two_rows[max_two_rows + 1] = {};

  constexpr Tiles() {
    fill<1, 1>();
    fill_outer<1, 1>();
    if constexpr (Simd<T>::has_splat_pair) fill_twos<1>();
  }

 private:
  template <int R>
  constexpr void fill_twos() {
    two_k[R] = chain_of_two_k<T, R>;
    if constexpr (R <= max_two_rows) two_rows[R] = chain_of_two_rows<T, R>;
    if constexpr (R < max_two_k) fill_twos<R + 1>();
  }
  template <int Terms, int NV>
  constexpr void fill_outer() {
    outer_fn[false][Terms][NV] = outer<T, Terms, NV, false>;
    outer_fn[true][Terms][NV] = outer<T, Terms, NV, true>;
    if constexpr (NV < max_nv) fill_outer<Terms, NV + 1>();
    else if constexpr (Terms < max_terms) fill_outer<Terms + 1, 1>();
  }
  template <int MR, int NV>
  constexpr void fill() {
    fn[false][NV][MR] = chain<T, MR, NV, false>;
    fn[true][NV][MR] = chain<T, MR, NV, true>;
    if constexpr (MR < max_rows[NV]) fill<MR + 1, NV>();
    else if constexpr (NV < max_nv) fill<1, NV + 1>();
  }
};
template <class T>
constexpr Tiles<T> tiles{};
