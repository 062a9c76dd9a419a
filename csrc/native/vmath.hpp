// Vector mathematics: the names an elementwise expression may call, over vectors of float, double and int32.
//
// Included inside a target's namespace after simd.hpp.  Largest error over all inputs, in units in the last place of the
// true result, as held by tests/test_vmath.py:
//
//              float  double                       float  double
//   exp          1.25   1.25            tanh          3      3
//   expm1        2      2.5             sigmoid       2.5    2.5
//   log          1      1               erf           2.5    2.5
//   log1p        1.75   1.75            pow           0.75   1.5
//   sin, cos     2      2               sqrt, floor   as rounded by IEEE 754
//
// NaN, infinities, signed zeros and subnormal numbers mean what C99 says, in and out: exp, sigmoid and pow underflow
// gradually, where the processor lets them (a running program does not: subnormals.hpp).  Common inputs take no branch; lanes that need more (sin and cos of huge arguments, log of zero, negative
// or subnormal numbers, pow of non-finite numbers) are done apart, some of them one by one with the C library.
//
// Polynomials are minimax fits (Remez exchange at 45 digits), their leading coefficients rounded one by one and the
// rest fitted again.
#pragma once

#if defined(__AVX512F__) || defined(__FMA__)
#define FASTMETA_FMA 1
#else
#define FASTMETA_FMA 0
#endif
#define FASTMETA_COLD static __attribute__((noinline, cold))
#define FASTMETA_UNLIKELY(c) __builtin_expect(!!(c), 0)

using VF = Simd<float>::V;
using VD = Simd<double>::V;
using VI = Simd<int32_t>::V;

// What belongs to a vector type: its element, and integers of the same width.
template <class V> struct Vec;
template <> struct Vec<VF> {
  using T = float;
  using UInt = uint32_t;
  typedef uint32_t U __attribute__((vector_size(FASTMETA_LANES_BYTES)));
  using I = VI;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr T round_magic = 0x1.8p23f;  // x + it has the integer nearest to x in its low bits
};
template <> struct Vec<VD> {
  using T = double;
  using UInt = uint64_t;
  typedef uint64_t U __attribute__((vector_size(FASTMETA_LANES_BYTES)));
  using I = Simd<double>::I;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr T round_magic = 0x1.8p52;
};
template <> struct Vec<VI> {
  using T = int32_t;
  using UInt = uint32_t;
  typedef uint32_t U __attribute__((vector_size(FASTMETA_LANES_BYTES)));
  using I = VI;
};
template <class V> using Elem = typename Vec<V>::T;
template <class V> using Bits = typename Vec<V>::U;
template <class V> using Ints = typename Vec<V>::I;
template <class V> constexpr bool kIsInt = sizeof(V) == 0;
template <> constexpr bool kIsInt<VI> = true;

template <class V> FASTMETA_INLINE V splat(Elem<V> s) { return Simd<Elem<V>>::splat(s); }
template <class V> FASTMETA_INLINE V lit(int s) { return splat<V>(Elem<V>(s)); }
template <class V> FASTMETA_INLINE Bits<V> sign_bits() {
  return Bits<V>{} + (typename Vec<V>::UInt(1) << (8 * sizeof(Elem<V>) - 1));
}

