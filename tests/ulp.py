"""True values of the mathematical functions, arguments that are hard for them, and errors in units in the last place."""

from __future__ import annotations

import functools

import numpy as np

TYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32}
SEED = 20240607


def erf(x):
    """erf in extended precision, from the series whose terms are all positive."""
    a, where = np.unique(np.minimum(np.abs(x), np.longdouble(6.5)), return_inverse=True)
    term = total = a.copy()
    for n in range(1, 220):
        term = term * (2 * a * a / (2 * n + 1))
        total = total + term
    root_pi = np.sqrt(np.longdouble(4) * np.arctan(np.longdouble(1)))
    return np.copysign((2 / root_pi * np.exp(-a * a) * total)[where], x)


def sigmoid(x):
    """The logistic function in extended precision."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


REFERENCES = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "sigmoid": sigmoid, "erf": erf, "sqrt": np.sqrt, "floor": np.floor, "power": np.power,
}  # fmt: skip
# The bounds stated in csrc/native/vmath.hpp, (f32, f64).
BOUNDS = {
    "exp": (1.25, 1.25), "expm1": (2, 2.5), "log": (1, 1), "log1p": (1.75, 1.75), "sin": (2, 2), "cos": (2, 2), "tanh": (3, 3),
    "sigmoid": (2.5, 2.5), "erf": (2.5, 2.5), "sqrt": (0.5, 0.5), "floor": (0, 0), "power": (0.75, 1.5),
}  # fmt: skip


def ulp_errors(got, true):
    """|got - true| in units in the last place of true; infinite where only one of them is NaN, or a zero's sign is wrong."""
    info = np.finfo(got.dtype)
    top = np.ldexp(np.longdouble(1), info.maxexp)  # what infinity stands for next to the largest numbers
    finite = np.abs(true) < np.longdouble(np.inf)
    wide = np.where(np.isnan(got), 0, got).astype(np.longdouble)
    clipped = np.clip(wide, -top, top)
    bounded = np.clip(true, -top, top)
    _, exponent = np.frexp(np.where(np.isnan(true), 1, bounded))
    ulp = np.ldexp(np.longdouble(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
    error = np.abs(clipped - bounded) / ulp
    error[~finite] = np.where(wide[~finite] == true[~finite], 0, np.inf)
    error[np.isnan(true) != np.isnan(got)] = np.inf
    error[np.isnan(true) & np.isnan(got)] = 0
    error[(true == 0) & (got == 0) & (np.signbit(true) != np.signbit(got))] = np.inf
    return error


def samples(dtype, count):
    """Arguments of every magnitude and sign, and many where the function does something interesting."""
    rng = np.random.default_rng(SEED)
    t = TYPES[dtype]
    info = np.finfo(t)
    bits = rng.integers(
        0, 2**32 if t is np.float32 else 2**64, count, dtype=np.uint32 if t is np.float32 else np.uint64
    )
    specials = [
        0.0,
        info.smallest_subnormal,
        info.tiny,
        info.tiny / 2,
        info.eps,
        info.max,
        np.inf,
        np.nan,
        1,
        0.5,
        2,
        3,
        4,
        20,
        41,
    ]
    specials += [
        np.sqrt(0.5),
        np.sqrt(2),
        np.pi / 2,
        np.pi,
        5e4,
        1e6,
        1e5,
        1e22,
        88.72,
        88.73,
        103.9,
        104,
        709.78,
        709.79,
        745.1,
        745.2,
    ]
    with np.errstate(all="ignore"):
        specials = np.array(specials, t)
        near = np.concatenate([np.nextafter(specials, t(-np.inf)), specials, np.nextafter(specials, t(np.inf))])
    big = 110 if t is np.float32 else 760
    parts = [
        bits.view(t),
        near,
        rng.uniform(-1, 1, count),
        rng.uniform(-10, 10, count),
        rng.uniform(-big, big, count),
        rng.normal(size=count) * np.exp(rng.uniform(-20, 12, count)),
        1 + rng.normal(size=count) * np.exp(rng.uniform(-30, 0, count)),
        np.arange(-20000, 20000) * (np.pi / 2),
    ]
    with np.errstate(all="ignore"):
        x = np.concatenate([np.asarray(p, t) for p in parts])
    x[np.isnan(x)] = np.nan  # no signalling ones
    return np.concatenate([x, -x])


@functools.cache
def reference(name, dtype):
    """Arguments and true values of a function of one argument."""
    x = samples(dtype, 25_000 if name == "erf" else 60_000)
    if name in ("sin", "cos") and dtype == "f64":
        x = x[~(np.abs(x) > 2.0**62)]  # where the extended-precision functions of the C library are no reference
    with np.errstate(all="ignore"):
        return x, REFERENCES[name](x.astype(np.longdouble))
