"""What array functions share: how arguments enter, their dtypes and broadcasting, and the checks that refuse them."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastmeta import oracle
from fastmeta.errors import expected
from fastmeta.ops import shape as sh
from fastmeta.program import FLOATS, NAMES, Program, Shape, Var
from fastmeta.trace import Array, Trace, Tracer, as_array, located, running, user_line
from fastmeta.tree import beside_float32, is_number

Axis = int | tuple[int, ...] | None


def array_function(f: Callable[..., Var], operands: Sequence[str] = ()) -> Callable[..., Array]:
    """Makes a public function of one that works on Vars: its positional parameters are arrays, its keywords static parameters.

    A caller may give these by position too, behind the arrays: ``sum(x, 0)``.  ``operands`` names the arrays for ``help`` where f has ``*xs``.
    """
    parameters = inspect.signature(f).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    by_place = frozenset(p.name for p in parameters) - frozenset(names)
    arrays = sys.maxsize if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters) - len(names)

    @functools.wraps(f)
    def call(*args: Array, **static: Any) -> Array:
        t = running.trace
        if len(args) > arrays:
            more = dict(zip(names, args[arrays:], strict=False))
            if len(args) - arrays > len(names) or more.keys() & static:
                raise located(TypeError(f"[{f.__name__}] expected at most {arrays + len(names)} arguments, each once, got {len(args)} and {list(static)}"))
            args, static = args[:arrays], static | more
        if not by_place.isdisjoint(static):
            raise located(TypeError(f"[{f.__name__}] expected arrays by place, got {' and '.join(f'{name}=' for name in sorted(by_place & static.keys()))}"))
        args = tuple(beside_float32(args))
        try:
            if t is None:
                return _eager(f, args, static)
            t.graph.line = user_line()
            out = f(*[_lift(t, x) for x in args], **static)
            return Tracer(out, t) if isinstance(out, Var) else out  # a number of numbers
        except (ValueError, TypeError, IndexError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    vars(call).update(__signature__=_as_called(parameters, operands), of_vars=f)  # what help() shows, and by what transforms bind names
    return call


def _as_called(parameters: Iterable[inspect.Parameter], operands: Sequence[str]) -> inspect.Signature:
    """What callers may write: arrays by place, then static parameters by place or name."""
    P = inspect.Parameter
    shown = [P(name, P.POSITIONAL_ONLY) for name in operands]
    many = False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY:
            shown.append(P(p.name, P.KEYWORD_ONLY if many else P.POSITIONAL_OR_KEYWORD, default=p.default, annotation=p.annotation))
        elif p.kind is not p.VAR_POSITIONAL:
            shown.append(P(p.name, P.POSITIONAL_ONLY, default=p.default))
        elif not operands:
            shown.append(P(p.name, p.kind))
            many = True
    return inspect.Signature(shown, return_annotation="Array")


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
        if is_number(x) or x is None:
            return x
        if isinstance(x, list | tuple):
            return [enter(v) for v in x]
        if isinstance(x, Tracer):
            return t.lift(x)  # raises: its trace is over
        values.append(as_array(x))
        return t.graph.input(values[-1].shape, NAMES[values[-1].dtype])

    t.graph.line = user_line()
    if all(map(is_number, args)):
        args = tuple(as_array(x) for x in args)
    out = f(*[enter(x) for x in args], **static)
    inputs = [v for v in t.graph.nodes if v.op.name == "input"]
    return oracle.evaluate(Program(inputs, [out], t.graph), values)[0]


# -- dtypes and broadcasting


def common_dtype(where: str, xs: Sequence[Any]) -> str:
    """The dtype of a result of operands of mixed dtypes."""
    kinds = {x.dtype for x in xs if isinstance(x, Var)}
    numbers = [type(x) for x in xs if not isinstance(x, Var)]
    floats = kinds & {"f32", "f64"}
    if len(floats) == 2:
        got = " and ".join(shown(x) for x in xs if isinstance(x, Var) and x.dtype in FLOATS)
        raise expected(where, "one float dtype for all operands", got, TypeError, "Convert one with fm.astype, or pass dtype= where it is made")
    if floats:
        return floats.pop()
    if float in numbers:
        return "f32"
    return "i32" if "i32" in kinds or int in numbers else "bool"


def converted(x: Any, dtype: str, g: Any) -> Var:
    """An operand, array or number, in ``dtype``."""
    if isinstance(x, Var):
        return sh.cast(x, dtype)
    if dtype == "i32" and not -(2**31) <= x < 2**31:
        raise expected("array", "integers that fit in 32 bits", x, OverflowError)
    return g.const(float(x) if dtype in FLOATS else x, (), dtype)


def broadcast_all(where: str, xs: Sequence[Var]) -> list[Var]:
    """The operands in their common shape."""
    try:
        shape = np.broadcast_shapes(*[x.shape for x in xs])
    except ValueError:
        raise expected(where, "shapes that broadcast together", " and ".join(str(x.shape) for x in xs)) from None
    return [sh.broadcast_to(x, shape) for x in xs]


# -- operands


def graph_of(where: str, xs: Sequence[Any]) -> Any:
    """The graph of the operands, which are arrays or numbers, one array at least."""
    for x in xs:
        if not isinstance(x, Var) and not is_number(x):
            raise expected(where, "arrays and numbers", type(x).__name__, TypeError)
    for x in xs:
        if isinstance(x, Var):
            return x.graph
    raise expected(where, "at least one array", "numbers only", TypeError)


def array_operand(where: str, x: Any) -> Var:
    """An operand that must be an array."""
    if not isinstance(x, Var):
        raise expected(where, "an array", type(x).__name__, TypeError)
    return x


def several(where: str, xs: Any) -> list[Any]:
    """The operands of concat and stack."""
    if not isinstance(xs, list):
        raise expected(where, "a list of arrays", shown(xs), TypeError)
    if not xs:
        raise expected(where, "at least one array", "none")
    return xs


def integer_operand(where: str, indices: Any, what: str = "indices") -> Var:
    """An operand that must be an array of integers."""
    if not isinstance(indices, Var) or indices.dtype != "i32":
        masked = isinstance(indices, Var) and indices.dtype == "bool"
        raise expected(where, f"integer {what}", shown(indices), TypeError, "Mask with fm.where(mask, x, 0), or convert with fm.astype" if masked else "")
    return indices


def counted(x: Var) -> Var:
    """Bools as integers."""
    return sh.cast(x, "i32") if x.dtype == "bool" else x


def floats_of(x: Var) -> Var:
    """Integers and bools as float32."""
    return x if x.dtype in FLOATS else sh.cast(x, "f32")


def ordered(where: str, x: Var) -> Var:
    """Numbers; bools have no order."""
    if x.dtype == "bool":
        raise expected(where, "numbers", shown(x), TypeError, "Convert with fm.astype")
    return x


# -- static parameters


def dtype_name(where: str, dtype: Any) -> str:
    """A dtype by the engine's name."""
    try:
        name = NAMES.get(np.dtype(dtype))
    except TypeError:
        name = None
    if name is None:
        raise expected(where, "dtype float32, float64, int32 or bool", dtype, TypeError)
    return name