// a * b + c in one rounding where the target has it (FASTMETA_FMA), in two elsewhere.
template <class V> FASTMETA_INLINE V fma(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif FASTMETA_FMA
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// Whether any lane of a comparison's result holds.
template <class M> FASTMETA_INLINE bool any(M m) {
#if FASTMETA_LANES_BYTES == 64
  return _mm512_test_epi64_mask((__m512i)m, (__m512i)m) != 0;
#elif FASTMETA_LANES_BYTES == 32
  return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#elif defined(__SSE2__)
  return _mm_movemask_epi8((__m128i)m) != 0;
#else
  typedef uint64_t W __attribute__((vector_size(FASTMETA_LANES_BYTES)));
  uint64_t all = 0;
  for (int i = 0; i < FASTMETA_LANES_BYTES / 8; ++i) all |= ((W)m)[i];
  return all != 0;
#endif
}

// ---- comparisons and selection

// The result of a comparison: a mask, and 0 / 1 in the type compared wherever a value is asked for.
template <class V> struct Truth {
  Ints<V> mask;
  FASTMETA_INLINE operator V() const { return mask ? lit<V>(1) : V{}; }
};
template <class V> FASTMETA_INLINE Truth<V> eq(V x, V y) { return {x == y}; }
template <class V> FASTMETA_INLINE Truth<V> ne(V x, V y) { return {x != y}; }
template <class V> FASTMETA_INLINE Truth<V> lt(V x, V y) { return {x < y}; }
template <class V> FASTMETA_INLINE Truth<V> le(V x, V y) { return {x <= y}; }
template <class V> FASTMETA_INLINE Truth<V> gt(V x, V y) { return {x > y}; }
template <class V> FASTMETA_INLINE Truth<V> ge(V x, V y) { return {x >= y}; }
template <class V> FASTMETA_INLINE V select(Truth<V> m, V x, V y) { return m.mask ? x : y; }
template <class V> FASTMETA_INLINE V select(V m, V x, V y) { return m != V{} ? x : y; }

// x > y ? x : y and x < y ? x : y: y where either is NaN.  One instruction on x86, which g++ does not find by itself.
template <class V> FASTMETA_INLINE V greater_of(V x, V y) {
  using T = Elem<V>;
  if constexpr (kIsInt<V>) return x > y ? x : y;
#if FASTMETA_LANES_BYTES == 64
  else if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_max_ps(-1, (__m512)x, (__m512)y);
  else return (V)_mm512_maskz_max_pd(-1, (__m512d)x, (__m512d)y);
#elif FASTMETA_LANES_BYTES == 32
  else if constexpr (sizeof(T) == 4) return (V)_mm256_max_ps((__m256)x, (__m256)y);
  else return (V)_mm256_max_pd((__m256d)x, (__m256d)y);
#elif defined(__SSE2__)
  else if constexpr (sizeof(T) == 4) return (V)_mm_max_ps((__m128)x, (__m128)y);
  else return (V)_mm_max_pd((__m128d)x, (__m128d)y);
#else
  else return x > y ? x : y;
#endif
}
template <class V> FASTMETA_INLINE V lesser_of(V x, V y) {
  using T = Elem<V>;
  if constexpr (kIsInt<V>) return x < y ? x : y;
#if FASTMETA_LANES_BYTES == 64
  else if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_min_ps(-1, (__m512)x, (__m512)y);
  else return (V)_mm512_maskz_min_pd(-1, (__m512d)x, (__m512d)y);
#elif FASTMETA_LANES_BYTES == 32
  else if constexpr (sizeof(T) == 4) return (V)_mm256_min_ps((__m256)x, (__m256)y);
  else return (V)_mm256_min_pd((__m256d)x, (__m256d)y);
#elif defined(__SSE2__)
  else if constexpr (sizeof(T) == 4) return (V)_mm_min_ps((__m128)x, (__m128)y);
  else return (V)_mm_min_pd((__m128d)x, (__m128d)y);
#else
  else return x < y ? x : y;
#endif
}
// NaN in either argument gives NaN.  A constant y costs nothing: its comparison with itself folds.
template <class V> FASTMETA_INLINE V max(V x, V y) {
  const V m = greater_of(y, x);
  if constexpr (kIsInt<V>) return m;
  else return y != y ? y : m;
}
template <class V> FASTMETA_INLINE V min(V x, V y) {
  const V m = lesser_of(y, x);
  if constexpr (kIsInt<V>) return m;
  else return y != y ? y : m;
}
template <class V> FASTMETA_INLINE V abs(V x) {
  if constexpr (kIsInt<V>) return x < V{} ? -x : x;
  else return (V)((Bits<V>)x & ~sign_bits<V>());
}
template <class V> FASTMETA_INLINE V sign(V x) { return x > V{} ? lit<V>(1) : x < V{} ? lit<V>(-1) : x; }
// |x| with the sign of s; x must not be negative.
template <class V> FASTMETA_INLINE V with_sign(V x, V s) { return (V)((Bits<V>)x | ((Bits<V>)s & sign_bits<V>())); }
// min(x, bound) and max(x, bound) that keep a NaN in x.
template <class V> FASTMETA_INLINE V at_most(V x, Elem<V> bound) { return lesser_of(splat<V>(bound), x); }
template <class V> FASTMETA_INLINE V at_least(V x, Elem<V> bound) { return greater_of(splat<V>(bound), x); }

template <class V> FASTMETA_INLINE V sqrt(V x) {
#if FASTMETA_LANES_BYTES == 64
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm512_maskz_sqrt_ps(-1, (__m512)x);
  else return (V)_mm512_maskz_sqrt_pd(-1, (__m512d)x);
#elif FASTMETA_LANES_BYTES == 32
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm256_sqrt_ps((__m256)x);
  else return (V)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm_sqrt_ps((__m128)x);
  else return (V)_mm_sqrt_pd((__m128d)x);
#else
  for (int i = 0; i < Simd<Elem<V>>::lanes; ++i) x[i] = Elem<V>(__builtin_sqrt(x[i]));
  return x;
#endif
}

template <class V> FASTMETA_INLINE V floor(V x) {
#if FASTMETA_LANES_BYTES == 64
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm512_maskz_roundscale_ps(-1, (__m512)x, 9);
  else return (V)_mm512_maskz_roundscale_pd(-1, (__m512d)x, 9);
#elif FASTMETA_LANES_BYTES == 32
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm256_floor_ps((__m256)x);
  else return (V)_mm256_floor_pd((__m256d)x);
#else
  using T = Elem<V>;
  constexpr T big = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);  // from here on every number is an integer
  const V a = abs(x);
  V nearest = a + big;
  FASTMETA_PIN(nearest);
  nearest = with_sign(V(nearest - big), x);
  const V down = nearest - (nearest > x ? lit<V>(1) : V{});
  return a < splat<V>(big) ? down : x;
#endif
}

