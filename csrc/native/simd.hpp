// One vector type per element type, as wide as the target allows: 16 bytes (any machine), 32 (AVX2), 64 (AVX-512).
//
// Included INSIDE the target's namespace, after <cstdint> and, on x86, <immintrin.h> at file scope: every target has
// its own copy of these functions, and none of them is a library function that the linker could share between targets.
// Arithmetic is written with the compiler's vector operators: V + V, V * V, V < V (a vector of 0 / -1 integers, type
// I) and `i ? v : w`; only what these operators lack is here.
#pragma once

#ifndef FASTMETA_LANES_BYTES
#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define FASTMETA_LANES_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define FASTMETA_LANES_BYTES 32
#else
#define FASTMETA_LANES_BYTES 16
#endif
#endif

#define FASTMETA_INLINE inline __attribute__((always_inline))

// Loops over the rows and columns of a register tile must vanish: their arrays are registers.
#if defined(__clang__)
#define FASTMETA_UNROLL _Pragma("clang loop unroll(full)")
#define FASTMETA_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define FASTMETA_UNROLL _Pragma("GCC unroll 32")
#define FASTMETA_UNROLL_4 _Pragma("GCC unroll 4")
#endif

// Keeps a value in a register: g++ otherwise folds a vector's load back into each of its uses.
#if defined(__x86_64__) && !defined(__clang__)
#define FASTMETA_PIN(v) asm("" : "+v"(v))
#else
#define FASTMETA_PIN(v) (void)(v)
#endif

// Hides from the compiler where an integer or a pointer comes from.
#define FASTMETA_HIDE(i) asm("" : "+r"(i))

// Lanes<0, 1, ..., N - 1>
template <int... I> struct Lanes {};
template <int N, int... I> struct FirstLanes : FirstLanes<N - 1, N - 1, I...> {};
template <int... I> struct FirstLanes<0, I...> { using type = Lanes<I...>; };

template <int Bytes> struct IntegerOf;
template <> struct IntegerOf<4> { using type = int32_t; };
template <> struct IntegerOf<8> { using type = int64_t; };

// T is float, double, int32_t or int64_t.
template <class T>
struct Simd {
  static constexpr int bytes = FASTMETA_LANES_BYTES;
  static constexpr int lanes = bytes / int(sizeof(T));
  using Int = typename IntegerOf<sizeof(T)>::type;
  typedef T V __attribute__((vector_size(FASTMETA_LANES_BYTES)));    // the values
  typedef Int I __attribute__((vector_size(FASTMETA_LANES_BYTES)));  // what a comparison of two V gives

  static FASTMETA_INLINE V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static FASTMETA_INLINE void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
  // Past the caches, to addresses that are multiples of `bytes`; seen by other threads after end_streams() at the latest.
  static FASTMETA_INLINE void stream(T* p, V v) {
#if !defined(__x86_64__)
    store(p, v);
#elif FASTMETA_LANES_BYTES == 64
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif FASTMETA_LANES_BYTES == 32
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#else
    _mm_stream_si128((__m128i*)p, (__m128i)v);
#endif
  }
  static FASTMETA_INLINE void end_streams() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
  }
  // Whether rows begin on lines, and so can be streamed without writing parts of any.
  static FASTMETA_INLINE bool on_lines(const T* rows, int64_t row) { return (int64_t(rows) | row * int64_t(sizeof(T))) % 64 == 0; }
  static FASTMETA_INLINE V splat(T s) {
    if constexpr (lanes == 2) return V{s, s};
    else if constexpr (lanes == 4) return V{s, s, s, s};
    else if constexpr (lanes == 8) return V{s, s, s, s, s, s, s, s};
    else return V{s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
  }

  // p[0] and p[1] in turns, by a load and nothing else.
  static constexpr bool has_splat_pair = FASTMETA_LANES_BYTES == 64;
#if FASTMETA_LANES_BYTES == 64
  static FASTMETA_INLINE V splat_pair(const T* p) {
    if constexpr (sizeof(T) == 4) {
      double both;
      __builtin_memcpy(&both, p, sizeof both);
      return (V)_mm512_set1_pd(both);
    } else {
      return (V)_mm512_maskz_broadcast_f64x2(0xff, _mm_loadu_pd((const double*)p));
    }
  }
#endif

  // So many bytes from p on, again and again, by a load and nothing else.
  template <int Bytes>
  static FASTMETA_INLINE V splat_bytes(const T* p) {
#if FASTMETA_LANES_BYTES == 64
    if constexpr (Bytes == 16) return (V)_mm512_broadcast_f32x4(_mm_loadu_ps((const float*)p));
    if constexpr (Bytes == 32) return (V)_mm512_broadcast_f32x8(_mm256_loadu_ps((const float*)p));
#elif FASTMETA_LANES_BYTES == 32
    if constexpr (Bytes == 16) return (V)_mm256_broadcast_ps((const __m128*)p);
#endif
    return load(p);
  }

  // x * y + z, in one rounding where the target can.  Said outright where bits must not depend on which of several
  // copies of an expression the compiler happened to contract.
  static FASTMETA_INLINE V fma(V x, V y, V z) {
#if FASTMETA_LANES_BYTES == 64
    if constexpr (sizeof(T) == 4) return (V)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
    else return (V)_mm512_fmadd_pd((__m512d)x, (__m512d)y, (__m512d)z);
#elif FASTMETA_LANES_BYTES == 32
    if constexpr (sizeof(T) == 4) return (V)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
    else return (V)_mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)z);
