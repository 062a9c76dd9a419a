"""Parking: tasks that move values out of a team's own memory and back compute what they did, in less of it."""

from __future__ import annotations

import numpy as np
import pytest
from plan_tools import tested

import fastmeta as fm
from fastmeta.ops.shape import MOVE
from fastmeta.ops.structure import LOOP
from fastmeta.plan import GAPS, encoded, parked, prepare
from fastmeta.plan.park import park


def mse(params, x, y):
    return fm.nn.mse(fm.relu(x @ params["w"]) @ params["v"], y)


def descent(params, x, y):
    """Five steps, unrolled: weights and activations wait for the way back."""
    for _ in range(5):
        params = fm.tree_map(lambda p, g: p - 0.1 * g, params, fm.grad(mse)(params, x, y))
    return mse(params, x, y)


def labelled(params, x, k):
    """Labels, a view that is read before and after the gap, a comparison, a concat, and a loop inside of the task."""
    h = fm.concat([x @ params["w"], x @ params["w"]], axis=1)[:, : params["w"].shape[1]]
    mask, late = h > 0, h.T
    state, _ = fm.scan(lambda c, _: (fm.tanh(c @ params["square"]), None), h, None, length=70)
    for _ in range(12):
        state = fm.tanh(state @ params["square"] + fm.mean(state))
    return fm.nn.cross_entropy(fm.where(mask, state, h) @ params["v"] + (late @ state).sum(), k)


def example(f):
    rng = np.random.default_rng(0)
    sample = lambda *shape: rng.standard_normal(shape) / 4
    params = {"square": sample(48, 48), "v": sample(48, 6), "w": sample(9, 48)}
    target = rng.integers(0, 6, (4, 20), dtype=np.int32) if f is labelled else sample(4, 20, 6)
    step = fm.map_tasks(fm.value_and_grad(f), in_axes=(None, 0, 0), reduce="mean")
    if f is descent:
        del params["square"]
    entry, arrays = step.entry(params, sample(4, 20, 9), target)
    return prepare(entry.program, kernels=False), [*arrays, *(h.at(4) for h in entry.hidden)]  # what depends on the number of tasks


@pytest.mark.parametrize("f", [descent, labelled])
def test_parked_tasks_compute_the_same(f):
    ready, arrays = example(f)
    plain = encoded(ready, kernels=False)
    want = tested.plan(plain.words, plain.consts).run(arrays, 1)
    sizes = [plain.near]
    assert plain.near == plain.arena
    for plan in parked(ready):
        sizes.append(plan.near)
        assert plan.near <= plan.arena
        for x, y in zip(tested.plan(plan.words, plan.consts).run(arrays, 1), want, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11)  # what is fused with what may differ
    assert len(sizes) == 1 + len(GAPS) and min(sizes) < 0.6 * sizes[0], sizes


def test_only_what_waits_is_moved():
    ready, _ = example(descent)

    def moves(gap):
        bodies = [v.attrs[0].body for v in park(ready, gap).live() if v.op is LOOP]
        return [v for p in bodies for v in p.live() if v.op is MOVE]

    assert not moves(10_000)
    few, more = moves(100), moves(25)
    assert 0 < len(few) < len(more)
    for v in more:
        away = v.attrs[0]
        assert v.size >= 256 and (v.ins[0].op is MOVE) != away
