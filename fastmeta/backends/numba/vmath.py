"""Mathematical functions without branches, so that LLVM makes vector code of the loops that call them; those of the C library
are called number by number.

The formulas, coefficients and bounds of error are those of csrc/native/vmath.hpp, held by tests/test_numba_vmath.py.  `sin` and
`cos` are right where all arguments are `near`; `far_sin` and `far_cos` are right everywhere, and call the C library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmeta.backends.numba.memory import load, number
from fastmeta.backends.numba.scalars import function, inlined, lit

# -- numbers of either type


@intrinsic
def pick(typingctx: Any, x: Any, pair: Any) -> Any:
    """The first of two where x is a float32, the second where it is a float64."""
    k = 0 if x == types.float32 else 1
    return pair[k](x, pair), lambda c, builder, s, args: builder.extract_value(args[1], k)


@intrinsic
def bits(typingctx: Any, x: Any) -> Any:
    """The bits of a float as an integer of its width."""
    whole = types.int32 if x == types.float32 else types.int64
    return whole(x), lambda c, builder, s, args: builder.bitcast(args[0], c.get_value_type(whole))


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z in one rounding."""
    return x(x, y, z), lambda c, builder, s, args: builder.fma(*args)


@intrinsic
def polynomial(typingctx: Any, x: Any, coefficients: Any) -> Any:
    """c[0] + c[1] x + c[2] x^2 + ..., as two interleaved Horner chains in x^2."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c = cgutils.unpack_tuple(builder, args[1])
        square = builder.fmul(args[0], args[0])

        def add(product: tuple[Any, Any], to: Any) -> Any:
            return builder.fadd(builder.fmul(*product, flags=["contract"]), to, flags=["contract"])

        def chain(part: list[Any]) -> Any:
            total = part.pop()
            while part:
                total = add((total, square), part.pop())
            return total

        return add((chain(c[1::2]), args[0]), chain(c[::2]))

    return x(x, coefficients), codegen


def _pair(single: str, double: str) -> tuple[Any, Any]:
    """Constants of both types: a number each, or a tuple of them, as C writes them in base 16."""
    first = tuple(np.float32(float.fromhex(c)) for c in single.split())
    second = tuple(float.fromhex(c) for c in double.split())
    return (first, second) if len(first) > 1 else (first[0], second[0])


@inlined
def with_sign(x: Any, s: Any) -> Any:
    """|x| with the sign of s; x must not be negative, but where s is."""
    return number(bits(x) | (bits(s) & pick(x, SIGN)), x)


SIGN = np.int32(-(2**31)), np.int64(-(2**63))
MANTISSA = np.int32(23), np.int64(52)
BIAS = np.int32(127), np.int64(1023)
MAGIC = _pair("0x1.8p23", "0x1.8p52")  # x + it has the integer nearest to x in its low bits


# -- exponentials

LN2_HI = _pair("0x1.62e4p-1", "0x1.62e42fefa3p-1")
LN2_LO = _pair("0x1.7f7d1cp-20", "0x1.3de6af278ece6p-42")
LOG2_E = _pair("0x1.71547652b82fep+0", "0x1.71547652b82fep+0")
EXPM1 = _pair(
    "0x1.fffffep-2 0x1.5554aap-3 0x1.555798p-5 0x1.122c12p-7 0x1.6ac7aap-10",
    "0x1p-1 0x1.5555555555558p-3 0x1.5555555555556p-5 0x1.111111110f7d5p-7 0x1.6c16c16c15dacp-10 0x1.a01a01b02246cp-13"
    " 0x1.a01a01a942d57p-16 0x1.71ddf6757d7e1p-19 0x1.27e4d4b0380bap-22 0x1.af63a06ec766ep-26 0x1.1f7f6b080fb0cp-29",
)


@inlined
def split_ln2(x: Any) -> tuple[Any, Any]:
    """x = n ln 2 + r, |r| <= ln 2 / 2: (integers with n in their low bits, r)."""
    magic = pick(x, MAGIC)
    t = x * pick(x, LOG2_E) + magic
    n = t - magic
    return bits(t), fma(n, -pick(x, LN2_LO), fma(n, -pick(x, LN2_HI), x))


@inlined
def expm1_small(r: Any) -> Any:
    """e^r - 1 for |r| <= ln 2 / 2."""
    return r * r * polynomial(r, pick(r, EXPM1)) + r


@inlined
def power_of_2(n: Any, like: Any) -> Any:
    """2^n for n in the low bits, in the range of normal exponents."""
    mantissa = pick(like, MANTISSA)
    return number((n << mantissa) + (pick(like, BIAS) << mantissa), like)


@inlined
def expm1_middle(x: Any) -> Any:
    """e^x - 1 where e^x neither overflows nor underflows."""
    n, r = split_ln2(x)
    two_n = power_of_2(n, x)
    return two_n * expm1_small(r) + (two_n - lit(1, x))


@inlined
def at_most(x: Any, bound: Any) -> Any:
    """`smaller` of a bound that is no NaN: one instruction."""
    return bound if x > bound else x


@inlined
def at_least(x: Any, bound: Any) -> Any:
    return bound if x < bound else x


LARGEST = np.float32(89), 710.0
SMALLEST = np.float32(-104), -746.0
MINUS_ONE = np.float32(-20), -40.0  # from here down expm1 is -1
LINEAR = _pair("0x1p-26", "0x1p-55")  # up to here expm1 is its argument
TANH_ONE = np.float32(10), 20.0  # from here on tanh is 1


@inlined
def exp(x: Any) -> Any:
    x = at_least(at_most(x, pick(x, LARGEST)), pick(x, SMALLEST))
    n, r = split_ln2(x)
    half = n >> 1  # in two steps: results may be subnormal or overflow
    return (expm1_small(r) + lit(1, x)) * power_of_2(half, x) * power_of_2(n - half, x)


@inlined
def expm1(x: Any) -> Any:
    n, r = split_ln2(at_least(at_most(x, pick(x, LARGEST)), pick(x, MINUS_ONE)))
    half = power_of_2(n - 1, x)  # 2^n itself may overflow
    y = lit(2, x) * (half * expm1_small(r) + (half - lit(0.5, x)))
    return x if abs(x) < pick(x, LINEAR) else y


@inlined
def tanh(x: Any) -> Any:
    a = at_most(abs(x), pick(x, TANH_ONE))
    m = expm1_middle(a + a)
    return with_sign(m / (m + lit(2, x)), x)


@inlined
def sigmoid(x: Any) -> Any:
    e = exp(-abs(x))
    one = lit(1, x)
    return (e if x < 0 else one) / (one + e)


# -- logarithms

LOG = _pair(
    "0x1.555554p-2 -0x1.00022ap-2 0x1.99a03cp-3 -0x1.54718cp-3 0x1.22d498p-3 -0x1.0d86ep-3 0x1.0586360p-3 -0x1.391ccp-4",
    "0x1.5555555555593p-1 0x1.999999997f9f7p-2 0x1.249249422a614p-2 0x1.c71c51d7b0423p-3 0x1.746649b741bf3p-3"
    " 0x1.39a094a727dap-3 0x1.2f118960f2b83p-3",
)
E_HI = _pair("0x1.62e4p-1", "0x1.62e42fefa38p-1")
E_LO = _pair("0x1.7f7d1cp-20", "0x1.ef35793c7673p-45")
ROOT = np.int32(0x3F3504F3), np.int64(0x3FE6A09E667F3BCD)  # the bits of sqrt(1/2)
ONE = np.int32(0x3F800000), np.int64(0x3FF0000000000000)  # of 1
FRACTION = np.int32(2**23 - 1), np.int64(2**52 - 1)
NORMAL = _pair("0x1p-126", "0x1p-1022")
SUBNORMAL = np.int32(25), np.int64(54)  # subnormal numbers are multiplied by 2 to this power
HUGE = _pair("0x1p100", "0x1p100")


@inlined
def log_of_parts(e: Any, f: Any) -> Any:
    """log(2^e (1 + f)) for sqrt(1/2) <= 1 + f < sqrt(2)."""
    c, hi, lo = pick(f, LOG), pick(f, E_HI), pick(f, E_LO)
    half_square = lit(0.5, f) * f * f
    if pick(f, (True, False)):
        return e * hi + (f + (f * f * f * polynomial(f, c) + (e * lo - half_square)))
    # log(1 + f) = 2 atanh(s) = f - s f + 2 s^3 / 3 + ..., and s f = f^2 / 2 - s f^2 / 2
    s = f / (lit(2, f) + f)
    z = s * s
    return e * hi + (f - (half_square - (s * (half_square + z * polynomial(z, c)) + e * lo)))


@inlined
def split_exponent(x: Any) -> tuple[Any, Any]:
    """x = 2^e m with sqrt(1/2) <= m < sqrt(2), for normal positive x: (e as an integer, m)."""
    root = pick(x, ROOT)
    b = bits(x) + (pick(x, ONE) - root)
    m = number((b & pick(x, FRACTION)) + root, x)
    return (b >> pick(x, MANTISSA)) - pick(x, BIAS), m


@inlined
def log_or_special(x: Any, y: Any) -> Any:
    """y where x is positive and finite, else log x."""
    special = lit(np.nan, x) if x < 0 else lit(-np.inf, x) if x == 0 else x  # inf, NaN
    return y if (x > 0) & (x < lit(np.inf, x)) else special


@inlined
def log(x: Any) -> Any:
    tiny = x < pick(x, NORMAL)
    power = pick(x, SUBNORMAL)
    e, m = split_exponent(x * power_of_2(power, x) if tiny else x)
    return log_or_special(x, log_of_parts(lit(e - power if tiny else e, x), m - lit(1, x)))


@inlined
def log1p(x: Any) -> Any:
    """1 + x = 2^e (1 + f) with f = x 2^-e + (2^-e - 1), which is exact wherever it matters."""
    y = x + lit(1, x)
    e, m = split_exponent(y)
    shrink = power_of_2(-e, x)
    f = m - lit(1, x) if x >= pick(x, HUGE) else x * shrink + (shrink - lit(1, x))
    return with_sign(log_or_special(y, log_of_parts(lit(e, x), f)), x)


# -- circles

TWO_BY_PI = _pair("0x1.45f306dc9c883p-1", "0x1.45f306dc9c883p-1")
HALF_PI = _pair(
    "0x1.921fb6p+0 -0x1.777a5cp-25 -0x1.ee59dap-50",
    "0x1.921fb54442d18p+0 0x1.1a62633145c07p-54 -0x1.f1976b7ed9p-110",
)
SIN = _pair(
    "-0x1.555546p-3 0x1.110776p-7 -0x1.9952fap-13",
    "-0x1.5555555555548p-3 0x1.111111110f73p-7 -0x1.a01a019be9219p-13 0x1.71de35552b852p-19 -0x1.ae5e4b841909cp-26"
    " 0x1.5d8b55a699417p-33",
)
COS = _pair(
    "0x1.55554ap-5 -0x1.6c0c28p-10 0x1.99e80cp-16",
    "0x1.555555555554bp-5 -0x1.6c16c16c1500dp-10 0x1.a01a019c8dd1cp-16 -0x1.27e4f7f04ffap-22 0x1.1ee9dacb65987p-29"
    " -0x1.8fa5ec6eb01bdp-37",
)
LIMIT = np.float32(5e4), 1e6


@inlined
def sin_near(x: Any, quarter: int) -> Any:
    """sin(x + quarter pi/2).  The sign of a zero is that of x only where x >= +0."""
    magic = pick(x, MAGIC)
    t = x * pick(x, TWO_BY_PI) + magic
    n = bits(t) + quarter
    m, parts = magic - t, pick(x, HALF_PI)
    r = fma(m, parts[2], fma(m, parts[1], fma(m, parts[0], x)))
    z = r * r
    s = r * z * polynomial(z, pick(x, SIN)) + r
    c = z * z * polynomial(z, pick(x, COS)) + (lit(1, x) - lit(0.5, x) * z)
    y = s if n & 1 == 0 else c
    return -y if n & 2 else y


@inlined
def sin(x: Any) -> Any:
    y = sin_near(abs(x), 0)
    return number(bits(y) ^ (bits(x) & pick(x, SIGN)), x)


@inlined
def cos(x: Any) -> Any:
    return sin_near(x, 1)


@function
def near(n: int, at: int, like: Any) -> bool:
    """Whether all of n numbers are small enough for `sin` and `cos`."""
    far = 0
    for k in range(n):
        far |= 0 if abs(load(at, k, like)) <= pick(like, LIMIT) else 1
    return far == 0


@inlined
def far_sin(x: Any) -> Any:
    return sin(x) if abs(x) <= pick(x, LIMIT) else math.sin(x)


@inlined
def far_cos(x: Any) -> Any:
    return cos(x) if abs(x) <= pick(x, LIMIT) else math.cos(x)


# -- the error function: erf(x) = 1 - e^(-x h(x)) with h a polynomial, its first coefficient in two parts

ERF = _pair(
    "-0x1.f7ac92p-25 0x1.45f2fap-1 0x1.a4fa5ep-4 -0x1.39cdc6p-6 -0x1.50608ep-13 0x1.b50062p-10 -0x1.4bc9fcp-11 0x1.ed6c7p-14"
    " -0x1.3696bap-17",
    "0x1.1ae3a914fed80p-56 0x1.45f306dc9c8cfp-1 0x1.a4f4e2a1aa726p-4 -0x1.39668590c0131p-6 -0x1.b6b6a0d29d7f1p-13"
    " 0x1.bca6911f16ff6p-10 -0x1.35663579673cp-11 0x1.b29886e7a79e8p-16 0x1.0e345837426cep-14 -0x1.f03c1d3df0ec6p-16"
    " 0x1.a9d3b2c1630b6p-19 0x1.a413f39c93fe3p-19 -0x1.111370ccdfbbfp-19 0x1.316c5b708cc5dp-21 -0x1.729017844ff87p-27"
    " -0x1.1c0228a2622dcp-24 0x1.2a38a1198524cp-25 -0x1.7362cbc7222e8p-27 0x1.456fcf467a478p-29 -0x1.9ec54098024adp-32"
    " 0x1.7b926d8c3a564p-35 -0x1.db019b48d9c19p-39 0x1.6cd5ef123884bp-43 -0x1.03b9dc67e6263p-48",
)
ERF_FIRST = _pair("0x1.20dd76p+0", "0x1.20dd750429b6dp+0")
ERF_ONE = np.float32(4), 6.0  # from here on erf is 1


@inlined
def erf(x: Any) -> Any:
    a = at_most(abs(x), pick(x, ERF_ONE))
    g = a * pick(x, ERF_FIRST) + a * polynomial(a, pick(x, ERF))
    return with_sign(abs(expm1_middle(-g)), x)
