"""Tracing: running a Python function once on tracers records the program it computes.

There is one kind of tracer.  Inside nested traces a tracer of an outer trace becomes an input of the inner program the
first time the inner trace meets it, so an inner program never refers to another one.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import optree

from fastmeta.errors import expected
from fastmeta.names import VALUE, missing
from fastmeta.program import DTYPES, NAMES, Graph, Program, Shape, Var

PACKAGE, OPTREE = (str(Path(file).parent) + os.sep for file in (__file__, optree.__file__))
SMALL = 1024  # bytes: larger captured arrays become inputs by reference

Array = Any  # a NumPy array, a tracer, or a Python number


class Trace:
    """One running trace: its graph and what it captured from outside."""

    __slots__ = ("graph", "outer", "captured", "inputs", "keep", "programs")

    def __init__(self, outer: Trace | None) -> None:
        self.graph = Graph()
        self.outer = outer
        self.captured: list[Any] = []  # tracers of outer traces and large arrays, in the order of ``inputs``
        self.inputs: dict[Any, Var] = {}
        self.programs: dict[Any, Program] = {}  # inner programs of this compilation by structure
        self.keep: list[Any] = []  # arrays whose id() is a key stay alive as long as the trace

    def lift(self, x: Any) -> Var:
        """The value in this trace that stands for a tracer of any trace or an array."""
        if isinstance(x, Tracer):
            if x._trace is self:
                return x._var
            t = self.outer
            while t is not None and t is not x._trace:
                t = t.outer
            if t is None:
                raise escaped(x)
            return self._capture((x._trace, x._var.id), x, x.shape, x._var.dtype)
        value = as_array(x)
        if value.nbytes <= SMALL:
            if value.size and (value.ndim == 0 or np.all(value.ravel()[0] == value)):
                return self.graph.const(value.ravel()[0].item(), value.shape, NAMES[value.dtype])
            return self.graph.array(value)
        self.keep.append(x)
        return self._capture(id(x), value, value.shape, NAMES[value.dtype])

    def per_task(self, dtype: str) -> Var:
        """1 / T, for a mean over a number of tasks that is known at run time only."""
        key = ("per task", dtype)
        return self._capture(key, self.inputs.get(key) or PerTask(dtype), (), dtype)

    def _capture(self, key: Any, x: Any, shape: Shape, dtype: str) -> Var:
        var = self.inputs.get(key)
        if var is None:
            var = self.inputs[key] = self.graph.input(shape, dtype)
            self.captured.append(x)
        return var


class PerTask:
    """1 / T as an input that the caller fills in: the number of tasks is not part of a program."""

    __slots__ = ("dtype", "values")

    def __init__(self, dtype: str) -> None:
        self.dtype = DTYPES[dtype]
        self.values: dict[int, np.ndarray] = {}

    def at(self, tasks: int) -> np.ndarray:
        value = self.values.get(tasks)
        if value is None:
            value = np.asarray(1.0 / tasks, self.dtype)
            self.values = {tasks: value}
        return value


class _Running(threading.local):
    trace: Trace | None = None

    def __reduce__(self) -> str:  # functions are sent to other processes, what runs in a thread is not
        return "running"


running = _Running()


def current() -> Trace | None:
    return running.trace


def trace(f: Callable[..., Any], avals: Sequence[tuple[Shape, str]]) -> tuple[list[Var], Any, Trace]:
    """Runs ``f`` on tracers of the given shapes and dtypes; returns their values, what ``f`` returned, and the trace."""
    t = Trace(running.trace)
    args = [t.graph.input(shape, dtype) for shape, dtype in avals]
    running.trace = t
    try:
        out = f(*[Tracer(v, t) for v in args])
    finally:
        running.trace = t.outer
    return args, out, t


def close(t: Trace, args: Sequence[Var], outputs: Sequence[Any]) -> Program:
    """The program from the traced arguments, then everything captured, to the outputs (tracers or arrays)."""
    return Program([*args, *t.inputs.values()], [t.lift(x) for x in outputs], t.graph)


def as_array(x: Any) -> np.ndarray:
    """A NumPy array of one of the four dtypes; integers of any width are narrowed after a range check."""
    if isinstance(x, np.ndarray | np.generic):
        return narrow(np.asarray(x))
    if isinstance(x, Tracer):
        raise escaped(x)
    if isinstance(x, bool | int | float | list | tuple):
        if isinstance(x, list | tuple) and any(isinstance(v, Tracer) for v in x):
            raise expected("array", "an array", "a list of traced values", TypeError, "Join them with fm.stack or fm.concat")
        try:
            value = np.asarray(x)
        except ValueError as error:  # rows of different lengths
            raise expected("array", "rows of one shape", f"{type(x).__name__} ({error})") from None
        plain = not isinstance(x, list | tuple) or not any(isinstance(v, np.generic | np.ndarray) for v in x)
        x = value.astype(np.float32) if plain and value.dtype == np.float64 else value  # Python's floats have no dtype
    elif hasattr(x, "__array__"):
        try:
            x = np.asarray(x)
        except (RuntimeError, TypeError) as error:  # a tensor of PyTorch's that needs a gradient, or of a dtype that NumPy lacks
            needs = getattr(x, "requires_grad", False)
            hint = "Detach it; fastmeta.interop.torch.torch_loss makes losses whose backward() fills .grad" if needs else ""
            raise expected("array", "an array that NumPy can read", f"{type(x).__name__} ({error})", TypeError, hint) from None
    elif hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    else:
        raise expected("array", "an array or a number", type(x).__name__, TypeError)
    return narrow(x)


def narrow(x: np.ndarray) -> np.ndarray:
    if x.dtype in NAMES:
        return x
    if not x.dtype.isnative:
        return narrow(x.astype(x.dtype.newbyteorder("=")))
    if x.dtype.kind in "iu":
        if x.size and (x.max() > 2**31 - 1 or x.min() < -(2**31)):
            raise expected("array", "integers that fit in 32 bits", f"{x.min()}..{x.max()}", OverflowError)
        return x.astype(np.int32)
    raise expected("array", "float32, float64, an integer dtype or bool", x.dtype, TypeError)


def user_line() -> tuple[str, int] | None:
    """File and line of the innermost frame outside the package: the user's own line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((PACKAGE, OPTREE)):
            return name, frame.f_lineno
        frame = frame.f_back
    return None


