// Distances between short rows by packed rows of y; as by panels, from differences where products leave too little.
//
// Included INSIDE the target's namespace, after packed_rows.hpp and distance_panels.hpp.
#pragma once

// Of vectors that hold four rows of y by four of x.
template <class T, template <class> class Metric>
struct PackedDistances {
  using S = Simd<T>;
  using V = typename S::V;
  using P = Packed<T>;
  static_assert(P::part == 4 && P::parts == 4);
  static constexpr int64_t L = S::lanes, most = 32;  // rows of x at a time
  static constexpr int64_t features = kShortRowBytes / sizeof(T);
  static constexpr bool absolute = Metric<T>::absolute, scaled = Metric<T>::scaled;

  const DistanceArgs<T>& g;
  const T* const lengths;  // of rows of y, squared, each as often as a part has elements
  const T* const packed;   // rows of y; under kCosine directions
  int64_t m, rows;         // of x at hand
  const T* x;
  int64_t x_row;
  alignas(64) T squares[most], scale[most];  // squared lengths, and what makes directions
  alignas(64) T directions[scaled ? most * features : 1];

  FASTMETA_INLINE explicit PackedDistances(const DistanceArgs<T>& g)
      : g(g), lengths(g.prepared + lines(g.y_rows, sizeof(T))), packed(lengths + lines((g.y_rows + 3) * P::part, sizeof(T))) {}

  static int64_t scratch(const DistanceArgs<T>& g) {
    return lines(g.y_rows, sizeof(T)) + lines((g.y_rows + 3) * P::part, sizeof(T)) + packed_size(g.y_rows, g.features, sizeof(T));
  }
  // After each row's length, or its inverse, is there.
  static void prepare(const DistanceArgs<T>& g) {
    const PackedDistances self(g);
    T* const lengths = const_cast<T*>(self.lengths);
    if constexpr (!absolute && !scaled)
      for (int64_t j = 0; j < g.y_rows + 3; j++) {
        const T square = j < g.y_rows ? g.prepared[j] : T(__builtin_inff());  // no row: never near
        for (int64_t k = 0; k < P::part; k++) lengths[j * P::part + k] = square;
      }
    P::pack(g.y, g.y_row, g.y_rows, g.features, scaled ? g.prepared : nullptr, const_cast<T*>(self.packed));
  }

