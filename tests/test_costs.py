"""What a program costs is tested, not timed: floating-point operations, instructions and arena of second-order MAML."""

import numpy as np
import pytest

import fastmeta as fm
from fastmeta.backends.codegen.source import OWN_BYTES
from fastmeta.models import Conv4
from fastmeta.ops.product import MATMUL
from fastmeta.ops.shape import COPY
from fastmeta.ops.structure import LOOP
from fastmeta.plan import encoded, make_plan, parked, prepare


def loss(params, x, y):
    for k, (w, b) in enumerate(params):
        x = fm.nn.linear(x, w, b)
        x = fm.nn.relu(x) if k < len(params) - 1 else x
    return fm.nn.mse(x, y)


def step(params, x, y):
    return fm.tree_map(lambda p, g: p - 0.01 * g, params, fm.grad(loss)(params, x, y))


def unrolled(params, xs, ys, xq, yq):
    for _ in range(5):
        params = step(params, xs, ys)
    return loss(params, xq, yq)


def scanned(params, xs, ys, xq, yq):
    params, _ = fm.scan(lambda p, _: (step(p, xs, ys), None), params, length=5)
    return loss(params, xq, yq)


@pytest.mark.parametrize("episode", [unrolled, scanned])
def test_five_steps_on_sinusoids(episode):
    sizes = (1, 40, 40, 1)
    params = [(np.ones((a, b), np.float32), np.ones(b, np.float32)) for a, b in zip(sizes, sizes[1:], strict=False)]
    points = [np.ones((2, 10, 1), np.float32)] * 4
    meta_step = fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    plan = make_plan(meta_step.program(params, *points))
    assert plan.flops <= 1.60e6
    assert plan.instructions <= 110
    assert plan.arena <= 80 * 1024


def test_one_step_with_conv4_on_omniglot():
    model = Conv4(channels=64, classes=5, input=(28, 28, 1))

    def cost(params, x, y):
        return fm.nn.cross_entropy(model(params, x), y)

    def episode(params, xs, ys, xq, yq):
        params = fm.tree_map(lambda p, g: p - 0.4 * g, params, fm.grad(cost)(params, xs, ys))
        return cost(params, xq, yq)

    shape = (2, 5, 28, 28, 1)
    data = [np.ones(shape, np.float32), np.zeros(shape[:2], np.int32), np.ones((2, 25, 28, 28, 1), np.float32), np.zeros((2, 25), np.int32)]
    meta_step = fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    plan = make_plan(meta_step.program(model.init(0), *data))
    assert plan.flops <= 2.32e9
    assert plan.instructions <= 108
    assert plan.arena <= 16e6


def test_memory_does_not_grow_with_inner_steps():
    model = Conv4(channels=32, classes=5, input=(28, 28, 3))
    batch = [np.ones((2, 5, 28, 28, 3), np.float32), np.zeros((2, 5), np.int32), np.ones((2, 75, 28, 28, 3), np.float32), np.zeros((2, 75), np.int32)]

    def arena(steps):
        learner = fm.MAML(model, inner_lr=0.01, inner_steps=steps)
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), tuple(batch))).arena

    assert arena(10) <= 1.1 * arena(1)


def test_a_loop_over_rows_costs_as_much_as_its_rows():
    """The derivative of slices of one array is one array, written in place, not a sum of as many as there are slices."""

    def gradient(n):
        def loss(x):
            total = 0.0
            for k in range(n):
                total = total + fm.sum(fm.tanh(x[k] * (k + 1)))
            return total

        x = np.ones((n, 8), np.float32)
        return fm.jit(fm.grad(loss)), x

    step, x = gradient(200)
    k = np.arange(1, 201, dtype=np.float32)[:, None]
    np.testing.assert_allclose(step(x), k * (1 - np.tanh(k) ** 2) * np.ones_like(x), rtol=1e-4, atol=1e-4)
    assert make_plan(step.program(x)).instructions <= 10


def test_gates_are_written_where_their_product_reads_them():
    """What only a concat reads is computed in its memory: a pass and a product."""

    def gates(x, w):
        return fm.matmul(fm.concat([fm.tanh(x), fm.sin(x), fm.exp(x)], axis=1), w)

    x, w = np.ones((16, 32), np.float32), np.ones((96, 4), np.float32)
    plan = make_plan(fm.jit(gates).program(x, w))
    assert plan.instructions == 2


def test_small_powers_cost_no_more_than_products():
    x = np.ones(8, np.float32)
    for power, product in ((lambda x: x**2, lambda x: x * x), (lambda x: x**-3, lambda x: 1 / (x * x * x)), (lambda x: x**0.5, fm.sqrt)):
        plans = [make_plan(fm.jit(fm.grad(lambda x, f=f: fm.sum(f(x)))).program(x)) for f in (power, product)]
        np.testing.assert_array_equal(plans[0].words, plans[1].words)


