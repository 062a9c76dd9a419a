// The inverse of a symmetric positive definite matrix, where it stands: Gauss-Jordan elimination by blocks of rows.
//
// Included INSIDE the target's namespace, after weighted_rows.hpp.  Such matrices need no exchange of rows.  The rows of a
// block are eliminated by each other in a panel that stays in the first-level cache; all others then take in one go what
// they would have taken row by row, as products, which is nearly all of the work.  Pivot by pivot, not by the inverse of the
// block, which loses ten times as much where neighbours are alike, as the points of a Gaussian process are.
#pragma once

// row -= by * other, in whole vectors
template <class T>
FASTMETA_INLINE void subtract_row(T* row, T by, const T* other, int64_t width) {
  using S = Simd<T>;
  const auto factor = S::splat(-by);
  for (int64_t k = 0; k < width; k += S::lanes) S::store(row + k, S::fma(factor, S::load(other + k), S::load(row + k)));
}

template <class T>
void inverse_block(const InverseArgs<T>& g, int64_t from) {
  using S = Simd<T>;
  const int64_t n = g.n, width = lines(n, sizeof(T)), size = n - from < kInverseRows ? n - from : kInverseRows, after = from + size;
  // The block's rows; each as it was when it eliminated the others; by what it is taken off them, of all rows.
  T *const panel = g.scratch, *const pivots = panel + kInverseRows * width, *const weights = pivots + kInverseRows * width;
  const T* const least = g.least;
  T* const rows = g.matrix + from * g.row;
  for (int64_t p = 0; p < size; p++) {
    for (int64_t k = 0; k < n; k++) panel[p * width + k] = rows[p * g.row + k];
    for (int64_t k = n; k < width; k++) panel[p * width + k] = weights[p * width + k] = 0;
  }
  for (int64_t p = 0; p < size; p++) {
    T *const row = panel + p * width, *const pivot_row = pivots + p * width;
    const T found = row[from + p], pivot = found > least[from + p] ? found : T(__builtin_nan(""));
    const auto by = S::splat(pivot);
    g.pivots[from + p] = pivot;
    row[from + p] = 1;
    for (int64_t k = 0; k < width; k += S::lanes) {
      const auto v = S::load(row + k) / by;
      S::store(row + k, v);
      S::store(pivot_row + k, v);
    }
    for (int64_t r = 0; r < size; r++) {
      if (r == p) continue;
      const T other = panel[r * width + from + p];
      panel[r * width + from + p] = 0;
      subtract_row(panel + r * width, other, row, width);
    }
  }
  // In the block's columns the other rows change from pivot to pivot, which tells by what the next is taken off them.
  for (int64_t i = 0; i < n; i++) {
    T* const taken = g.matrix + i * g.row + from;
    for (int64_t p = 0; p < size; p++) {
      weights[p * width + i] = -taken[p];
      taken[p] = 0;
    }
  }
  for (int64_t p = 0; p < size; p++)
    for (int64_t q = p + 1; q < size; q++) {
      T* const ahead = pivots + p * width + from + q;
      subtract_row(weights + q * width, *ahead, weights + p * width, width);
      *ahead = 0;
    }
  auto take_off = [&](int64_t first, int64_t end) {
    T* const out = g.matrix + first * g.row;
    if (first < end) weighted_rows<T>(end - first, n, {weights + first, 1, width, pivots, width, size, out, g.row, {out, g.row}});
  };
  take_off(0, from);
  take_off(after, n);
  for (int64_t p = 0; p < size; p++)
    for (int64_t k = 0; k < n; k++) rows[p * g.row + k] = panel[p * width + k];
}

constexpr void fill_inverses(Kernels& k) {
  k.inverse_f32 = inverse_block<float>;
  k.inverse_f64 = inverse_block<double>;
}
