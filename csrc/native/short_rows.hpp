// Distances between short rows: rows of x pass by packed rows of y.  Squares and cosines are first taken from the product x y;
// where what is left of the rows' lengths is so little that rounding shows, a distance is computed again, from differences.
//
// Included INSIDE the target's namespace, after packed_rows.hpp and vmath.hpp.
#pragma once

template <class T, template <class> class Metric>
struct ShortRows {
  using S = Simd<T>;
  using V = typename S::V;
  using P = Packed<T>;
  static constexpr int64_t L = S::lanes, most = 32;  // rows at a time, of x and of y
  static constexpr int64_t features = kShortRowBytes / sizeof(T);
  static constexpr bool absolute = Metric<T>::absolute, scaled = Metric<T>::scaled;

  const DistanceArgs<T>& g;
  int64_t m, rows, n, count;  // of x and y at hand
  const T* x;
  int64_t x_row;
  alignas(64) T y[most * features];          // packed; under kCosine directions
  alignas(64) T y_squares[most * P::piece];  // of each row of y, as often as a piece has elements
  alignas(64) T squares[most], scale[most];  // of rows of x: squared lengths, and what makes directions
  alignas(64) T directions[scaled ? most * features : 1];

  FASTMETA_INLINE explicit ShortRows(const DistanceArgs<T>& g) : g(g) {}

  FASTMETA_INLINE const T* row(int64_t i) const { return x + (i < rows ? i : rows - 1) * x_row; }

