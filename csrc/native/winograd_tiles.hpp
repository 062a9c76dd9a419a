// Winograd's transforms of tiles (WinogradArgs in kernels.hpp), each the same small linear map down and across.
//
// Included INSIDE the target's namespace, after kernels.hpp and simd.hpp (see there).
#pragma once

// In the notation of Lavin and Gray (2015): y = A'[(G g) * (B' d)].
template <int Side, int Map> struct WinogradLine;

// F(2, 3) with the points 0, 1, -1 and infinity.
template <> struct WinogradLine<2, kWinogradMap> {  // B'
  static constexpr int from = 4, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0] - x[2], y[1] = x[1] + x[2], y[2] = x[2] - x[1], y[3] = x[1] - x[3];
  }
};
template <> struct WinogradLine<2, kWinogradSum> {  // A'
  static constexpr int from = 4, to = 2;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
  }
};
template <> struct WinogradLine<2, kWinogradSpread> {  // A
  static constexpr int from = 2, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    y[0] = x[0], y[1] = x[0] + x[1], y[2] = x[0] - x[1], y[3] = -x[1];
  }
};
template <> struct WinogradLine<2, kWinogradWeights> {  // G
  static constexpr int from = 3, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    const V even = 0.5f * (x[0] + x[2]), odd = 0.5f * x[1];
    y[0] = x[0], y[1] = even + odd, y[2] = even - odd, y[3] = x[2];
  }
};
template <> struct WinogradLine<2, kWinogradTaps> {  // G'
  static constexpr int from = 4, to = 3;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    const V even = 0.5f * (x[1] + x[2]);
    y[0] = x[0] + even, y[1] = 0.5f * (x[1] - x[2]), y[2] = even + x[3];
  }
};

// F(4, 3) with the points 0, a, -a, b, -b and infinity. Rounding errors of 3/4 and 3/2 are smaller than those of the usual 1 and 2.
namespace winograd_points {
constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
constexpr float zero = 1 / (aa * bb), at_a = 1 / (2 * aa * (aa - bb)), at_b = 1 / (2 * bb * (bb - aa));  // of G's rows
}  // namespace winograd_points
template <> struct WinogradLine<4, kWinogradMap> {
  static constexpr int from = 6, to = 6;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    using namespace winograd_points;
    const V even_a = x[4] - bb * x[2], odd_a = a * (x[3] - bb * x[1]), even_b = x[4] - aa * x[2], odd_b = b * (x[3] - aa * x[1]);
    y[0] = aa * bb * x[0] - (aa + bb) * x[2] + x[4];
    y[1] = even_a + odd_a, y[2] = even_a - odd_a, y[3] = even_b + odd_b, y[4] = even_b - odd_b;
    y[5] = aa * bb * x[1] - (aa + bb) * x[3] + x[5];
  }
};
template <> struct WinogradLine<4, kWinogradSum> {
  static constexpr int from = 6, to = 4;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    using namespace winograd_points;
    const V even_a = x[1] + x[2], odd_a = x[1] - x[2], even_b = x[3] + x[4], odd_b = x[3] - x[4];
    y[0] = x[0] + even_a + even_b, y[1] = a * odd_a + b * odd_b, y[2] = aa * even_a + bb * even_b, y[3] = a * aa * odd_a + b * bb * odd_b + x[5];
  }
};
template <> struct WinogradLine<4, kWinogradSpread> {
  static constexpr int from = 4, to = 6;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    using namespace winograd_points;
    const V even_a = x[0] + aa * x[2], odd_a = a * x[1] + a * aa * x[3], even_b = x[0] + bb * x[2], odd_b = b * x[1] + b * bb * x[3];
    y[0] = x[0], y[1] = even_a + odd_a, y[2] = even_a - odd_a, y[3] = even_b + odd_b, y[4] = even_b - odd_b, y[5] = x[3];
  }
};
template <> struct WinogradLine<4, kWinogradWeights> {
  static constexpr int from = 3, to = 6;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    using namespace winograd_points;
    const V even_a = at_a * x[0] + at_a * aa * x[2], odd_a = at_a * a * x[1], even_b = at_b * x[0] + at_b * bb * x[2], odd_b = at_b * b * x[1];
    y[0] = zero * x[0], y[1] = even_a + odd_a, y[2] = even_a - odd_a, y[3] = even_b + odd_b, y[4] = even_b - odd_b, y[5] = x[2];
  }
};
template <> struct WinogradLine<4, kWinogradTaps> {
  static constexpr int from = 6, to = 3;
  template <class V> static FASTMETA_INLINE void apply(const V* x, V* y) {
    using namespace winograd_points;
    const V even_a = at_a * (x[1] + x[2]), odd_a = at_a * a * (x[1] - x[2]), even_b = at_b * (x[3] + x[4]), odd_b = at_b * b * (x[3] - x[4]);
    y[0] = zero * x[0] + even_a + even_b, y[1] = odd_a + odd_b, y[2] = aa * even_a + bb * even_b + x[5];
  }
};

// Channels c .. c + lanes of tile t, or those of the mask. Edge: some of its pixels are missing.
template <int Side, int Map, bool Edge, bool Masked>
FASTMETA_INLINE void winograd_vector(const WinogradArgs& g, int64_t t, int64_t c, const Simd<float>::Mask& mask) {
  using S = Simd<float>;
  using V = S::V;
  using Line = WinogradLine<Side, Map>;
  const float* const x = g.x + g.x_at[t] + c;
  const int64_t y_at = g.y_at[t] + c;
  const int rows = Side - (Edge ? g.missing[t] & 3 : 0), columns = Side - (Edge ? g.missing[t] >> 2 : 0);
  auto there = [&](int i, int j) __attribute__((always_inline)) { return !Edge || (i < rows && j < columns); };
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

template <int Side, int Map, bool Edge>
FASTMETA_INLINE void winograd_tile(const WinogradArgs& g, int64_t t) {
  constexpr int L = Simd<float>::lanes;
  const auto mask = Simd<float>::mask(int(g.channels % L));
  int64_t c = 0;
  for (; c + L <= g.channels; c += L) winograd_vector<Side, Map, Edge, false>(g, t, c, mask);
  if (c < g.channels) winograd_vector<Side, Map, Edge, true>(g, t, c, mask);
}

template <int Side, int Map>
void winograd(const WinogradArgs& g) {
  constexpr bool edges = Map == kWinogradSum || Map == kWinogradSpread;
  for (int64_t t = 0; t < g.tiles; t++) {
    if (edges && g.missing[t]) winograd_tile<Side, Map, edges>(g, t);
    else winograd_tile<Side, Map, false>(g, t);
  }
}

template <int Side>
constexpr void fill_winograd(void (*(&transform)[kWinogradTransforms])(const WinogradArgs&)) {
  transform[kWinogradMap] = winograd<Side, kWinogradMap>;
  transform[kWinogradSum] = winograd<Side, kWinogradSum>;
  transform[kWinogradSpread] = winograd<Side, kWinogradSpread>;
  transform[kWinogradWeights] = winograd<Side, kWinogradWeights>;
  transform[kWinogradTaps] = winograd<Side, kWinogradTaps>;
}

constexpr void fill_winograd(Kernels& k) {
  fill_winograd<2>(k.winograd2);
  fill_winograd<4>(k.winograd4);
}
