"""Fusion: groups of equations that run as one instruction.

A group is a sum of products (of matrices, or convolutions of one kind) with what follows it, or one or more passes
over elements.  Groups are totally ordered by ``at``; an equation may join a group only if everything else it reads
stands before that group (or the group can move to the end because nothing has read it yet), so no cycle can arise and
no search for one is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import prod

from fastmeta.ops import elementwise as ew
from fastmeta.ops.distance import DISTANCE_PULL
from fastmeta.ops.elimination import ELIMINATION
from fastmeta.ops.lanes import LANE_PRODUCT
from fastmeta.ops.product import MATMUL, MAX_PRODUCTS
from fastmeta.ops.proto import PROTO
from fastmeta.ops.reduce import MAX, MIN, SUM
from fastmeta.ops.shape import PAD, RESHAPE, STOP_GRADIENT
from fastmeta.ops.structure import PROJECT
from fastmeta.plan.layout import PRODUCTS
from fastmeta.plan.phases import REGISTERS
from fastmeta.program import ARRAY, CONST, INPUT, Program, Shape, Var

REDUCTIONS = (SUM, MAX, MIN)
COMPARISONS = (ew.EQUAL, ew.NOT_EQUAL, ew.LESS, ew.LESS_EQUAL, ew.GREATER, ew.GREATER_EQUAL)
PASSIVE = (INPUT, CONST, ARRAY)
MANY_RESULTS = (DISTANCE_PULL, PROTO, ELIMINATION)  # the last attribute says which
MAX_OPERATIONS, MAX_LOADS, MAX_STORES, MAX_PHASES = 200, 60, 32, 60  # of a phase and a group: below what the core takes
LARGE, LATER = 1 << 20, 128  # elements; equations
SMALL = 1 << 17  # elements: what is smaller may be held a little longer
MAX_REPLACED = 8  # values that a phase writes over values it reads: what is read once more has to wait in a register
MAX_REGISTERS = REGISTERS - MAX_REPLACED - 2  # values at once in a phase, two being left for conversions


class Phase:
    """A pass over one space: its equations in order, reductions among them as the last thing done to an element."""

    __slots__ = ("space", "members", "rowwise", "operations", "replaced")

    def __init__(self, space: Shape, rowwise: bool = False) -> None:
        self.space = space
        self.members: list[Var] = []
        self.rowwise = rowwise
        self.operations = self.replaced = 0


class Group:
    """Equations that run as one instruction: ``products`` (if any), then the phases."""

    __slots__ = ("at", "products", "core", "phases", "phase_of", "single", "twins", "readers")

    def __init__(self, at: int) -> None:
        self.at = at
        self.products: list[Var] = []
        self.core: Var | None = None  # the sum of the products
        self.phases: list[Phase] = []
        self.phase_of: dict[int, int] = {}
        self.single: Var | None = None  # an instruction of its own: gather, loop, concat, ...
        self.twins: list[Var] = []  # other results of the same instruction
        self.readers: set[Group] = set()  # other groups that read it

    @property
    def members(self) -> Iterator[Var]:
        for p in self.phases:
            yield from p.members

    @property
    def elements(self) -> int:
        return max(prod(p.space) for p in self.phases)


def squeezed(shape: Shape) -> Shape:
    return tuple([n for n in shape if n != 1])


def through(v: Var) -> Var:
    """The value behind views that keep every element in its place."""
    while v.op is STOP_GRADIENT or v.op is RESHAPE and squeezed(v.shape) == squeezed(v.ins[0].shape):
        v = v.ins[0]
    return v


def root(v: Var) -> Var:
    """The value that owns the memory behind any views."""
    while v.op.view:
        v = v.ins[0]
    return v


def reshaped_from(v: Var) -> Var:
    """The value behind reshapes."""
    while v.op in (RESHAPE, STOP_GRADIENT):
        v = v.ins[0]
    return v


def splits(old: Shape, new: Shape) -> bool:
    """Each axis of ``new`` is an axis of ``old`` or a part of one: any array of shape ``old`` can be seen so without a copy."""
    rest = iter(squeezed(new))
    for n in squeezed(old):
        while n > 1:
            m = next(rest, 0)
            if not m or n % m:
                return False
            n //= m
    return True


def fuse(p: Program) -> tuple[list[Group], set[int]]:
    """The groups of a laid-out program in running order, and the ids of equations that every reader recomputes."""
    f = _Fuser(p)
    for v in f.live:
        if v.op is PROJECT:
            f.of[v.id] = f.of[v.ins[0].id]
        elif not (v.op.view or v.op in PASSIVE):
            f.place(v)
    groups = sorted((g for g in f.groups if g.products or g.phases or g.single is not None), key=lambda g: g.at)
    for g in groups:
        f.postpone(g)
    return f.together(groups), f.virtual


class _Fuser:
    def __init__(self, p: Program) -> None:
        self.live = p.live()
        self.groups: list[Group] = []
        self.of: dict[int, Group] = {}
        self.virtual: set[int] = set()
        self.reduced: set[int] = set()
        self.clock = 0
        self.outputs = {v.id for v in p.outputs}
        self.readers: dict[int, list[Var]] = {}
        for v in self.live:
            for i in v.ins if not v.op.view else ():
                self.readers.setdefault(root(i).id, []).append(v)

    def new(self) -> Group:
        self.clock += 1
        g = Group(self.clock)
        self.groups.append(g)
        return g

    def alone(self, v: Var) -> bool:
        """v has exactly one reader and is no result."""
        return len(self.readers.get(v.id, ())) == 1 and v.id not in self.outputs

    def place(self, v: Var) -> None:
        if v.op in PRODUCTS:
            g = self.new()
            g.products.append(v)
            g.core = v
            self.own(v, g)
        elif v.op in REDUCTIONS:
            self.reduction(v)
        elif v.op.elementwise:
            if self.recomputed(v):
                self.virtual.add(v.id)
            elif not self.product_sum(v):
                self.elementwise(v)
        elif not (v.op is PAD and self.padded(v) or v.op in MANY_RESULTS and self.other_result(v)):
            g = self.new()
            g.single = v
            self.own(v, g)

    def padded(self, v: Var) -> bool:
        """A pass whose result only a pad reads writes it into the middle of the padded array."""
        x = reshaped_from(v.ins[0])
        g = self.of.get(x.id)
        if g is None or not self.lone_pass(g) or g.readers or not self.alone(x):
            return False
        if not splits(v.ins[0].shape, x.shape):
            return False
        g.single = v
        g.phase_of[v.id] = 1
        self.own(v, g)
        return True

    def other_result(self, v: Var) -> bool:
        """Several results of one kernel for the same operands are one instruction."""
        for g in self.groups:
            w = g.single
            if w is not None and w.op is v.op and w.ins == v.ins and w.attrs[:-1] == v.attrs[:-1]:
                g.twins.append(v)
                self.own(v, g)
                return True
        return False

    def own(self, v: Var, g: Group) -> None:
        self.of[v.id] = g
        for r in self.sources(v):
            h = self.of.get(r.id)
            if h is not None and h is not g:
                h.readers.add(g)

    def sources(self, v: Var) -> Iterator[Var]:
        """What v reads from memory: the values behind its operands, and behind recomputed ones."""
        for i in v.ins:
            r = root(i)
            if r.id in self.virtual:
                yield from self.sources(r)
            elif r.op is not CONST:
                yield r

    def recomputed(self, v: Var) -> bool:
        """Comparisons with a constant, or of a value with itself, cost less to compute again than to store, unless that keeps a large value."""
        return (
            v.op in COMPARISONS
            and v.size < LARGE
            and v.id not in self.outputs
            and (any(i.op is CONST for i in v.ins) or v.ins[0] is v.ins[1])
            and all(u.op.elementwise and all(through(i) is v for i in u.ins if root(i) is v) for u in self.readers.get(v.id, ()))
        )

    def product_sum(self, v: Var) -> bool:
        """A1 B1 + A2 B2: two sums of products whose only reader is their sum become one accumulation."""
        if v.op is not ew.ADD:
            return False
        x, y = v.ins
        a, b = self.of.get(x.id), self.of.get(y.id)
        if a is None or b is None or a is b or a.core is not x or b.core is not y or a.phases or b.phases:
            return False
        if not (self.alone(x) and self.alone(y)) or len(a.products) + len(b.products) > MAX_PRODUCTS:
            return False
        if not self.alike(a.products[0], b.products[0]):
            return False
        if a.at > b.at:
            a, b = b, a
        b.products = a.products + b.products
        a.products, a.core = [], None
        b.core = v
        for w in b.products:
            self.of[w.id] = b
        self.of[x.id] = self.of[y.id] = self.of[v.id] = b
        return True

    def alike(self, a: Var, b: Var) -> bool:
        """One instruction can add up both: products of matrices, or convolutions that differ in their operands' values only."""
        same = a.attrs == b.attrs and all(i.shape == j.shape for i, j in zip(a.ins, b.ins, strict=True))
        return a.op is b.op and (a.op in (MATMUL, LANE_PRODUCT) or same)

    def elementwise(self, v: Var) -> None:
        best = None
        for i in v.ins:
            g = self.of.get(through(i).id)
            if g is None or g.single is not None or squeezed(i.shape) != squeezed(v.shape):
                continue
            if v.size >= LARGE and v.id - max(u.id for u in (*g.products, *g.members)) > LATER:
                continue  # a large value is made when it is needed, not as soon as it can be
            better = best is None or (bool(g.products), g.at) > (bool(best.products), best.at)
            if better and self.fits(v, g) is not None:
                best = g
        if best is None:
            best = self.new()
            best.phases.append(Phase(squeezed(v.shape)))
        self.join(v, best)
        for i in v.ins:
            self.merge(self.of.get(through(i).id), best)

    def merge(self, h: Group | None, g: Group) -> None:
        """One pass instead of two over the same space, the second being the first one's only reader so far: a pass, or the rows of a product."""
        if h is None or h is g or h.at > g.at or not self.lone_pass(h) or h.readers - {g}:
            return
        if g.products and any(self.of.get(r.id) is h for w in g.products for r in self.sources(w)):
            return
        if not (self.lone_pass(g) or g.products and g.phases[0].rowwise):
            return
        a, b = h.phases[0], g.phases[0]
        if squeezed(a.space) != squeezed(b.space) or not all(self.reads_in_place(u, h) for u in g.members):
            return
        if a.operations + b.operations > MAX_OPERATIONS or not self.holds([*a.members, *b.members]):
            return
        b.members = a.members + b.members
        b.operations += a.operations
        h.phases = []
        for v in a.members:
            self.of[v.id], g.phase_of[v.id] = g, 0
            for r in self.sources(v):
                other = self.of.get(r.id)
                if other is not None and h in other.readers:
                    other.readers.remove(h)
                    other.readers.add(g)
        g.readers.discard(g)

    def reads_in_place(self, u: Var, h: Group) -> bool:
        """u reads each value of h, if any, only where it is written itself."""
        for i in u.ins:
            r = root(i)
            if r.id in self.virtual:
                if any(self.of.get(s.id) is h and not self.in_place(r, s) for s in self.sources(r)):
                    return False
            elif self.of.get(r.id) is h and (through(i) is not r or squeezed(i.shape) != squeezed(r.shape)):
                return False
        return True

    def lone_pass(self, g: Group) -> bool:
        """Nothing but one pass without reductions."""
        return not g.products and g.single is None and len(g.phases) == 1 and not any(v.id in self.reduced for v in g.members)

    def fits(self, v: Var, g: Group) -> int | None:
        """The phase of g in which v can be computed (len(phases) for a new one), or None."""
        k = 0
        later = False
        for i in v.ins:
            r = root(i)
            if r.id in self.virtual:
                for s in self.sources(r):
                    h = self.of.get(s.id)
                    if h is g and (s.id in self.reduced or not self.in_place(r, s)):
                        return None
                    if h is g:
                        k = max(k, g.phase_of.get(s.id, 0))
                    later |= h is not None and h is not g and h.at > g.at
                continue
            h = self.of.get(r.id)
            if h is g:
                if through(i) is not r or squeezed(i.shape) != squeezed(r.shape):
                    return None  # another view of a value this very instruction computes
                k = max(k, g.phase_of.get(r.id, 0) + (r.id in self.reduced))
            elif h is not None and h.at > g.at:
                later = True
        if later and g.readers:
            return None
        if k < len(g.phases):
            return k if (g.phases[k].space == squeezed(v.shape) or g.phases[k].rowwise) and self.room(v, g.phases[k]) else None
        return k if k < MAX_PHASES else None

    def room(self, v: Var, phase: Phase) -> bool:
        return phase.operations + self.cost(v) <= MAX_OPERATIONS and self.holds([*phase.members, v])

    def holds(self, members: list[Var]) -> bool:
        """A pass can load what these read, store what others read, and hold each value from its first operation to the last that needs it."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        loads: set[int] = set()
        types: dict[int, set[str]] = {}  # of a truth value: those of the numbers that it selects

        def use(v: Var, now: int) -> None:
            for i in v.ins:
                r = root(i)
                if r.id in self.virtual:
                    use(r, now)
                elif r.id not in first:
                    loads.add(i.id)
                    if r.dtype != "bool":
                        continue
                first.setdefault(r.id, now)
                last[r.id] = len(members) if v.op in REDUCTIONS else now
                types.setdefault(r.id, set()).add(v.dtype if r.dtype == "bool" else r.dtype)

        for now, v in enumerate(members):
            use(v, now)
            first[v.id] = last[v.id] = now
        change = [0] * (len(members) + 2)
        for k in first:
            n = max(1, len(types.get(k, set()) - {"bool"}))
            change[first[k]] += n
            change[last[k] + 1] -= n
        stores = sum(self.stores(v, first) for v in members)
        return stores <= MAX_STORES and len(loads) <= MAX_LOADS and max(accumulate(change)) <= MAX_REGISTERS

    def stores(self, v: Var, here: dict[int, int]) -> int:
        """Where v goes at most in a pass with the values ``here``: to memory if others read it, and to a result or a sum."""
        return (v.op in REDUCTIONS or any(u.id not in here for u in self.reading(v))) + (v.id in self.outputs)

    def cost(self, v: Var) -> int:
        """Operations, conversions from and to bool included, that v needs at most."""
        operations = 1 + (v.dtype == "bool") + (v.id in self.outputs)
        for i in v.ins:
            operations += self.cost(root(i)) if root(i).id in self.virtual else i.dtype == "bool"
        return operations

    def add(self, v: Var, g: Group, k: int) -> None:
        phase = g.phases[k]
        phase.members.append(v)
        phase.operations += self.cost(v)
        g.phase_of[v.id] = k
        self.own(v, g)

    def in_place(self, mask: Var, s: Var) -> bool:
        return any(through(i) is s for i in mask.ins)

    def join(self, v: Var, g: Group) -> None:
        k = self.fits(v, g)
        assert k is not None
        if any(h is not None and h is not g and h.at > g.at for h in (self.of.get(r.id) for r in self.sources(v))):
            self.clock += 1
            g.at = self.clock
        if k == len(g.phases):
            rowwise = bool(g.products) and k == 0
            g.phases.append(Phase(g.core.shape if rowwise and g.core is not None else squeezed(v.shape), rowwise))
        self.add(v, g, k)

    def reduction(self, v: Var) -> None:
        x = v.ins[0]
        r = through(x)
        g = self.of.get(r.id)
        space = squeezed(x.shape)
        if g is not None and g.single is None and r.id not in self.reduced and squeezed(r.shape) == space:
            if r is g.core or g.phases[g.phase_of[r.id]].rowwise:
                k = next((k for k, p in enumerate(g.phases) if not p.rowwise and p.space == space and self.before(g, r, k)), len(g.phases))
                if k == 0:  # a product without epilogue: the phase of its rows stays free for one
                    g.phases.append(Phase(g.core.shape if g.core is not None else (), True))
                    k = 1
            else:
                k = g.phase_of[r.id]
            if k < len(g.phases) and not self.room(v, g.phases[k]) or k >= MAX_PHASES:
                g = None
            elif k == len(g.phases):
                g.phases.append(Phase(space))
        else:
            g = None
        if g is None:
            g, k = self.new(), 0
            g.phases.append(Phase(space))
        self.reduced.add(v.id)
        self.add(v, g, k)

    def before(self, g: Group, r: Var, k: int) -> bool:
        return g.phase_of.get(r.id, 0) < k

    def together(self, groups: list[Group]) -> list[Group]:
        """Passes in a row that do not read each other become one instruction: the scaled gradients of all parameters, say."""
        done: list[Group] = []
        for g in groups:
            h = done[-1] if done else g
            passes = h is not g and not any(x.products or x.single is not None or x.elements > SMALL for x in (g, h))
            if not passes or len(h.phases) + len(g.phases) > MAX_PHASES or any(self.of.get(r.id) is h for v in g.members for r in self.sources(v)):
                done.append(g)
                continue
            for v in g.members:
                self.of[v.id], h.phase_of[v.id] = h, g.phase_of[v.id] + len(h.phases)
            h.phases += g.phases
        return done

    def postpone(self, g: Group) -> None:
        """Moves what only a later phase over the same space reads into that phase: there it needs no memory, or that of what it is made of."""
        for k, phase in enumerate(g.phases):
            space = squeezed(phase.space)
            later = next((j for j in range(k + 1, len(g.phases)) if squeezed(g.phases[j].space) == space), None)
            if later is None:
                continue
            for v in reversed(phase.members[:]):
                more = [v, *g.phases[later].members]
                if v.id not in self.reduced and self.postponable(v, g, k, later) and self.room(v, g.phases[later]) and self.holds(more):
                    phase.members.remove(v)
                    g.phases[later].members = more
                    g.phases[later].operations += self.cost(v)
                    g.phase_of[v.id] = later

    def postponable(self, v: Var, g: Group, k: int, later: int) -> bool:
        readers = list(self.reading(v))
        inside = [u for u in readers if self.of[u.id] is g]
        if v.id in self.outputs or any(g.phase_of.get(u.id, 0) < later for u in inside):
            return False
        lost = bool(inside) and len(inside) == len(readers)  # v needs no memory of its own then
        for r in self.sources(v):
            if self.of.get(r.id) is not g:
                continue
            others = [u for u in self.reading(r) if u is not v]
            if not any(self.of[u.id] is not g or g.phase_of.get(u.id, k) != g.phase_of.get(r.id, k) for u in others):
                return False  # r would need memory
            lost |= r.size == v.size and all(self.of[u.id] is g for u in others)
        return lost

    def reading(self, v: Var) -> Iterator[Var]:
        """What reads v, also by way of values that are computed again."""
        for u in self.readers.get(v.id, ()):
            if u.id in self.virtual:
                yield from self.reading(u)
            else:
                yield u
