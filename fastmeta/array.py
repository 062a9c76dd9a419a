"""Array functions by the names and semantics of the Python array API, on traced values and on plain arrays.

Inside a trace they record equations; on plain arrays outside a trace they compute their NumPy meaning at once.
Numbers take the dtype of the array they meet; float32 with float64 is an error; integers and bools with floats
become the float's dtype.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Sequence
from math import prod as product
from typing import Any

import numpy as np

from fastmeta import oracle
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import index as ix
from fastmeta.ops import shape as sh
from fastmeta.ops.product import matmul as _product
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, spread, total
from fastmeta.ops.structure import CALL  # noqa: F401  (the registry is complete once this module is imported)
from fastmeta.program import DTYPES, FLOATS, NAMES, Primitive, Program, Shape, Var
from fastmeta.trace import Array, Trace, Tracer, as_array, running, user_line
from fastmeta.transforms import rewrites  # noqa: F401  (attaches the rules to the rows)

Axis = int | tuple[int, ...] | None


def array_function(f: Callable[..., Var]) -> Callable[..., Array]:
    """Makes a public function of one that works on Vars: arrays are positional, static parameters keywords."""

    @functools.wraps(f)
    def call(*args: Array, **static: Any) -> Array:
        t = running.trace
        if t is None:
            return _eager(f, args, static)
        t.graph.line = user_line()
        return Tracer(f(*[_lift(t, x) for x in args], **static), t)

    return call


def _lift(t: Trace, x: Any) -> Any:
    if type(x) is float or type(x) is int or type(x) is bool or x is None:
        return x  # a number without dtype
    if isinstance(x, list | tuple):
        return [_lift(t, v) for v in x]
    return t.lift(x)


def _eager(f: Callable[..., Var], args: tuple[Any, ...], static: dict[str, Any]) -> Any:
    t = Trace(None)
    values: list[np.ndarray] = []

    def enter(x: Any) -> Any:
        if type(x) in (float, int, bool) or x is None:
            return x
        if isinstance(x, list | tuple):
            return [enter(v) for v in x]
        if isinstance(x, Tracer):
            return t.lift(x)  # raises: its trace is over
        values.append(as_array(x))
        return t.graph.input(values[-1].shape, NAMES[values[-1].dtype])

    if all(type(x) in (float, int, bool) for x in args):
        args = tuple(as_array(x) for x in args)
    out = f(*[enter(x) for x in args], **static)
    inputs = [v for v in t.graph.nodes if v.op.name == "input"]
    return oracle.evaluate(Program(inputs, [out], t.graph), values)[0]


# -- dtypes and broadcasting


def _common(where: str, xs: Sequence[Any]) -> str:
    """The dtype of a result of operands of mixed dtypes."""
    kinds = {x.dtype for x in xs if isinstance(x, Var)}
    numbers = [type(x) for x in xs if not isinstance(x, Var)]
    floats = kinds & {"f32", "f64"}
    if len(floats) == 2:
        raise expected(where, "float32 or float64 for all operands", "both", TypeError, "Convert one with fm.astype")
    if floats:
        return floats.pop()
    if float in numbers:
        return "f32"
    return "i32" if "i32" in kinds or int in numbers else "bool"


def _to(x: Any, dtype: str, g: Any) -> Var:
    if isinstance(x, Var):
        return sh.cast(x, dtype)
    return g.const(float(x) if dtype in FLOATS else x, (), dtype)


def _broadcast(where: str, xs: Sequence[Var]) -> list[Var]:
    try:
        shape = np.broadcast_shapes(*[x.shape for x in xs])
    except ValueError:
        raise expected(where, "shapes that broadcast together", " and ".join(str(x.shape) for x in xs)) from None
    return [sh.broadcast_to(x, shape) for x in xs]


def _graph(xs: Sequence[Any]) -> Any:
    for x in xs:
        if isinstance(x, Var):
            return x.graph
    raise expected("array function", "at least one array", "numbers only", TypeError)


def _elementwise(op: Primitive, doc: str, *, floats: bool = False, logical: bool = False) -> Callable[..., Array]:
    def f(*xs: Any) -> Var:
        g = _graph(xs)
        dtype = "bool" if logical else _common(op.name, xs)
        if floats and dtype not in FLOATS:
            dtype = "f32"
        if dtype == "bool" and not logical:
            dtype = "i32"
        return g.emit(op, tuple(_broadcast(op.name, [_to(x, dtype, g) for x in xs])))

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
    g = _graph([condition, x, y])
    dtype = _common("where", [x, y])
    c = condition if isinstance(condition, Var) else g.const(builtins.bool(condition), (), "bool")
    if c.dtype != "bool":
        raise expected("where", "a bool condition", c.dtype, TypeError)
    return g.emit(ew.WHERE, tuple(_broadcast("where", [c, _to(x, dtype, g), _to(y, dtype, g)])))


@array_function
def square(x: Any) -> Var:
    """x * x."""
    return x.graph.emit(ew.MULTIPLY, (x, x))


@array_function
def astype(x: Any, *, dtype: Any) -> Var:
    """x converted to ``dtype``; floats become integers by truncation."""
    name = NAMES.get(np.dtype(dtype))
    if name is None:
        raise expected("astype", "float32, float64, int32 or bool", np.dtype(dtype), TypeError)
    return sh.cast(x, name)


@array_function
def stop_gradient(x: Any) -> Var:
    """x, as a constant to every derivative."""
    return x.graph.emit(sh.STOP_GRADIENT, (x,))


# -- reductions


def _axes(where: str, x: Var, axis: Axis) -> tuple[int, ...]:
    n = len(x.shape)
    if axis is None:
        return tuple(range(n))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if any(isinstance(a, builtins.bool) or not isinstance(a, int | np.integer) or not -n <= a < n for a in axes):
        raise expected(where, f"an axis in {-n}..{n - 1} of {x.shape}", axis)
    out = tuple(sorted(int(a) % n for a in axes))
    if len(set(out)) != len(out):
        raise expected(where, "different axes", axis)
    return out


def _keep(x: Var, y: Var, axes: tuple[int, ...], keepdims: bool) -> Var:
    return sh.reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape))) if keepdims else y


@array_function
def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The sum over ``axis`` (all axes if None); bools are counted."""
    x = sh.cast(x, "i32") if x.dtype == "bool" else x
    axes = _axes("sum", x, axis)
    return _keep(x, total(x, axes), axes, keepdims)