// ---- building blocks

// c0 + c1 x + c2 x^2 + ..., as two interleaved Horner chains in x^2.
template <class V> FASTMETA_INLINE V every_second(V, Elem<V> c) { return splat<V>(c); }
template <class V, class... C> FASTMETA_INLINE V every_second(V x2, Elem<V> c, Elem<V>, C... rest) {
  if constexpr (sizeof...(rest) == 0) return splat<V>(c);
  else return every_second(x2, rest...) * x2 + splat<V>(c);
}
template <class V, class... C> FASTMETA_INLINE V polynomial(V x, double c0, double c1, C... rest) {
  using T = Elem<V>;
  const V x2 = x * x;
  return every_second(x2, T(c1), T(rest)...) * x + every_second(x2, T(c0), T(c1), T(rest)...);
}
template <class V> FASTMETA_INLINE V horner(V, double c) { return splat<V>(Elem<V>(c)); }
template <class V, class... C> FASTMETA_INLINE V horner(V x, double c, C... rest) {
  return horner(x, rest...) * x + splat<V>(Elem<V>(c));
}

// x = n ln 2 + r with n the nearest integer, |r| <= ln 2 / 2.  `bits` carries n in its low bits.
template <class V> struct Ln2Split {
  V n, r;
  Bits<V> bits;
};
template <class V> FASTMETA_INLINE Ln2Split<V> split_ln2(V x) {
  using T = Elem<V>;
  constexpr bool f = sizeof(T) == 4;
  constexpr T hi = f ? T(0x1.62e4p-1) : T(0x1.62e42fefa3p-1), lo = f ? T(0x1.7f7d1cp-20) : T(0x1.3de6af278ece6p-42);
  const V t = x * T(0x1.71547652b82fep+0) + Vec<V>::round_magic;
  Ln2Split<V> s;
  s.bits = (Bits<V>)t;
  s.n = t - Vec<V>::round_magic;
  s.r = fma(s.n, splat<V>(-lo), fma(s.n, splat<V>(-hi), x));
  return s;
}
// e^r - 1 for |r| <= ln 2 / 2
template <class V> FASTMETA_INLINE V expm1_small(V r) {
  V p;
  if constexpr (sizeof(Elem<V>) == 4)
    p = polynomial(r, 0x1.fffffep-2, 0x1.5554aap-3, 0x1.555798p-5, 0x1.122c12p-7, 0x1.6ac7aap-10);
  else
    p = polynomial(r, 0.5, 0x1.5555555555558p-3, 0x1.5555555555556p-5, 0x1.111111110f7d5p-7, 0x1.6c16c16c15dacp-10,
                   0x1.a01a01b02246cp-13, 0x1.a01a01a942d57p-16, 0x1.71ddf6757d7e1p-19, 0x1.27e4d4b0380bap-22,
                   0x1.af63a06ec766ep-26, 0x1.1f7f6b080fb0cp-29);
  return fma(V(r * r), p, r);
}
// 2^n for n in the range of normal exponents; from the low bits of split_ln2.
template <class V> FASTMETA_INLINE V power_of_2(Bits<V> bits) {
  return (V)((bits << Vec<V>::mantissa) + (typename Vec<V>::UInt(Vec<V>::bias) << Vec<V>::mantissa));
}
// p * 2^n in one rounding for every n that exp needs: results may be subnormal or overflow.
template <class V> FASTMETA_INLINE V scale(V p, const Ln2Split<V>& s) {
#if FASTMETA_LANES_BYTES == 64
  if constexpr (sizeof(Elem<V>) == 4) return (V)_mm512_maskz_scalef_ps(-1, (__m512)p, (__m512)s.n);
  else return (V)_mm512_maskz_scalef_pd(-1, (__m512d)p, (__m512d)s.n);
#else
  const Bits<V> half = s.bits >> 1;  // the low bits of floor(n / 2), whatever n's sign
  return p * power_of_2<V>(half) * power_of_2<V>(s.bits - half);
#endif
}
// e^x - 1 where e^x neither overflows nor underflows
template <class V> FASTMETA_INLINE V expm1_middle(V x) {
  const auto s = split_ln2(x);
  const V two_n = power_of_2<V>(s.bits);
  return fma(two_n, expm1_small(s.r), V(two_n - Elem<V>(1)));
}

