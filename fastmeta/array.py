"""Array functions by the names and semantics of the Python array API, on traced values and on plain arrays.

Inside a trace they record equations; on plain arrays outside a trace they compute their NumPy meaning at once.
Numbers take the dtype of the array they meet; float32 with float64 is an error; integers and bools with floats
become the float's dtype.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from math import prod as product
from typing import Any

import numpy as np

from fastmeta.arguments import (
    Axis,
    array_function,
    array_operand,
    axes_of,
    axis_of,
    broadcast_all,
    common_dtype,
    converted,
    counted,
    dtype_name,
    floats_of,
    graph_of,
    integer_operand,
    ordered,
    several,
    shown,
    static_integers,
)  # fmt: skip
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import index as ix
from fastmeta.ops import shape as sh
from fastmeta.ops.product import matmul as _product
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, spread, total
from fastmeta.ops.structure import CALL  # noqa: F401  (the registry is complete once this module is imported)
from fastmeta.program import DTYPES, FLOATS, Primitive, Shape, Var
from fastmeta.trace import Array, Tracer, located
from fastmeta.transforms import rewrites  # noqa: F401  (attaches the rules to the rows)

# -- elementwise


def _elementwise(op: Primitive, doc: str, *, floats: bool = False, logical: bool = False) -> Callable[..., Array]:
    def f(*xs: Any) -> Var:
        if op.micro is not None and len(xs) != op.micro.arity:
            raise expected(op.name, f"{op.micro.arity} operands", len(xs), TypeError)
        g = graph_of(op.name, xs)
        dtype = "bool" if logical else common_dtype(op.name, xs)
        if floats and dtype not in FLOATS:
            dtype = "f32"
        if dtype == "bool" and not logical:
            dtype = "i32"
        return g.emit(op, tuple(broadcast_all(op.name, [converted(x, dtype, g) for x in xs])))

    f.__name__ = op.name
    f.__doc__ = doc
    return array_function(f)


add = _elementwise(ew.ADD, "x + y, broadcast.")
subtract = _elementwise(ew.SUBTRACT, "x - y, broadcast.")
multiply = _elementwise(ew.MULTIPLY, "x * y, broadcast.")
divide = _elementwise(ew.DIVIDE, "x / y, broadcast; integers are divided as floats.", floats=True)
power = _elementwise(ew.POWER, "x ** y, broadcast; derivative 0 in y where x <= 0.", floats=True)
maximum = _elementwise(ew.MAXIMUM, "The larger of x and y; a tie shares its derivative equally; NaN propagates.")
minimum = _elementwise(ew.MINIMUM, "The smaller of x and y; a tie shares its derivative equally; NaN propagates.")
negative = _elementwise(ew.NEGATIVE, "-x.")
abs = _elementwise(ew.ABS, "|x|; derivative 0 at 0.")
sign = _elementwise(ew.SIGN, "-1, 0 or 1; derivative 0.")
floor = _elementwise(ew.FLOOR, "The largest integer not above x, as a float; derivative 0.", floats=True)
sqrt = _elementwise(ew.SQRT, "The square root.", floats=True)
rsqrt = _elementwise(ew.RSQRT, "1 / sqrt(x).", floats=True)
exp = _elementwise(ew.EXP, "e ** x.", floats=True)
expm1 = _elementwise(ew.EXPM1, "e ** x - 1, exact for small x.", floats=True)
log = _elementwise(ew.LOG, "The natural logarithm.", floats=True)
log1p = _elementwise(ew.LOG1P, "log(1 + x), exact for small x.", floats=True)
sin = _elementwise(ew.SIN, "The sine of x in radians.", floats=True)
cos = _elementwise(ew.COS, "The cosine of x in radians.", floats=True)
tanh = _elementwise(ew.TANH, "The hyperbolic tangent.", floats=True)
sigmoid = _elementwise(ew.SIGMOID, "1 / (1 + exp(-x)), safe for large |x|.", floats=True)
erf = _elementwise(ew.ERF, "The error function.", floats=True)
relu = _elementwise(ew.RELU, "max(x, 0); derivative 0 at 0.")
equal = _elementwise(ew.EQUAL, "x == y, as bool.")
not_equal = _elementwise(ew.NOT_EQUAL, "x != y, as bool.")
less = _elementwise(ew.LESS, "x < y, as bool.")
less_equal = _elementwise(ew.LESS_EQUAL, "x <= y, as bool.")
greater = _elementwise(ew.GREATER, "x > y, as bool.")
greater_equal = _elementwise(ew.GREATER_EQUAL, "x >= y, as bool.")
logical_and = _elementwise(ew.LOGICAL_AND, "Both are true.", logical=True)
logical_or = _elementwise(ew.LOGICAL_OR, "One is true.", logical=True)
logical_not = _elementwise(ew.LOGICAL_NOT, "x is not true.", logical=True)


@array_function
def where(condition: Any, x: Any, y: Any) -> Var:
    """x where the condition holds, else y; all three broadcast.  Both branches are computed.

    >>> where(np.array([True, False]), np.float32(1), np.float32(2))
    array([1., 2.], dtype=float32)
    """
    g = graph_of("where", [condition, x, y])
    dtype = common_dtype("where", [x, y])
    c = condition if isinstance(condition, Var) else g.const(builtins.bool(condition), (), "bool")
    if c.dtype != "bool":
        raise expected("where", "a bool condition", c.dtype, TypeError)
    return g.emit(ew.WHERE, tuple(broadcast_all("where", [c, converted(x, dtype, g), converted(y, dtype, g)])))


@array_function
def square(x: Any) -> Var:
    """x * x; bools are counted."""
    x = counted(array_operand("square", x))
    return x.graph.emit(ew.MULTIPLY, (x, x))


@array_function
def astype(x: Any, *, dtype: Any) -> Var:
    """x converted to ``dtype``; floats become integers by truncation."""
    return sh.cast(array_operand("astype", x), dtype_name("astype", dtype))


@array_function
def stop_gradient(x: Any) -> Var:
    """x, as a constant to every derivative."""
    return array_operand("stop_gradient", x).graph.emit(sh.STOP_GRADIENT, (x,))


# -- reductions


def _keep(x: Var, y: Var, axes: tuple[int, ...], keepdims: bool) -> Var:
    return sh.reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape))) if keepdims else y


@array_function
def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The sum over ``axis`` (all axes if None); bools are counted."""
    axes = axes_of("sum", x, axis)
    x = counted(x)
    return _keep(x, total(x, axes), axes, keepdims)


