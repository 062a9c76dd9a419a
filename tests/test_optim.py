"""Optimisers: the same steps as torch's, on arrays, inside a plan and inside a differentiated inner loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastmeta as fm
from fastmeta import optim

RULES = {
    "adam": (lambda: optim.adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
    "adam, other decays": (
        lambda: optim.adam(0.1, b1=0.5, b2=0.9, eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
    ),
    "adam, no decay": (lambda: optim.adam(0.1, b1=0.0), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.999))),
    "sgd": (lambda: optim.sgd(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (lambda: optim.sgd(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
}


def start(dtype=np.float64):
    rng = np.random.default_rng(3)
    return {"w": rng.normal(size=(3, 2)).astype(dtype), "b": [rng.normal(size=2).astype(dtype)]}


def gradients(k, dtype=np.float64):
    rng = np.random.default_rng(100 + k)
    return {"w": rng.normal(size=(3, 2)).astype(dtype), "b": [np.zeros(2, dtype)]}  # zeros: dead units


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_same_steps_as_torch(name, jitted):
    make, torch_rule = RULES[name]
    rule, params = make(), start()
    theirs = [torch.tensor(params["w"].copy()), torch.tensor(params["b"][0].copy())]
    other = torch_rule(theirs)

    def step(params, state, grads):
        updates, state = rule.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    step = fm.jit(step) if jitted else step
    state = rule.init(params)
    for k in range(20):
        g = gradients(k)
        params, state = step(params, state, g)
        theirs[0].grad, theirs[1].grad = torch.tensor(g["w"]), torch.tensor(g["b"][0])
        other.step()
        np.testing.assert_allclose(params["w"], theirs[0].numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(params["b"][0], theirs[1].numpy(), rtol=1e-12, atol=1e-12)
    assert state.count == 20
    assert state.count.dtype == np.int32


def test_float32_stays_close_after_many_steps():
    """The bias correction 1 - b2 ** t does not cancel."""
    rule = optim.adam(1e-3)
    step = fm.jit(lambda p, s, g: rule.update(g, s, p))
    p32, p64 = np.float32([1.0]), np.array([1.0])
    s32, s64 = rule.init(p32), rule.init(p64)
    for k in range(50):
        g = np.array([math.sin(k)])
        u32, s32 = step(p32, s32, g.astype(np.float32))
        u64, s64 = step(p64, s64, g)
        np.testing.assert_allclose(u32, u64, rtol=3e-6)
    assert u32.dtype == np.float32


SCHEDULES = {
    "constant": (optim.constant(0.3), lambda t: 0.3),
    "linear": (optim.linear(1.0, 0.2, 8), lambda t: 1.0 - 0.8 * min(t / 8, 1)),
    "step_decay": (optim.step_decay(1.0, 0.5, 3), lambda t: 0.5 ** (t // 3)),
    "cosine": (optim.cosine(1.0, 0.2, 8), lambda t: 0.2 + 0.4 * (1 + math.cos(math.pi * min(t / 8, 1)))),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    schedule, formula = SCHEDULES[name]
    for t in (0, 1, 5, 8, 100):
        assert float(schedule(t)) == pytest.approx(formula(t), rel=1e-6)
    rule = optim.sgd(schedule)
    step = fm.jit(lambda s: rule.update(np.ones(1), s))
    state = rule.init(np.ones(1))
    for t in range(12):  # inside a plan, and without another compilation at every step
        updates, state = step(state)
        assert updates[0] == pytest.approx(-formula(t), rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_clip_by_global_norm(scale):
    grads = {"a": np.array([3.0, 0.0]) * scale, "b": np.array([[4.0]]) * scale}
    clipped, state = optim.clip_by_global_norm(2.0).update(grads, ())
    factor = min(1.0, 2.0 / (5.0 * scale)) if scale else 1.0
    np.testing.assert_allclose(clipped["a"], grads["a"] * factor, rtol=1e-14)
    np.testing.assert_allclose(clipped["b"], grads["b"] * factor, rtol=1e-14)
    assert state == ()
    assert float(optim.global_norm(grads)) == pytest.approx(5 * scale)


def test_clip_leaves_non_finite_gradients_non_finite():
    for bad in (math.nan, math.inf):
        clipped, _ = optim.clip_by_global_norm(1.0).update([np.array([bad, 1.0])])
        assert not np.isfinite(clipped[0]).all()


def test_chain_is_one_after_the_other():
    clip, rule = optim.clip_by_global_norm(0.5), optim.adam(0.1)
    both = optim.chain(clip, rule)
    params, g = start(), gradients(0)
    state = both.init(params)
    updates, state = both.update(g, state, params)
    want, _ = rule.update(clip.update(g)[0], rule.init(params), params)
    np.testing.assert_array_equal(updates["w"], want["w"])
    assert len(state) == 2


@pytest.mark.parametrize("name", RULES)
def test_second_order_through_an_inner_rule_is_finite_at_zero_gradients(name):
    """A dead unit has gradient exactly zero: the root of its second moment must not give inf * 0."""
    rule = RULES[name][0]()

    def inner(p, x):
        return fm.sum(fm.square(fm.relu(p * x)))  # p[0] * x < 0: gradient 0

    def outer(p, x):
        state = rule.init(np.zeros_like(start_p))
        for _ in range(3):
            updates, state = rule.update(fm.grad(inner)(p, x), state, p)
            p = optim.apply_updates(p, updates)
        return inner(p, x) + fm.sum(p)

    for dtype in (np.float32, np.float64):
        start_p = np.array([-1.0, 2.0, 0.5], dtype)
        g = fm.grad(outer)(start_p, np.ones(3, dtype))
        assert np.isfinite(g).all()
    eps = 1e-6
    numeric = [
        (float(fm.jit(outer)(start_p + eps * e, np.ones(3))) - float(fm.jit(outer)(start_p - eps * e, np.ones(3))))
        / (2 * eps)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(g, numeric, rtol=1e-5, atol=1e-6)


def test_gradient_of_clipping_at_zero_is_finite():
    rule = optim.clip_by_global_norm(1.0)
    g = fm.grad(lambda p: fm.sum(rule.update([p])[0][0]))(np.zeros(2))
    np.testing.assert_array_equal(g, [1.0, 1.0])
    np.testing.assert_array_equal(fm.grad(lambda p: optim.global_norm([p]))(np.zeros(2)), [0.0, 0.0])


BAD = [
    (lambda: optim.adam(0.0), ValueError, r"\[adam\] expected lr above 0 or a schedule, got 0.0"),
    (lambda: optim.adam(-1), ValueError, "lr above 0"),
    (lambda: optim.adam(math.nan), ValueError, "lr finite"),
    (lambda: optim.adam("fast"), TypeError, "lr a number"),
    (lambda: optim.adam(True), TypeError, "lr a number"),
    (lambda: optim.adam(0.1, b1=1.0), ValueError, r"b1 in \[0, 1\)"),
    (lambda: optim.adam(0.1, b2=-0.1), ValueError, r"b2 in \[0, 1\)"),
    (lambda: optim.adam(0.1, eps=0.0), ValueError, "eps above 0"),
    (lambda: optim.adam(0.1, eps_root=-1.0), ValueError, "eps_root at least 0"),
    (lambda: optim.sgd(0.1, momentum=1.0), ValueError, r"momentum in \[0, 1\)"),
    (lambda: optim.sgd(math.inf), ValueError, "lr finite"),
    (lambda: optim.linear(0.1, 0.2, 0), ValueError, "steps at least 1"),
    (lambda: optim.cosine(0.1, 0.2, 1.5), TypeError, "steps a whole number"),
    (lambda: optim.step_decay(0.1, 0.0, 10), ValueError, r"a factor in \(0, 1\], got 0.0"),
    (lambda: optim.constant(None), TypeError, "value a number"),
    (lambda: optim.clip_by_global_norm(0.0), ValueError, "max_norm above 0"),
    (lambda: optim.chain(), TypeError, "one optimiser or more"),
    (lambda: optim.chain(optim.sgd(0.1), "adam"), TypeError, "one optimiser or more"),
    (lambda: optim.chain(optim.sgd(0.1)).update([np.ones(1)], ()), ValueError, "a state of 1 rules, got 0"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_options_are_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