// ---- the functions

template <class V> FASTMETA_INLINE V exp(V x) {
  constexpr bool f = sizeof(Elem<V>) == 4;
  x = at_least(at_most(x, f ? 89.0f : 710.0), f ? -104.0f : -746.0);
  const auto s = split_ln2(x);
  return scale(V(expm1_small(s.r) + Elem<V>(1)), s);
}

template <class V> FASTMETA_INLINE V expm1(V x) {
  using T = Elem<V>;
  constexpr bool f = sizeof(T) == 4;
  const V bounded = at_least(at_most(x, f ? 89.0f : 710.0), f ? -20.0f : -40.0);
  const auto s = split_ln2(bounded);
  const V half = power_of_2<V>(s.bits - 1);  // 2^n itself may overflow
  const V y = T(2) * fma(half, expm1_small(s.r), V(half - T(0.5)));
  return abs(x) < splat<V>(f ? T(0x1p-26) : T(0x1p-55)) ? x : y;
}

// log(2^e (1 + f)) for sqrt(1/2) <= 1 + f < sqrt(2)
template <class V> FASTMETA_INLINE V log_of_parts(V e, V f) {
  using T = Elem<V>;
  const V half_square = T(0.5) * f * f;
  if constexpr (sizeof(T) == 4) {
    const V p = polynomial(f, 0x1.555554p-2, -0x1.00022ap-2, 0x1.99a03cp-3, -0x1.54718cp-3, 0x1.22d498p-3, -0x1.0d86ep-3,
                           0x1.0586360p-3, -0x1.391ccp-4);
    return e * T(0x1.62e4p-1) + (f + (f * f * f * p + (e * T(0x1.7f7d1cp-20) - half_square)));
  } else {
    // log(1 + f) = 2 atanh(s) = f - s f + 2 s^3 / 3 + ..., and s f = f^2 / 2 - s f^2 / 2.
    const V s = f / (T(2) + f), z = s * s;
    const V p = z * polynomial(z, 0x1.5555555555593p-1, 0x1.999999997f9f7p-2, 0x1.249249422a614p-2, 0x1.c71c51d7b0423p-3,
                               0x1.746649b741bf3p-3, 0x1.39a094a727dap-3, 0x1.2f118960f2b83p-3);
    return e * T(0x1.62e42fefa38p-1) + (f - (half_square - (s * (half_square + p) + e * T(0x1.ef35793c7673p-45))));
  }
}
// x = 2^e m with sqrt(1/2) <= m < sqrt(2), for normal positive x
template <class V> struct Exponent {
  V e, m;
};
template <class V> FASTMETA_INLINE Exponent<V> split_exponent(V x) {
  using U = typename Vec<V>::UInt;
  constexpr bool f = sizeof(Elem<V>) == 4;
  constexpr U one = U(Vec<V>::bias) << Vec<V>::mantissa, root = f ? U(0x3f3504f3) : U(0x3fe6a09e667f3bcd);
  constexpr Elem<V> integers = f ? Elem<V>(0x1p23) : Elem<V>(0x1p52);
  const Bits<V> b = (Bits<V>)x + (one - root);
  const V e = (V)((b >> Vec<V>::mantissa) | (Bits<V>)splat<V>(integers)) - (integers + Elem<V>(Vec<V>::bias));
  return {e, (V)((b & ((U(1) << Vec<V>::mantissa) - 1)) + root)};
}
// Lanes that are not positive normal finite numbers.
template <class V> FASTMETA_INLINE Ints<V> not_normal(V x) {
  constexpr bool f = sizeof(Elem<V>) == 4;
  return ~((x >= splat<V>(f ? 0x1p-126f : 0x1p-1022)) & (x < splat<V>(Elem<V>(__builtin_inf()))));
}
template <class V> FASTMETA_INLINE V log_normal(V x) {
  const auto s = split_exponent(x);
  return log_of_parts(s.e, V(s.m - Elem<V>(1)));
}
template <class V> FASTMETA_COLD V log_rare(V x) {
  using T = Elem<V>;
  constexpr bool f = sizeof(T) == 4;
  const Ints<V> tiny = x < splat<V>(f ? 0x1p-126f : 0x1p-1022);
  const auto s = split_exponent(V(tiny ? V(x * T(f ? 0x1p25f : 0x1p54)) : x));
  const V y = log_of_parts(V(s.e - (tiny ? splat<V>(T(f ? 25 : 54)) : V{})), V(s.m - T(1)));
  const V special = x < V{} ? splat<V>(T(__builtin_nan(""))) : x == V{} ? splat<V>(T(-__builtin_inf())) : x;  // inf, NaN
  return (x > V{}) & (x < splat<V>(T(__builtin_inf()))) ? y : special;
}
template <class V> FASTMETA_INLINE V log(V x) {
  if (FASTMETA_UNLIKELY(any(not_normal(x)))) return log_rare(x);
  return log_normal(x);
}

