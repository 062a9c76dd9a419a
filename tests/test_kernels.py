"""gradient_steps and hvp over tasks against the same work done task by task in float64."""

import numpy as np
import pytest

import fastmeta as fm


def loss(params, x, y):
    return fm.nn.mse(fm.tanh(x @ params["w"]) + params["b"], y)


@pytest.fixture
def problem():
    print("seed 5")
    rng = np.random.default_rng(5)
    params = {"w": rng.normal(size=(4, 2)), "b": rng.normal(size=2)}
    return params, rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 6, 2)), rng


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_gradient_steps(problem, steps, backend):
    params, x, y, _ = problem
    got = fm.kernels.gradient_steps(loss, params, (x, y), lr=0.1, steps=steps)
    for t in range(3):
        p = params
        for _ in range(steps):
            p = fm.tree_map(lambda a, g: a - 0.1 * g, p, fm.grad(loss)(p, x[t], y[t]))
        for k in p:
            np.testing.assert_allclose(got[k][t], p[k], rtol=1e-12)


def test_hvp(problem, backend):
    params, x, y, rng = problem
    v = {"w": rng.normal(size=(3, 4, 2)), "b": rng.normal(size=(3, 2))}
    got = fm.kernels.hvp(loss, params, v, (x, y))
    for t in range(3):
        want = fm.hvp(loss)(params, x[t], y[t], {k: a[t] for k, a in v.items()})
        for k in want:
            np.testing.assert_allclose(got[k][t], want[k], rtol=1e-12)


def test_compiled_once_for_any_number_of_tasks(problem):
    params, x, y, _ = problem
    fm.kernels.gradient_steps(loss, params, (x, y), lr=0.1, steps=2)
    compiled = loss.__fastmeta__.transforms["gradient_steps", 2]
    entries = len(compiled.cache)
    fm.kernels.gradient_steps(loss, params, (x[:2], y[:2]), lr=0.2, steps=2)
    assert len(compiled.cache) == entries


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_bad_steps(problem, steps):
    params, x, y, _ = problem
    with pytest.raises(ValueError, match=r"\[gradient_steps\] expected steps"):
        fm.kernels.gradient_steps(loss, params, (x, y), lr=0.1, steps=steps)
