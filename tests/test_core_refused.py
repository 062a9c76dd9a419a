"""Plans that the native core must refuse, and plans mutated at random."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from core_plans import scan, task_loop
from plan_tools import (
    ARGREDUCE,
    CUMSUM,
    DEPTHWISE,
    DISTANCE,
    GATHER,
    INVERSE,
    ORDER,
    PROTO,
    PULL,
    SCATTER,
    STORE,
    SUM,
    Builder,
    View,
    code,
    f32,
    phase,
    sample,
    view,
)  # fmt: skip

from fastmeta import _core


def doubling(**changes):
    settings = {"offset": 0, "stride": 1, "dims": (8,), "out": (8,), "reg": -1, "op": "add", "work": 1 << 20, "kind": "output"} | changes
    b = Builder([(f32, (8,))], [(f32, settings["out"])], arena=64, work=settings["work"])
    target = b.output(0) if settings["kind"] == "output" else b.input(0) if settings["kind"] == "input" else b.arena()
    load = view(b.input(0), (8,), offset=settings["offset"])._replace(strides=(settings["stride"],) * len(settings["dims"]))
    dims = settings["dims"]
    store = view(target, dims) if len(dims) == 1 else View(target, 0, code(f32), dims, (dims[1], 1))
    b.elementwise(settings["dims"], [load], [(settings["op"], f32, settings["reg"], 0, 0)], [(1, STORE, store)])
    return b


REFUSED = {
    "offset past the end": {"offset": 4},
    "negative offset": {"offset": -4},
    "unaligned": {"offset": 2, "dims": (7,)},
    "stride past the end": {"stride": 2},
    "negative stride": {"stride": -1},
    "overflowing stride": {"stride": 1 << 62},
    "dim past the end": {"dims": (9,), "stride": 0},
    "huge dims": {"dims": (1 << 40, 1 << 40), "stride": 0},
    "too much work": {"work": 10},
    "write to an input": {"kind": "input"},
    "arena in block 0": {"kind": "arena"},
    "register": {"reg": 32},
    "store number": {"reg": -2},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operands(name):
    doubling().plan()
    with pytest.raises(ValueError, match=r"^\[plan\] .*expected .*got "):
        doubling(**REFUSED[name]).plan()


def refused(builder, text):
    with pytest.raises(ValueError, match=r"^\[plan\] .*" + text):
        builder.plan()


def test_refused_structures():
    b = doubling()
    b.block()
    refused(b, "a loop that names block 1")
    b = doubling()
    b.loop(b.block(), -1, parallel=1)
    refused(b, "an array whose dim 0 is -1")
    b = doubling()
    inner = b.block()
    b.loop(inner, 2)
    b.loop(inner, 2)
    refused(b, "a block of no other loop")
    b = doubling()
    b.loop(0, 2)
    refused(b, "block of LOOP")
    b = doubling()
    inner = b.block()
    b.elementwise((2,), [view(b.slice(0, 0, 4), (2,))], [], [(0, STORE, view(b.output(0), (2,)))], block=inner)
    refused(b, "a loop that names")
    b.loop(inner, 2)
    refused(b, "usable in block 1")
    # two tasks writing one place
    b = Builder([(f32, (-1, 8))], [(f32, (8,))])
    x, out, inner = b.input(0), b.output(0), b.block()
    x_t = b.slice(x, 0, 32)
    b.elementwise((8,), [view(x_t, (8,))], [], [(0, STORE, view(out, (8,)))], block=inner)
    b.loop(inner, -1, parallel=1, slices=[x_t])
    refused(b, "writable in block 1")
    # a slice beyond one row
    for offset, step in ((4, 32), (0, 36), (0, 28)):
        b = Builder([(f32, (-1, 8))], [(f32, (-1, 8))])
        x, out, inner = b.input(0), b.output(0), b.block()
        x_t, out_t = b.slice(x, offset, step), b.slice(out, 0, 32)
        b.elementwise((8,), [view(x_t, (8,))], [], [(0, STORE, view(out_t, (8,)))], block=inner)
        b.loop(inner, -1, parallel=1, slices=[x_t, out_t])
        refused(b, "")
    # a carry past its parent, pairs of two sizes
    for sizes in ((32, 32), (16, 8), (-8, -8)):
        b = doubling()
        b.shared_bytes = 32
        shared, inner = b.shared(), b.block()
        b.loop(inner, 2, swaps=[(b.carry(shared, 0, sizes[0]), b.carry(shared, 16, sizes[1]))])
        refused(b, "")
    # wrong types, dead registers, missing kernels
    for ops, stores in (
        ([("add", np.float64, 0, 0, 0)], [(1, STORE)]),
        ([("exp", np.int32, 0, 0)], [(1, STORE)]),
        ([("add", f32, 0, 0, 0), ("add", f32, 0, 0, 0), ("add", f32, 1, 1, 2)], [(3, STORE)]),
        ([("add", f32, 0, 0, 0), ("add", f32, 0, 0, 0)], [(1, STORE)]),
        ([("add", f32, 0, 0, 1)], [(1, STORE)]),
        ([("cast", np.int32, 0, 0, f32)], [(1, STORE)]),
        ([], [(0, 5)]),
        ([], [(1, STORE)]),
        ([], []),
    ):
        b = Builder([(f32, (8,))], [(f32, (8,))])
        b.elementwise((8,), [view(b.input(0), (8,))], ops, [(value, mode, view(b.output(0), (8,))) for value, mode in stores])
        refused(b, "")


def test_refused_words():
    words = doubling().words()
    for bad in (words[:-1], np.append(words, 0), words[:5], words[:0]):
        with pytest.raises(ValueError, match=r"^\[plan\]"):
            _core.Plan(bad, b"")
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        _core.Plan(words, b"x")
    for bad in (words.astype(np.int32), words.astype(np.float64), words[None], words[::-1]):
        with pytest.raises(ValueError, match=r"^\[plan\]"):
            _core.Plan(bad, b"")


def everything():
    """Small plans that use all there is, with their inputs."""
    x, w = sample((3, 6, 5)), sample((5, 4))
    loop = task_loop()
    yield loop, [x, w]
    for in_task in (False, True):
        yield scan(3, 1, in_task), [sample((2, 3, 7) if in_task else (3, 7))]
    b = Builder([(f32, (2, 5, 6)), (f32, (6, 4)), (np.int32, (2, 3, 4))], [(f32, (2, 5, 4)), (f32, (2, 3, 4)), (f32, (2, 5, 4)), (np.int32, (2, 4)), (np.bool_, (2, 5, 4)), (np.int32, (2, 3, 4)), (f32, (5, 6)), (f32, (60, 6))], consts=bytes(32), shared=320)
    c, shared = view(b.output(0), (2, 5, 4)), b.shared()
    total = phase((2, 5, 4), [c], [("relu", f32, 0, 0)], [(1, SUM, view(shared, (4,)).to((2, 5, 4)))], rowwise=1)
    b.gemm(f32, (2,), 5, 4, [(6, view(b.input(0), (2, 5, 6)), view(b.input(1), (6, 4)).to((2, 6, 4)))], c, alpha=2.0, cin=view(b.const(), (4,)).to((2, 5, 4)), phases=[total])
    index = view(b.input(2), (2, 3, 4), np.int32)
    b.emit(GATHER, [0, 2, 5, 3, 4, *c.words, *index.words, *view(b.output(1), (2, 3, 4)).words])
    b.emit(SCATTER, [0, 2, 5, 3, 4, *view(b.output(1), (2, 3, 4)).words, *index.words, *view(b.output(2), (2, 5, 4)).words, 0])
    b.emit(CUMSUM, [0, 2, 5, 4, 1, *c.words, *view(shared, (2, 5, 4), offset=160).words])
    b.emit(ARGREDUCE, [0, 2, 5, 4, 0, *c.words, *view(b.output(3), (2, 4), np.int32).words])
    b.emit(ORDER, [0, 2, 5, 4, 3, 1, *c.words, *view(b.output(5), (2, 3, 4), np.int32).words])
    b.elementwise((2, 5, 4), [c, view(b.const(), ()).to((2, 5, 4))], [("less", f32, 0, 0, 1), ("cast", np.bool_, -1, 2, f32)], [(3, STORE, view(b.output(4), (2, 5, 4), np.bool_))])
    rows, others = view(b.input(0), (5, 6)), view(b.input(0), (2, 6), offset=120)
    for metric in (0, 1, 2):
        b.emit(DISTANCE, [0, metric, 5, 2, 6, *rows.words, *others.words, *view(b.output(6), (5, 6), make=lambda a: a[:, :2]).words])
    ends = [1, *view(b.output(7), (5, 6)).words, 1, *view(b.output(7), (2, 6), offset=192).words]
    b.emit(PULL, [0, 1, 5, 2, 6, *rows.words, *others.words, *view(b.input(1), (5, 2)).words, *ends])
    part = [view(b.const(), (), np.int32).to((5,)), view(b.input(0), (5,)), view(b.output(4), (2,), np.bool_)]
    results = [1, *view(b.output(7), (), offset=400).words, 1, *view(b.output(7), (), offset=404).words, *ends]
    b.emit(INVERSE, [0, 2, 5, *view(b.input(0), (2, 5, 5)).words, *view(b.output(7), (2, 5, 5), offset=440).words, 0])
    images, taps = view(b.input(0), (1, 3, 5, 4)), view(b.input(1), (2, 2, 4))
    b.emit(DEPTHWISE, [0, 0, *images.shape, 2, 2, 1, 3, 2, 1, 1, 2, *images.words, *taps.words, *view(b.output(7), (1, 1, 3, 4), offset=640).words])
    b.emit(DEPTHWISE, [0, 1, *images.shape, 2, 2, 1, 3, 2, 1, 1, 2, *images.words, *view(b.input(1), (1, 1, 3, 4)).words, *view(b.output(7), (2, 2, 4), offset=704).words])
    b.emit(PROTO, [0, 5, 2, 6, 0x3FF0000000000000, *rows.words, *others.words, *(word for o in part for word in o.words), *results])
    yield b, [sample((2, 5, 6)), sample((6, 4)), np.random.default_rng(1).integers(0, 5, (2, 3, 4), dtype=np.int32)]


def test_mutated_plans_are_refused_or_run():
    """FASTMETA_FUZZ gives another number of mutations; run it under AddressSanitizer to see what stays in its memory."""
    seed = int(os.environ.get("FASTMETA_FUZZ_SEED", "20240607"))
    count = int(os.environ.get("FASTMETA_FUZZ", "2000"))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    plans = []
    for builder, arrays in everything():
        builder.work = 1 << 20
        words = builder.words()
        assert _core.Plan(words, builder.consts).run(arrays, 1) is not None
        plans.append((words, builder.consts, arrays))
    special = [-1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 63, 64, 255, 1 << 16, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 63), -(1 << 62), -2, -4, -8, -64]
    refused_count = ran = 0
    for _ in range(count):
        words, consts, arrays = plans[rng.integers(len(plans))]
        words = words.copy()
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(words)))
            if at == 10:  # the declared work: a plan may declare hours
                continue
            kind = rng.integers(3)
            words[at] = special[rng.integers(len(special))] if kind == 0 else words[at] + rng.integers(-4, 5) if kind == 1 else words[rng.integers(len(words))]
        try:
            plan = _core.Plan(words, consts)
        except ValueError as error:
            assert str(error).startswith("[plan] ") and "expected" in str(error)
            refused_count += 1
            continue
        with contextlib.suppress(_core.BadIndex, MemoryError):
            plan.run(arrays, int(rng.integers(1, 4)))
        ran += 1
    print(refused_count, "refused,", ran, "ran")
    assert refused_count > count // 4 and ran > count // 20