// 1 + x = 2^e (1 + f) with f = x 2^-e + (2^-e - 1), which is exact wherever it matters.
template <class V> FASTMETA_INLINE V log1p_normal(V x) {
  using T = Elem<V>;
  constexpr T integers = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
  const V e = split_exponent(V(x + T(1))).e;
  const V shrink = (V)(((Bits<V>)(T(Vec<V>::bias) + integers - e)) << Vec<V>::mantissa);
  return log_of_parts(e, fma(x, shrink, V(shrink - T(1))));
}
template <class V> FASTMETA_COLD V log1p_rare(V x) {
  const Ints<V> big = x >= splat<V>(Elem<V>(0x1p100));
  const V y = log1p_normal(V(big ? V{} : x)), z = log_rare(V(big ? x : V(x + Elem<V>(1))));
  return (x > lit<V>(-1)) & ~big ? y : z;
}
template <class V> FASTMETA_INLINE V log1p(V x) {
  if (FASTMETA_UNLIKELY(any(~((x > lit<V>(-1)) & (x < splat<V>(Elem<V>(0x1p100))))))) return with_sign(log1p_rare(x), x);
  return with_sign(log1p_normal(x), x);
}

// x - n pi/2 for the n given: |n| < 2^15 in float, 2^20 in double
template <class V> FASTMETA_INLINE V minus_half_pi_times(V x, V n) {
  using T = Elem<V>;
  const V m = -n;
#if FASTMETA_FMA
  if constexpr (sizeof(T) == 4)
    return fma(m, splat<V>(-0x1.ee59dap-50f), fma(m, splat<V>(-0x1.777a5cp-25f), fma(m, splat<V>(0x1.921fb6p+0f), x)));
  else
    return fma(m, splat<V>(-0x1.f1976b7ed9p-110), fma(m, splat<V>(0x1.1a62633145c07p-54), fma(m, splat<V>(0x1.921fb54442d18p+0), x)));
#else
  // Parts so short that n times each of them is exact; what the later sums round away is kept.
  V lost = V{};
  const auto add = [&](T part) __attribute__((always_inline)) {
    const V t = m * part, sum = x + t;
    lost = lost + ((x - sum) + t);
    x = sum;
  };
  if constexpr (sizeof(T) == 4) {
    x = (x + m * T(0x1.92p+0)) + m * T(0x1.fbp-12);
    add(T(0x1.51p-22));
    add(T(0x1.0bp-34));
    return x + (lost + (m * T(0x1.18p-44) + m * T(0x1.1a6264p-54)));
  } else {
    x = x + m * T(0x1.921fb544p+0);
    add(T(0x1.0b4611a6p-34));
    add(T(0x1.3198a2ep-69));
    return x + (lost + m * T(0x1.b839a252049cp-104));
  }
#endif
}
// sin(x + quarter pi/2), right for |x| <= kTrigLimit.  The sign of a zero is that of x only where x >= +0.
template <class V> FASTMETA_INLINE V sin_near(V x, int quarter) {
  using T = Elem<V>;
  using U = typename Vec<V>::UInt;
  constexpr int top = 8 * sizeof(T) - 1;
  const V t = x * T(0x1.45f306dc9c883p-1) + Vec<V>::round_magic;
  const Bits<V> n = (Bits<V>)t + U(quarter);
  const V r = minus_half_pi_times(x, V(t - Vec<V>::round_magic)), z = r * r;
  V s, c;
  if constexpr (sizeof(T) == 4) {
    s = horner(z, -0x1.555546p-3, 0x1.110776p-7, -0x1.9952fap-13);
    c = horner(z, 0x1.55554ap-5, -0x1.6c0c28p-10, 0x1.99e80cp-16);
  } else {
    s = polynomial(z, -0x1.5555555555548p-3, 0x1.111111110f73p-7, -0x1.a01a019be9219p-13, 0x1.71de35552b852p-19,
                   -0x1.ae5e4b841909cp-26, 0x1.5d8b55a699417p-33);
    c = polynomial(z, 0x1.555555555554bp-5, -0x1.6c16c16c1500dp-10, 0x1.a01a019c8dd1cp-16, -0x1.27e4f7f04ffap-22,
                   0x1.1ee9dacb65987p-29, -0x1.8fa5ec6eb01bdp-37);
  }
  s = fma(V(r * z), s, r);
  c = fma(V(z * z), c, V(T(1) - T(0.5) * z));
  const V y = (Ints<V>)(n << top) < 0 ? c : s;
  return (V)((Bits<V>)y ^ ((n << (top - 1)) & sign_bits<V>()));
}
template <class V> constexpr Elem<V> kTrigLimit = sizeof(Elem<V>) == 4 ? Elem<V>(5e4) : Elem<V>(1e6);

