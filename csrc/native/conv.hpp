// Sums over windows (ConvArgs in kernels.hpp): one register tile serves convolutions and both their transposes.
//
// Included INSIDE the target's namespace, after kernels.hpp and simd.hpp (see there). Every element is one chain of FMAs,
// sources in order, elements in order: its bits do not depend on the tile that computes it.
#pragma once

// Rows of a tile by its vectors: what fills the registers, and enough chains to hide the latency of an FMA.
template <class T>
struct ConvTiles {
  static constexpr int most_vectors = FASTMETA_LANES_BYTES == 64 ? 4 : 2;
  static constexpr int most_rows = FASTMETA_LANES_BYTES == 64 ? 12 : 10;
  static constexpr int rows(int nv) { return FASTMETA_LANES_BYTES == 64 ? (nv <= 2 ? 12 : nv == 3 ? 8 : 6) : (nv == 1 ? 10 : 6); }
  using Fn = void (*)(const ConvArgs<T>&, int64_t m, int64_t n0, int tail);
};

// Single: each source is one element, so the loop over sources has no other within.
// Rows m .. m + MR, columns n0 .. n0 + (NV - 1) * lanes + tail.
template <class T, int MR, int NV, bool Masked, bool Single>
__attribute__((noinline)) void conv_tile(const ConvArgs<T>& g, int64_t m, int64_t n0, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int L = S::lanes;
  const auto mask = S::mask(tail);
  auto load = [&](const T* p, int j) __attribute__((always_inline)) {
    return Masked && j == NV - 1 ? S::load(p + j * L, mask) : S::load(p + j * L);
  };
  V acc[MR][NV];
  const T* x[MR];
  FASTMETA_UNROLL
  for (int i = 0; i < MR; i++) {
    x[i] = g.x + g.x_at[m + i];
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) acc[i][j] = V{};
  }
  if (g.start) {
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = load(g.start + g.y_at[m + i] + n0, j);
    }
  }
  const int64_t elements = Single ? 1 : g.elements, x_step = g.x_step, b_step = g.b_step;
  for (const ConvSource<T>*source = g.sources, *end = source + g.n_sources; source < end; source++) {
    int64_t at = source->x;
    const T* b = source->b + n0;
    FASTMETA_HIDE(b);  // else each of its vectors gets an address register of its own
    FASTMETA_UNROLL_4
    for (int64_t k = elements; k > 0; k--, at += x_step, b += b_step) {
      V w[NV];
      FASTMETA_UNROLL
      for (int j = 0; j < NV; j++) {
        w[j] = load(b, j);
        FASTMETA_PIN(w[j]);
      }
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) {
        V v = S::splat(x[i][at]);
        FASTMETA_PIN(v);
        FASTMETA_UNROLL
        for (int j = 0; j < NV; j++) acc[i][j] = S::fma(v, w[j], acc[i][j]);
      }
    }
  }
  FASTMETA_UNROLL
  for (int i = 0; i < MR; i++) {
    T* y = g.y + g.y_at[m + i] + n0;
    FASTMETA_UNROLL
    for (int j = 0; j < NV; j++) {
      if (Masked && j == NV - 1) S::store(y + j * L, acc[i][j], mask);
      else S::store(y + j * L, acc[i][j]);
    }
  }
}

// Loads with a mask cost nothing more with AVX-512: there all tiles are masked, and half as many.
constexpr bool kAlwaysMasked = FASTMETA_LANES_BYTES == 64;

// The tiles, [single][masked][vectors][rows]; nullptr where the registers end.
template <class T>
struct ConvTable {
  using Tiles = ConvTiles<T>;
  typename Tiles::Fn fn[2][2][Tiles::most_vectors + 1][Tiles::most_rows + 1] = {};

  constexpr ConvTable() { add_vectors<Tiles::most_vectors>(); }
  template <int NV>
  constexpr void add_vectors() {
    add_rows<NV, Tiles::rows(NV)>();
    if constexpr (NV > 1) add_vectors<NV - 1>();
  }
  template <int NV, int MR>
  constexpr void add_rows() {
    fn[0][0][NV][MR] = conv_tile<T, MR, NV, kAlwaysMasked, false>;
    fn[0][1][NV][MR] = conv_tile<T, MR, NV, true, false>;
    fn[1][0][NV][MR] = conv_tile<T, MR, NV, kAlwaysMasked, true>;
    fn[1][1][NV][MR] = conv_tile<T, MR, NV, true, true>;
    if constexpr (MR > 1) add_rows<NV, MR - 1>();
  }
};
template <class T>
constexpr ConvTable<T> conv_table{};

// Panels of columns, and in each tiles whose rows differ by one at most: none is left with few chains.
template <class T>
inline void conv(const ConvArgs<T>& g) {
  constexpr int L = Simd<T>::lanes, most = ConvTiles<T>::most_vectors;
  int64_t vectors = (g.n + L - 1) / L;
  for (int64_t n0 = 0; vectors > 0;) {
    const int nv = int(vectors < most ? vectors : most);
    vectors -= nv;
    const int tail = vectors > 0 ? L : int(g.n - n0) - (nv - 1) * L;
    const int64_t most_rows = ConvTiles<T>::rows(nv), tiles = (g.m + most_rows - 1) / most_rows;
    const int64_t low = tiles ? g.m / tiles : 0, tall = g.m - low * tiles;
    const auto& fn = conv_table<T>.fn[g.elements == 1][tail < L][nv];
    for (int64_t tile = 0, m = 0; tile < tiles; tile++) {
      const int64_t rows = low + (tile < tall);
      fn[rows](g, m, n0, tail);
      m += rows;
    }
    n0 += nv * L;
  }
}
