// Convolution of each channel by a kernel of its own, and the gradient of such kernels.
//
// Included INSIDE the target's namespace, after simd.hpp.  Channels fill vectors; a pixel's neighbours are read as they are, once
// for each tap, and what a tap multiplies them with once for some pixels.
#pragma once

template <class T, int64_t kPixels, class... Mask>
FASTMETA_INLINE void depthwise_pixels(const DepthwiseArgs<T>& a, const T* x, const T* w, T* y, const Mask&... mask) {
  using S = Simd<T>;
  typename S::V sum[kPixels] = {};
  for (int64_t i = 0; i < a.rows; i++)
    for (int64_t j = 0; j < a.cols; j++) {
      const auto by = S::load(w + i * a.w_row + j * a.w_col, mask...);
      const T* const seen = x + i * a.x_row + j * a.x_col;
      FASTMETA_UNROLL
      for (int64_t p = 0; p < kPixels; p++) sum[p] = S::fma(S::load(seen + p * a.x_pixel, mask...), by, sum[p]);
    }
  FASTMETA_UNROLL
  for (int64_t p = 0; p < kPixels; p++) S::store(y + p * a.y_pixel, sum[p], mask...);
}

template <class T, class... Mask>
FASTMETA_INLINE void depthwise_channels(const DepthwiseArgs<T>& a, int64_t c, const Mask&... mask) {
  constexpr int64_t kMany = 8;
  int64_t p = 0;
  for (; p + kMany <= a.pixels; p += kMany) depthwise_pixels<T, kMany>(a, a.x + c + p * a.x_pixel, a.w + c, a.y + c + p * a.y_pixel, mask...);
  for (; p < a.pixels; p++) depthwise_pixels<T, 1>(a, a.x + c + p * a.x_pixel, a.w + c, a.y + c + p * a.y_pixel, mask...);
}

template <class T>
void depthwise(const DepthwiseArgs<T>& a) {
  constexpr int64_t L = Simd<T>::lanes;
  int64_t c = 0;
  for (; c + L <= a.channels; c += L) depthwise_channels(a, c);
  if (c < a.channels) depthwise_channels(a, c, Simd<T>::mask(int(a.channels - c)));
}

// Sums of a row of pixels first, by two chains, then of rows: long chains of additions lose digits.
template <class T, int64_t kCols, class... Mask>
FASTMETA_INLINE void depthwise_taps(const DepthwiseWeightArgs<T>& a, const T* x, const T* g, T* out, const Mask&... mask) {
  using S = Simd<T>;
  using V = typename S::V;
  V total[kCols] = {};
  for (int64_t n = 0; n < a.images; n++)
    for (int64_t r = 0; r < a.rows; r++) {
      const T *seen = x + n * a.x_image + r * a.x_row, *by = g + n * a.g_image + r * a.g_row;
      V even[kCols] = {}, odd[kCols] = {};
      int64_t p = 0;
      for (; p + 2 <= a.pixels; p += 2, seen += 2 * a.x_pixel, by += 2 * a.g_pixel) {
        const V first = S::load(by, mask...), second = S::load(by + a.g_pixel, mask...);
        FASTMETA_UNROLL
        for (int64_t j = 0; j < kCols; j++) {
          even[j] = S::fma(S::load(seen + j * a.x_col, mask...), first, even[j]);
          odd[j] = S::fma(S::load(seen + a.x_pixel + j * a.x_col, mask...), second, odd[j]);
        }
      }
      if (p < a.pixels) {
        const V last = S::load(by, mask...);
        FASTMETA_UNROLL
        for (int64_t j = 0; j < kCols; j++) even[j] = S::fma(S::load(seen + j * a.x_col, mask...), last, even[j]);
      }
      FASTMETA_UNROLL
      for (int64_t j = 0; j < kCols; j++) total[j] += even[j] + odd[j];
    }
  FASTMETA_UNROLL
  for (int64_t j = 0; j < kCols; j++) S::store(out + j * a.out_col, total[j], mask...);
}

template <class T, class... Mask>
FASTMETA_INLINE void depthwise_tap_row(const DepthwiseWeightArgs<T>& a, const Mask&... mask) {
  int64_t j = 0;
  for (; j + 4 <= a.cols; j += 4) depthwise_taps<T, 4>(a, a.x + j * a.x_col, a.g, a.out + j * a.out_col, mask...);
  const int64_t left = a.cols - j;
  const T* const x = a.x + j * a.x_col;
  T* const out = a.out + j * a.out_col;
  if (left == 3) depthwise_taps<T, 3>(a, x, a.g, out, mask...);
  else if (left == 2) depthwise_taps<T, 2>(a, x, a.g, out, mask...);
  else if (left == 1) depthwise_taps<T, 1>(a, x, a.g, out, mask...);
}

// Channels of one vector at most.
template <class T>
void depthwise_weight(const DepthwiseWeightArgs<T>& a) {
  if (a.channels == Simd<T>::lanes) depthwise_tap_row(a);
  else depthwise_tap_row(a, Simd<T>::mask(int(a.channels)));
}

constexpr void fill_depthwise(Kernels& k) {
  k.depthwise_f32 = depthwise<float>;
  k.depthwise_f64 = depthwise<double>;
  k.depthwise_weight_f32 = depthwise_weight<float>;
  k.depthwise_weight_f64 = depthwise_weight<double>;
}
