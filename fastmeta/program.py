"""Programs: flat, single-assignment lists of primitive operations with static shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import copysign, prod
from typing import Any, NamedTuple

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64), "i32": np.dtype(np.int32), "bool": np.dtype(np.bool_)}
NAMES: dict[np.dtype[Any], str] = {v: k for k, v in DTYPES.items()}
FLOATS = ("f32", "f64")

Shape = tuple[int, ...]


class MicroOp(NamedTuple):
    """An elementwise operation as backends see it: up to three arguments x, y, z of one type, a result of the same type."""

    name: str
    arity: int
    types: tuple[str, ...]
    expr: str  # over x, y, z; may call only the names of csrc/native/vmath.hpp


class Primitive:
    """One row of the registry: all that the package knows of one primitive operation.

    Args:
        name: the name in printed programs and in errors.
        infer: ``(inputs, attrs) -> (shape, dtype)``; raises on what the primitive refuses.
        evaluate: the NumPy meaning, ``(*arrays, *attrs) -> array``; it is the definition.
        elementwise: all inputs and the output have one shape.
        linear: the operands in which the primitive is linear with the others held fixed (multilinear).
        transpose: ``(i, cotangent, var) -> Var``: the transpose in operand i, for each i in ``linear``.
        partials: for elementwise primitives, one ``(t, inputs, out) -> Var`` per operand: partial_i * t; None where it is zero.
        tangent: for all others, ``(i, t, inputs, attrs, out) -> Var``: the derivative in direction t of operand i.
        view: the value is the operand's memory read with other strides.
        commutative: the two operands may be swapped.
        samples: test rows: ``(inputs, attrs)`` makers, see tests/test_primitives.py.
        kinks: ``(*arrays) -> distance`` to the nearest point without derivative (gradient tests keep clear of it).
    """

    __slots__ = (
        "name", "infer", "evaluate", "elementwise", "linear", "transpose", "partials", "tangent", "view",
        "commutative", "samples", "kinks", "rewrite", "micro",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        infer: Callable[..., tuple[Shape, str]],
        evaluate: Callable[..., Any],
        *,
        elementwise: bool = False,
        linear: Sequence[int] = (),
        transpose: Callable[[int, Var, Var], Var] | None = None,
        partials: tuple[Callable[..., Var] | None, ...] = (),
        tangent: Callable[..., Var] | None = None,
        view: bool = False,
        commutative: bool = False,
        samples: tuple[Any, ...] = (),
        kinks: Callable[..., Any] | None = None,
        micro: MicroOp | None = None,
    ) -> None:
        self.name = name
        self.infer = infer
        self.evaluate = evaluate
        self.elementwise = elementwise
        self.linear = linear
        self.transpose = transpose
        self.partials = partials
        self.tangent = tangent
        self.view = view
        self.commutative = commutative
        self.samples = samples
        self.kinks = kinks
        self.micro = micro
        self.rewrite: Callable[[Graph, tuple[Var, ...], tuple[Any, ...]], Var | None] | None = None

    def __repr__(self) -> str:
        return self.name


class Var:
    """A value of a graph; it is its own equation: ``var = op(*ins, *attrs)``."""

    __slots__ = ("op", "ins", "attrs", "shape", "dtype", "id", "graph", "line")

    def __init__(
        self, op: Primitive, ins: tuple[Var, ...], attrs: tuple[Any, ...], shape: Shape, dtype: str, graph: Graph
    ) -> None:
        self.op = op
        self.ins = ins
        self.attrs = attrs
        self.shape = shape
        self.dtype = dtype
        self.graph = graph
        self.line = graph.line
        self.id = len(graph.nodes)
        graph.nodes.append(self)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __repr__(self) -> str:
        return f"%{self.id}:{self.dtype}{list(self.shape)}"


class Graph:
    """A program under construction: emits equations, merges equal ones and applies the rewrite rules of the rows."""

    __slots__ = ("nodes", "table", "line")

    def __init__(self) -> None:
        self.nodes: list[Var] = []
        self.table: dict[Any, Var] = {}
        self.line: Any = None  # the user's own line, kept with each equation for error messages; see errors.bad_index

    def emit(self, op: Primitive, ins: tuple[Var, ...], attrs: tuple[Any, ...] = ()) -> Var:
        if op.rewrite is not None:
            simpler = op.rewrite(self, ins, attrs)
            if simpler is not None:
                return simpler
        if op.commutative and ins[0].id > ins[1].id:
            ins = (ins[1], ins[0])
        key = (op, ins, attrs)
        var = self.table.get(key)
        if var is None:
            shape, dtype = op.infer(ins, attrs)
            var = self.table[key] = Var(op, ins, attrs, shape, dtype, self)
        return var

    def input(self, shape: Shape, dtype: str) -> Var:
        return Var(INPUT, (), (len(self.nodes),), tuple(shape), dtype, self)

    def const(self, value: float, shape: Shape, dtype: str) -> Var:
        """A constant that is the same everywhere; the sign keeps 0.0 and -0.0 apart."""
        return self.emit(CONST, (), (value, copysign(1.0, value), shape, dtype))

    def array(self, value: np.ndarray) -> Var:
        """A small constant array, kept with the program."""
        return self.emit(ARRAY, (), (ConstantArray(value),))


class ConstantArray:
    """A constant array that compares by content, so that equal constants merge."""

    __slots__ = ("value", "key")

    def __init__(self, value: np.ndarray) -> None:
        self.value = np.ascontiguousarray(value)
        self.value.flags.writeable = False
        self.key = (self.value.shape, self.value.dtype.str, self.value.tobytes())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConstantArray) and self.key == other.key

    def __repr__(self) -> str:
        return f"array{list(self.value.shape)}"


class Program:
    """An immutable program: inputs, outputs, and the equations between them in order.

    ``memo`` keeps what transforms derived from this very program (its gradient, its Hessian-vector product, ...).
    """

    __slots__ = ("inputs", "outputs", "nodes", "memo")

    def __init__(self, inputs: Sequence[Var], outputs: Sequence[Var], graph: Graph) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.nodes = graph.nodes
        self.memo: dict[Any, Any] = {}

    def live(self) -> list[Var]:
        """The equations that the outputs need, in order."""
        need = bytearray(len(self.nodes))
        for v in self.outputs:
            need[v.id] = 1
        for v in reversed(self.nodes):
            if need[v.id]:
                for i in v.ins:
                    need[i.id] = 1
        return [v for v in self.nodes if need[v.id]]

    def key(self) -> tuple[Any, ...]:
        """A structural key: two programs with equal keys compute the same."""
        return (
            tuple([(v.op, tuple([i.id for i in v.ins]), v.attrs, v.shape, v.dtype) for v in self.nodes]),
            tuple([v.id for v in self.inputs]),
            tuple([v.id for v in self.outputs]),
        )

    def __str__(self) -> str:
        return "\n".join(_print(self, "", {}))


def _print(p: Program, indent: str, names: dict[int, str]) -> Iterator[str]:
    live = p.live()
    number = {v.id: k for k, v in enumerate([*p.inputs, *(v for v in live if v.op is not INPUT)])}

    def name(v: Var) -> str:
        return f"%{number[v.id]}"

    yield f"{indent}({', '.join(f'{name(v)}:{v.dtype}{list(v.shape)}' for v in p.inputs)}) ->"
    for v in live:
        if v.op is INPUT:
            continue
        programs = [a for a in v.attrs if isinstance(a, Program) or hasattr(a, "body")]
        attrs = ", ".join(repr(a) for a in v.attrs if not isinstance(a, Program))
        inputs = ", ".join(name(i) for i in v.ins)
        yield f"{indent}  {name(v)}:{v.dtype}{list(v.shape)} = {v.op.name}({inputs}{'; ' + attrs if attrs else ''})"
        for a in programs:
            yield from _print(getattr(a, "body", a), indent + "      ", names)
    yield f"{indent}  return {', '.join(name(v) for v in p.outputs)}"


def check(p: Program) -> Program:
    """Checks a program: order, ownership, and that every row's rule gives the shape and dtype the equation claims."""
    seen: set[int] = set()
    owner = p.nodes
    for k, v in enumerate(owner):
        if v.id != k or any(owner[i.id] is not i or i.id >= k for i in v.ins):
            raise AssertionError(f"[program] equation {k} ({v.op}) is out of order")
        if v.op is not INPUT and v.op.infer(v.ins, v.attrs) != (v.shape, v.dtype):
            raise AssertionError(
                f"[program] equation {k} ({v.op}): expected {v.op.infer(v.ins, v.attrs)}, got {(v.shape, v.dtype)}"
            )
        for a in v.attrs:
            body = a if isinstance(a, Program) else getattr(a, "body", None)
            if body is not None and id(body) not in seen:
                seen.add(id(body))
                check(body)
    for v in (*p.inputs, *p.outputs):
        if owner[v.id] is not v:
            raise AssertionError(f"[program] {v} belongs to another program")
    return p


def inline(graph: Graph, p: Program, args: Iterable[Var]) -> list[Var]:
    """Emits the equations of ``p`` into ``graph`` on ``args``; returns the values of its outputs."""
    env: list[Any] = [None] * len(p.nodes)
    for v, a in zip(p.inputs, args, strict=True):
        env[v.id] = a
    line = graph.line
    for v in p.live():
        if env[v.id] is None:
            graph.line = v.line or line
            env[v.id] = graph.emit(v.op, tuple([env[i.id] for i in v.ins]), v.attrs)
    graph.line = line
    return [env[v.id] for v in p.outputs]


def _refuse(*_: Any) -> tuple[Shape, str]:
    raise AssertionError("inputs are made by Graph.input")


INPUT = Primitive("input", _refuse, _refuse)
CONST = Primitive(
    "const", lambda ins, at: (at[2], at[3]), lambda value, _, shape, dtype: np.full(shape, value, DTYPES[dtype])
)
ARRAY = Primitive("array", lambda ins, at: (at[0].value.shape, NAMES[at[0].value.dtype]), lambda c: c.value)
