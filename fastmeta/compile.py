"""Compiling: a function becomes a program for each combination of shapes, dtypes and structures that it meets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from fastmeta import backends
from fastmeta.backends.arrays import check_places, device_dtype, on_device
from fastmeta.errors import expected
from fastmeta.program import DTYPES, NAMES, Program
from fastmeta.trace import PerTask, Tracer, as_array, close, located, running, trace
from fastmeta.tree import beside_float32, flatten, is_array, is_number

MOST_ENTRIES = 64  # programs of a function
SAME_ARGUMENTS = ("jit", "grad", "value_and_grad", "jacfwd", "jacrev", "map_tasks")  # transforms whose functions take the arguments of the user's


def jit(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, compiled for each combination of shapes, dtypes and tree structure that it meets.

    Errors: TypeError for what is no function; inside f for what needs a value, such as ``if x > 0`` or ``float(x)``, and for NumPy's functions.

    >>> square = jit(lambda p: {"y": p["x"] * p["x"]})
    >>> square({"x": np.float32(3)})
    {'y': array(9., dtype=float32)}
    """
    return transformed(f, ("jit",), lambda: f)


def transformed(f: Callable[..., Any], key: Any, make: Callable[[], Callable[..., Any]], tasks: Any = None) -> Compiled:
    """The compiled transform of f, made once per function and options: it lives as long as f does."""
    if not callable(f):
        raise located(expected(key[0], "a function", type(f).__name__, TypeError))
    try:
        made = f.__dict__.setdefault("__fastmeta__", Made(f))
    except AttributeError:
        return Compiled(make(), tasks, f, key[0] in SAME_ARGUMENTS)
    if made.f is not f:  # functools.wraps copied another function's, or f is a copy
        made = f.__dict__["__fastmeta__"] = Made(f)
    done = made.transforms.get(key)
    if done is None:
        done = made.transforms[key] = Compiled(make(), tasks, f, key[0] in SAME_ARGUMENTS)
    return done


class Made:
    """The transforms of a function; a copy of it, in another process say, makes its own."""

    def __init__(self, f: Any = None) -> None:
        self.f = f
        self.transforms: dict[Any, Compiled] = {}

    def __reduce__(self) -> tuple[type[Made], tuple[()]]:
        return Made, ()


