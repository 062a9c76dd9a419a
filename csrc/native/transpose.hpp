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
  static constexpr int n = Bytes / int(sizeof(I)), each = 16 / int(sizeof(I));
  template <int From, int... L>
  static FASTMETA_INLINE V from(V a, V b, Lanes<L...>) {
    return __builtin_shufflevector(a, b, (L / each * each + From + L % each / 2 + L % 2 * n)...);
  }
  static FASTMETA_INLINE V first(V a, V b) { return from<0>(a, b, typename FirstLanes<n>::type{}); }
  static FASTMETA_INLINE V second(V a, V b) { return from<each / 2>(a, b, typename FirstLanes<n>::type{}); }
};

// 16 bytes of each of the rows p, p + apart, ..., as many as fill a vector.
template <int Bytes, class T>
FASTMETA_INLINE auto sixteen_of_each(const T* p, int64_t apart) {
  // Said outright: the compiler takes a shuffle, which only one port does, where these take any.
#if FASTMETA_LANES_BYTES >= 32
  auto row = [&](int i) __attribute__((always_inline)) { return _mm_loadu_si128((const __m128i*)(p + i * apart)); };
  if constexpr (Bytes == 32) return (typename Turns<int64_t, 32>::V)_mm256_inserti128_si256(_mm256_castsi128_si256(row(0)), row(1), 1);
#endif
#if FASTMETA_LANES_BYTES >= 64
  if constexpr (Bytes == 64) {
    __m512i v = _mm512_castsi128_si512(row(0));
    v = _mm512_mask_broadcast_i64x2(v, 0x0c, row(1));
    v = _mm512_mask_broadcast_i64x2(v, 0x30, row(2));
    v = _mm512_mask_broadcast_i64x2(v, 0xc0, row(3));
    return (typename Turns<int64_t, 64>::V)v;
  }
#endif
  if constexpr (Bytes == 16) {
    typename Turns<int64_t, 16>::V v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
}

// A block of 16 bytes of columns by `Bytes` bytes of rows.  Rows that are n apart (n of them fill 16 bytes) are loaded into
// one vector, so that no element has to cross its parts of 16 bytes afterwards.
template <class T, int Bytes>
FASTMETA_INLINE void transpose_block(const FourRows<const T>& s, int64_t apart, const FourRows<T>& d) {
  using Words = Turns<int32_t, Bytes>;
  using Longs = Turns<int64_t, Bytes>;
  using W = typename Words::V;
  using D = typename Longs::V;
  constexpr int n = 16 / sizeof(T);
  D p[n], t[n];
  FASTMETA_UNROLL
  for (int r = 0; r < n; r++) p[r] = sixteen_of_each<Bytes>(s[r], apart);
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
  const int64_t apart = C * src_row, step = R * src_row;
  for (int64_t r0 = 0; r0 < rows; r0 += band) {
    const int64_t r1 = r0 + band < rows ? r0 + band : rows;
    const int64_t whole = r1 - r0 < R ? 0 : (r1 - r0) / R;
    for (int64_t c = 0;; c = c + 2 * C <= cols ? c + C : cols - C) {
      s.p = src + r0 * src_row + c;
      d.p = dst + c * dst_col + r0;
      for (int64_t i = whole; i > 0; i--, s.p += step, d.p += R) transpose_block<T, Bytes>(s, apart, d);
      if (r0 + whole * R < r1) {
        s.p = src + (r1 - R) * src_row + c;
        d.p = dst + c * dst_col + r1 - R;
        transpose_block<T, Bytes>(s, apart, d);
      }
      if (c + C == cols) break;
    }
  }
}

#if FASTMETA_LANES_BYTES >= 64
// The same for small matrices of whole vectors of rows, whole lines of dst at a time.
template <class T>
__attribute__((noinline)) void transpose_by_lines(const T* src, int64_t src_row, T* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  constexpr int64_t R = 64 / sizeof(T), C = 16 / sizeof(T);
  FourRows<const T> s(src, src_row);
  FourRows<T> d(dst, dst_col);
  const int64_t apart = C * src_row, whole = cols / C;
  for (int64_t r = 0; r < rows; r += R) {
    s.p = src + r * src_row;
    d.p = dst + r;
    for (int64_t i = whole; i > 0; i--, s.p += C, d.p += C * dst_col) transpose_block<T, 64>(s, apart, d);
    if (whole * C < cols) {
      s.p = src + r * src_row + cols - C;
      d.p = dst + (cols - C) * dst_col + r;
      transpose_block<T, 64>(s, apart, d);
    }
  }
}
#endif

template <class T>
inline void transpose(const T* src, int64_t src_row, T* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  constexpr int64_t n = 16 / sizeof(T);
#if FASTMETA_LANES_BYTES >= 64
  constexpr int64_t line = 4 * n, small = 32768 / sizeof(T);
  if (cols >= n && rows % line == 0 && rows * cols <= small)
    return transpose_by_lines<T>(src, src_row, dst, dst_col, rows, cols);
#endif
#if FASTMETA_LANES_BYTES >= 32
  if (rows >= 2 * n && cols >= n) return transpose_by_blocks<T, 32>(src, src_row, dst, dst_col, rows, cols);
#endif
  if (rows >= n && cols >= n) return transpose_by_blocks<T, 16>(src, src_row, dst, dst_col, rows, cols);
  for (int64_t c = 0; c < cols; c++)
    for (int64_t r = 0; r < rows; r++) dst[c * dst_col + r] = src[r * src_row + c];
}
