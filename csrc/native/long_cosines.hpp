// Cosines between long rows, from products: one operation for a pair's vector where differences of directions take three.  The
// latter give a distance where products leave so little of 1 that rounding shows, and where they could overflow or vanish.
//
// Included INSIDE the target's namespace, after distance_panels.hpp.
#pragma once

template <class T>
struct LongCosines {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes, most = 32;  // rows of x at a time
  static constexpr int NR = kLongRows;               // of y
  static constexpr int64_t fewest = 4;               // rows of y that products pay for
  static constexpr T few_digits = T(1) / 128;        // below it a distance has lost too many; sooner where many features have been added up

  const DistanceArgs<T>& g;
  DistanceArgs<T> h;  // the rows at hand
  alignas(64) T sums[most * (NR + 1) * L];
  alignas(64) T product[most * NR], exact[most * NR];  // [j, i]
  alignas(64) T squares[most], scale[most], factor[most];  // of x: squared lengths, and what makes directions; NaN where products are not to be trusted

  FASTMETA_INLINE explicit LongCosines(const DistanceArgs<T>& g) : g(g), h(g) {
    h.out_x = 1;
    h.out_y = most;
    h.squares = squares;
  }
  static FASTMETA_INLINE T trusted(T scale) { return safe_length(scale * scale) ? scale : T(__builtin_nan("")); }

  template <template <class> class Metric>
  FASTMETA_INLINE void pass(int64_t count, T* out) {
    const int64_t piece = long_piece<T>(g.features);
    h.out = out;
    for (int64_t k = 0; k < g.features; k += piece) distance_rows<T, Metric, NR>(h, scale, 0, count, k, k + piece < g.features ? k + piece : g.features, sums);
  }
  void take_scales() {
    for (int64_t i = 0; i < most; i++) {
      if (i < h.x_rows) scale[i] = safe_length(squares[i]) ? 1 / root(squares[i]) : inverse_length(h.x + i * h.x_row, g.features);
      factor[i] = i < h.x_rows ? trusted(scale[i]) : T(0);
    }
  }
  // The rows at hand against `count` rows of y from n on; first: scales are not there yet.
  void against(int64_t n, int64_t count, T* out, bool first) {
    h.y = g.y + n * g.y_row;
    h.prepared = g.prepared + n;
    if (first) {
      pass<ProductAndSquare>(count, product);
      take_scales();
    } else {
      pass<ProductOf>(count, product);
    }
    const V one = S::splat(T(1)), least = S::splat(few_digits < T(g.features) / (1 << 20) ? T(g.features) / (1 << 20) : few_digits);
    typename S::I all = ~typename S::I{};
    for (int64_t j = 0; j < count; j++) {
      const V by = S::splat(-trusted(h.prepared[j]));
      for (int64_t i = 0; i < most; i += L) {
        T* const at = product + j * most + i;
        const V d = S::fma(by * S::load(factor + i), S::load(at), one);
        all &= d >= least;
        S::store(at, d);
      }
    }
    if (any(~all)) {
      pass<DirectionDifference>(count, exact);
      for (int64_t i = 0; i < count * most; i += L) {
        const V d = S::load(product + i);
        S::store(product + i, d >= least ? d : S::load(exact + i));
      }
    }
    for (int64_t j = 0; j < count; j++)
      for (int64_t i = 0; i < h.x_rows; i++) out[i * g.out_x + (n + j) * g.out_y] = product[j * most + i];
  }
  void run() {
    for (int64_t m = 0; m < most * NR; m++) product[m] = 0;
    by_blocks<T>(g, most, NR, [this](int64_t m, int64_t rows, int64_t n, int64_t count, bool first) {
      h.x_rows = rows;
      h.x = g.x + m * g.x_row;
      against(n, count, g.out + m * g.out_x, first);
    });
  }
};