def axes_of(where: str, x: Var, axis: Axis) -> tuple[int, ...]:
    """``axis`` as sorted axes from 0; all axes if None."""
    n = len(array_operand(where, x).shape)
    if axis is None:
        return tuple(range(n))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if any(isinstance(a, Tracer) for a in axes):
        raise expected(where, "axes that are known while tracing", "a traced array", TypeError, f"Fix them inside of the function: lambda x: fm.{where}(x, axis=0)")
    if any(isinstance(a, bool) or not isinstance(a, int | np.integer) or not -n <= a < n for a in axes):
        raise expected(where, f"an axis in {-n}..{n - 1} of {x.shape}" if n else "an array of at least one axis", axis if n else x.shape)
    out = tuple(sorted(int(a) % n for a in axes))
    if len(set(out)) != len(out):
        raise expected(where, "different axes", axis)
    return out


def axis_of(where: str, x: Var, axis: int) -> int:
    """``axis`` as one axis from 0."""
    if isinstance(axis, tuple):
        raise expected(where, "one axis", axis, TypeError)
    return axes_of(where, x, axis)[0]


def static_integers(where: str, shape: Any, what: str = "a shape") -> Shape:
    """A shape or axes: integers that are known while tracing."""
    try:
        sizes = tuple(shape) if isinstance(shape, list | tuple) else (shape,)
        if any(isinstance(n, Tracer) for n in sizes):
            raise TypeError
        return tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise located(expected(where, f"{what} of integers known while tracing", shape, TypeError)) from None


def shown(x: Any) -> str:
    """An operand as text: f32[2, 3], or the type of what is no array."""
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, Var) else type(x).__name__