#define FASTMETA_LANE_BY_LANE(V, mask, y, call_f, call_d)       \
  for (int i = 0; i < Simd<Elem<V>>::lanes; ++i)                \
    if ((mask)[i]) {                                            \
      if constexpr (sizeof(Elem<V>) == 4) (y)[i] = call_f;      \
      else (y)[i] = call_d;                                     \
    }
template <class V> FASTMETA_COLD V sin_rare(V x, V y) {
  const Ints<V> far = ~(abs(x) <= splat<V>(kTrigLimit<V>));
  FASTMETA_LANE_BY_LANE(V, far, y, __builtin_sinf(x[i]), __builtin_sin(x[i]))
  return y;
}
template <class V> FASTMETA_COLD V cos_rare(V x, V y) {
  const Ints<V> far = ~(abs(x) <= splat<V>(kTrigLimit<V>));
  FASTMETA_LANE_BY_LANE(V, far, y, __builtin_cosf(x[i]), __builtin_cos(x[i]))
  return y;
}

template <class V> FASTMETA_INLINE V sin(V x) {
  const V a = abs(x);
  const V y = (V)((Bits<V>)sin_near(a, 0) ^ ((Bits<V>)x & sign_bits<V>()));
  if (FASTMETA_UNLIKELY(any(~(a <= splat<V>(kTrigLimit<V>))))) return sin_rare(x, y);
  return y;
}
template <class V> FASTMETA_INLINE V cos(V x) {
  const V y = sin_near(x, 1);
  if (FASTMETA_UNLIKELY(any(~(abs(x) <= splat<V>(kTrigLimit<V>))))) return cos_rare(x, y);
  return y;
}

template <class V> FASTMETA_INLINE V tanh(V x) {
  using T = Elem<V>;
  const V a = at_most(abs(x), sizeof(T) == 4 ? 10 : 20);
  const V m = expm1_middle(V(a + a));
  return with_sign(V(m / (m + T(2))), x);
}

template <class V> FASTMETA_INLINE V sigmoid(V x) {
  const V e = exp(V(-abs(x)));
  return (x < V{} ? e : lit<V>(1)) / (Elem<V>(1) + e);
}