class Compiled:
    """A function that runs as a compiled program outside traces and joins the running trace inside one.

    It keeps the programs of the last MOST_ENTRIES combinations of shapes, dtypes and structures; copies of it keep none.
    """

    def __init__(self, f: Callable[..., Any], tasks: Any, source: Any, same_arguments: bool) -> None:
        if same_arguments:
            self.__wrapped__ = getattr(source, "of_vars", source)  # where inspect.signature looks
        self.f = f
        self.tasks = tasks
        self.cache: dict[Any, Entry] = {}
        self.last: Entry | None = None
        self.with_names: Compiled | None = None
        self.__name__ = getattr(source, "__name__", "function")
        self.__doc__ = getattr(source, "__doc__", None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"cache": {}, "last": None, "with_names": None}

    def __call__(self, *args: Any, **named: Any) -> Any:
        if named:
            args, named = self._bound(args, named)
        try:
            if running.trace is not None:
                return self.f(*args, **named)
            if named:
                return self._of_names()(args, named)
            leaves, tree = flatten(args)
            last = self.last
            if last is not None and last.tree == tree and last.backend == backends.state.name:
                out = last.run(leaves)
                if out is not None:
                    return out
            entry, values = self._lookup(args, leaves, tree)
            return entry.run(values, checked=True)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    def again(self, leaves: Sequence[Any]) -> Any:
        """The result for flat arguments of the same kinds as the last ones; None for others."""
        last = self.last
        if last is None or last.backend != backends.state.name:
            return None
        try:
            return last.run(list(leaves))
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    def _bound(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments given by name in their places, where they are what they would have been without names; and those that have no place."""
        if not hasattr(self, "__wrapped__"):
            raise located(expected(self.__name__, "arguments by position", f"{', '.join(named)} by name", TypeError))
        signature = inspect.signature(self)
        bound = signature.bind(*args, **named)
        places = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        left = next((k for k, name in enumerate(reversed(places)) if name in bound.arguments), len(places))
        bound.apply_defaults()  # between arguments; those ``left`` behind the last one are no arguments
        return bound.args[: len(bound.args) - left], {name: x for name, x in bound.kwargs.items() if name in named}

    def _of_names(self) -> Compiled:
        """The same as a function of two arguments: the tuple of those with a place, and the dictionary of those by name only."""
        if self.with_names is None:
            tasks = self.tasks and (lambda both: [*self.tasks(both[0]), *[False] * len(flatten(both[1])[0])])
            self.with_names = Compiled(lambda args, named: self.f(*args, **named), tasks, self, same_arguments=False)
        return self.with_names

    def entry(self, *args: Any) -> tuple[Entry, list[Any]]:
        """The compiled program for these arguments, and the arguments as it takes them."""
        leaves, tree = flatten(args)
        try:
            return self._lookup(args, leaves, tree)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    def _lookup(self, args: tuple[Any, ...], leaves: Sequence[Any], tree: Any) -> tuple[Entry, list[Any]]:
        leaves = beside_float32(leaves)
        check_places(leaves, backends.chosen())
        wide = any((device_dtype(x) if on_device(x) else getattr(x, "dtype", None)) == np.float64 for x in leaves)
        values: list[Any] = []
        kinds: list[Any] = []
        mapped = self.tasks(args) if self.tasks else [False] * len(leaves)
        for x, on in zip(leaves, mapped, strict=True):
            if is_array(x) or is_number(x):
                if on_device(x):
                    a, dtype = x, device_dtype(x)
                else:
                    a = np.asarray(x) if wide and type(x) is float else as_array(x)
                    a, dtype = np.require(a, requirements=["C", "A"]), a.dtype
                values.append(a)
                if on and a.shape:
                    if a.shape[0] == 0:
                        raise expected("map_tasks", "at least one task", 0)
                    kinds.append(((-1, *a.shape[1:]), NAMES[dtype]))
                else:
                    kinds.append((tuple(a.shape), NAMES[dtype]))
            else:
                values.append(x)
                try:
                    hash(x)
                except TypeError:
                    raise expected("jit", "arrays, numbers and options that hash", type(x).__name__, TypeError) from None
                kinds.append(("static", x))
        if self.tasks:
            n = {a.shape[0] for a, on in zip(values, mapped, strict=True) if on and getattr(a, "shape", None)}
            if len(n) > 1:
                raise expected("map_tasks", "one number of tasks in all mapped arguments", sorted(n))
        key = (tree, tuple(kinds), backends.chosen())
        entry = self.cache.pop(key, None) or Entry(self.f, tree, kinds)
        self.cache[key] = entry  # the last of all
        for old in list(self.cache)[:-MOST_ENTRIES]:
            self.cache.pop(old, None)
        self.last = entry
        return entry, values

    def program(self, *args: Any) -> Program:
        """The program for these arguments, before planning: prints as text."""
        return self.entry(*args)[0].program


class Entry:
    """One compiled program: from flat arguments to results."""

    __slots__ = ("tree", "backend", "program", "executable", "footprint", "hidden", "loose", "per_task", "out_tree", "fixed", "slots", "dynamic", "mapped", "statics", "scalars")

    def __init__(self, f: Callable[..., Any], tree: Any, kinds: list[Any]) -> None:
        self.tree = tree
        self.backend = backends.chosen()
        self.dynamic = [k for k, kind in enumerate(kinds) if kind[0] != "static"]
        statics = {k: kind[1] for k, kind in enumerate(kinds) if kind[0] == "static"}
        self.statics = list(statics.items())
        self.scalars = _scalars([kinds[k] for k in self.dynamic])

        def flat(*tracers: Tracer) -> Any:
            full = dict(statics)
            full.update(zip(self.dynamic, tracers, strict=True))
            return f(*optree.tree_unflatten(tree, [full[k] for k in range(len(kinds))]))

        args, out, t = trace(flat, [kinds[k] for k in self.dynamic])
        leaves, self.out_tree = flatten(out)
        self.slots = [k for k, x in enumerate(leaves) if is_array(x) or is_number(x)]
        self.fixed = None if len(self.slots) == len(leaves) else leaves
        self.program = close(t, args, [leaves[k] for k in self.slots])
        self.hidden = t.captured
        self.mapped = next((i for i, k in enumerate(self.dynamic) if kinds[k][0][:1] == (-1,)), None)
        self.loose = any(isinstance(h, np.ndarray) and not (h.flags.c_contiguous and h.flags.aligned) for h in t.captured)
        self.per_task = [h for h in t.captured if isinstance(h, PerTask)]
        self.executable, self.footprint = backends.load(self.program)

    def tasks(self, values: list[Any]) -> int:
        """The number of tasks of checked arguments; 1 for a function without a task axis."""
        return 1 if self.mapped is None else len(values[self.dynamic[self.mapped]])

    def _with_scalars(self, arrays: list[Any]) -> list[Any]:
        """Numbers as arrays, those of Python in the dtype that they have beside the other arguments."""
        arrays = list(arrays)
        for k, number, dtype in self.scalars:
            x = arrays[k]
            if type(x) is number:
                arrays[k] = np.array(x, dtype)
            elif isinstance(x, np.generic):
                arrays[k] = np.asarray(x)
        return arrays

    def run(self, leaves: list[Any], checked: bool = False) -> Any:
        arrays = leaves
        if self.statics:
            if any(type(leaves[k]) is not type(x) or leaves[k] != x for k, x in self.statics):
                return None
            arrays = [leaves[k] for k in self.dynamic]
        if self.scalars:
            try:
                arrays = self._with_scalars(arrays)
            except OverflowError:  # an integer that needs 64 bits
                return None
        if self.hidden:
            hidden = self.hidden
            if self.loose:  # by reference all the same: copied anew at every call
                hidden = [np.require(h, requirements=["C", "A"]) if isinstance(h, np.ndarray) else h for h in hidden]
            if self.per_task:
                assert self.mapped is not None  # tasks come from there
                try:
                    n = arrays[self.mapped].shape[0]
                except (AttributeError, IndexError):
                    return None
                if n == 0:
                    return None
                arrays = [*arrays, *[h.at(n) if isinstance(h, PerTask) else h for h in hidden]]
            else:
                arrays = [*arrays, *hidden]
        outs = self.executable(arrays)
        if outs is None:
            if checked:
                raise AssertionError("[compile] the program does not fit the arguments it was made for")
            return None
        if self.fixed is not None:
            full = list(self.fixed)
            for k, x in zip(self.slots, outs, strict=True):
                full[k] = x
            outs = full
        return self.out_tree.unflatten(outs)


def _scalars(kinds: list[Any]) -> list[tuple[int, type | None, np.dtype[Any]]]:
    """Which arguments are scalars, the type of a number of Python that each may be (None: it would have another dtype), and its dtype.

    A float is float64 if there is an array of that.
    """
    numbers: dict[str, type] = {"i32": int, "bool": bool}
    if any(name == "f64" and shape for shape, name in kinds):
        numbers["f64"] = float
    elif all(name != "f64" for _, name in kinds):
        numbers["f32"] = float
    return [(k, numbers.get(name), DTYPES[name]) for k, (shape, name) in enumerate(kinds) if shape == ()]
