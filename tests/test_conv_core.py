"""Opcode 8 of the core, in plans built by hand, against sums over windows in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from plan_tools import ACCUMULATE, FLOATS, MAX, STORE, SUM, Builder, close, f32, phase, sample, view

import fastmeta as fm
from fastmeta import _core


class Sizes(NamedTuple):
    n: int
    h: int
    w: int
    c: int
    kh: int
    kw: int
    o: int
    stride: tuple[int, int] = (1, 1)
    low: tuple[int, int] = (0, 0)
    high: tuple[int, int] = (0, 0)

    @property
    def out(self) -> tuple[int, int]:
        return tuple((m + a + b - k) // s + 1 for m, a, b, k, s in zip((self.h, self.w), self.low, self.high, (self.kh, self.kw), self.stride, strict=True))

    @property
    def x(self):
        return (self.n, self.h, self.w, self.c)

    @property
    def weight(self):
        return (self.kh, self.kw, self.c, self.o)

    @property
    def y(self):
        return (self.n, *self.out, self.o)

    def shapes(self, kind: int):
        """Those of A, B and OUT."""
        x, w, y = self.x, self.weight, self.y
        return [(x, w, y), (y, w, x), (x, y, w)][kind]

    @property
    def words(self):
        return [self.n, self.h, self.w, self.c, self.kh, self.kw, self.o, *self.out, *self.stride, *self.low]


SIZES = {
    "3x3": Sizes(2, 14, 14, 32, 3, 3, 32, low=(1, 1), high=(1, 1)),
    "small map": Sizes(5, 7, 7, 64, 3, 3, 64, low=(1, 1), high=(1, 1)),
    "first layer": Sizes(3, 28, 28, 1, 3, 3, 64, low=(1, 1), high=(1, 1)),
    "rgb": Sizes(2, 21, 21, 3, 3, 3, 32, low=(1, 1), high=(1, 1)),
    "valid": Sizes(2, 9, 8, 5, 3, 2, 7),
    "one by one": Sizes(2, 6, 5, 17, 1, 1, 9),
    "padded one by one": Sizes(1, 4, 4, 2, 1, 1, 3, low=(2, 1), high=(0, 3)),
    "stride 2": Sizes(3, 14, 14, 33, 3, 3, 31, stride=(2, 2), low=(1, 1), high=(1, 1)),
    "mixed strides": Sizes(2, 11, 13, 6, 3, 4, 10, stride=(2, 3), low=(2, 1), high=(0, 2)),
    "stride beyond the window": Sizes(2, 10, 12, 4, 2, 3, 5, stride=(3, 5), low=(1, 0), high=(0, 1)),
    "whole map": Sizes(4, 5, 5, 8, 5, 5, 6),
    "one pixel": Sizes(1, 1, 1, 1, 1, 1, 1),
    "one channel out": Sizes(2, 8, 8, 40, 3, 3, 1, low=(1, 1), high=(1, 1)),
    "large window": Sizes(1, 12, 12, 3, 7, 5, 20, stride=(1, 2), low=(3, 2), high=(3, 2)),
    "wide": Sizes(1, 3, 90, 20, 3, 3, 100, low=(1, 1), high=(1, 1)),
    "tall": Sizes(1, 120, 40, 16, 3, 3, 24, low=(1, 1), high=(1, 1)),
    "small and even": Sizes(6, 6, 6, 16, 3, 3, 16, low=(1, 1), high=(1, 1)),
    "much padding": Sizes(1, 3, 2, 3, 2, 2, 4, low=(9, 7), high=(8, 5)),
}


def reference(s: Sizes, kind: int, a, b):
    """In float64: each tap is a strided window of the padded map."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    oh, ow = s.out
    shape = (s.n, max(s.h + s.low[0] + s.high[0], s.kh), max(s.w + s.low[1] + s.high[1], s.kw), s.c)
    padded = np.zeros(shape)
    inside = (slice(None), slice(s.low[0], s.low[0] + s.h), slice(s.low[1], s.low[1] + s.w))
    if kind != 1:
        padded[inside] = a
    out = np.zeros([s.y, s.x, s.weight][kind])
    for i in range(s.kh):
        for j in range(s.kw):
            window = (slice(None), slice(i, i + (oh - 1) * s.stride[0] + 1, s.stride[0]), slice(j, j + (ow - 1) * s.stride[1] + 1, s.stride[1]))
            if kind == 0:
                out += padded[window] @ b[i, j]
            elif kind == 1:
                padded[window] += a @ b[i, j].T
            else:
                out[i, j] = np.tensordot(padded[window], b, ((0, 1, 2), (0, 1, 2)))
    return padded[inside] if kind == 1 else out