  FASTMETA_INLINE const T* row(int64_t i) const { return x + (i < rows ? i : rows - 1) * x_row; }

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
  }
  // What products of rows of x are to be completed with.  False if x is rows of directions from now on, since products could
  // overflow or vanish: those of such rows at once, the others' products are scaled.
  bool take_lengths() {
    measure();
    if constexpr (scaled) {
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
      if (!safe) {
        scale_rows(now, directions);
        x = directions;
        x_row = g.features;
        return false;
      }
    }
    return true;
  }
  FASTMETA_INLINE void scale_rows(const T* by, T* to) const {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t k = 0; k < g.features; k++) to[i * g.features + k] = x[i * x_row + k] * by[i];
  }

  // The squared lengths of both rows, of directions a half of it.
  FASTMETA_INLINE V both(int64_t i, int64_t j) const { return scaled ? S::splat(T(1)) : S::template splat_bytes<16>(squares + i) + S::load(lengths + j * P::part); }

  using Sums = V[most / P::part][P::most];  // [i / part][v]: of rows i.. of x from vector v of a tile
  template <template <class> class Sum>
  FASTMETA_INLINE void pass(const T* x, int64_t x_row, const PackedTile& tile, Sums& sums) const {
    pass_by<T, Sum>(x, x_row, rows, packed, tile, g.features, [to = &sums](int64_t i, int v, V all) __attribute__((always_inline)) { (*to)[i / P::part][v] = all; });
  }
  __attribute__((noinline)) void from_differences(const PackedTile& tile, Sums& sums) const {
    alignas(64) T scaled_x[scaled ? most * features : 1];
    if constexpr (scaled) scale_rows(scale, scaled_x);
    Sums exact;
    pass<SquaredDifference>(scaled ? scaled_x : x, scaled ? g.features : x_row, tile, exact);
    for (int64_t i = 0; i < rows; i += P::part)
      for (int64_t v = 0; v < tile.vectors; v++) {
        const V d = sums[i / P::part][v];
        sums[i / P::part][v] = sure(d, both(i, tile.row + v * P::parts)) ? d : exact[i / P::part][v] * S::splat(scaled ? T(0.5) : T(1));
      }
  }
  // A vector by rows of y, and of x in each, by rows of x; or four of them.
  template <int... I>
  static FASTMETA_INLINE V turned(V v, Lanes<I...>) {
    return __builtin_shufflevector(v, v, (I % 4 * 4 + I / 4)...);
  }
  template <int Row, int... I>
  static FASTMETA_INLINE V two_rows(V a, V b, Lanes<I...>) {  // Row of both, and the next
    return __builtin_shufflevector(a, b, (I % 4 * 4 + Row + I / 8 + I / 4 % 2 * L)...);
  }
  template <int Half, int... I>
  static FASTMETA_INLINE V halves(V a, V b, Lanes<I...>) {
    return __builtin_shufflevector(a, b, (I % 8 + Half * 8 + I / 8 * L)...);
  }
  static FASTMETA_INLINE void turn(const V* v, V* row) {
    typename FirstLanes<L>::type all;
    for (int i = 0; i < 4; i += 2) {
      const V a = i ? two_rows<2>(v[0], v[1], all) : two_rows<0>(v[0], v[1], all), b = i ? two_rows<2>(v[2], v[3], all) : two_rows<0>(v[2], v[3], all);
      row[i] = halves<0>(a, b, all);
      row[i + 1] = halves<1>(a, b, all);
    }
  }
  FASTMETA_INLINE void put(const PackedTile& tile, const Sums& sums) const {
    const int64_t out_x = g.out_x, out_y = g.out_y, rows = this->rows;
    T* const out = g.out + m * out_x + tile.row * out_y;
    for (int64_t i = 0; i < rows; i += P::part) {
      const V* const of = sums[i / P::part];
      const bool whole = i + P::part <= rows;
      int64_t v = 0, j = 0;
      if (out_y == 1 && whole)
        for (; j + L <= tile.rows; v += 4, j += L) {
          V row[4];
          turn(of + v, row);
          FASTMETA_UNROLL
          for (int r = 0; r < 4; r++) S::store(out + (i + r) * out_x + j, row[r]);
        }
      for (; v < tile.vectors; v++, j += P::parts) {
        T* const to = out + i * out_x + j * out_y;
        if (whole && j + P::parts <= tile.rows && out_y == 1) {
          P::put(turned(of[v], typename FirstLanes<L>::type{}), to, out_x);
        } else if (whole && j + P::parts <= tile.rows && out_x == 1) {
          P::put(of[v], to, out_y);
        } else {
          alignas(64) T some[L];
          S::store(some, of[v]);
          for (int64_t c = 0; c < P::parts && j + c < tile.rows; c++)
            for (int64_t r = 0; r < P::part && i + r < rows; r++) to[r * out_x + c * out_y] = some[c * P::part + r];
        }
      }
    }
  }
  void against(const PackedTile& tile) {
    Sums sums;
    if constexpr (absolute) {
      pass<Metric>(x, x_row, tile, sums);
    } else {
      pass<ProductOf>(x, x_row, tile, sums);
      if (tile.at == 0 && !take_lengths()) pass<ProductOf>(x, x_row, tile, sums);  // after the products: then rows are in the first-level cache
      typename S::I all = ~typename S::I{};
      const T* const lengths = this->lengths + tile.row * P::part;
      for (int64_t i = 0; i < rows; i += P::part) {
        const V factor = scaled ? -S::template splat_bytes<16>(scale + i) : S::splat(T(-2)), length = scaled ? V{} : S::template splat_bytes<16>(squares + i);
        for (int64_t v = 0; v < tile.vectors; v++) {
          const V both = scaled ? S::splat(T(1)) : length + S::load(lengths + v * L), d = S::fma(factor, sums[i / P::part][v], both);
          sums[i / P::part][v] = d;
          all &= sure(d, both);
        }
      }
      if (any(~all)) from_differences(tile, sums);
    }
    put(tile, sums);
  }
  void run() {
    for (int64_t i = 0; i < g.x_rows; i += most) {
      take_x(i, i + most < g.x_rows ? most : g.x_rows - i);
      P::tiles(g.y_rows, g.features, [this](const PackedTile& tile) { against(tile); });
    }
  }
};
