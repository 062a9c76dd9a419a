"""Instructions that only a backend with kernels has, and what each costs.

Each is written by a function of the block and of the group whose one equation (or several, of one instruction) it is; it gives the payload
and the work, and counts the operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from fastmeta.ops.depthwise import DEPTHWISE, DEPTHWISE_WEIGHT
from fastmeta.ops.distance import DISTANCE, DISTANCE_PULL, KERNEL_METRICS, PULL_METRICS
from fastmeta.ops.elimination import ELIMINATION
from fastmeta.ops.proto import PARTS, PROTO
from fastmeta.plan.fuse import Group
from fastmeta.plan.layout import dense
from fastmeta.plan.phases import CODES, Place, bits, operand
from fastmeta.program import DTYPES, Var

if TYPE_CHECKING:
    from fastmeta.plan.encode import Block

Words = tuple[list[int], int]


def distance(b: Block, g: Group) -> Words:
    v = _first(b, g)
    head, work = _rows(b, v)
    return [*head, *operand(b.place(v))], work


def pull(b: Block, g: Group) -> Words:
    """The derivative of distances in the rows of one side, or of both."""
    v = _first(b, g)
    head, work = _rows(b, v)
    return [*head, *operand(b.place(v.ins[2])), *_results(b, g, (0, 1))], work


def proto(b: Block, g: Group) -> Words:
    v = _first(b, g)
    (n, features), m = v.ins[0].shape, v.ins[1].shape[0]
    operands = [word for i in v.ins for word in operand(b.place(i))]
    b.e.flops += 2 * n * m * features * b.times * (1 + sum(bool(u.shape) for u in (v, *g.twins)))
    return [CODES[v.dtype], n, m, features, bits(v.attrs[0]), *operands, *_results(b, g, PARTS)], n * m * (3 * features + 1)


def inverse(b: Block, g: Group) -> Words:
    """Inverses, pivots, or both; pivots alone need memory for the inverses too."""
    v = _first(b, g)
    x = v.ins[0]
    count, n = x.shape[:2]
    found = {u.attrs[-1]: b.place(u) for u in (v, *g.twins)}
    scratch = None if False in found else b.arena.take(x.size * DTYPES[x.dtype].itemsize)
    out = found[False] if scratch is None else Place(b.memory, scratch, CODES[x.dtype], dense(x.shape))
    if scratch is not None:
        b.arena.give(scratch)
    b.e.flops += 2 * x.size * n * b.times
    return [CODES[x.dtype], count, n, *operand(b.place(x)), *operand(out), *([1, *operand(found[True])] if True in found else [0])], 2 * x.size * (n + 1)


def depthwise(b: Block, g: Group) -> Words:
    v = _first(b, g)
    x, other = v.ins
    stride, dilation, *kernel = v.attrs
    maps, taps = (other, v) if kernel else (v, other)
    operands = [word for i in (x, other, v) for word in operand(b.place(i))]
    work = 2 * maps.size * prod(taps.shape[:2])
    b.e.flops += work * b.times
    return [CODES[v.dtype], len(kernel), *x.shape, *taps.shape[:2], *maps.shape[1:3], *stride, *dilation, *operands], work


def _first(b: Block, g: Group) -> Var:
    """The first of several results of an instruction, all of them allocated."""
    assert g.single is not None
    for v in (g.single, *g.twins):
        b.allocate(v)
    return g.single


def _results(b: Block, g: Group, names: Sequence[Any]) -> list[int]:
    """For each of the results that an instruction may have, whether it has it, and where."""
    places = {v.attrs[-1]: b.place(v) for v in (g.single, *g.twins) if v is not None}
    return [word for name in names for word in ([1, *operand(places[name])] if name in places else [0])]


def _rows(b: Block, v: Var) -> Words:
    """The words that DISTANCE and PULL begin with, and the work."""
    (x, y), metric = v.ins[:2], (KERNEL_METRICS if v.op is DISTANCE else PULL_METRICS).index(v.attrs[0])
    (n, features), m = x.shape, y.shape[0]
    b.e.flops += 3 * n * m * features * b.times
    words = [CODES[v.dtype], metric, n, m, features, *operand(b.place(x)), *operand(b.place(y))]
    return words, 2 * (n * m * (features + 1) + (n + m) * features)


I_DISTANCE, I_PULL, I_PROTO, I_INVERSE, I_DEPTHWISE = range(10, 15)
KERNELS: dict[Any, tuple[int, Callable[[Block, Group], Words]]] = {
    DISTANCE: (I_DISTANCE, distance),
    DISTANCE_PULL: (I_PULL, pull),
    PROTO: (I_PROTO, proto),
    ELIMINATION: (I_INVERSE, inverse),
    DEPTHWISE: (I_DEPTHWISE, depthwise),
    DEPTHWISE_WEIGHT: (I_DEPTHWISE, depthwise),
}
