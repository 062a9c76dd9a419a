// The derivatives of squared distances by products of matrices, of rows centred on the mean of y's:
//   of x_i  2 (sum_j w_ij) x_i - 2 sum_j w_ij y_j      of y_j  2 (sum_i w_ij) y_j - 2 sum_i w_ij x_i
// Two operations for each pair's vector, where differences take three; but a heavy pair of near rows, whose derivative is
// their small difference, keeps no more digits than the rows have.
//
// Included INSIDE the target's namespace, after gemm.hpp and weighted_rows.hpp.  Both sides are computed in one pass over x, a
// strip of features at a time.
#pragma once

template <class T>
void pull_by_products(const PullArgs<T>& g) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes, W = kStrip<T>, most_x = 48, most_y = 64;  // rows at a time
  alignas(64) T y[most_y * W];     // centred, times -2
  alignas(64) T back[most_y * W];  // what rows of x have added to y's
  alignas(64) T centre[W];
  for (int64_t k = 0; k < g.features; k += W) {
    const int64_t some = k + W < g.features ? W : g.features - k, vectors = (some + L - 1) / L, whole = (vectors - 1) * L;
    const auto last = S::mask(int(some - whole));
    for (int64_t c = 0; c <= whole; c += L) {
      V sum{};
      for (int64_t j = 0; j < g.y_rows; j++) sum += c < whole ? S::load(g.y + j * g.y_row + k + c) : S::load(g.y + j * g.y_row + k + c, last);
      S::store(centre + c, sum * S::splat(1 / T(g.y_rows)));
    }
    for (int64_t n0 = 0; n0 < g.y_rows; n0 += most_y) {
      const int64_t count = n0 + most_y < g.y_rows ? most_y : g.y_rows - n0;
      centred_rows(g.y + n0 * g.y_row + k, g.y_row, count, some, centre, T(-2), y, W);
      if (g.out_y)
        for (int64_t i = 0; i < count * W; i += L) S::store(back + i, V{});
      for (int64_t m0 = 0; m0 < g.x_rows; m0 += most_x) {
        const int64_t rows = m0 + most_x < g.x_rows ? most_x : g.x_rows - m0;
        const T *const x = g.x + m0 * g.x_row + k, *const weight = g.weight + m0 * g.weight_x + n0 * g.weight_y;
        T* out = g.out + m0 * g.out_row + k;
        const Start<T> start = n0 > 0 ? Start<T>{out, g.out_row} : Start<T>{x, g.x_row, g.x_sum + m0, centre};
        weighted_rows<T>(rows, some, {weight, g.weight_x, g.weight_y, y, W, count, out, g.out_row, start});
        if (g.out_y) weighted_rows<T>(count, some, {weight, g.weight_y, g.weight_x, x, g.x_row, rows, back, W, {back, W}, centre});
      }
      if (!g.out_y) continue;
      for (int64_t j = 0; j < count; j++) {
        T* out = g.out_y + (n0 + j) * g.out_y_row + k;
        const V sum = S::splat(g.y_sum[n0 + j] * T(-0.5)), factor = S::splat(T(-2));
        auto at = [&](int64_t c) __attribute__((always_inline)) { return S::fma(sum, S::load(y + j * W + c), S::load(back + j * W + c) * factor); };
        for (int64_t c = 0; c < whole; c += L) S::store(out + c, at(c));
        S::store(out + whole, at(whole), last);
      }
    }
  }
}

// Twice the sums of the rows and of the columns of weights.
template <class T>
void sum_weights(const T* weight, int64_t row, int64_t col, int64_t rows, int64_t cols, T* row_sum, T* col_sum) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes, G = 16 / sizeof(T);
  if (row == 1 && col != 1) return sum_weights(weight, col, row, cols, rows, col_sum, row_sum);
  if (col != 1) {
    for (int64_t j = 0; j < cols; j++) col_sum[j] = 0;
    for (int64_t i = 0; i < rows; i++) {
      row_sum[i] = 0;
      for (int64_t j = 0; j < cols; j++) {
        const T twice = 2 * weight[i * row + j * col];
        row_sum[i] += twice;
        col_sum[j] += twice;
      }
    }
    return;
  }
  for (int64_t k = 0; k < cols; k += L) {
    const auto mask = S::mask(cols - k < L ? int(cols - k) : int(L));
    V total{};
    for (int64_t i = 0; i < rows; i += G) {
      const int64_t some = rows - i < G ? rows - i : G;
      V v[G];
      FASTMETA_UNROLL
      for (int r = 0; r < G; r++) v[r] = r < some ? S::load(weight + (i + r) * row + k, mask) : V{};
      const auto sums = lane_sums<T>(v, typename FirstLanes<int(L)>::type{});
      for (int64_t r = 0; r < some; r++) row_sum[i + r] = (k > 0 ? row_sum[i + r] : 0) + 2 * sums[r];
      if constexpr (G == 4) total += (v[0] + v[1]) + (v[2] + v[3]);
      else total += v[0] + v[1];
    }
    S::store(col_sum + k, total + total, mask);
  }
}

constexpr void fill_pulls_by_products(Kernels& k) {
  k.pull_f32[kPullProducts] = {pull_by_products<float>, pull_by_products<float>};
  k.pull_f64[kPullProducts] = {pull_by_products<double>, pull_by_products<double>};
  k.sum_weights_f32 = sum_weights<float>;
  k.sum_weights_f64 = sum_weights<double>;
}
