// dst[c * dst_col + r] = src[r * src_row + c]
//
// Included INSIDE the target's namespace, after simd.hpp.
#pragma once

// The four rows from p on.  The compiler must not look into `third`: it would hold the address of every row of a block
// in a register of its own, and there are not so many.
template <class T>
struct FourRows {
  T* p;
  int64_t row, third;
  FASTMETA_INLINE FourRows(T* p, int64_t row) : p(p), row(row), third(3 * row) { FASTMETA_HIDE(third); }
  FASTMETA_INLINE T* operator[](int i) const { return i == 3 ? p + third : p + i * row; }
};

// In every 16 bytes, elements of a and b in turns: of their first halves or of their second.  Elements are integers,
// which x86 cores shuffle on more ports than floats.
template <class I, int Bytes>
struct Turns {
  typedef I V __attribute__((vector_size(Bytes)));
  static FASTMETA_INLINE V first(V a, V b) {
    if constexpr (sizeof(I) == 4 && Bytes == 16) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    else if constexpr (sizeof(I) == 4) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    else if constexpr (Bytes == 16) return __builtin_shufflevector(a, b, 0, 2);
    else return __builtin_shufflevector(a, b, 0, 4, 2, 6);
  }
  static FASTMETA_INLINE V second(V a, V b) {
    if constexpr (sizeof(I) == 4 && Bytes == 16) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    else if constexpr (sizeof(I) == 4) return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    else if constexpr (Bytes == 16) return __builtin_shufflevector(a, b, 1, 3);
    else return __builtin_shufflevector(a, b, 1, 5, 3, 7);
  }
};

// A block of 16 bytes of columns by 16 or 32 bytes of rows.  With 32, rows r and r + n are loaded as the halves of one
// vector (n of them fill 16 bytes), so that no element has to cross the halves afterwards.
template <class T, int Bytes>
FASTMETA_INLINE void transpose_block(const FourRows<const T>& s, int64_t half, const FourRows<T>& d) {
  using Words = Turns<int32_t, Bytes>;
  using Longs = Turns<int64_t, Bytes>;
  using W = typename Words::V;
  using D = typename Longs::V;
  constexpr int n = 16 / sizeof(T);
  D p[n], t[n];
  FASTMETA_UNROLL
  for (int r = 0; r < n; r++) {
#if FASTMETA_LANES_BYTES >= 32
    // Said outright: the compiler takes a shuffle, which only one port does, where this takes any.
    if constexpr (Bytes == 32)
      p[r] = (D)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)s[r])),
                                        _mm_loadu_si128((const __m128i*)(s[r] + half)), 1);
    else
#endif
      __builtin_memcpy(&p[r], s[r], 16);
  }
  if constexpr (n == 4) {
    const D a = (D)Words::first((W)p[0], (W)p[1]), b = (D)Words::second((W)p[0], (W)p[1]);
    const D e = (D)Words::first((W)p[2], (W)p[3]), f = (D)Words::second((W)p[2], (W)p[3]);
    t[0] = Longs::first(a, e);
    t[1] = Longs::second(a, e);
    t[2] = Longs::first(b, f);
    t[3] = Longs::second(b, f);
  } else {
    t[0] = Longs::first(p[0], p[1]);
    t[1] = Longs::second(p[0], p[1]);
  }
  FASTMETA_UNROLL
  for (int c = 0; c < n; c++) __builtin_memcpy(d[c], &t[c], sizeof t[c]);
}

// At least one block of rows and of columns.  The last block of a line ends with it and overlaps its neighbour.  Large
// matrices go in bands of rows that fill whole cache lines of dst.
template <class T, int Bytes>
__attribute__((noinline)) void transpose_by_blocks(const T* src, int64_t src_row, T* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  constexpr int64_t size = sizeof(T), R = Bytes / size, C = 16 / size;
  const int64_t band = rows * cols * size <= 16384 ? rows : 64 / size;
  FourRows<const T> s(src, src_row);
  FourRows<T> d(dst, dst_col);
  const int64_t half = R / 2 * src_row, step = R * src_row;
  for (int64_t r0 = 0; r0 < rows; r0 += band) {
    const int64_t r1 = r0 + band < rows ? r0 + band : rows;
    const int64_t whole = r1 - r0 < R ? 0 : (r1 - r0) / R;
    for (int64_t c = 0;; c = c + 2 * C <= cols ? c + C : cols - C) {
      s.p = src + r0 * src_row + c;
      d.p = dst + c * dst_col + r0;
      for (int64_t i = whole; i > 0; i--, s.p += step, d.p += R) transpose_block<T, Bytes>(s, half, d);
      if (r0 + whole * R < r1) {
        s.p = src + (r1 - R) * src_row + c;
        d.p = dst + c * dst_col + r1 - R;
        transpose_block<T, Bytes>(s, half, d);
      }
      if (c + C == cols) break;
    }
  }
}

template <class T>
inline void transpose(const T* src, int64_t src_row, T* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  constexpr int64_t n = 16 / sizeof(T);
#if FASTMETA_LANES_BYTES >= 32
  if (rows >= 2 * n && cols >= n) return transpose_by_blocks<T, 32>(src, src_row, dst, dst_col, rows, cols);
#endif
  if (rows >= n && cols >= n) return transpose_by_blocks<T, 16>(src, src_row, dst, dst_col, rows, cols);
  for (int64_t c = 0; c < cols; c++)
    for (int64_t r = 0; r < rows; r++) dst[c * dst_col + r] = src[r * src_row + c];
}