  void take_y(int64_t first, int64_t some) {
    n = first;
    count = some;
    P::pack(g.y + n * g.y_row, g.y_row, count, g.features, scaled ? g.y_norm + n : nullptr, y);
    if constexpr (!absolute && !scaled)
      for (int64_t j = 0; j < P::padded(count); j++)
        for (int64_t k = 0; k < P::piece; k++) y_squares[j * P::piece + k] = j < count ? g.y_norm[n + j] : T(0);
  }
  FASTMETA_INLINE void measure() {
    constexpr int R = P::rows;
    const int64_t whole = g.features / L * L;
    const auto mask = S::mask(int(g.features - whole));
    for (int64_t i = 0; i < rows; i += R) {
      V sum[R];
      const T* at[R];
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        sum[r] = V{};
        at[r] = row(i + r);
      }
      auto add = [&](auto load) __attribute__((always_inline)) {
        FASTMETA_UNROLL
        for (int r = 0; r < R; r++) {
          const V v = load(at[r]);
          sum[r] = S::fma(v, v, sum[r]);
        }
      };
      for (int64_t k = 0; k < whole; k += L) add([k](const T* p) __attribute__((always_inline)) { return S::load(p + k); });
      if (whole < g.features) add([&](const T* p) __attribute__((always_inline)) { return S::load(p + whole, mask); });
      store_lane_sums<T, R>(sum, squares + i);
    }
  }
  void take_x(int64_t first, int64_t some) {
    m = first;
    rows = some;
    x = g.x + m * g.x_row;
    x_row = g.x_row;
    if constexpr (!absolute) measure();
    if constexpr (scaled) {
      // Rows whose products could overflow or vanish become directions at once; the others' products are scaled.
      const int64_t padded = (rows + P::rows - 1) / P::rows * P::rows;
      T now[most];
      bool safe = true;
      for (int64_t i = 0; i < most; i += L) S::store(scale + i, S::splat(T(1)) / sqrt(S::load(squares + i)));
      for (int64_t i = 0; i < padded; i++) {
        now[i] = 1;
        if (safe_length(squares[i])) continue;
        scale[i] = 1;
        now[i] = inverse_length(row(i), g.features);
        safe = false;
      }
      if (safe) return;
      for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < g.features; k++) directions[i * g.features + k] = x[i * x_row + k] * now[i];
      x = directions;
      x_row = g.features;
    }
  }

  static FASTMETA_INLINE typename S::I sure(V d, V both) { return d >= both * S::splat(T(1) / 128); }
  // The squared lengths of both rows, of directions a half of it.
  FASTMETA_INLINE V both(int64_t i, int64_t j) const { return scaled ? S::splat(T(1)) : S::splat_16(squares + i) + S::load(y_squares + j * P::piece); }

  // sums[i / piece][j / each] of rows i.. of x and j.. of y.
  template <template <class> class Sum>
  FASTMETA_INLINE void pass(V (*sums)[most / P::each]) const {
    packed_rows<T, Sum>(x, x_row, rows, y, count, g.features, [sums](int64_t first) {
      return [sums, first](int64_t i, int v, V all) __attribute__((always_inline)) { sums[i / P::piece][first + v] = all; };
    });
  }
  void from_differences(V (*sums)[most / P::each]) {
    if constexpr (scaled) {
      for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < g.features; k++) directions[i * g.features + k] = x[i * x_row + k] * scale[i];
      x = directions;
      x_row = g.features;
    }
    V exact[most / P::piece][most / P::each];
    pass<SquaredDifference>(exact);
    for (int64_t i = 0; i < rows; i += P::piece)
      for (int64_t j = 0; j < count; j += P::each) {
        V& d = sums[i / P::piece][j / P::each];
        d = sure(d, both(i, j)) ? d : exact[i / P::piece][j / P::each] * S::splat(scaled ? T(0.5) : T(1));
      }
  }
  // To the array of results, T(r, c) the element of a vector for its row r of x and row c of y, `Run` of which lie side by side.
  FASTMETA_INLINE void put(const V (*sums)[most / P::each]) const {
    const int64_t out_x = g.out_x, out_y = g.out_y, rows = this->rows, count = this->count;
    T* const out = g.out + m * out_x + n * out_y;
    for (int64_t i = 0; i < rows; i += P::piece)
      for (int64_t j = 0; j < count; j += P::each) {
        const V all = sums[i / P::piece][j / P::each];
        T* const at = out + i * out_x + j * out_y;
        if (out_y == 1 && i + P::piece <= rows && j + P::each <= count) {
          const V turned = P::turned(all);
          FASTMETA_UNROLL
          for (int64_t r = 0; r < P::piece; r++) __builtin_memcpy(at + r * out_x, (const T*)&turned + r * P::each, P::each * sizeof(T));
          continue;
        }
        alignas(64) T some[L];
        S::store(some, all);
        for (int64_t c = 0; c < P::each && j + c < count; c++)
          for (int64_t r = 0; r < P::piece && i + r < rows; r++) at[r * out_x + c * out_y] = some[c * P::piece + r];
      }
  }
  void against() {
    V sums[most / P::piece][most / P::each];
    if constexpr (absolute) {
      pass<Metric>(sums);
    } else {
      pass<ProductOf>(sums);
      typename S::I all = ~typename S::I{};
      const int64_t rows = this->rows, count = this->count;
      for (int64_t i = 0; i < rows; i += P::piece) {
        const V factor = scaled ? -S::splat_16(scale + i) : S::splat(T(-2)), length = scaled ? V{} : S::splat_16(squares + i);
        for (int64_t j = 0; j < count; j += P::each) {
          V& d = sums[i / P::piece][j / P::each];
          const V both = scaled ? S::splat(T(1)) : length + S::load(y_squares + j * P::piece);
          d = S::fma(factor, d, both);
          all &= sure(d, both);
        }
      }
      if (any(~all)) from_differences(sums);
    }
    put(sums);
  }
  void run() {
    for (int64_t j = 0; j < g.y_rows; j += most) {
      take_y(j, j + most < g.y_rows ? most : g.y_rows - j);
      for (int64_t i = 0; i < g.x_rows; i += most) {
        take_x(i, i + most < g.x_rows ? most : g.x_rows - i);
        against();
      }
    }
  }
};

template <class T, template <class> class Metric>
void distances(const DistanceArgs<T>& g) {
  if (g.features <= ShortRows<T, Metric>::features) ShortRows<T, Metric>(g).run();
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
