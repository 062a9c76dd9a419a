"""From a laid-out program to the words of a plan: blocks of instructions over bases.  The format is in docs/plan.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.lanes import LANE_PRODUCT
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM
from fastmeta.ops.shape import CONCAT, MOVE, PAD
from fastmeta.ops.structure import LOOP, PROJECT, Loop
from fastmeta.plan.convolution import flops, geometry
from fastmeta.plan.fuse import MAX_PHASES, REDUCTIONS, Group, Phase, fuse, root, through
from fastmeta.plan.kernels import KERNELS
from fastmeta.plan.layout import View, dense, folded, in_order, parts, restride, view_of
from fastmeta.plan.lifetimes import Lifetimes
from fastmeta.plan.memory import Addresses, Arena, aligned
from fastmeta.plan.phases import CODES, REDUCE, PhaseCode, Place, bits, operand
from fastmeta.program import ARRAY, CONST, DTYPES, Program, Shape, Var

MAGIC, VERSION = 0x464D504C, 1
B_INPUT, B_OUTPUT, B_CONST, B_SHARED, B_ARENA, B_SLICE, B_SUM, B_CARRY = range(8)
PASS, GEMM, I_GATHER, I_SCATTER, I_CUMSUM, I_ARGREDUCE, I_LOOP, I_CONV, I_ORDER = range(1, 10)
SIZE = {0: 4, 1: 8, 2: 4, 3: 1}


class Plan(NamedTuple):
    """What a backend gets: plain data.  ``lines[tag]`` is the user's line an instruction came from; of the arena's bytes the first
    ``near`` are those that more than moves read and write."""

    words: np.ndarray
    consts: bytes
    lines: list[tuple[str, Any]]
    instructions: int
    flops: int
    arena: int
    near: int


class Spot(NamedTuple):
    """Where a value that owns memory begins."""

    base: int
    offset: int


def bytes_of(v: Var) -> int:
    return v.size * DTYPES[v.dtype].itemsize


class Encoder:
    """Collects bases, constants and blocks of one plan; without ``kernels`` a product never adds to a sum over iterations itself."""

    def __init__(self, p: Program, kernels: bool = True) -> None:
        self.kernels = kernels
        self.bases: list[tuple[int, int, int, int]] = []
        self.consts = bytearray()
        self.const_at: dict[Any, int] = {}
        self.blocks: list[list[list[int]]] = [[]]
        self.lines: list[tuple[str, Any]] = []
        self.line_of: dict[Any, int] = {}
        self.instructions = 0
        self.flops = 0
        self.work = 1  # a plan without instructions counts as one
        self.of_tasks: list[Block] = []
        self.sum_bytes = 0
        self.addresses = Addresses()
        self.const_base = self.base(B_CONST)
        self.shared = self.base(B_SHARED)
        self.worker = self.base(B_ARENA)
        spots = {v.id: Spot(self.base(B_INPUT, k), 0) for k, v in enumerate(p.inputs)}
        targets = {v.id: Spot(self.base(B_OUTPUT, k), 0) for k, v in enumerate(p.outputs)}
        arena = Block(self, p, 0, spots, targets, {}, self.shared, 1).arena
        self.shared_bytes = arena.place()
        arena.settle()
        self.near_bytes = max([0, *(block.arena.place() for block in self.of_tasks)])
        self.arena_bytes = self.near_bytes + max([0, *(block.far.place() for block in self.of_tasks)])
        for block in self.of_tasks:
            block.arena.settle()
            block.far.settle(self.near_bytes)

    def base(self, kind: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        self.bases.append((kind, a, b, c))
        return len(self.bases) - 1

    def constant(self, value: float, dtype: int) -> Place:
        return Place(self.const_base, self._pool((value, np.signbit(value), dtype), lambda: _scalar(value, dtype)), dtype, ())

    def array(self, value: np.ndarray) -> int:
        return self._pool((value.dtype.str, value.tobytes()), value.tobytes)

    def _pool(self, key: Any, make: Any) -> int:
        at = self.const_at.get(key)
        if at is None:
            self.consts += bytes(-len(self.consts) % 64 if isinstance(key[-1], bytes) else -len(self.consts) % 8)
            at = self.const_at[key] = len(self.consts)
            self.consts += make()
        return at

    def tag(self, v: Var) -> int:
        key = (v.op.name, v.line)
        at = self.line_of.get(key)
        if at is None:
            at = self.line_of[key] = len(self.lines)
            self.lines.append(key)
        return at

    def plan(self, p: Program) -> Plan:
        out: list[int] = []
        for side in (p.inputs, p.outputs):
            for v in side:
                out += [CODES[v.dtype], len(v.shape), *v.shape]
        for b in self.bases:
            out += b
        for block in self.blocks:
            out += [len(block), sum(map(len, block))]
            for words in block:
                out += words
        head = [MAGIC, VERSION, 11 + len(out), len(p.inputs), len(p.outputs), len(self.bases), len(self.blocks),
                len(self.consts), self.shared_bytes, self.arena_bytes, self.work]  # fmt: skip
        return Plan(self.addresses.settle(np.array(head + out, np.int64)), bytes(self.consts), self.lines, self.instructions, self.flops, self.arena_bytes, self.near_bytes)


def _scalar(value: float, dtype: int) -> bytes:
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite
        return np.array(value, (np.float32, np.float64, np.int32, np.bool_)[dtype]).tobytes()


class Block:
    """One block: the instructions of a program or of a loop's body.

    Args:
        spots: where inputs are.
        targets: where results must go.
        sums: places that results are added to.
        memory: the base of this block's arena.
        times: how often the block runs, for the count of work.
    """

    def __init__(
        self, encoder: Encoder, p: Program, number: int, spots: dict[int, Spot], targets: dict[int, Spot],
        sums: dict[int, Spot], memory: int, times: int,
    ) -> None:  # fmt: skip
        self.e = encoder
        self.number = number
        self.spots = spots
        self.sums = sums
        self.targets = targets
        self.memory = memory
        self.times = times
        self.arena, self.far = Arena(encoder.addresses), Arena(encoder.addresses)
        self.views: dict[int, View] = {}
        self.live = p.live()
        self.groups, self.virtual = fuse(p)
        self.lives = Lifetimes(self, p)
        for k, g in enumerate(self.groups):
            self.index = k
            self.emit(g)
            self.lives.release(k)

    # -- places

    def spot(self, v: Var) -> Spot:
        done = self.spots.get(v.id)
        if done is None:
            if v.op is CONST:
                done = Spot(*self.e.constant(float(v.attrs[0]), CODES[v.dtype])[:2])
            elif v.op is ARRAY:
                done = Spot(self.e.const_base, self.e.array(v.attrs[0].value))
            else:
                raise AssertionError(f"[plan] {v} {v.op} has no memory")
            self.spots[v.id] = done
        return done

    def place(self, v: Var) -> Place:
        """v as strides over its own axes."""
        view = view_of(v, self.views)
        assert view is not None
        base, offset = self.spot(view.root)
        code = CODES[v.dtype]
        return Place(base, offset + view.offset * SIZE[code], code, view.strides)

    def over(self, v: Var, space: Shape) -> Place:
        """v as strides over the axes of a phase: those of its shape without axes of length 1, unless the space has them."""
        p = self.place(v)
        return p._replace(strides=_over(v.shape, p.strides, space))

    def allocate(self, v: Var, group: Group | None = None, old: Var | None = None) -> Spot:
        """Memory for a value: where it must go, in place of a value that dies here, or a new block of the arena."""
        done = self.spots.get(v.id)
        if done is not None:
            return done
        home = None if group is None else self.lives.home(v, group)
        if home is not None:
            self.views[v.id] = home
            self.spots[v.id] = self.allocate(home.root)
            return self.spots[v.id]
        spot = self.targets.get(v.id)
        if spot is None:
            if group is not None:
                old = self.lives.dying_in_place(v, group, self.index)
            if old is not None:
                spot = self.spots[old.id]
                self.lives.inherit(v, old)
            else:
                arena = self.far if v.op is MOVE and v.attrs[0] else self.arena
                spot = Spot(self.memory, arena.take(bytes_of(v)))
                self.lives.held[v.id] = spot.offset
        self.spots[v.id] = spot
        return spot

    # -- instructions

    def instruction(self, opcode: int, v: Var, payload: Sequence[int], work: int) -> None:
        self.e.blocks[self.number].append([opcode, 3 + len(payload), self.e.tag(v), *payload])
        self.e.instructions += 1
        self.e.work += (work + 64) * self.times

    def emit(self, g: Group) -> None:
        if g.single is None:
            if g.products:
                self.product(g)
            else:
                first = next(g.members)
                words, work = self.phases(g, g.phases)
                self.instruction(PASS, first, [len(g.phases), *words], work)
            return
        v = g.single
        if v.op is LOOP:
            self.loop(v)
        elif v.op is CONCAT or v.op is PAD:
            self.joined(v, g)
        elif v.op in KERNELS:
            opcode, write = KERNELS[v.op]
            self.instruction(opcode, v, *write(self, g))
        elif v.op is MOVE:
            self.move(v)
        else:
            self.indexed(v)

    def phases(self, g: Group, phases: list[Phase], core: Var | None = None) -> tuple[list[int], int]:
        """The words of phases and their work; ``core`` is a product's result that is summed over iterations as it is."""
        out: list[int] = []
        work = 0
        for phase in phases:
            code = self.code(phase.space)
            if core is not None and phase.rowwise:
                self.accumulate(code, core)
            self.fill(code, g, phase)
            out += code.words(phase.rowwise and g.products[0].op is not LANE_PRODUCT)
            work += prod(phase.space) * (len(code.ops) + len(code.stores) + len(code.loads) + 1) * 2 + 64
        return out, work

    def code(self, space: Shape) -> PhaseCode:
        zero = (0,) * len(space)
        return PhaseCode(space, lambda v: self.over(v, space), lambda c, t: self.e.constant(c, t)._replace(strides=zero))

    def fill(self, code: PhaseCode, g: Group, phase: Phase) -> None:
        done: set[int] = set()

        def compute(v: Var) -> None:
            for i in v.ins:
                source = through(i)
                if source.id in self.virtual and source.id not in done:
                    done.add(source.id)
                    compute(source)
                if source.id in done and i is not source:
                    code.values[i.id] = code.values[source.id]
            code.compute(v)

        for v in phase.members:
            if v.op in REDUCTIONS:
                self.reduce(code, v, done)
                continue
            compute(v)
            done.add(v.id)
            if self.lives.stored(v, g):
                self.allocate(v, g)
                code.store(v, self.over(v, code.space))
            self.accumulate(code, v)

    def reduce(self, code: PhaseCode, v: Var, done: set[int]) -> None:
        x = v.ins[0]
        source = through(x)
        if source.id in done and x is not source:
            code.values[x.id] = code.values[source.id]
        self.allocate(v)
        spot = self.spot(v)
        axes = v.attrs[0]
        own = iter(dense(v.shape))
        strides = [0 if a in axes else next(own) for a in range(len(x.shape))]
        full = tuple(s for n, s in zip(x.shape, strides, strict=True) if n != 1)
        code.store_value(x, Place(spot.base, spot.offset, CODES[v.dtype], full), REDUCE[v.op])

    def accumulate(self, code: PhaseCode, v: Var) -> None:
        target = self.sums.get(v.id)
        if target is not None:
            strides = _over(v.shape, dense(v.shape), code.space)
            code.accumulate(v, Place(target.base, target.offset, CODES[v.dtype], strides))

    def product(self, g: Group) -> None:
        core = g.core
        assert core is not None
        first = g.products[0]
        rows = next((p for p in g.phases if p.rowwise), None)
        alpha, cin, core, absorbed = self.absorb(g, rows)
        epilogue = Phase(first.shape, True)
        epilogue.members = [v for v in rows.members if v.id not in absorbed] if rows else []
        rest = [p for p in g.phases if not p.rowwise]
        # the sum of products is written where it is needed, or where the last of its rows' values will overwrite it
        operands = [(self.place(w.ins[0]), self.place(w.ins[1])) for w in g.products]
        cin_place = self.over(cin, first.shape) if cin is not None else None
        tail = next((v for v in reversed(epilogue.members) if v.dtype == core.dtype and self.lives.stored(v, g)), None)
        # A product of matrices adds to a sum itself; a convolution would begin with the sum and round each of its terms as coarsely.
        matrices = first.op in (MATMUL, LANE_PRODUCT)
        added = self.e.kernels and matrices and core.id in self.sums and cin is None and not epilogue.members and not self.lives.readers.get(core.id)
        if added:
            self.spots[core.id] = self.sums[core.id]
        elif self.lives.stored(core, g) or tail is None or not self.overwritable(core, tail, epilogue):
            self.allocate(core, old=self.lives.dying_addend(core, cin, g, self.index))
            if not self.lives.stored(core, g):
                self.lives.until(core, self.index)
        else:
            self.allocate(tail)
            self.spots[core.id] = self.spots[tail.id]
        at = self.spot(core)
        code = CODES[core.dtype]
        c_place = Place(at.base, at.offset, code, dense(first.shape))
        turn = _lanes_before if first.op is LANE_PRODUCT else tuple
        payload = [code, len(first.shape) - 2, *turn(first.shape), bits(alpha)] if matrices else [code, *geometry(first)]
        payload.append(len(operands))
        work = 0
        for w, (a, b) in zip(g.products, operands, strict=True):
            inner = turn(w.ins[0].shape)[-1]
            payload += [*([inner] if matrices else []), *operand(a, turn), *operand(b, turn)]
            work += 2 * first.size * inner if matrices else flops(w)
        self.e.flops += work * self.times
        payload += operand(c_place, turn)
        addend = c_place if added else cin_place
        payload += [0] if addend is None else [1, *operand(addend, turn)]
        todo = [epilogue, *rest] if epilogue.members or core.id in self.sums and not added else rest
        words, extra = self.phases(g, todo, None if added else core)
        self.instruction(GEMM if matrices else I_CONV, core, [*payload, len(todo), *words], 2 * work + prod(first.shape) * 4 + extra)

    def absorb(self, g: Group, rows: Phase | None) -> tuple[float, Var | None, Var, set[int]]:
        """alpha and the addend of C = alpha * sum A B + CIN, taken from the first equations that follow the products.

        A convolution has no alpha, and its addend is dense, as is that of products side by side.
        """
        core = g.core
        assert core is not None
        op = g.products[0].op
        matrices = op in (MATMUL, LANE_PRODUCT)
        alpha, cin, absorbed = 1.0, None, set()
        for v in rows.members if rows else ():
            if not self.lives.only(core, v) or v.id in self.virtual or core.id in self.sums:
                break
            x, y = v.ins if len(v.ins) == 2 else (None, None)
            if v.op is ew.MULTIPLY and matrices and cin is None and x is not None and y is not None and (x if y is core else y).op is CONST:
                alpha *= (x if y is core else y).attrs[0]
            elif v.op is ew.ADD and x is not None and y is not None and x is not y and (x is core or y is core):
                other = y if x is core else x
                r = root(other)
                if r.id in g.phase_of or r.id in self.virtual or other.dtype != core.dtype:
                    break
                view = view_of(other, self.views)
                if op is not MATMUL and (view is None or not in_order(other.shape, view.strides)):
                    break
                cin = other
            else:
                break
            absorbed.add(v.id)
            core = v
            if cin is not None:
                break
        return alpha, cin, core, absorbed

    def overwritable(self, core: Var, tail: Var, phase: Phase) -> bool:
        """The rows' values between may be lost: nothing reads ``core`` in another instruction or phase."""
        return all(any(u is v for v in phase.members) for u in self.lives.readers.get(core.id, ())) and core.id not in self.sums

    def joined(self, v: Var, g: Group) -> None:
        """concat and pad: copies into parts of the result, or the passes that compute what is padded there."""
        self.allocate(v)
        spot = self.spot(v)
        strides = dense(v.shape)
        code = CODES[v.dtype]
        phases: list[list[int]] = []
        work = 0
        if v.op is PAD:
            pc = self.code(v.shape)
            pc.fill(0.0, Place(spot.base, spot.offset, code, strides))
            phases.append(pc.words(False))
            work += 16 * v.size
            low, _, interior = v.attrs
            todo = [(v.ins[0], sum(a * s for a, s in zip(low, strides, strict=True)), tuple(s * (k + 1) for s, k in zip(strides, interior, strict=True)))]
        else:
            todo = [(x, offset, strides) for x, offset in parts(v) if root(x).id not in self.views or self.views[root(x).id].root is not v]
        for x, offset, into in todo:
            if not x.size:
                continue
            if g.phases:
                y = root(x)
                inner = restride(x.shape, into, y.shape)
                assert inner is not None
                self.views[y.id], self.spots[y.id] = View(v, offset, inner), spot
                for phase in g.phases:
                    words, extra = self.phases(g, [phase])
                    phases.append(words)
                    work += extra
                continue
            pc = self.code(x.shape)
            pc.store(x, Place(spot.base, spot.offset + offset * SIZE[code], code, into))
            phases.append(pc.words(False))
            work += 16 * x.size
        for k in range(0, len(phases), MAX_PHASES):
            some = phases[k : k + MAX_PHASES]
            self.instruction(PASS, v, [len(some), *chain.from_iterable(some)], work * len(some) // len(phases) + 64)

    def move(self, v: Var) -> None:
        spot, code = self.allocate(v), self.code(v.shape)
        code.store(v.ins[0], Place(spot.base, spot.offset, CODES[v.dtype], dense(v.shape)))
        self.instruction(PASS, v, [1, *code.words(False)], 8 * bytes_of(v))

    def indexed(self, v: Var) -> None:
        """Gather, scatter-add, cumulative sums and positions of extremes: three axes, the middle one indexed."""
        op, x = v.op, v.ins[0]
        axis = v.attrs[0]
        code = CODES[x.dtype]
        fold = self.fold
        summed = v.id in self.sums
        adds = summed and self.e.kernels and not self.lives.readers.get(v.id)
        if adds:
            self.spots[v.id] = self.sums[v.id]
        else:
            self.allocate(v)
        if op is GATHER or op is SCATTER_ADD:
            whole = x if op is GATHER else v
            o, n, i = prod(whole.shape[:axis]), whole.shape[axis], prod(whole.shape[axis + 1 :])
            j = v.ins[1].shape[axis]
            payload = [code, o, n, j, i, *fold(x, axis), *fold(v.ins[1], axis), *fold(v, axis)]
            if op is SCATTER_ADD:
                payload.append(int(adds))
            self.instruction(I_GATHER if op is GATHER else I_SCATTER, v, payload, 8 * o * i * (j + n) + 64)
            if summed and not adds:
                pc = self.code(v.shape)
                self.accumulate(pc, v)
                self.instruction(PASS, v, [1, *pc.words(False)], 16 * v.size)
            return
        o, n, i = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
        if op is CUMSUM:
            self.instruction(I_CUMSUM, v, [code, o, n, i, int(v.attrs[1]), *fold(x, axis), *fold(v, axis)], 8 * o * n * i + 64)
            return
        if op is ARGSORT:
            _, k, descending = v.attrs
            levels = max(1, (k - 1).bit_length())
            self.instruction(I_ORDER, v, [code, o, n, i, k, int(descending), *fold(x, axis), *fold(v, axis)], 8 * o * n * i * levels + 64)
            return
        assert op is ARGMAX or op is ARGMIN, op
        out = self.place(v)
        payload = [code, o, n, i, int(op is ARGMIN), *fold(x, axis), out.base, out.offset, out.dtype, i, 1]
        self.instruction(I_ARGREDUCE, v, payload, 8 * o * n * i + 64)

    def fold(self, v: Var, axis: int) -> list[int]:
        """v as three axes: those before ``axis`` as one, ``axis``, those after as one."""
        p = self.place(v)
        strides = folded(v.shape, p.strides, axis)
        assert strides is not None, "the layout copies operands whose axes do not fold"
        return [p.base, p.offset, p.dtype, *strides]

    # -- loops

    def loop(self, v: Var) -> None:
        s: Loop = v.attrs[0]
        e = self.e
        parallel = self.number == 0 and s.carry == 0
        n, m = s.invariant, s.invariant + s.carry
        results = {u.attrs[0]: u for u in self.live if u.op is PROJECT and u.ins[0] is v}
        body = s.body
        number = len(e.blocks)
        e.blocks.append([])
        spots: dict[int, Spot] = {}
        targets: dict[int, Spot] = {}
        sums: dict[int, Spot] = {}
        slices: list[int] = []
        swaps: list[int] = []
        totals: list[int] = []
        before: list[int] = []
        phases = 0
        scratch: list[int] = []

        def block(size: int) -> Spot:
            scratch.append(self.arena.take(size))
            return Spot(self.memory, scratch[-1])

        for k in range(n):
            spots[body.inputs[k].id] = self.spot(root(v.ins[k]))
        for k in range(s.carry):
            formal, x = body.inputs[n + k], v.ins[n + k]
            size = bytes_of(formal)
            result = results.get(k)
            last = self.allocate(result) if result is not None else block(size)
            other = block(size)
            first = last if s.length % 2 == 0 else other  # after ``length`` swaps the carry lies in ``last``
            second = other if first is last else last
            a = e.base(B_CARRY, first.base, first.offset, size)
            b = e.base(B_CARRY, second.base, second.offset, size)
            swaps += [a, b]
            spots[formal.id] = Spot(a, 0)
            targets[body.outputs[k].id] = Spot(b, 0)
            pc = self.code((formal.size,))
            source = self.spot(root(x))
            pc.store_flat(Place(source.base, source.offset, CODES[x.dtype], (1,)), Place(first.base, first.offset, CODES[x.dtype], (1,)))
            before += pc.words(False)
            phases += 1
        for k in range(s.sliced):
            formal, x = body.inputs[m + k], v.ins[m + k]
            source = self.spot(root(x))
            base = e.base(B_SLICE, source.base, source.offset, bytes_of(formal))
            slices.append(base)
            spots[formal.id] = Spot(base, 0)
        for k in range(s.stacked):
            out = body.outputs[s.carry + k]
            result = results.get(s.carry + k)
            assert result is not None
            spot = self.allocate(result)
            base = e.base(B_SLICE, spot.base, spot.offset, bytes_of(out))
            slices.append(base)
            targets[out.id] = Spot(base, 0)
        for k in range(s.summed):
            out = body.outputs[s.carry + s.stacked + k]
            result = results.get(s.carry + s.stacked + k)
            assert result is not None
            spot = self.allocate(result)
            if parallel:
                base = e.base(B_SUM, e.sum_bytes, bytes_of(out))
                e.sum_bytes += aligned(bytes_of(out))
                sums[out.id] = Spot(base, 0)
                totals += [base, CODES[out.dtype], out.size, spot.base, spot.offset]
            else:
                sums[out.id] = spot
                pc = self.code((out.size,))
                pc.fill(0.0, Place(spot.base, spot.offset, CODES[out.dtype], (1,)))
                before += pc.words(False)
                phases += 1
        if phases:
            self.instruction(PASS, v, [phases, *before], 64 + sum(4 * bytes_of(u) for u in (*v.ins[n:m], *results.values()) if u.size > 0))
        times = self.times * max(s.length, 1)
        if parallel:
            e.of_tasks.append(Block(e, body, number, spots, targets, sums, e.worker, times))
        else:
            inner = Block(e, body, number, spots, targets, sums, self.memory, times).arena
            scratch.append(self.arena.take(inner.place(), inner))
        for address in scratch:
            self.arena.give(address)
        payload = [number, s.length, int(parallel), int(s.reverse), len(slices), *slices, len(swaps) // 2, *swaps, len(totals) // 5, *totals]
        self.instruction(I_LOOP, v, payload, 64)


def _over(shape: Shape, strides: tuple[int, ...], space: Shape) -> tuple[int, ...]:
    """Strides over the axes of ``shape`` as strides over those of ``space``: the two differ by axes of length 1 only."""
    if shape == space:
        return strides
    kept = iter([s for n, s in zip(shape, strides, strict=True) if n != 1])
    return tuple([0 if n == 1 else next(kept) for n in space])


def _lanes_before(axes: tuple[int, ...]) -> tuple[int, ...]:
    """[.., m, n, lanes] as [.., lanes, m, n]: products of many tasks are one of matrices with an axis more before."""
    return (*axes[:-3], axes[-1], *axes[-3:-1])