#else
    return x * y + z;
#endif
  }
  static FASTMETA_INLINE T fma_scalar(T x, T y, T z) {
#if FASTMETA_LANES_BYTES > 16
    if constexpr (sizeof(T) == 4) return __builtin_fmaf(x, y, z);
    else return __builtin_fma(x, y, z);
#else
    return x * y + z;
#endif
  }

  // Mask of the first n lanes, 0 <= n <= lanes; make it once, outside the loop that uses it.  Lanes outside the mask
  // load as zero, and their memory is not touched.
#if FASTMETA_LANES_BYTES == 64
  using Mask = uint32_t;
  static FASTMETA_INLINE Mask mask(int n) { return (1u << n) - 1; }
  static FASTMETA_INLINE V load(const T* p, Mask m) {
    if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_loadu_ps((__mmask16)m, p);
    else return (V)_mm512_maskz_loadu_pd((__mmask8)m, p);
  }
  static FASTMETA_INLINE void store(T* p, V v, Mask m) {
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, (__mmask16)m, (__m512)v);
    else _mm512_mask_storeu_pd(p, (__mmask8)m, (__m512d)v);
  }
#elif FASTMETA_LANES_BYTES == 32
  struct Mask { I select; int n; };
  static FASTMETA_INLINE Mask mask(int n) {
    // A window that slides over ones and then zeros.
    alignas(64) static constexpr int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    Mask m{{}, n};
    __builtin_memcpy(&m.select, window + 8 - n * int(sizeof(T) / 4), sizeof m.select);
    return m;
  }
  static FASTMETA_INLINE V load(const T* p, const Mask& m) {
    if constexpr (sizeof(T) == 4) return (V)_mm256_maskload_ps((const float*)p, (__m256i)m.select);
    else return (V)_mm256_maskload_pd((const double*)p, (__m256i)m.select);
  }
  // By halves, because maskstore takes a dozen cycles on AMD before Zen 5.
  static FASTMETA_INLINE void store(T* p, V v, const Mask& m) {
    if (m.n == lanes) return store(p, v);
    const int words = m.n * int(sizeof(T) / 4);
    float* q = (float*)p;
    __m128 x = _mm256_castps256_ps128((__m256)v);
    if (words & 4) {
      _mm_storeu_ps(q, x);
      x = _mm256_extractf128_ps((__m256)v, 1);
      q += 4;
    }
    if (words & 2) {
      _mm_storel_pi((__m64*)q, x);
      x = _mm_movehl_ps(x, x);
      q += 2;
    }
    if (words & 1) _mm_store_ss(q, x);
  }
#else
  using Mask = int;
  static FASTMETA_INLINE Mask mask(int n) { return n; }
  static FASTMETA_INLINE V load(const T* p, Mask n) {
    if (n == lanes) return load(p);
    V v{};
    if (n > 0) v[0] = p[0];
    if constexpr (lanes > 2) {
      if (n > 1) v[1] = p[1];
      if (n > 2) v[2] = p[2];
    }
    return v;
  }
  static FASTMETA_INLINE void store(T* p, V v, Mask n) {
    if (n == lanes) return store(p, v);
    if (n > 0) p[0] = v[0];
    if constexpr (lanes > 2) {
      if (n > 1) p[1] = v[1];
      if (n > 2) p[2] = v[2];
    }
  }
#endif

  // The first half of the lanes, without a mask: with AVX-512 a load that follows nearby is held up behind a masked store.
  static FASTMETA_INLINE void store_half(T* p, V v) { __builtin_memcpy(p, &v, sizeof v / 2); }

  // Adds the halves of a vector until 16 bytes are left.
  template <class W>
  static FASTMETA_INLINE auto fold(W v) {
    constexpr int n = sizeof(W) / sizeof(T);
    if constexpr (sizeof(W) == 16) return v;
    else if constexpr (n == 4)
      return fold(__builtin_shufflevector(v, v, 0, 1) + __builtin_shufflevector(v, v, 2, 3));
    else if constexpr (n == 8)
      return fold(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
    else
      return fold(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                  __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  // The sum of all lanes, always in the same order.
  static FASTMETA_INLINE T sum(V v) {
    const auto q = fold(v);
    if constexpr (sizeof(T) == 4) return (q[0] + q[2]) + (q[1] + q[3]);
    else return q[0] + q[1];
  }
};