def check(got, want, terms):
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, want, rtol=8 * eps, atol=(8 + terms) * eps)


def terms(s: Sizes, kind: int, dtype: type = f32) -> int:
    """Of a sum; four times as many where Winograd's algorithm may be used, whose numbers in the middle are so much larger."""
    larger = 4 if dtype == f32 and s.kh == s.kw == 3 and s.stride == (1, 1) else 1
    return larger * [s.kh * s.kw * s.c, s.kh * s.kw * s.o, s.n * s.out[0] * s.out[1]][kind]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("name", SIZES)
def test_kinds(isa, name, kind, dtype):
    s = SIZES[name]
    *operands, target = s.shapes(kind)
    arrays = [sample(shape, dtype, k) for k, shape in enumerate(operands)]
    b = Builder([(dtype, shape) for shape in operands], [(dtype, target)])
    views = [view(b.input(k), shape, dtype) for k, shape in enumerate(operands)]
    b.conv(dtype, kind, s.words, [tuple(views)], view(b.output(0), target, dtype))
    plan = b.plan()
    (got,) = plan.run(arrays, 1)
    check(got, reference(s, kind, *arrays), terms(s, kind, dtype))
    for threads in (2, 5):  # block 0 works in a team
        np.testing.assert_array_equal(got, plan.run(arrays, threads)[0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("name", ["3x3", "small map", "mixed strides", "tall", "small and even"])
def test_sums_cin_and_phases(isa, name, kind, dtype):
    """Two products and CIN, a relu and two reductions on each block of rows, a phase over all at the end."""
    s = SIZES[name]
    *operands, target = s.shapes(kind)
    arrays = [sample(shape, dtype, k) for k, shape in enumerate(operands * 2)] + [sample(target, dtype, 4), sample(target[3:], dtype, 5)]
    b = Builder([(dtype, x.shape) for x in arrays], [(dtype, target), (dtype, target), (dtype, target[3:]), (dtype, target[:1]), (dtype, ())])
    views = [view(b.input(k), x.shape, dtype) for k, x in enumerate(arrays)]
    out, relu = view(b.output(0), target, dtype), view(b.output(1), target, dtype)
    image = view(b.output(3), target[:1], dtype)._replace(strides=(1, 0, 0, 0))
    phases = [
        phase(target, [out, views[5].to(target)], [("add", dtype, 0, 0, 1), ("relu", dtype, -1, 2)], [(3, STORE, relu)], rowwise=1),
        phase(target, [relu], [], [(0, SUM, view(b.output(2), target[3:], dtype).to(target)), (0, MAX, image)], rowwise=1),
        phase(target, [relu], [("multiply", dtype, 0, 0, 0)], [(1, SUM, view(b.output(4), (), dtype).to(target))]),
    ]
    b.conv(dtype, kind, s.words, [tuple(views[:2]), tuple(views[2:4])], out, cin=views[4], phases=phases)
    plan = b.plan()
    got = plan.run(arrays, 1)
    want = reference(s, kind, *arrays[:2]) + reference(s, kind, *arrays[2:4]) + arrays[4]
    check(got[0], want, 2 * terms(s, kind, dtype))
    active = np.maximum(got[0].astype(np.float64) + arrays[5], 0)
    close(got[1], active)
    np.testing.assert_allclose(got[2], active.sum((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(got[3], active.max((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(got[4], (active**2).sum(), rtol=1e-4)
    for threads in (2, 5):
        for one, many in zip(got, plan.run(arrays, threads), strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("name", ["stride 2", "3x3"])
def test_adds_to_itself_from_strided_maps(isa, name, kind):
    """Maps broadcast over images, flipped, and cut out of wider ones; CIN is OUT; an accumulating phase by rows."""
    s = SIZES[name]
    *operands, target = s.shapes(kind)
    forms = [((1, *operands[0][1:]), lambda a: np.broadcast_to(a, operands[0])), ((*operands[1][:3], 50), lambda a: a[:, ::-1, ::-1, 3 : 3 + operands[1][3]])]
    if kind != 2:
        forms[1] = (operands[1], lambda a: a)
    arrays = [sample(shape, f32, k) for k, (shape, _) in enumerate(forms)]
    b = Builder([(f32, x.shape) for x in arrays], [(f32, target), (f32, target)], consts=np.array([1], f32).tobytes())
    out, extra, one = view(b.output(0), target), view(b.output(1), target), view(b.const(), ()).to(target)
    b.phases(phase(target, [one], [], [(0, STORE, out)]), phase(target, [one], [], [(0, STORE, extra)]))
    views = [view(b.input(k), shape, make=make) for k, (shape, make) in enumerate(forms)]
    b.conv(f32, kind, s.words, [tuple(views)], out, cin=out, phases=[phase(target, [out], [], [(0, ACCUMULATE, extra)], rowwise=1)])
    got, doubled = b.run(*arrays)
    check(got, 1 + reference(s, kind, *(make(x) for x, (_, make) in zip(arrays, forms, strict=True))), terms(s, kind))
    np.testing.assert_array_equal(doubled, 1 + got)


WINOGRAD = {
    "7x7": Sizes(7, 7, 7, 64, 3, 3, 64, low=(1, 1), high=(1, 1)),
    "even": Sizes(4, 14, 14, 32, 3, 3, 64, low=(1, 1), high=(1, 1)),
    "15x13": Sizes(4, 15, 13, 33, 3, 3, 47, low=(1, 1), high=(1, 1)),
    "28x28": Sizes(2, 28, 28, 17, 3, 3, 20, low=(1, 1), high=(1, 1)),
    "bands": Sizes(1, 61, 57, 64, 3, 3, 32, low=(1, 1), high=(1, 1)),
    "valid": Sizes(3, 11, 12, 40, 3, 3, 24),
    "uneven padding": Sizes(4, 9, 10, 36, 3, 3, 18, low=(4, 0), high=(0, 3)),
    "many channels": Sizes(6, 6, 8, 200, 3, 3, 130, low=(1, 1), high=(1, 1)),
    "weights beyond the cache": Sizes(3, 4, 5, 190, 3, 3, 200, low=(1, 1), high=(1, 1)),
    "more of them, many tiles": Sizes(27, 9, 10, 260, 3, 3, 140, low=(1, 1), high=(1, 1)),
    "small tiles": Sizes(9, 5, 6, 64, 3, 3, 47, low=(1, 1), high=(1, 1)),
    "small tiles, uneven padding": Sizes(6, 4, 5, 33, 3, 3, 40, low=(3, 0), high=(0, 3)),
    "small tiles, weights beyond the cache": Sizes(60, 5, 5, 190, 3, 3, 200, low=(1, 1), high=(1, 1)),
}


@pytest.mark.native
@pytest.mark.parametrize("products", [1, 3])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd(isa, name, kind, products):
    """Another algorithm than the direct one, with the same answer, bit for bit at any number of threads."""
    s = WINOGRAD[name]
    *operands, target = s.shapes(kind)
    arrays = [sample(shape, f32, k) for k, shape in enumerate([*operands * products, target])]
    b = Builder([(f32, x.shape) for x in arrays], [(f32, target), (f32, target[3:])])
    views = [view(b.input(k), x.shape) for k, x in enumerate(arrays)]
    out = view(b.output(0), target)
    sums = phase(target, [out], [("multiply", f32, 0, 0, 0)], [(1, SUM, view(b.output(1), target[3:]).to(target))], rowwise=1)
    b.conv(f32, kind, s.words, list(zip(views[:-1:2], views[1:-1:2], strict=True)), out, cin=views[-1], phases=[sums])
    plan = b.plan()
    got = plan.run(arrays, 1)
    want = arrays[-1] + sum(reference(s, kind, *arrays[2 * k : 2 * k + 2]) for k in range(products))
    direct = _core.Plan(b.words(), b.consts, winograd=False).run(arrays, 1)
    for result, squares in (got, direct):
        check(result, want, products * terms(s, kind))
        np.testing.assert_allclose(squares, (result.astype(np.float64) ** 2).sum((0, 1, 2)), rtol=1e-4)
    assert not np.array_equal(got[0], direct[0])
    assert np.linalg.norm(got[0] - want) < 4 * np.linalg.norm(direct[0] - want)  # the points of F(4x4, 3x3) are chosen for that
    for threads in (2, 5):
        for one, many in zip(got, plan.run(arrays, threads), strict=True):
            np.testing.assert_array_equal(one, many)


def test_in_parallel_tasks(isa):
    s = SIZES["valid"]
    x, w = sample((40, *s.x)), sample(s.weight, seed=1)
    b = Builder([(f32, (-1, *s.x)), (f32, s.weight)], [(f32, (-1, *s.y))])
    xs, ys, size = b.input(0), b.output(0), 4
    x_t, y_t = b.slice(xs, 0, size * int(np.prod(s.x))), b.slice(ys, 0, size * int(np.prod(s.y)))
    inner = b.block()
    b.loop(inner, -1, parallel=1, slices=[x_t, y_t])
    b.conv(f32, 0, s.words, [(view(x_t, s.x), view(b.input(1), s.weight))], view(y_t, s.y), block=inner)
    plan = b.plan()
    (got,) = plan.run([x, w], 1)
    for k in range(40):
        check(got[k], reference(s, 0, x[k], w), terms(s, 0))
    np.testing.assert_array_equal(got, plan.run([x, w], 3)[0])


# ---- plans that must be refused


def small(kind=0, words=None, **changes):
    """A plan of one product whose operands take their changes from `changes`, by name."""
    s = Sizes(2, 6, 5, 4, 3, 2, 7, low=(1, 0), high=(1, 1))
    shapes = dict(zip("ABO", s.shapes(kind), strict=True))
    b = Builder([(f32, shapes["A"]), (f32, shapes["B"])], [(f32, shapes["O"])], work=changes.pop("work", 1 << 30))
    bases = {"A": b.input(0), "B": b.input(1), "O": b.output(0)}
    views = {name: view(base, shapes[name])._replace(**changes.get(name, {})) for name, base in bases.items()}
    dims = changes.get("phase", shapes["O"])
    out = view(bases["O"], dims)
    phases = [phase(dims, [out], [("relu", f32, -1, 0)], [(1, STORE, out)], rowwise=1)] if "phase" in changes else []
    b.conv(changes.get("dtype", f32), kind, words or s.words, [(views["A"], views["B"])], views["O"], phases=phases)
    return b


def changed(at, value):
    words = list(Sizes(2, 6, 5, 4, 3, 2, 7, low=(1, 0), high=(1, 1)).words)
    words[at] = value
    return {"words": words}


REFUSED = {
    "dim 0": (changed(0, 0), "dim of CONV"),
    "negative dim": (changed(6, -3), "dim of CONV"),
    "huge dim": (changed(3, 1 << 40), "dim of CONV"),
    "stride 0": (changed(9, 0), "dim of CONV"),
    "negative padding": (changed(12, -1), "padding"),
    "huge padding": (changed(11, 1 << 40), "padding"),
    "map left over": (changed(7, 4), "windows up to the end"),
    "output too large": (changed(7, 9), "bytes"),
    "map too large": (changed(1, 7), "bytes"),
    "wide band": (changed(8, 1 << 30), "2\\^31"),
    "channels apart": ({"A": {"strides": (60, 20, 4, 2)}}, "unit stride"),
    "weights not dense": ({"B": {"strides": (56, 28, 1, 4)}}, "dense"),
    "target not dense": ({"O": {"strides": (0, 42, 7, 1)}}, "without broadcast|dense"),
    "target flipped": ({"O": {"strides": (-210, 35, 7, 1), "offset": 840}}, "dense"),
    "dtype of an operand": ({"A": {"dtype": 1}}, "dtype"),
    "dtype": ({"dtype": np.int32}, "dtype of CONV"),
    "a base there is not": ({"B": {"base": 9}}, "base"),
    "written input": ({"O": {"base": 0}}, "writable"),
    "offset": ({"B": {"offset": 4}}, "bytes"),
    "unaligned": ({"B": {"offset": 2}}, "alignment"),
    "work": ({"work": 2 * 6 * 5 * 7 * 25}, "work"),
    "kind": ({"kind": 3}, "kind of CONV"),
    "phase": ({"phase": (2, 30, 1, 7)}, "dims of OUT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    small().plan()
    changes, message = REFUSED[name]
    kind = changes.get("kind", 0)
    b = small(**{**changes, "kind": min(kind, 2)})
    if kind == 3:
        b.blocks[0][0][4] = 3
    with pytest.raises(ValueError, match=rf"^\[plan\].*({message})"):
        b.plan()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_mutated_words_are_refused_or_run(kind):
    """Any one word changed: refused, or run within its memory (under sanitizers in CI)."""
    rng = np.random.default_rng(kind)
    b = small(kind)
    arrays = [sample(shape, f32) for _, shape in b.inputs]
    instr = b.blocks[0][0]
    assert b.plan().work == 2 + 2 * 6 * 5 * 7 * 25
    for at in range(3, len(instr)):
        for value in (instr[at] + 1, instr[at] - 1, 2 * instr[at], 0, -1, 1 << 31, 1 << 40, -(1 << 62), int(rng.integers(64))):
            mutant = small(kind)
            mutant.blocks[0][0][at] = value
            try:
                plan = _core.Plan(mutant.words(), b"")
            except ValueError as error:
                assert str(error).startswith("[plan]")
                continue
            plan.run(arrays, 2)


@pytest.mark.native
def test_winograd_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 10, 10, 32)).astype(np.float32), rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    results = []
    for setting in ("1", "0"):
        monkeypatch.setenv("FASTMETA_WINOGRAD", setting)
        with fm.set_backend("native"):
            results.append(fm.jit(lambda x, w: fm.nn.conv2d(x, w))(x, w))
    assert not np.array_equal(*results)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)