@array_function
def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The mean over ``axis`` (all axes if None); integers and bools are averaged as float32."""
    axes = axes_of("mean", x, axis)
    x = floats_of(x)
    n = product(x.shape[a] for a in axes)
    if n == 0:
        raise expected("mean", "at least one element", x.shape)
    return _keep(x, ew.multiply(total(x, axes), 1.0 / n), axes, keepdims)


@array_function
def var(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The variance over ``axis``: the mean of squared deviations, in two passes; integers and bools as float32."""
    axes = axes_of("var", x, axis)
    x = floats_of(x)
    n = product(x.shape[a] for a in axes)
    if n == 0:
        raise expected("var", "at least one element", x.shape)
    d = ew.subtract(x, spread(ew.multiply(total(x, axes), 1.0 / n), x.shape, axes))
    return _keep(x, ew.multiply(total(ew.multiply(d, d), axes), 1.0 / n), axes, keepdims)


def _extreme(name: str, op: Primitive) -> Callable[..., Array]:
    def f(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
        axes = axes_of(name, x, axis)
        return _keep(x, x.graph.emit(op, (ordered(name, x),), (axes,)), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The {name}imum over ``axis`` (all axes if None); ties share the derivative equally; NaN propagates."
    return array_function(f)


max = _extreme("max", MAX)
min = _extreme("min", MIN)


def _position(name: str, op: Primitive) -> Callable[..., Array]:
    def f(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Var:
        x = ordered(name, array_operand(name, x))
        if isinstance(axis, tuple):
            raise expected(name, "one axis or None", axis, TypeError)
        if axis is None:
            flat = x.graph.emit(op, (sh.reshape(x, (x.size,)),), (0,))
            return sh.reshape(flat, (1,) * len(x.shape)) if keepdims else flat
        axes = axes_of(name, x, axis)
        return _keep(x, x.graph.emit(op, (x,), axes), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The int32 index of the first {name[3:]}imum along ``axis`` (of the flat array if None)."
    return array_function(f)


argmax = _position("argmax", ARGMAX)
argmin = _position("argmin", ARGMIN)


@array_function
def prod(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The product over ``axis`` (all axes if None) of numbers, bools as integers; its derivative is exact at zeros, to any order."""
    axes = axes_of("prod", x, axis)
    x = counted(x)
    left = tuple(a for a in range(len(x.shape)) if a not in axes)
    shape = tuple(x.shape[a] for a in left)
    n = product(x.shape[a] for a in axes)
    y = sh.reshape(sh.permute(x, (*axes, *left)), (n, *shape))
    if n == 0:
        return _keep(x, x.graph.const(1, shape, x.dtype), axes, keepdims)
    zero, one = (0,) * len(shape), (1,) * (len(shape) + 1)
    while n > 1:  # by halves: log2(n) products
        h = n // 2
        low = sh.cut(y, (0, *zero), (h, *shape), one)
        high = sh.cut(y, (h, *zero), (2 * h, *shape), one)
        both = x.graph.emit(ew.MULTIPLY, (low, high))
        y = sh.concat((both, sh.cut(y, (2 * h, *zero), (n, *shape), one)), 0) if n % 2 else both
        n = h + n % 2
    return _keep(x, sh.reshape(y, shape), axes, keepdims)


@array_function
def cumulative_sum(x: Any, *, axis: int | None = None) -> Var:
    """The running sum along ``axis`` (which may be left out for one axis only)."""
    if axis is None and len(array_operand("cumulative_sum", x).shape) != 1:
        raise expected("cumulative_sum", "axis to be given for more than one axis", x.shape)
    a = axis_of("cumulative_sum", x, 0 if axis is None else axis)
    return x.graph.emit(CUMSUM, (counted(x),), (a, False))


@array_function
def logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """log(sum(exp(x))) over ``axis``, safe for large x."""
    axes = axes_of("logsumexp", x, axis)
    top, shifted = _shifted("logsumexp", x, axes)
    s = ew.add(ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes)), top)
    return _keep(x, s, axes, keepdims)


@array_function
def softmax(x: Any, *, axis: int = -1) -> Var:
    """exp(x) / sum(exp(x)) along ``axis``, safe for large x."""
    axes = axes_of("softmax", x, axis)
    e = ew.apply(ew.EXP, _shifted("softmax", x, axes)[1])
    return ew.divide(e, spread(total(e, axes), x.shape, axes))


@array_function
def log_softmax(x: Any, *, axis: int = -1) -> Var:
    """log(softmax(x)) along ``axis``, safe for large x."""
    axes = axes_of("log_softmax", x, axis)
    shifted = _shifted("log_softmax", x, axes)[1]
    s = ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes))
    return ew.subtract(shifted, spread(s, x.shape, axes))


def _shifted(where: str, x: Var, axes: tuple[int, ...]) -> tuple[Var, Var]:
    """The maximum, as a constant and 0 where it is infinite, and x minus it."""
    if x.dtype not in FLOATS:
        raise expected(where, "a float array", shown(x), TypeError)
    top = x.graph.emit(sh.STOP_GRADIENT, (x.graph.emit(MAX, (x,), (axes,)),))
    finite = ew.apply(ew.LESS, ew.apply(ew.ABS, top), float("inf"))
    top = ew.where(ew.apply(ew.LOGICAL_OR, finite, ew.apply(ew.NOT_EQUAL, top, top)), top, 0.0)
    return top, ew.subtract(x, spread(top, x.shape, axes))


# -- products


@array_function
def matmul(x: Any, y: Any) -> Var:
    """The matrix product over the last two axes; leading axes broadcast, vectors are rows or columns as in NumPy."""
    g = graph_of("matmul", [x, y])
    dtype = common_dtype("matmul", [x, y])
    if dtype not in FLOATS:
        raise expected("matmul", "float arrays", dtype, TypeError)
    if not (isinstance(x, Var) and isinstance(y, Var)) or not x.shape or not y.shape:
        raise expected("matmul", "arrays of at least one axis", " and ".join(str(getattr(v, "shape", v)) for v in (x, y)))
    a, b = converted(x, dtype, g), converted(y, dtype, g)
    rows, cols = len(a.shape) > 1, len(b.shape) > 1
    a = a if rows else sh.reshape(a, (1, *a.shape))
    b = b if cols else sh.reshape(b, (*b.shape, 1))
    if a.shape[-1] != b.shape[-2]:
        raise expected("matmul", "inner sizes to agree", f"{x.shape} and {y.shape}")
    out = _matmul(a, b)
    shape = out.shape if cols else out.shape[:-1]
    return sh.reshape(out, shape if rows else (*shape[: len(out.shape) - 2], *shape[len(out.shape) - 1 :]))


def _matmul(a: Var, b: Var) -> Var:
    if len(b.shape) == 2 and len(a.shape) > 2:  # one matrix for all: rows are rows
        flat = sh.reshape(a, (product(a.shape[:-1]), a.shape[-1]))
        return sh.reshape(_product(flat, b), (*a.shape[:-1], b.shape[-1]))
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise expected("matmul", "leading axes that broadcast together", f"{a.shape} and {b.shape}") from None
    return _product(sh.broadcast_to(a, (*lead, *a.shape[-2:])), sh.broadcast_to(b, (*lead, *b.shape[-2:])))


def einsum(spec: str, *operands: Array) -> Array:
    """Einstein summation of one or two operands with an explicit or implied result, e.g. ``"nd,kd->nk"``.

    >>> einsum("ij,kj->ik", np.eye(2, dtype=np.float32), np.ones((1, 2), np.float32))
    array([[1.],
           [1.]], dtype=float32)
    """
    if not isinstance(spec, str):
        raise expected("einsum", "a text like 'ij,jk->ik' before the operands", type(spec).__name__, TypeError)
    left, arrow, out = spec.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if len(terms) != len(operands) or not 1 <= len(terms) <= 2:
        raise expected("einsum", "one or two operands, as many as terms", f"{len(operands)} for {spec!r}")
    if not all(c.isalpha() for c in left.replace(",", "") + out) or len(set(out)) != len(out) or not set(out) <= set(left):
        raise expected("einsum", "letters for axes, each result axis once and in an operand", spec)
    return _einsum(*operands, terms=tuple(terms), out=out)


@array_function
def _einsum(*xs: Any, terms: tuple[str, ...], out: str) -> Var:
    dtype = common_dtype("einsum", xs)
    if len(xs) == 2 and dtype not in FLOATS:
        raise expected("einsum", "float arrays", dtype, TypeError)
    size: dict[str, int] = {}
    ys = []
    for k, (x, term) in enumerate(zip(xs, terms, strict=True)):
        x = sh.cast(array_operand("einsum", x), dtype)
        if len(term) != len(x.shape):
            raise expected("einsum", f"{len(term)} axes for '{term}'", x.shape)
        for c, n in zip(term, x.shape, strict=True):
            if size.setdefault(c, n) != n:
                raise expected("einsum", f"axis '{c}' of length {size[c]}", n)
        x, term = _diagonal(x, term)
        others = set("".join(terms[:k] + terms[k + 1 :]))
        gone = [c for c in term if c not in out and c not in others]
        ys.append((total(x, tuple(term.index(c) for c in gone)), "".join(c for c in term if c not in gone)))
    if len(ys) == 1:
        x, term = ys[0]
        return sh.permute(x, tuple(term.index(c) for c in out))
    (a, ta), (b, tb) = ys
    batch = [c for c in ta if c in tb and c in out]
    inner = [c for c in ta if c in tb and c not in out]
    rows, cols = [c for c in ta if c not in tb], [c for c in tb if c not in ta]

    def arrange(x: Var, term: str, *groups: list[str]) -> Var:
        x = sh.permute(x, tuple(term.index(c) for g in groups for c in g))
        return sh.reshape(x, (*[size[c] for c in batch], *[product(size[c] for c in g) for g in groups[1:]]))

    y = _product(arrange(a, ta, batch, rows, inner), arrange(b, tb, batch, inner, cols))
    order = [*batch, *rows, *cols]
    y = sh.reshape(y, tuple(size[c] for c in order))
    return sh.permute(y, tuple(order.index(c) for c in out))


def _diagonal(x: Var, term: str) -> tuple[Var, str]:
    """Keeps the diagonal of repeated letters: a mask and a sum."""
    for c in set(term):
        while term.count(c) > 1:
            i, j = [k for k, t in enumerate(term) if t == c][:2]
            n = x.shape[i]
            eye = sh.broadcast(x.graph.array(np.eye(n, dtype=DTYPES[x.dtype])), x.shape, (i, j))
            x, term = total(ew.multiply(x, eye), (j,)), term[:j] + term[j + 1 :]
    return x, term


# -- shapes


@array_function
def _reshape(x: Any, *, shape: Shape) -> Var:
    rest = product(n for n in shape if n != -1)
    if shape.count(-1) == 1 and rest > 0 and array_operand("reshape", x).size % rest == 0:
        shape = tuple(x.size // rest if n == -1 else n for n in shape)
    return sh.reshape(x, shape)


def reshape(x: Array, shape: int | Sequence[int]) -> Array:
    """x with another shape of as many elements, in row-major order; one length may be -1."""
    return _reshape(x, shape=static_integers("reshape", shape))


def permute_dims(x: Array, axes: Sequence[int]) -> Array:
    """x with its axes in another order."""
    return _permute(x, axes=static_integers("permute_dims", axes, "axes"))


@array_function
def _permute(x: Any, *, axes: tuple[int, ...]) -> Var:
    n = len(array_operand("permute_dims", x).shape)
    perm = tuple(a + n if a < 0 else a for a in axes)
    if sorted(perm) != list(range(n)):
        raise expected("permute_dims", f"a permutation of the {n} axes of {x.shape}", axes)
    return sh.permute(x, perm)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """x repeated to ``shape`` by NumPy's rules."""
    return _broadcast_to(x, shape=static_integers("broadcast_to", shape))


@array_function
def _broadcast_to(x: Any, *, shape: Shape) -> Var:
    if any(n < 0 for n in shape):
        raise expected("broadcast_to", "lengths of at least 0", shape)
    return sh.broadcast_to(array_operand("broadcast_to", x), shape)


def expand_dims(x: Array, *, axis: int = 0) -> Array:
    """x with a new axis of length 1 at ``axis``."""
    n = np.ndim(x)
    if not isinstance(axis, int | np.integer) or not -n - 1 <= axis <= n:
        raise located(expected("expand_dims", f"an axis in {-n - 1}..{n}", axis))
    shape = list(np.shape(x))
    shape.insert(axis % (n + 1), 1)
    return reshape(x, shape)


@array_function
def squeeze(x: Any, *, axis: Axis) -> Var:
    """x without the given axes of length 1."""
    axes = axes_of("squeeze", x, axis)
    if any(x.shape[a] != 1 for a in axes):
        raise expected("squeeze", "axes of length 1", f"axis {axis} of {x.shape}")
    return sh.reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in axes))


@array_function
def concat(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list joined along an existing axis."""
    ys = [array_operand("concat", x) for x in several("concat", xs)]
    dtype = common_dtype("concat", ys)
    a = axis_of("concat", ys[0], axis)
    return sh.concat(tuple(sh.cast(y, dtype) for y in ys), a)


@array_function
def stack(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list, all of one shape, joined along a new axis."""
    g = graph_of("stack", several("stack", xs))
    dtype = common_dtype("stack", xs)
    ys = [converted(x, dtype, g) for x in xs]
    for y in ys:
        if y.shape != ys[0].shape:
            raise expected("stack", f"arrays of one shape, {ys[0].shape}", y.shape)
    n = len(ys[0].shape) + 1
    if not isinstance(axis, int | np.integer) or not -n <= axis < n:
        raise expected("stack", f"an axis in {-n}..{n - 1}", axis)
    shape = list(ys[0].shape)
    shape.insert(axis % n, 1)
    return sh.concat(tuple(sh.reshape(y, tuple(shape)) for y in ys), axis % n)


@array_function
def flip(x: Any, *, axis: Axis = None) -> Var:
    """x with the order of its elements reversed along ``axis`` (all axes if None)."""
    return array_operand("flip", x).graph.emit(sh.FLIP, (x,), (axes_of("flip", x, axis),))


@array_function
def pad(x: Any, *, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Var:
    """x with ``widths[a] = (before, after)`` more elements along each axis, all equal to ``value``."""
    pairs = [(w,) if isinstance(w, int) else tuple(w) for w in widths] if isinstance(widths, list | tuple) else []
    if len(pairs) != len(array_operand("pad", x).shape) or any(
        len(p) != 2 or not all(isinstance(n, int | np.integer) and n >= 0 for n in p) for p in pairs
    ):  # fmt: skip
        raise expected("pad", f"{len(x.shape)} pairs (before, after) of lengths of at least 0", widths)
    low, high = tuple(int(a) for a, _ in pairs), tuple(int(b) for _, b in pairs)
    zero = (0,) * len(low)
    y = sh.pad(x, low, high, zero)
    if value == 0.0:
        return y
    inside = sh.pad(x.graph.const(True, x.shape, "bool"), low, high, zero)
    return ew.where(inside, y, value)


# -- indices


@array_function
def take(x: Any, indices: Any, *, axis: int | None = None) -> Var:
    """The slices of x at int32 ``indices`` along ``axis`` (0 if x has one axis); an index outside 0..n-1 raises IndexError."""
    if axis is None and len(array_operand("take", x).shape) != 1:
        raise expected("take", "axis to be given for more than one axis", x.shape)
    a = axis_of("take", x, 0 if axis is None else axis)
    idx = integer_operand("take", x.graph.const(indices, (), "i32") if type(indices) is int else indices)
    flat = sh.reshape(idx, tuple(idx.size if i == a else 1 for i in range(len(x.shape))))
    out = ix.gather(x, flat, a)
    return sh.reshape(out, (*x.shape[:a], *idx.shape, *x.shape[a + 1 :]))


@array_function
def take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Var:
    """``out[.., j, ..] = x[.., indices[.., j, ..], ..]`` along ``axis``; other axes of the indices match x's or are 1."""
    a = axis_of("take_along_axis", x, axis)
    return ix.gather(x, integer_operand("take_along_axis", indices), a)


@array_function
def scatter_add(x: Any, indices: Any, updates: Any, *, axis: int = 0) -> Var:
    """x with ``updates`` slices added at 1-D int32 ``indices`` along ``axis``; equal indices add up."""
    a = axis_of("scatter_add", x, axis)
    if len(integer_operand("scatter_add", indices).shape) != 1:
        raise expected("scatter_add", "indices of one axis", indices.shape)
    graph_of("scatter_add", [x, updates])
    if common_dtype("scatter_add", [x, updates]) != x.dtype:
        raise expected("scatter_add", f"updates of dtype {x.dtype}", shown(updates), TypeError)
    shape = (*x.shape[:a], indices.size, *x.shape[a + 1 :])
    u = sh.broadcast_to(converted(updates, x.dtype, x.graph), shape, "scatter_add")
    flat = sh.reshape(indices, tuple(indices.size if i == a else 1 for i in range(len(x.shape))))
    return ew.add(x, ix.scatter_add(u, flat, a, x.shape[a]))


@array_function
def _one_hot(labels: Any, *, n: int, dtype: str) -> Var:
    integer_operand("one_hot", labels, "labels")
    shape = (*labels.shape, n)
    classes = sh.broadcast(labels.graph.array(np.arange(n, dtype=np.int32)), shape, (len(shape) - 1,))
    hit = ew.apply(ew.EQUAL, sh.broadcast(labels, shape, tuple(range(len(labels.shape)))), classes)
    return sh.cast(hit, dtype)


def one_hot(labels: Array, n: int, *, dtype: Any = np.float32) -> Array:
    """[..., n] with 1 at each label and 0 elsewhere; a label outside 0..n-1 gives zeros."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise located(expected("one_hot", "n a whole number of at least 0", repr(n)))
    return _one_hot(labels, n=int(n), dtype=dtype_name("one_hot", dtype))


def getitem(x: Array, key: Any) -> Array:
    """x[key] for integers, slices, ``...``, None and one integer array."""
    try:
        return _getitem(x, key)
    except (TypeError, IndexError, ValueError) as error:
        raise located(error) from error.__cause__


def _getitem(x: Array, key: Any) -> Array:
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [int(k) if isinstance(k, np.integer) else k for k in keys]
    ndim = len(x.shape)
    used = builtins.sum(k is not None and k is not Ellipsis for k in keys)
    if used > ndim or builtins.sum(k is Ellipsis for k in keys) > 1:
        raise expected("index", f"at most {ndim} indices and one ... for {x.shape}", f"{len(keys)} indices", IndexError)
    dots = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    fill = [slice(None)] * (ndim - used)
    keys = [*keys[:dots], *fill, *keys[dots + 1 :]] if dots is not None else [*keys, *fill]
    arrays = [k for k in keys if isinstance(k, Tracer | np.ndarray | list)]
    if len(arrays) > 1:
        raise expected("index", "one integer array among the indices", len(arrays), IndexError, "Use fm.take twice")
    basic = tuple(slice(None) if isinstance(k, Tracer | np.ndarray | list) else k for k in keys)
    out = _basic(x, keys=tuple(("s", k.start, k.stop, k.step) if isinstance(k, slice) else k for k in basic))
    if not arrays:
        return out
    at = next(i for i, k in enumerate(keys) if isinstance(k, Tracer | np.ndarray | list))
    whole = [i for i, k in enumerate(keys) if isinstance(k, int) or i == at]
    if whole[-1] - whole[0] >= len(whole):  # NumPy moves the array's axes to the front
        raise expected("index", "integers next to the integer array", "other indices between them", IndexError, "Index twice")
    axis = at - builtins.sum(isinstance(k, int) for k in keys[:at])
    return take(out, arrays[0], axis=axis)


@array_function
def _basic(x: Any, *, keys: tuple[Any, ...]) -> Var:
    start, stop, step, shape, flipped = [], [], [], [], []
    a = 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        n = x.shape[a]
        if isinstance(k, tuple):
            if k[3] == 0 or any(v is not None and not hasattr(v, "__index__") for v in k[1:]):
                raise expected("index", "a slice of integers with a step other than 0", ":".join(map(str, k[1:])), TypeError)
            lo, hi, s = slice(*k[1:]).indices(n)
            count = len(range(lo, hi, s))
            if s < 0:
                flipped.append(a)
                lo, s = lo + (count - 1) * s if count else 0, -s
            start.append(lo if count else 0)
            stop.append(lo + (count - 1) * s + 1 if count else 0)
            step.append(s)
            shape.append(count)
        elif isinstance(k, int) and not isinstance(k, builtins.bool):
            if not -n <= k < n:
                raise expected("index", f"an index in {-n}..{n - 1} for axis {a} of {x.shape}", k, IndexError)
            start.append(k % n)
            stop.append(k % n + 1)
            step.append(1)
        else:
            raise expected("index", "integers, slices, ..., None or an integer array", repr(k), TypeError)
        a += 1
    y = sh.cut(x, tuple(start), tuple(stop), tuple(step))
    if flipped:
        y = y.graph.emit(sh.FLIP, (y,), (tuple(flipped),))
    return sh.reshape(y, tuple(shape))


# -- made of numbers


def zeros_like(x: Array) -> Array:
    """Zeros of the shape and dtype of x."""
    return _filled(x, value=0)


def ones_like(x: Array) -> Array:
    """Ones of the shape and dtype of x."""
    return _filled(x, value=1)


@array_function
def _filled(x: Any, *, value: int) -> Var:
    return array_operand("zeros_like or ones_like", x).graph.const(float(value) if x.dtype in FLOATS else value, x.shape, x.dtype)


def _method(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **static: f(self, *args, **static)


def _operators() -> None:
    """Gives tracers Python's operators and the methods that arrays have."""
    binary = {
        "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
    }  # fmt: skip
    for name, f in binary.items():
        setattr(Tracer, f"__{name}__", _method(f))
        setattr(Tracer, f"__r{name}__", lambda self, other, f=f: f(other, self))
    compare = {"eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater, "ge": greater_equal}
    unary = {"neg": negative, "abs": abs, "invert": logical_not}
    for name, f in {**compare, **unary, "and": logical_and, "or": logical_or}.items():
        setattr(Tracer, f"__{name}__", _method(f))
    for f in (sum, mean, max, min, argmax, argmin, prod, reshape):
        setattr(Tracer, f.__name__, _method(f))
    others = {
        "__getitem__": getitem,
        "__iter__": lambda self: (getitem(self, i) for i in range(len(self))),
        "T": property(lambda self: permute_dims(self, tuple(range(self.ndim))[::-1])),
        "astype": lambda self, dtype: astype(self, dtype=dtype),
    }
    for name, value in others.items():
        setattr(Tracer, name, value)


_operators()