// erf(x) = 1 - e^(-x h(x)) with h a polynomial, its first coefficient in two parts.
template <class V> FASTMETA_INLINE V erf(V x) {
  using T = Elem<V>;
  constexpr bool f = sizeof(T) == 4;
  const V a = at_most(abs(x), f ? 4 : 6);
  V h;
  if constexpr (f)
    h = polynomial(a, -0x1.f7ac92p-25, 0x1.45f2fap-1, 0x1.a4fa5ep-4, -0x1.39cdc6p-6, -0x1.50608ep-13, 0x1.b50062p-10, -0x1.4bc9fcp-11,
                   0x1.ed6c7p-14, -0x1.3696bap-17);
  else
    h = polynomial(a, 0x1.1ae3a914fed80p-56, 0x1.45f306dc9c8cfp-1, 0x1.a4f4e2a1aa726p-4, -0x1.39668590c0131p-6,
                   -0x1.b6b6a0d29d7f1p-13, 0x1.bca6911f16ff6p-10, -0x1.35663579673cp-11, 0x1.b29886e7a79e8p-16,
                   0x1.0e345837426cep-14, -0x1.f03c1d3df0ec6p-16, 0x1.a9d3b2c1630b6p-19, 0x1.a413f39c93fe3p-19,
                   -0x1.111370ccdfbbfp-19, 0x1.316c5b708cc5dp-21, -0x1.729017844ff87p-27, -0x1.1c0228a2622dcp-24,
                   0x1.2a38a1198524cp-25, -0x1.7362cbc7222e8p-27, 0x1.456fcf467a478p-29, -0x1.9ec54098024adp-32,
                   0x1.7b926d8c3a564p-35, -0x1.db019b48d9c19p-39, 0x1.6cd5ef123884bp-43, -0x1.03b9dc67e6263p-48);
  const V g = fma(a, splat<V>(f ? T(0x1.20dd76p+0) : T(0x1.20dd750429b6dp+0)), V(a * h));
  return with_sign(abs(expm1_middle(V(-g))), x);
}

// ---- pow

// pow for x > 0 finite, y finite.
FASTMETA_INLINE VD pow_half(VD x, VD y) {  // of floats: 2^-28 is enough
  const auto p = split_exponent(x);
  const VD s = (p.m - 1.0) / (p.m + 1.0), z = s * s;
  const VD series = horner(z, 2.0, 0x1.555554fd6ea18p-1, 0x1.999a7ae3a5295p-2, 0x1.2438bff25c376p-2, 0x1.e2fa1d679cfdap-3);
  VD t = y * (p.e * 0x1.62e42fefa39efp-1 + s * series);
  t = at_least(at_most(t, 200.0), -200.0);
  const VD u = t * 0x1.71547652b82fep+0 + Vec<VD>::round_magic;
  const VD r = t - (u - Vec<VD>::round_magic) * 0x1.62e42fefa39efp-1;
  const VD e = polynomial(r, 0x1.0000000266403p+0, 0x1.0000009ceeee6p+0, 0x1.fffffaa712559p-2, 0x1.5554092daf2efp-3,
                          0x1.55589dadf55a6p-5, 0x1.126dbd0f144f1p-7, 0x1.6ab8c0de43245p-10);
  return (VD)((Bits<VD>)e + ((Bits<VD>)u << 52));
}
FASTMETA_INLINE VF pow_positive(VF x, VF y) {
  typedef float H __attribute__((vector_size(FASTMETA_LANES_BYTES / 2)));
#if FASTMETA_LANES_BYTES == 64
#define FASTMETA_LOW(v) __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
#define FASTMETA_HIGH(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)
#define FASTMETA_JOIN(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#elif FASTMETA_LANES_BYTES == 32
#define FASTMETA_LOW(v) __builtin_shufflevector(v, v, 0, 1, 2, 3)
#define FASTMETA_HIGH(v) __builtin_shufflevector(v, v, 4, 5, 6, 7)
#define FASTMETA_JOIN(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define FASTMETA_LOW(v) __builtin_shufflevector(v, v, 0, 1)
#define FASTMETA_HIGH(v) __builtin_shufflevector(v, v, 2, 3)
#define FASTMETA_JOIN(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3)
#endif
  const H x0 = FASTMETA_LOW(x), x1 = FASTMETA_HIGH(x), y0 = FASTMETA_LOW(y), y1 = FASTMETA_HIGH(y);
  const VD r0 = pow_half(__builtin_convertvector(x0, VD), __builtin_convertvector(y0, VD));
  const VD r1 = pow_half(__builtin_convertvector(x1, VD), __builtin_convertvector(y1, VD));
  const H h0 = __builtin_convertvector(r0, H), h1 = __builtin_convertvector(r1, H);
  return FASTMETA_JOIN(h0, h1);
}

