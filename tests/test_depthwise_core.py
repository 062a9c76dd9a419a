"""Opcode 14 of the core, in plans built by hand, against its definition in NumPy; and what the planner makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from plan_tools import DEPTHWISE, FLOATS, Builder, code, sample, view

import fastmeta as fm
from fastmeta.ops.convolution import positions, reach
from fastmeta.ops.depthwise import DEPTHWISE as FORWARD
from fastmeta.ops.depthwise import DEPTHWISE_WEIGHT as GRADIENT
from fastmeta.plan import make_plan

RTOL = {np.float32: 1e-5, np.float64: 1e-12}
# maps, kernel, stride, dilation: channels around vectors, pixels around blocks of eight, taps around chunks of four
CASES = [
    ((1, 1, 1, 1), (1, 1), (1, 1), (1, 1)), ((2, 5, 6, 3), (3, 3), (1, 1), (1, 1)), ((1, 4, 19, 16), (2, 3), (1, 2), (1, 1)), ((3, 7, 23, 17), (3, 4), (2, 1), (1, 2)),
    ((2, 9, 11, 40), (7, 7), (1, 1), (1, 1)), ((1, 6, 30, 8), (1, 9), (1, 3), (2, 1)), ((2, 8, 8, 72), (3, 3), (2, 2), (1, 1)), ((1, 10, 7, 5), (4, 2), (3, 1), (2, 3)),
]  # fmt: skip


def operands(weight: int, maps, kernel, stride, dilation, dtype):
    """x and what it meets: kernels, or y's gradient."""
    out = (maps[0], *positions(maps[1:3], reach(kernel, dilation), stride), maps[3])
    return sample(maps, dtype), sample(out if weight else (*kernel, maps[3]), dtype, 1)


def computed(weight: int, x, other, kernel, stride, dilation, make=lambda a: a, into=lambda a: a, threads=1, room=None):
    """By the kernel, of make(x) and make(other), written to into(room)."""
    dtype, maps, others = x.dtype.type, make(x), make(other)
    out = others.shape if weight else (len(maps), *positions(maps.shape[1:3], reach(kernel, dilation), stride), maps.shape[3])
    room = room or ((*kernel, maps.shape[3]) if weight else out)
    b = Builder([(dtype, x.shape), (dtype, other.shape)], [(dtype, room)])
    views = [view(b.input(0), x.shape, dtype, make=make), view(b.input(1), other.shape, dtype, make=make), view(b.output(0), room, dtype, make=into)]
    b.emit(DEPTHWISE, [code(dtype), weight, *maps.shape, *kernel, *out[1:3], *stride, *dilation, *(word for v in views for word in v.words)])
    return into(b.run(x, other, threads=threads)[0])


def expected(weight: int, x, other, kernel, stride, dilation):
    wide = x.astype(np.float64), other.astype(np.float64)
    return GRADIENT.evaluate(*wide, stride, dilation, kernel) if weight else FORWARD.evaluate(*wide, stride, dilation)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_depthwise(isa, case, weight, dtype):
    x, other = operands(weight, *case, dtype)
    want = expected(weight, x, other, *case[1:])
    np.testing.assert_allclose(computed(weight, x, other, *case[1:]), want, RTOL[dtype], RTOL[dtype] * np.abs(want).max())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weight", [0, 1])
def test_strides(isa, weight, dtype):
    """Maps and kernels apart and from behind, and results apart."""
    kernel, stride, dilation = (3, 2), (1, 2), (1, 1)
    turned = lambda a: a[..., ::-1, ::2, 1:-1]
    x = sample((2, 6, 17, 21), dtype)
    small = turned(x)
    out = (2, *positions(small.shape[1:3], kernel, stride), 19)
    other = sample((out if weight else (*kernel, 19))[:-2] + ((out if weight else (*kernel, 19))[-2] * 2, 21), dtype, 1)
    want = expected(weight, small, turned(other), kernel, stride, dilation)
    room = (*want.shape[:-2], 3 * want.shape[-2], 30)
    got = computed(weight, x, other, kernel, stride, dilation, turned, lambda a: a[..., 1::3, 4:23], room=room)
    np.testing.assert_allclose(got, want, RTOL[dtype], RTOL[dtype] * np.abs(want).max())


@pytest.mark.parametrize("weight", [0, 1])
def test_the_same_bits_by_any_number_of_threads(isa, weight):
    case = ((8, 34, 34, 40), (3, 3), (1, 1), (1, 1))
    x, other = operands(weight, *case, np.float32)
    one = computed(weight, x, other, *case[1:])
    for threads in (2, 5):
        np.testing.assert_array_equal(computed(weight, x, other, *case[1:], threads=threads), one)


def test_many_additions_lose_few_digits():
    """A hundred thousand pixels, all of one sign."""
    x, g = (np.random.default_rng(seed).random((10, 100, 100, 3), np.float32) for seed in (0, 1))
    want = np.sum(x.astype(np.float64) * g, axis=(0, 1, 2))
    np.testing.assert_allclose(computed(1, x, g, (1, 1), (1, 1), (1, 1))[0, 0], want, 2e-6)


@pytest.mark.parametrize(("place", "value"), [(1, 2), (2, 0), (6, 4), (8, 9), (10, 3), (12, 3), (0, 2)])
def test_windows_beyond_the_map_are_refused(place, value):
    words = [0, 0, 1, 6, 6, 4, 3, 3, 4, 4, 1, 1, 1, 1]
    words[place] = value
    b = Builder([(np.float32, (1, 6, 6, 4)), (np.float32, (3, 3, 4))], [(np.float32, (1, 4, 4, 4))])
    shapes = [(b.input(0), (1, 6, 6, 4)), (b.input(1), (3, 3, 4)), (b.output(0), (1, 4, 4, 4))]
    b.emit(DEPTHWISE, [*words, *(word for base, shape in shapes for word in view(base, shape).words)])
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        b.run(np.zeros((1, 6, 6, 4), np.float32), np.zeros((3, 3, 4), np.float32))


def test_channels_apart_are_refused():
    b = Builder([(np.float32, (1, 6, 6, 8)), (np.float32, (3, 3, 4))], [(np.float32, (1, 4, 4, 4))])
    x = view(b.input(0), (1, 6, 6, 8), make=lambda a: a[..., ::2])
    b.emit(DEPTHWISE, [0, 0, 1, 6, 6, 4, 3, 3, 4, 4, 1, 1, 1, 1, *x.words, *view(b.input(1), (3, 3, 4)).words, *view(b.output(0), (1, 4, 4, 4)).words])
    with pytest.raises(ValueError, match="channels with unit stride"):
        b.run(np.zeros((1, 6, 6, 8), np.float32), np.zeros((3, 3, 4), np.float32))


def test_a_network_and_its_gradients_are_a_few_instructions():
    """Forward, both transposes, and second order: no instruction for each tap."""
    x, w = np.ones((2, 9, 9, 8), np.float32), np.ones((5, 5, 8), np.float32)
    loss = lambda x, w: fm.sum(fm.square(fm.nn.depthwise_conv2d(x, w, padding=1)))
    first = fm.jit(fm.value_and_grad(loss, argnums=(0, 1)))
    second = fm.jit(lambda x, w: fm.hvp(loss)(x, w, x))
    assert make_plan(first.program(x, w)).instructions < 12
    assert make_plan(second.program(x, w)).instructions < 20
