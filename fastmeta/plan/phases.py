"""Phases: a pass over elements as micro-operations on registers of tiles, with its loads and stores."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from fastmeta.ops import elementwise as ew
from fastmeta.ops.microops import NUMBER
from fastmeta.ops.reduce import MAX, MIN, SUM
from fastmeta.ops.shape import CAST, COPY
from fastmeta.program import CONST, Shape, Var

REGISTERS = 32  # of a phase: what the core takes
STORE, REDUCE_SUM, REDUCE_MAX, REDUCE_MIN = range(4)
REDUCE = {SUM: REDUCE_SUM, MAX: REDUCE_MAX, MIN: REDUCE_MIN}
CODES = {"f32": 0, "f64": 1, "i32": 2, "bool": 3}


class Place(NamedTuple):
    """Memory as an instruction sees it: a base, a byte offset, a dtype code and a stride in elements per axis."""

    base: int
    offset: int
    dtype: int
    strides: tuple[int, ...]


def operand(p: Place, turn: Callable[[tuple[int, ...]], tuple[int, ...]] = tuple) -> list[int]:
    """A place as words, its strides in the order that ``turn`` gives them."""
    return [p.base, p.offset, p.dtype, *turn(p.strides)]


def bits(x: float) -> int:
    """A float64 as a word."""
    return int(struct.unpack("<q", struct.pack("<d", x))[0])


class Store(NamedTuple):
    value: int
    mode: int
    place: Place


class Op:
    __slots__ = ("name", "ctype", "args", "reg")

    def __init__(self, name: str, ctype: int, args: list[int]) -> None:
        self.name = name
        self.ctype = ctype
        self.args = args
        self.reg = 0


class PhaseCode:
    """One phase under construction.

    Args:
        space: the lengths of the axes that are iterated.
        place: ``(var, shape) -> Place``: where a value is in memory, with strides over the axes of ``space``.
        constant: ``(value, dtype code) -> Place`` of a scalar constant.
    """

    def __init__(self, space: Shape, place: Callable[[Var], Place], constant: Callable[[float, int], Place]) -> None:
        self.space = space
        self.place = place
        self.constant = constant
        self.loads: list[Place] = []
        self.load_of: dict[Place, int] = {}
        self.ops: list[Op] = []
        self.stores: list[Store] = []
        self.values: dict[int, tuple[int, int]] = {}  # var id -> (value, ctype); loads are ~k until sealed
        self.casts: dict[tuple[int, int], int] = {}

    def load(self, place: Place) -> int:
        k = self.load_of.get(place)
        if k is None:
            k = self.load_of[place] = len(self.loads)
            self.loads.append(place)
        return ~k

    def emit(self, name: str, ctype: int, *args: int) -> int:
        self.ops.append(Op(name, ctype, list(args)))
        return len(self.ops) - 1

    def number(self, c: float, ctype: int) -> int:
        return self.load(self.constant(c, ctype))

    def cast(self, value: int, source: int, target: int) -> int:
        if source == target:
            return value
        key = (value, target)
        if key not in self.casts:
            self.ops.append(Op("cast", target, [value, source]))
            self.casts[key] = len(self.ops) - 1
        return self.casts[key]

    def read(self, v: Var, ctype: int | None = None) -> int:
        """The value of an operand in ``ctype`` (its own if None)."""
        return self.typed(v, ctype)[0]

    def typed(self, v: Var, ctype: int | None = None) -> tuple[int, int]:
        if v.op is CONST:
            c = CODES[v.dtype] if ctype is None else ctype
            return self.number(float(v.attrs[0]), 2 if c == 3 else c), 2 if c == 3 else c
        known = self.values.get(v.id)
        if known is None:
            own = CODES[v.dtype]
            known = self.values[v.id] = (self.load(self.place(v)), own)
        value, have = known
        want = have if ctype is None else ctype
        if want == 3:
            want = 2
        return self.cast(value, have, want), want

    def compute(self, v: Var) -> None:
        """Adds the micro-operations of an elementwise equation."""
        op, ins = v.op, v.ins
        own = CODES[v.dtype]
        if op is CAST:
            value, have = self.typed(ins[0])
            if v.dtype == "bool":
                if ins[0].dtype != "bool":
                    value = self.emit("not_equal", have, value, self.number(0.0, have))
                self.values[v.id] = (value, have)
            else:
                self.values[v.id] = (self.cast(value, have, own), own)
        elif op is COPY:
            value, have = self.typed(ins[0])
            if value < 0:
                value = self.emit("copy", have, value)
            self.values[v.id] = (value, have)
        elif op is ew.WHERE:
            m, x, y = ins
            if own == 3:
                own = 2
            gate = self._gate(m, own) if y.op is CONST and y.attrs[0] == 0.0 and v.dtype in ("f32", "f64") else None
            if gate is not None:
                self.values[v.id] = (self.emit("gate", own, self.read(x, own), gate), own)
            else:
                self.values[v.id] = (self.emit("where", own, self.read(m, own), self.read(x, own), self.read(y, own)), own)
        elif op is ew.SHARE and ins[2].op is CONST and ins[2].attrs[0] == 0.0:  # the derivative of maximum(x, 0)
            self.values[v.id] = (self.emit("half_gate", own, self.read(ins[0]), self.read(ins[1])), own)
        else:
            ctype = CODES[ins[0].dtype]
            if ctype == 3:
                ctype = self.typed(next((i for i in ins if i.op is not CONST), ins[0]))[1]
            self.values[v.id] = (self.emit(op.name, ctype, *[self.read(i, ctype) for i in ins]), ctype)

    def _gate(self, m: Var, ctype: int) -> int | None:
        """y where m is y > 0 and y is at hand here: then where(m, x, 0) is one operation on x and y.

        If m comes from memory, y may no longer be there.
        """
        positive = m.op is ew.GREATER and m.ins[1].op is CONST and m.ins[1].attrs[0] == 0.0
        if positive and m.ins[0].id in self.values and CODES[m.ins[0].dtype] == ctype:
            return self.read(m.ins[0], ctype)
        return None

    def store(self, v: Var, place: Place, mode: int = STORE) -> None:
        value, have = self.typed(v)
        if place.dtype != have:
            self.ops.append(Op("cast", place.dtype, [value, have]))
            value = len(self.ops) - 1
        self.stores.append(Store(value, mode, place))

    def accumulate(self, v: Var, place: Place) -> None:
        """Adds v to ``place``, which nothing else in the phase reads or writes."""
        own = CODES[v.dtype]
        self.stores.append(Store(self.emit("add", own, self.read(v, own), self.load(place)), STORE, place))

    def store_value(self, v: Var, place: Place, mode: int) -> None:
        """Reduces v into ``place``."""
        self.stores.append(Store(self.typed(v)[0], mode, place))

    def store_flat(self, source: Place, target: Place) -> None:
        """Copies dense memory."""
        self.stores.append(Store(self.load(source), STORE, target))

    def fill(self, value: float, place: Place) -> None:
        """Stores one constant everywhere."""
        k = self.number(value, 2 if place.dtype == 3 else place.dtype)
        if place.dtype == 3:
            self.ops.append(Op("cast", 3, [k, 2]))
            k = len(self.ops) - 1
        self.stores.append(Store(k, STORE, place))

    # -- finishing

    def words(self, rowwise: bool) -> list[int]:
        self.stores.sort(key=lambda s: s.mode == STORE)  # a sum may read what a value is then stored over
        self._prune()
        plain = [Op(op.name, op.ctype, list(op.args)) for op in self.ops], self.stores, self.loads
        self._contract()
        self._compare()
        if self._registers() > REGISTERS:  # joined operations hold their operands for longer
            self.ops, self.stores, self.loads = plain
            self._registers()
        n = len(self.loads)

        def number(k: int) -> int:
            return ~k if k < 0 else n + k

        out = [int(rowwise), len(self.space), *self.space, n]
        for p in self.loads:
            out += [p.base, p.offset, p.dtype, *p.strides]
        out.append(len(self.ops))
        for op in self.ops:
            args = [number(op.args[0]), op.args[1]] if op.name == "cast" else [number(a) for a in op.args]
            out += [NUMBER[op.name], op.ctype, op.reg, len(args), *args]
        out.append(len(self.stores))
        for value, mode, p in self.stores:
            out += [number(value), mode, p.base, p.offset, p.dtype, *p.strides]
        return out

    def _args(self, op: Op) -> list[int]:
        return op.args[:1] if op.name == "cast" else op.args

    def _prune(self) -> None:
        """Drops operations and loads that no store needs, and renumbers."""
        need = [False] * len(self.ops)
        for s in self.stores:
            if s.value >= 0:
                need[s.value] = True
        for k in range(len(self.ops) - 1, -1, -1):
            if need[k]:
                for a in self._args(self.ops[k]):
                    if a >= 0:
                        need[a] = True
        self._keep(need)

    def _keep(self, need: list[bool]) -> None:
        new: dict[int, int] = {}
        kept: list[Op] = []
        for k, op in enumerate(self.ops):
            if need[k]:
                new[k] = len(kept)
                kept.append(op)
        self.ops = kept

        def move(a: int) -> int:
            return new[a] if a >= 0 else a

        for op in kept:
            op.args = [move(op.args[0]), op.args[1]] if op.name == "cast" else [move(a) for a in op.args]
        self.stores = [s._replace(value=move(s.value)) for s in self.stores]
        used = sorted({~a for op in kept for a in self._args(op) if a < 0} | {~s.value for s in self.stores if s.value < 0})
        at = {old: k for k, old in enumerate(used)}
        self.loads = [self.loads[k] for k in used]

        def turn(a: int) -> int:
            return ~at[~a] if a < 0 else a

        for op in kept:
            op.args = [turn(op.args[0]), op.args[1]] if op.name == "cast" else [turn(a) for a in op.args]
        self.stores = [s._replace(value=turn(s.value)) for s in self.stores]

    def _uses(self) -> list[int]:
        uses = [0] * len(self.ops)
        for a in [a for op in self.ops for a in self._args(op)] + [s.value for s in self.stores]:
            if a >= 0:
                uses[a] += 1
        return uses

    def _compare(self) -> None:
        """y <= x or x != x, where y <= x is used once, becomes one at_least."""
        uses = self._uses()
        found = False
        for op in self.ops:
            if op.name != "logical_or" or min(op.args) < 0:
                continue
            for low, nan in (op.args, op.args[::-1]):
                less, other = self.ops[low], self.ops[nan]
                if less.name == "less_equal" and other.name == "not_equal" and uses[low] == 1 and other.args == [less.args[1]] * 2:
                    op.name, op.args = "at_least", less.args[::-1]
                    found = True
                    break
        if found:
            self._prune()

    def _contract(self) -> None:
        """a * b used once, in a sum, becomes one multiply_add."""
        uses = self._uses()
        need = [True] * len(self.ops)
        for op in self.ops:
            if op.name != "add" or op.ctype == 2:
                continue
            for a, other in (op.args, op.args[::-1]):
                if a >= 0 and uses[a] == 1 and self.ops[a].name == "multiply":
                    op.name, op.args = "multiply_add", [*self.ops[a].args, other]
                    need[a] = False
                    break
        if not all(need):
            self._keep(need)

    def _registers(self) -> int:
        """Registers by last use, and how many; what is stored as it is needs none: it is computed in its place in memory."""
        last = {}
        for k, op in enumerate(self.ops):
            for a in self._args(op):
                if a >= 0:
                    last[a] = k
        direct: dict[int, int] = {}
        for s, (value, mode, place) in enumerate(self.stores):
            if value >= 0:
                last[value] = max(last.get(value, 0), len(self.ops))
                if mode == STORE and value not in direct and not self._overwrites(value, place):
                    direct[value] = s
        free: list[int] = []
        top = 0
        dying: dict[int, list[int]] = {}
        for value, k in last.items():
            dying.setdefault(k, []).append(value)
        for k, op in enumerate(self.ops):
            for value in dying.get(k, ()):
                if value not in direct:
                    free.append(self.ops[value].reg)
            if k in direct:
                op.reg = -1 - direct[k]
                continue
            free.sort(reverse=True)
            if free and op.name != "cast":
                op.reg = free.pop()
            elif free and op.name == "cast":
                reads = {self.ops[a].reg for a in self._args(op) if a >= 0}
                other = next((r for r in free if r not in reads), None)  # a cast changes the size of elements
                if other is None:
                    op.reg, top = top, top + 1
                else:
                    free.remove(other)
                    op.reg = other
            else:
                op.reg, top = top, top + 1
        return top

    def _overwrites(self, value: int, place: Place) -> bool:
        """A later operation or store still reads the memory that writing ``value`` at once would overwrite."""
        shared = {~k for k, p in enumerate(self.loads) if p.base == place.base and p.offset == place.offset}
        if not shared:
            return False
        return any(a in shared for op in self.ops[value + 1 :] for a in self._args(op)) or any(s.value in shared for s in self.stores)

