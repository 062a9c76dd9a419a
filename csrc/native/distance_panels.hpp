// Distances between short rows, whose lane sums would cost as much as their differences: a panel of two vectors of rows of x,
// transposed, that rows of y pass by.  Squares and cosines are first taken from the product x y; where what is left of the
// rows' lengths is so little that rounding shows, a distance is computed again, from differences.
//
// Included INSIDE the target's namespace, after distance_tiles.hpp and vmath.hpp.
#pragma once

template <class T>
struct Panel {
  static constexpr int64_t width = 2 * Simd<T>::lanes, features = kShortRowBytes / sizeof(T), rows = 32;  // of x; at most; of y at a time
};

// What passes each pair of a panel's vectors: `rows` rows of y.
template <class T, template <class> class Metric, int Rows>
__attribute__((noinline)) void panel_tile(const T* panel, const T* y, int64_t y_row, int64_t features, T* out, int64_t out_row) {
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
    S::store(out + j * out_row, acc[j][0]);
    S::store(out + j * out_row + L, acc[j][1]);
  }
}

template <class Metric> struct IsProduct { static constexpr bool yes = false; };
template <class T> struct IsProduct<ProductOf<T>> { static constexpr bool yes = true; };

template <class T, template <class> class Metric>
struct PanelTiles {
  // What fills the registers; without an FMA a product takes as many as a difference.
  static constexpr int some = FASTMETA_LANES_BYTES == 64 ? 8 : 4, most = FASTMETA_LANES_BYTES > 16 && IsProduct<Metric<T>>::yes ? some * 3 / 2 : some;
  void (*of[most])(const T*, const T*, int64_t, int64_t, T*, int64_t);  // by rows, less 1
  template <int R = 1>
  constexpr void fill() {
    of[R - 1] = panel_tile<T, Metric, R>;
    if constexpr (R < most) fill<R + 1>();
  }
};
template <class T, template <class> class Metric>
static constexpr PanelTiles<T, Metric> kPanelTiles = [] {
  PanelTiles<T, Metric> tiles{};
  tiles.fill();
  return tiles;
}();

// In tiles of nearly the same size.
template <class T, template <class> class Metric>
inline void panel_rows(const T* panel, const T* y, int64_t y_row, int64_t rows, int64_t features, T* out, int64_t out_row) {
  const int64_t most = PanelTiles<T, Metric>::most, tiles = (rows + most - 1) / most, size = rows / tiles, larger = rows % tiles;
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t n = size + (i < larger);
    kPanelTiles<T, Metric>.of[n - 1](panel, y, y_row, features, out, out_row);
    y += n * y_row;
    out += n * out_row;
  }
}

// Whether a distance from products has digits enough; both: the rows' squared lengths.
template <class V>
FASTMETA_INLINE auto sure(V d, V both) { return d >= both * splat<V>(1.0f / 128); }

template <class T, template <class> class Metric>
struct PanelDistances {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes, W = Panel<T>::width;
  static constexpr bool absolute = Metric<T>::absolute, scaled = Metric<T>::scaled;

  const DistanceArgs<T>& g;
  alignas(64) T x[Panel<T>::features * W];  // the panel
  alignas(64) T y[Panel<T>::rows * Panel<T>::features];  // directions
  alignas(64) T out[Panel<T>::rows * W], exact[Panel<T>::rows * W];
  alignas(64) T scale[W];  // what makes directions of the panel's rows
  alignas(64) T directions[scaled ? Panel<T>::features * W : 1];
  bool turned;             // the directions are there
  V length[2];             // squared; of directions a half of it

  FASTMETA_INLINE explicit PanelDistances(const DistanceArgs<T>& g) : g(g) {}

  FASTMETA_INLINE void take(int64_t m, int64_t rows) {
    if (rows < W)
      for (int64_t k = 0; k < g.features * W; k++) x[k] = 0;
    transpose(g.x + m * g.x_row, g.x_row, x, W, rows, g.features);
    if constexpr (!absolute) {
      V sum[4][2] = {};  // as many as hide the latency
      auto add = [&](int64_t k, int part) __attribute__((always_inline)) {
        FASTMETA_UNROLL
        for (int h = 0; h < 2; h++) sum[part][h] = S::fma(S::load(x + k * W + h * L), S::load(x + k * W + h * L), sum[part][h]);
      };
      int64_t k = 0;
      for (; k + 4 <= g.features; k += 4) {
        FASTMETA_UNROLL
        for (int part = 0; part < 4; part++) add(k + part, part);
      }
      for (; k < g.features; k++) add(k, 0);
      for (int h = 0; h < 2; h++) length[h] = (sum[0][h] + sum[1][h]) + (sum[2][h] + sum[3][h]);
    }
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
  FASTMETA_INLINE V both(int64_t j, int h) const { return length[h] + S::splat(scaled ? T(0.5) : g.prepared[j]); }

  // The panel against rows n .. n + count of y.
  FASTMETA_INLINE void against(int64_t n, int64_t count, bool new_y) {
    const T* rows = g.y + n * g.y_row;
    int64_t row = g.y_row;
    if constexpr (scaled) {
      if (new_y)
        for (int64_t j = 0; j < count; j++)
          for (int64_t k = 0; k < g.features; k++) y[j * g.features + k] = rows[j * row + k] * g.prepared[n + j];
      rows = y;
      row = g.features;
    }
    if constexpr (absolute) return panel_rows<T, Metric>(x, rows, row, count, g.features, out, W);
    panel_rows<T, ProductOf>(x, rows, row, count, g.features, out, W);
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
    panel_rows<T, SquaredDifference>(scaled ? directions : x, rows, row, count, g.features, exact, W);
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