@pytest.mark.parametrize("ramp", [lambda x: fm.maximum(x, 0.0), lambda x: -fm.minimum(-x, 0.0), lambda x: fm.where(x > 0, x, 0.0)])
def test_ways_to_write_relu_cost_alike(ramp):
    """Forward and backward: as many instructions."""
    counts = []
    for activation in (fm.nn.relu, ramp):

        def loss(params, x, y, activation=activation):
            (w, b), (v, c) = params
            return fm.nn.mse(fm.nn.linear(activation(fm.nn.linear(x, w, b)), v, c), y)

        params = [(np.ones((a, b), np.float32), np.ones(b, np.float32)) for a, b in ((4, 8), (8, 1))]
        step = fm.jit(fm.grad(loss))
        counts.append(make_plan(step.program(params, np.ones((10, 4), np.float32), np.ones((10, 1), np.float32))).instructions)
    assert counts[1] == counts[0]


def test_the_derivative_of_a_choice_is_one_choice():
    x = np.linspace(-1, 1, 8).astype(np.float32)
    got = fm.jit(fm.grad(lambda x: fm.sum(fm.where(x > 0, x, 0.1 * x))))
    want = fm.jit(lambda x: fm.where(x > 0, fm.ones_like(x), 0.1))
    np.testing.assert_array_equal(got(x), want(x))
    np.testing.assert_array_equal(make_plan(got.program(x)).words, make_plan(want.program(x)).words)


def test_gradients_of_weights_are_added_where_they_are_summed():
    """By the products that compute them, over tasks and over steps: no gradient of one task lies in the arena."""
    x, w = np.ones((2, 3, 300), np.float32), np.ones((300, 400), np.float32)

    def task(w, x):
        return fm.sum(fm.tanh(x @ w))

    def steps(w, xs):
        return fm.scan(lambda total, x: (total + task(w, x[None]), None), np.float32(0), xs)[0]

    for f in (task, steps):
        plan = make_plan(fm.map_tasks(fm.grad(f), in_axes=(None, 0), reduce="mean").program(w, x))
        assert plan.arena < w.nbytes / 2, f


def test_little_that_is_read_many_times_lies_contiguous():
    """PyTorch's weights of a depthwise convolution, whose channels are apart."""
    x, w = np.ones((2, 9, 9, 8), np.float32), np.ones((8, 3, 3), np.float32)

    def copies(f, *args):
        return [v.shape for v in prepare(fm.jit(f).program(*args), kernels=False).live() if v.op is COPY]

    permuted = lambda x, w: fm.nn.depthwise_conv2d(x, fm.permute_dims(w, (1, 2, 0)), padding=1)
    assert copies(permuted, x, w) == 9 * [(8,)]
    assert not copies(lambda x, w: fm.nn.depthwise_conv2d(x, w, padding=1), x, np.ones((3, 3, 8), np.float32))


@pytest.mark.parametrize(("m", "k", "n", "stays"), [(4, 4, 1, False), (1, 3, 9, False), (5, 1, 6, False), (1, 1, 1, False), (16, 16, 1, True), (3, 3, 3, True)])
def test_many_small_products_with_a_vector_are_no_products(m, k, n, stays):
    rng = np.random.default_rng(m)
    x, y = rng.normal(size=(2, 10, m, k)), rng.normal(size=(2, 10, k, n))
    f = fm.map_tasks(lambda x, y: x @ y)
    inside = [v for s in prepare(f.program(x, y)).live() if s.op is LOOP for v in s.attrs[0].body.live()]
    assert any(v.op is MATMUL for v in inside) is stays
    np.testing.assert_allclose(f(x, y), x @ y, rtol=1e-12, atol=1e-14)


def test_what_a_task_of_five_steps_keeps_near_a_team_of_a_gpu():
    """docs/cuda.md states it: so little that five teams share a processor's 228 KB."""
    params = [(np.ones((a, b), np.float32), np.ones(b, np.float32)) for a, b in ((1, 40), (40, 40), (40, 1))]
    points = [np.ones((2, 10, 1), np.float32) for _ in range(4)]
    step = fm.map_tasks(fm.value_and_grad(unrolled), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    ready = prepare(step.program(params, *points), kernels=False)
    assert encoded(ready, kernels=False).near > 74_000
    taken = next(plan.near for plan in parked(ready) if 5 * (plan.near + OWN_BYTES) <= 228 << 10)
    assert 36_000 < taken < 37_500