@array_function
def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The mean over ``axis`` (all axes if None); integers and bools are averaged as float32."""
    x = x if x.dtype in FLOATS else sh.cast(x, "f32")
    axes = _axes("mean", x, axis)
    n = product(x.shape[a] for a in axes)
    if n == 0:
        raise expected("mean", "at least one element", x.shape)
    return _keep(x, ew.multiply(total(x, axes), 1.0 / n), axes, keepdims)


@array_function
def var(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The variance over ``axis``: the mean of squared deviations, computed in two passes."""
    axes = _axes("var", x, axis)
    n = product(x.shape[a] for a in axes)
    if n == 0:
        raise expected("var", "at least one element", x.shape)
    d = ew.subtract(x, spread(ew.multiply(total(x, axes), 1.0 / n), x.shape, axes))
    return _keep(x, ew.multiply(total(ew.multiply(d, d), axes), 1.0 / n), axes, keepdims)


def _extreme(name: str, op: Primitive) -> Callable[..., Array]:
    def f(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
        axes = _axes(name, x, axis)
        return _keep(x, x.graph.emit(op, (x,), (axes,)), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The {name}imum over ``axis`` (all axes if None); ties share the derivative equally; NaN propagates."
    return array_function(f)


max = _extreme("max", MAX)
min = _extreme("min", MIN)


def _position(name: str, op: Primitive) -> Callable[..., Array]:
    def f(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Var:
        if axis is None:
            flat = x.graph.emit(op, (sh.reshape(x, (x.size,)),), (0,))
            return sh.reshape(flat, (1,) * len(x.shape)) if keepdims else flat
        axes = _axes(name, x, axis)
        return _keep(x, x.graph.emit(op, (x,), axes), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The int32 index of the first {name[3:]}imum along ``axis`` (of the flat array if None)."
    return array_function(f)


argmax = _position("argmax", ARGMAX)
argmin = _position("argmin", ARGMIN)


@array_function
def prod(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The product over ``axis`` (all axes if None); its derivative is exact at zeros, to any order."""
    axes = _axes("prod", x, axis)
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
    if axis is None and len(x.shape) != 1:
        raise expected("cumulative_sum", "axis to be given for more than one axis", x.shape)
    (a,) = _axes("cumulative_sum", x, 0 if axis is None else axis)
    return x.graph.emit(CUMSUM, (x,), (a, False))


@array_function
def logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """log(sum(exp(x))) over ``axis``, safe for large x."""
    axes = _axes("logsumexp", x, axis)
    top, shifted = _shifted(x, axes)
    s = ew.add(ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes)), top)
    return _keep(x, s, axes, keepdims)


@array_function
def softmax(x: Any, *, axis: int = -1) -> Var:
    """exp(x) / sum(exp(x)) along ``axis``, safe for large x."""
    axes = _axes("softmax", x, axis)
    e = ew.apply(ew.EXP, _shifted(x, axes)[1])
    return ew.divide(e, spread(total(e, axes), x.shape, axes))


@array_function
def log_softmax(x: Any, *, axis: int = -1) -> Var:
    """log(softmax(x)) along ``axis``, safe for large x."""
    axes = _axes("log_softmax", x, axis)
    shifted = _shifted(x, axes)[1]
    s = ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes))
    return ew.subtract(shifted, spread(s, x.shape, axes))


def _shifted(x: Var, axes: tuple[int, ...]) -> tuple[Var, Var]:
    """The maximum, as a constant and 0 where it is infinite, and x minus it."""
    if x.dtype not in FLOATS:
        raise expected("softmax", "a float array", x.dtype, TypeError)
    top = x.graph.emit(sh.STOP_GRADIENT, (x.graph.emit(MAX, (x,), (axes,)),))
    finite = ew.apply(ew.LESS, ew.apply(ew.ABS, top), float("inf"))
    top = ew.where(ew.apply(ew.LOGICAL_OR, finite, ew.apply(ew.NOT_EQUAL, top, top)), top, 0.0)
    return top, ew.subtract(x, spread(top, x.shape, axes))


# -- products


@array_function
def matmul(x: Any, y: Any) -> Var:
    """The matrix product over the last two axes; leading axes broadcast, vectors are rows or columns as in NumPy."""
    dtype = _common("matmul", [x, y])
    if dtype not in FLOATS:
        raise expected("matmul", "float arrays", dtype, TypeError)
    g = _graph([x, y])
    if not (isinstance(x, Var) and isinstance(y, Var)) or not x.shape or not y.shape:
        raise expected("matmul", "arrays of at least one axis", "a scalar")
    a, b = _to(x, dtype, g), _to(y, dtype, g)
    rows, cols = len(a.shape) > 1, len(b.shape) > 1
    a = a if rows else sh.reshape(a, (1, *a.shape))
    b = b if cols else sh.reshape(b, (*b.shape, 1))
    if a.shape[-1] != b.shape[-2]:
        raise expected("matmul", f"[..., {a.shape[-1]}, n] for {x.shape} @", y.shape)
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
    left, arrow, out = spec.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if len(terms) != len(operands) or not 1 <= len(terms) <= 2:
        raise expected("einsum", f"{len(terms)} operands for '{spec}' (one or two are supported)", len(operands))
    if not all(c.isalpha() for c in left.replace(",", "") + out) or len(set(out)) != len(out) or not set(out) <= set(left):
        raise expected("einsum", "letters for axes, each result axis once and in an operand", spec)
    return _einsum(*operands, terms=tuple(terms), out=out)


@array_function
def _einsum(*xs: Any, terms: tuple[str, ...], out: str) -> Var:
    size: dict[str, int] = {}
    ys = []
    for x, term in zip(xs, terms, strict=True):
        if len(term) != len(x.shape):
            raise expected("einsum", f"{len(term)} axes for '{term}'", x.shape)
        for c, n in zip(term, x.shape, strict=True):
            if size.setdefault(c, n) != n:
                raise expected("einsum", f"axis '{c}' of length {size[c]}", n)
        x, term = _diagonal(x, term)
        others = set("".join(t for t in terms if t is not term)) if len(terms) > 1 else set()
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


def _static_shape(where: str, shape: Any) -> Shape:
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if any(isinstance(n, Tracer) for n in shape):
        raise TypeError(f"[{where}] expected a static shape, got a traced value in it")
    return tuple(int(n) for n in shape)


@array_function
def _reshape(x: Any, *, shape: Shape) -> Var:
    if shape.count(-1) == 1:
        rest = product(n for n in shape if n != -1)
        shape = tuple(x.size // rest if n == -1 and rest else n for n in shape)
    return sh.reshape(x, shape)


def reshape(x: Array, shape: int | Sequence[int]) -> Array:
    """x with another shape of as many elements, in row-major order; one length may be -1."""
    return _reshape(x, shape=_static_shape("reshape", shape))


def permute_dims(x: Array, axes: Sequence[int]) -> Array:
    """x with its axes in another order."""
    return _permute(x, axes=tuple(axes))


@array_function
def _permute(x: Any, *, axes: tuple[int, ...]) -> Var:
    n = len(x.shape)
    return sh.permute(x, tuple(a % n if -n <= a < n else a for a in axes))


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """x repeated to ``shape`` by NumPy's rules."""
    return _broadcast_to(x, shape=_static_shape("broadcast_to", shape))


@array_function
def _broadcast_to(x: Any, *, shape: Shape) -> Var:
    return sh.broadcast_to(x, shape)


def expand_dims(x: Array, *, axis: int = 0) -> Array:
    """x with a new axis of length 1 at ``axis``."""
    n = np.ndim(x) if not isinstance(x, Tracer) else x.ndim
    if not -n - 1 <= axis <= n:
        raise expected("expand_dims", f"an axis in {-n - 1}..{n}", axis)
    shape = list(np.shape(x) if not isinstance(x, Tracer) else x.shape)
    shape.insert(axis % (n + 1), 1)
    return reshape(x, shape)


@array_function
def squeeze(x: Any, *, axis: Axis) -> Var:
    """x without the given axes of length 1."""
    axes = _axes("squeeze", x, axis)
    if any(x.shape[a] != 1 for a in axes):
        raise expected("squeeze", f"axes of length 1 in {x.shape}", axis)
    return sh.reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in axes))


@array_function
def concat(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list joined along an existing axis."""
    if not xs:
        raise expected("concat", "at least one array", "none")
    dtype = _common("concat", xs)
    (a,) = _axes("concat", xs[0], axis)
    return sh.concat(tuple(sh.cast(x, dtype) for x in xs), a)


@array_function
def stack(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list, all of one shape, joined along a new axis."""
    if not xs:
        raise expected("stack", "at least one array", "none")
    g = _graph(xs)
    dtype = _common("stack", xs)
    ys = [_to(x, dtype, g) for x in xs]
    for y in ys:
        if y.shape != ys[0].shape:
            raise expected("stack", f"arrays of one shape, {ys[0].shape}", y.shape)
    n = len(ys[0].shape) + 1
    if not -n <= axis < n:
        raise expected("stack", f"an axis in {-n}..{n - 1}", axis)
    shape = list(ys[0].shape)
    shape.insert(axis % n, 1)
    return sh.concat(tuple(sh.reshape(y, tuple(shape)) for y in ys), axis % n)


@array_function
def flip(x: Any, *, axis: Axis = None) -> Var:
    """x with the order of its elements reversed along ``axis`` (all axes if None)."""
    return x.graph.emit(sh.FLIP, (x,), (_axes("flip", x, axis),))


@array_function
def pad(x: Any, *, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Var:
    """x with ``widths[a] = (before, after)`` more elements along each axis, all equal to ``value``."""
    if len(widths) != len(x.shape):
        raise expected("pad", f"{len(x.shape)} pairs of widths", len(widths))
    low, high = tuple(int(a) for a, _ in widths), tuple(int(b) for _, b in widths)
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
    if axis is None and len(x.shape) != 1:
        raise expected("take", "axis to be given for more than one axis", x.shape)
    (a,) = _axes("take", x, 0 if axis is None else axis)
    idx = _to(indices, "i32", x.graph) if not isinstance(indices, Var) else indices
    flat = sh.reshape(idx, tuple(idx.size if i == a else 1 for i in range(len(x.shape))))
    out = ix.gather(x, flat, a)
    return sh.reshape(out, (*x.shape[:a], *idx.shape, *x.shape[a + 1 :]))


@array_function
def take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Var:
    """``out[.., j, ..] = x[.., indices[.., j, ..], ..]`` along ``axis``; other axes of the indices match x's or are 1."""
    (a,) = _axes("take_along_axis", x, axis)
    return ix.gather(x, indices, a)


@array_function
def scatter_add(x: Any, indices: Any, updates: Any, *, axis: int = 0) -> Var:
    """x with ``updates`` slices added at 1-D int32 ``indices`` along ``axis``; equal indices add up."""
    (a,) = _axes("scatter_add", x, axis)
    if not isinstance(indices, Var) or len(indices.shape) != 1:
        raise expected("scatter_add", "a list of indices with one axis", getattr(indices, "shape", indices))
    u = _to(updates, x.dtype, x.graph)
    u = sh.broadcast_to(u, (*x.shape[:a], indices.size, *x.shape[a + 1 :]))
    flat = sh.reshape(indices, tuple(indices.size if i == a else 1 for i in range(len(x.shape))))
    return ew.add(x, ix.scatter_add(u, flat, a, x.shape[a]))


@array_function
def _one_hot(labels: Any, *, n: int, dtype: str) -> Var:
    if labels.dtype != "i32":
        raise expected("one_hot", "integer labels", labels.dtype, TypeError)
    shape = (*labels.shape, n)
    classes = sh.broadcast(labels.graph.array(np.arange(n, dtype=np.int32)), shape, (len(shape) - 1,))
    hit = ew.apply(ew.EQUAL, sh.broadcast(labels, shape, tuple(range(len(labels.shape)))), classes)
    return sh.cast(hit, dtype)


def one_hot(labels: Array, n: int, *, dtype: Any = np.float32) -> Array:
    """[..., n] with 1 at each label and 0 elsewhere; a label outside 0..n-1 gives zeros."""
    return _one_hot(labels, n=int(n), dtype=NAMES[np.dtype(dtype)])


def getitem(x: Array, key: Any) -> Array:
    """x[key] for integers, slices, ``...``, None and one integer array."""
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [int(k) if isinstance(k, np.integer) else k for k in keys]
    ndim = len(x.shape)
    used = builtins.sum(k is not None and k is not Ellipsis for k in keys)
    if used > ndim or keys.count(Ellipsis) > 1 if all(not isinstance(k, Tracer | np.ndarray) for k in keys) else used > ndim:
        raise expected("index", f"at most {ndim} indices for {x.shape}", len(keys), IndexError)
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
    return x.graph.const(float(value) if x.dtype in FLOATS else value, x.shape, x.dtype)


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
    for name, f in {**compare, "and": logical_and, "or": logical_or}.items():
        setattr(Tracer, f"__{name}__", _method(f))
    Tracer.__neg__ = _method(negative)  # type: ignore[attr-defined]
    Tracer.__abs__ = _method(abs)  # type: ignore[attr-defined]
    Tracer.__invert__ = _method(logical_not)  # type: ignore[attr-defined]
    Tracer.__getitem__ = getitem  # type: ignore[attr-defined]
    Tracer.__iter__ = lambda self: (self[i] for i in range(len(self)))  # type: ignore[attr-defined]
    Tracer.T = property(lambda self: permute_dims(self, tuple(range(self.ndim))[::-1]))  # type: ignore[attr-defined]
    for f in (sum, mean, max, min, argmax, argmin, prod, reshape):
        setattr(Tracer, f.__name__, _method(f))
    Tracer.astype = lambda self, dtype: astype(self, dtype=dtype)  # type: ignore[attr-defined]


_operators()
