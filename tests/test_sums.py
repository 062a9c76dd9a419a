"""Sums over iterations or tasks, made without a term of each where what is summed is linear in what differs."""

from __future__ import annotations

import numpy as np
import pytest

import fastmeta as fm
from fastmeta.ops.structure import LOOP
from fastmeta.plan import make_plan
from fastmeta.transforms.batch import batch
from fastmeta.transforms.simplify import simplify

rng = np.random.default_rng(0)
W, X = rng.normal(size=(2, 7, 6)), rng.normal(size=(2, 9, 6, 4))


def task_of(f, *args):
    """The batched body of the loop over tasks."""
    (task,) = [v.attrs[0].body for v in batch(simplify(f.program(*args))).live() if v.op is LOOP]
    return task


LINEAR = {
    "product": lambda w, x: w @ x,
    "scaled": lambda w, x: 3.0 * (w @ x) / fm.sum(w),
    "masked": lambda w, x: fm.where(w[:, :1] > 0, w @ x, 1.0),
    "summed": lambda w, x: fm.sum(fm.where(w[:, :1] > 0, w @ x, 0.0), axis=1),
    "turned": lambda w, x: fm.reshape((w @ x).T, (2, 14)),
    "repeated": lambda w, x: fm.broadcast_to(x[0], (8, 4)),
    "with another": lambda w, x: w @ x - fm.square(x[:1]),
    "side by side": lambda w, x: fm.concat([w @ x, w[:, :4]]),
}


@pytest.mark.parametrize("axis", ["iterations", "tasks"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_functions(name, axis):
    """By the sums of their operands: what is summed has the size of no term."""
    each = LINEAR[name]
    want = np.stack([sum(np.asarray(each(w, x)) for x in xs) for w, xs in zip(W, X, strict=True)])
    if axis == "tasks":
        got = np.stack([fm.map_tasks(each, in_axes=(None, 0), reduce="sum")(w, x) for w, x in zip(W, X, strict=True)])
    else:
        f = fm.map_tasks(lambda w, x: fm.map_tasks(lambda x: each(w, x), reduce="sum")(x))
        got = f(W, X)
        assert not any(len(v.shape) > 2 and "matmul" in v.op.name for v in task_of(f, W, X).live())
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_what_is_not_linear_has_its_terms():
    f = fm.map_tasks(lambda w, x: fm.map_tasks(lambda x: fm.square(w @ x) / x[0, 0], reduce="sum")(x))
    np.testing.assert_allclose(f(W, X), [sum((w @ x) ** 2 / x[0, 0] for x in xs) for w, xs in zip(W, X, strict=True)], rtol=1e-12)


def test_long_chains_of_sums():
    """Each value is looked at once, however many ways lead to it, and however long they are."""

    def chain(x):
        for _ in range(700):
            x = x + 0.01 * x[::-1]
        return x

    x = rng.normal(size=(2, 5, 3))
    f = fm.map_tasks(lambda x: fm.map_tasks(chain, reduce="sum")(x))
    np.testing.assert_allclose(f(x), fm.map_tasks(lambda x: chain(fm.sum(x, axis=0)))(x), rtol=1e-9)


@pytest.mark.parametrize("net", ["shared", "of each pair"])
def test_mapped_kernels_cost_what_they_cost_by_hand(net):
    """A kernel mapped over all pairs, and its gradient: networks that see one point are not run once for each pair."""
    layers = [rng.normal(size=(3, 8)), rng.normal(size=(8, 5)) / 3]
    through = lambda p, x: fm.relu(x @ p[0]) @ p[1]
    last = (lambda d: d) if net == "shared" else fm.tanh

    def mapped(p, x):
        near = lambda a, b: fm.exp(-fm.sum(fm.abs(last(through(p, a[None])) - last(through(p, b[None])))))
        return fm.sum(fm.square(fm.map_tasks(lambda a: fm.map_tasks(lambda b: near(a, b))(x))(x)))

    def by_hand(p, x):
        z = last(through(p, x))
        return fm.sum(fm.square(fm.exp(-fm.sum(fm.abs(z[:, None] - z[None]), axis=2))))

    x = rng.normal(size=(4, 12, 3))
    one, other = (fm.map_tasks(fm.value_and_grad(f), in_axes=(None, 0), reduce="mean") for f in (mapped, by_hand))
    for got, want in zip(one(layers, x)[1], other(layers, x)[1], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9)
    flops = [make_plan(f.program(layers, x)).flops for f in (one, other)]
    assert flops[0] <= 2.5 * flops[1], flops
