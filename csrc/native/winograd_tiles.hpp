// Winograd's transforms of tiles (WinogradArgs in kernels.hpp), each the same small linear map down and across.
//
// Included INSIDE the target's namespace, after kernels.hpp and simd.hpp (see there).
#pragma once

// F(2, 3) with the points 0, 1, -1 and infinity, in the notation of Lavin and Gray (2015): y = A'[(G g) * (B' d)].
template <int Map> struct WinogradLine;
template <> struct WinogradLine<kWinogradMap> {  // B'
  static constexpr int from = 4, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0] - x[2], y[1] = x[1] + x[2], y[2] = x[2] - x[1], y[3] = x[1] - x[3];
  }
};
template <> struct WinogradLine<kWinogradSum> {  // A'
  static constexpr int from = 4, to = 2;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
  }
};
template <> struct WinogradLine<kWinogradSpread> {  // A
  static constexpr int from = 2, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0], y[1] = x[0] + x[1], y[2] = x[0] - x[1], y[3] = -x[1];
  }
};
template <> struct WinogradLine<kWinogradWeights> {  // G
  static constexpr int from = 3, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    const V even = 0.5f * (x[0] + x[2]), odd = 0.5f * x[1];
    y[0] = x[0], y[1] = even + odd, y[2] = even - odd, y[3] = x[2];
  }
};
template <> struct WinogradLine<kWinogradTaps> {  // G'
  static constexpr int from = 4, to = 3;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    const V even = 0.5f * (x[1] + x[2]);
    y[0] = x[0] + even, y[1] = 0.5f * (x[1] - x[2]), y[2] = even + x[3];
  }
};

// Channels c .. c + lanes of tile t, or those of the mask. Edge: some of its 2 x 2 pixels are missing.
template <int Map, bool Edge, bool Masked>
FASTMETA_INLINE void winograd_vector(const WinogradArgs& g, int64_t t, int64_t c, const Simd<float>::Mask& mask) {
  using S = Simd<float>;
  using V = S::V;
  using Line = WinogradLine<Map>;
  const float* const x = g.x + g.x_at[t] + c;
  const int64_t y_at = g.y_at[t] + c;
  auto there = [&](int i, int j) __attribute__((always_inline)) { return !Edge || (!(i && (g.missing[t] & 1)) && !(j && (g.missing[t] & 2))); };
  auto load = [&](const float* p) __attribute__((always_inline)) { return Masked ? S::load(p, mask) : S::load(p); };
  V down[Line::to][Line::from];
  FASTMETA_UNROLL
  for (int j = 0; j < Line::from; j++) {
    V from[Line::from], to[Line::to];
    FASTMETA_UNROLL
    for (int i = 0; i < Line::from; i++) from[i] = Map != kWinogradSpread || there(i, j) ? load(x + i * g.x_row + j * g.x_column) : V{};
    Line::apply(from, to);
    FASTMETA_UNROLL
    for (int i = 0; i < Line::to; i++) down[i][j] = to[i];
  }
  FASTMETA_UNROLL
  for (int i = 0; i < Line::to; i++) {
    V to[Line::to];
    Line::apply(down[i], to);
    FASTMETA_UNROLL
    for (int j = 0; j < Line::to; j++) {
      if (Map == kWinogradSum && !there(i, j)) continue;
      const int64_t at = y_at + i * g.y_row + j * g.y_column;
      if ((Map == kWinogradSum || Map == kWinogradTaps) && g.start) to[j] += load(g.start + at);
      if (Masked) S::store(g.y + at, to[j], mask);
      else S::store(g.y + at, to[j]);
    }
  }
}

template <int Map, bool Edge>
FASTMETA_INLINE void winograd_tile(const WinogradArgs& g, int64_t t) {
  constexpr int L = Simd<float>::lanes;
  const auto mask = Simd<float>::mask(int(g.channels % L));
  int64_t c = 0;
  for (; c + L <= g.channels; c += L) winograd_vector<Map, Edge, false>(g, t, c, mask);
  if (c < g.channels) winograd_vector<Map, Edge, true>(g, t, c, mask);
}

template <int Map>
void winograd(const WinogradArgs& g) {
  constexpr bool edges = Map == kWinogradSum || Map == kWinogradSpread;
  for (int64_t t = 0; t < g.tiles; t++) {
    if (edges && g.missing[t]) winograd_tile<Map, edges>(g, t);
    else winograd_tile<Map, false>(g, t);
  }
}

constexpr void fill_winograd(Kernels& k) {
  k.winograd[kWinogradMap] = winograd<kWinogradMap>;
  k.winograd[kWinogradSum] = winograd<kWinogradSum>;
  k.winograd[kWinogradSpread] = winograd<kWinogradSpread>;
  k.winograd[kWinogradWeights] = winograd<kWinogradWeights>;
  k.winograd[kWinogradTaps] = winograd<kWinogradTaps>;
}
