// The functions that the expressions of the elementwise rows call, for one number: float, double or int32.
// NaN, infinities and signed zeros mean what they mean in csrc/native/vmath.hpp.
#pragma once
#include "team.cuh"

namespace fastmeta {
namespace device {

template <class T> struct IsFloat { static constexpr bool value = false; };
template <> struct IsFloat<float> { static constexpr bool value = true; };
template <> struct IsFloat<double> { static constexpr bool value = true; };

template <class T> FM_DEVICE T lit(int x) { return T(x); }
template <class T> FM_DEVICE T eq(T x, T y) { return T(x == y); }
template <class T> FM_DEVICE T ne(T x, T y) { return T(x != y); }
template <class T> FM_DEVICE T lt(T x, T y) { return T(x < y); }
template <class T> FM_DEVICE T le(T x, T y) { return T(x <= y); }
template <class T> FM_DEVICE T gt(T x, T y) { return T(x > y); }
template <class T> FM_DEVICE T ge(T x, T y) { return T(x >= y); }
template <class T> FM_DEVICE T select(T m, T x, T y) { return m != T(0) ? x : y; }
// A NaN stays.
template <class T> FM_DEVICE T max(T x, T y) { return x != x ? x : y != y ? y : x > y ? x : y; }
template <class T> FM_DEVICE T min(T x, T y) { return x != x ? x : y != y ? y : x < y ? x : y; }
template <class T> FM_DEVICE T sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x; }
FM_DEVICE int32_t abs(int32_t x) { return x < 0 ? int32_t(0u - uint32_t(x)) : x; }
FM_DEVICE float abs(float x) { return ::fabsf(x); }
FM_DEVICE double abs(double x) { return ::fabs(x); }

#define FM_FUNCTION(name, single) \
  FM_NOINLINE float name(float x) { return ::single(x); } \
  FM_NOINLINE double name(double x) { return ::name(x); }
FM_FUNCTION(floor, floorf)
FM_FUNCTION(sqrt, sqrtf)
FM_FUNCTION(exp, expf)
FM_FUNCTION(expm1, expm1f)
FM_FUNCTION(log, logf)
FM_FUNCTION(log1p, log1pf)
FM_FUNCTION(sin, sinf)
FM_FUNCTION(cos, cosf)
FM_FUNCTION(tanh, tanhf)
FM_FUNCTION(erf, erff)
#undef FM_FUNCTION
FM_NOINLINE float pow(float x, float y) { return ::powf(x, y); }
FM_NOINLINE double pow(double x, double y) { return ::pow(x, y); }
template <class T> FM_DEVICE T sigmoid(T x) {
  const T e = exp(-abs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

// Sums of int32 wrap.
FM_DEVICE int32_t add(int32_t x, int32_t y) { return int32_t(uint32_t(x) + uint32_t(y)); }
FM_DEVICE float add(float x, float y) { return x + y; }
FM_DEVICE double add(double x, double y) { return x + y; }

}  // namespace device
}  // namespace fastmeta