E = TypeVar("E", bound=Exception)


def located(error: E) -> E:
    """The error with the user's own line at its end, once, where one of our checks raised it.

    What NumPy makes of a tracer's refusal is replaced by the refusal.
    """
    if str(error).startswith("operand 'Tracer' does not support ufuncs"):
        error = _refused("a NumPy function", "a traced value", NUMPY).with_traceback(error.__traceback__)  # type: ignore[assignment]  # a TypeError for a TypeError
    elif str(error).startswith("setting an array element with a sequence") and error.__cause__ is not None:
        return error.__cause__  # type: ignore[return-value]  # the refusal
    if not str(error).startswith("[") or hasattr(error, "line") or not isinstance(error.args[0], str):
        return error
    frames = [(f.f_code.co_filename, n) for f, n in traceback.walk_tb(error.__traceback__)]
    line = next((at for at in reversed(frames) if not at[0].startswith((PACKAGE, OPTREE))), None) or user_line()
    if line is not None:
        error.line = line  # type: ignore[attr-defined]  # marks it as located
        error.args = (f"{error.args[0]} ({line[0]}:{line[1]})", *error.args[1:])
    return error


def escaped(x: Tracer) -> RuntimeError:
    """The error of a tracer that is used after its trace has ended."""
    return expected(
        "trace", "a value of a running trace", f"{x!r} of a function that has already returned", RuntimeError,
        "Return it from the function instead of keeping it in a global, a list or an attribute",
    )  # fmt: skip


NUMPY = "the function of the same name in fastmeta (fm.exp, fm.sum, ...: docs/language.md lists them)"


INTO = "; for array[x] of a NumPy array fm.take(array, x, axis=0)"


LARGER = "; fm.maximum and fm.minimum for max() and min()"


LOOPS = "; for loops whose length is data use fm.scan with a fixed length and fm.where"


def _refused(what: str, got: object, instead: str) -> TypeError:
    return expected("trace", f"a value known while tracing for {what}", got, TypeError, f"Use {instead}")


class Tracer:
    """A value that is being traced: it has a shape and a dtype, but no numbers yet."""

    __slots__ = ("_var", "_trace")  # private: ``x.var()`` and ``x.trace()`` are methods of arrays
    __array_ufunc__ = None  # so that ndarray * tracer asks the tracer
    __hash__ = None  # type: ignore[assignment]  # as Python has it for types with ==

    def __init__(self, var: Var, trace: Trace) -> None:
        self._var = var
        self._trace = trace

    @property
    def shape(self) -> Shape:
        return self._var.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self._var.dtype]

    @property
    def ndim(self) -> int:
        return len(self._var.shape)

    @property
    def size(self) -> int:
        return self._var.size

    def __repr__(self) -> str:
        return f"Tracer({self.dtype.name}{list(self.shape)})"

    def __len__(self) -> int:
        if not self.shape:
            raise located(expected("len", "an array of at least one axis", self, TypeError))
        return self.shape[0]

    def __bool__(self) -> bool:
        raise located(_refused("if, while, and, or", self, "fm.where(condition, a, b)" + LARGER + LOOPS))

    def __float__(self) -> float:
        raise located(_refused("float()", self, "the value as an array, or return it from the function"))

    def __round__(self, digits: int | None = None) -> float:
        raise located(_refused("round()", self, "fm.round(x), which is an array of whole numbers"))

    def __format__(self, spec: str) -> str:
        if not spec:
            return repr(self)
        raise located(_refused(f"the format '{spec}'", self, "the value after the call: return it from the function, beside a loss with has_aux=True"))

    def __int__(self) -> int:
        raise located(_refused("int(), range() or an index", self, "a Python integer known before the call, or fm.take for an index" + LOOPS))

    __index__ = __int__

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise located(_refused("a NumPy function", self, NUMPY if self.dtype.kind == "f" else NUMPY + INTO))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.shape, np.ndim, np.size):
            return getattr(args[0], function.__name__)
        raise located(_refused("a NumPy function", self, NUMPY))

    def __getattr__(self, name: str) -> Any:
        raise missing("a traced value", name, VALUE)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise located(_refused("assignment into it", self, "fm.where, fm.concat or fm.scatter_add, which make a new array"))