// A sum of two doubles, the second smaller than the rounding of the first.
struct Double2 {
  VD hi, lo;
};
FASTMETA_INLINE Double2 quick_two_sum(VD a, VD b) {  // exact where |a| >= |b|
  VD s = a + b;
  FASTMETA_PIN(s);
  VD d = s - a;
  return {s, b - d};
}
FASTMETA_INLINE Double2 two_product(VD a, VD b) {  // exact
  VD p = a * b;
  FASTMETA_PIN(p);
#if FASTMETA_FMA
  return {p, fma(a, b, -p)};
#else
  const Bits<VD> upper = ~Bits<VD>{} << 27;
  const VD ah = (VD)((Bits<VD>)a & upper), al = a - ah, bh = (VD)((Bits<VD>)b & upper), bl = b - bh;
  return {p, ((ah * bh - p) + (ah * bl + al * bh)) + al * bl};
#endif
}

// e^(y log x) with log x to about 2^-64 as a sum of two doubles; x normal.
FASTMETA_INLINE VD pow_positive(VD x, VD y) {
  const auto p = split_exponent(x);
  // s = (m - 1) / (m + 1) = s.hi + s.lo
  const VD f = p.m - 1.0, d = p.m + 1.0, d_lo = p.m - (d - 1.0);
  Double2 s;
  s.hi = f / d;
  const Double2 q = two_product(s.hi, d);
  s.lo = (((f - q.hi) - q.lo) - s.hi * d_lo) / d;
  // log m = 2 s + s^3 (2/3 + tail)
  Double2 z = two_product(s.hi, s.hi);
  z.lo = z.lo + (s.hi + s.hi) * s.lo;
  const VD tail = z.hi * polynomial(z.hi, 0x1.9999999999996p-2, 0x1.2492492492f53p-2, 0x1.c71c71c596282p-3, 0x1.745d1829971aap-3,
                                    0x1.3b1364b506fb9p-3, 0x1.112072959c918p-3, 0x1.de3cda961fd93p-4, 0x1.eacaf037509e6p-4);
  Double2 c = quick_two_sum(splat<VD>(0x1.5555555555555p-1), tail);
  c.lo = c.lo + 0x1.5555555555555p-55;
  Double2 w = two_product(z.hi, c.hi);
  w.lo = w.lo + (z.hi * c.lo + z.lo * c.hi);
  Double2 v = two_product(s.hi, w.hi);
  v.lo = v.lo + (s.hi * w.lo + s.lo * w.hi);
  // log x = e ln 2 + 2 s + v; the first part of e ln 2 is exact
  const VD two_s = s.hi + s.hi, big = p.e * 0x1.62e42fefa38p-1, small = p.e * 0x1.ef35793c7673p-45;
  const Double2 l1 = quick_two_sum(big, two_s), l2 = quick_two_sum(l1.hi, v.hi);
  const Double2 l = quick_two_sum(l2.hi, VD(l2.lo + (l1.lo + ((s.lo + s.lo) + v.lo + small))));
  const Double2 t = two_product(y, l.hi);
  const VD t_hi = at_least(at_most(t.hi, 750.0), -750.0);
  const VD t_lo = t_hi == t.hi ? VD(t.lo + y * l.lo) : VD{};
  auto e = split_ln2(t_hi);
  e.r = e.r + t_lo;
  return scale(VD(expm1_small(e.r) + 1.0), e);
}

// Zeros and negative numbers to the power of anything finite; numbers that are not finite (or subnormal) one by one.
template <class V> FASTMETA_COLD V pow_rare(V x, V y) {
  using T = Elem<V>;
  const V a = abs(x), half = y * T(0.5), infinity = splat<V>(T(__builtin_inf()));
  const Ints<V> whole = floor(y) == y, odd = whole & (floor(half) != half);
  V r = pow_positive(a, y);
  r = x == V{} ? (y > V{} ? V{} : y < V{} ? infinity : lit<V>(1)) : r;
  r = (V)((Bits<V>)r ^ ((Bits<V>)odd & (Bits<V>)x & sign_bits<V>()));
  r = (x < V{}) & ~whole ? splat<V>(T(__builtin_nan(""))) : r;
  const Ints<V> alone = (not_normal(a) & (a != V{})) | ~(abs(y) < infinity);
  FASTMETA_LANE_BY_LANE(V, alone, r, __builtin_powf(x[i], y[i]), __builtin_pow(x[i], y[i]))
  return r;
}
template <class V> FASTMETA_INLINE V pow(V x, V y) {
  const V r = pow_positive(x, y);
  if (FASTMETA_UNLIKELY(any(not_normal(x) | ~(abs(y) < splat<V>(Elem<V>(__builtin_inf())))))) return pow_rare(x, y);
  return r;
}
