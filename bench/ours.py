"""fastmeta, by its public face only: the inner loop as a Python `for` or as `scan`, and a whole training run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import fastmeta as fm
from bench.workloads import (
    Array,
    Episodes,
    Params,
    Perceptron,
    Result,
    State,
    adam_rates,
    predict,
    rule_state,
    sinusoids,
    update,
)


def episode_of(workload: Perceptron, scan: bool) -> Callable[..., Array]:
    activation = {"relu": fm.nn.relu, "tanh": fm.tanh, "sin": fm.sin}[workload.activation]
    criterion = {"mse": fm.nn.mse, "cross_entropy": fm.nn.cross_entropy}[workload.loss]

    def loss(params: Params, x: Array, y: Array) -> Array:
        return criterion(predict(params, x, activation), y)

    def episode(params: Params, xs: Array, ys: Array, xq: Array, yq: Array) -> Array:
        def step(carry: tuple[Params, State], rate: Array) -> tuple[tuple[Params, State], None]:
            rate = workload.rate if rate is None else rate
            return update(workload.rule, *carry, fm.grad(loss)(carry[0], xs, ys), rate, fm.sqrt), None

        carry = params, rule_state(workload.rule, params, fm.zeros_like)
        if scan:
            rates = np.array(workload.rates, np.float32) if workload.rule == "adam" else None
            carry, _ = fm.scan(step, carry, xs=rates, length=workload.steps)
        else:
            for rate in workload.rates:
                carry, _ = step(carry, rate)
        return loss(carry[0], xq, yq)

    return episode


def meta_gradient(workload: Perceptron, scan: bool) -> Callable[..., Result]:
    return fm.map_tasks(fm.value_and_grad(episode_of(workload, scan)), in_axes=(None, 0, 0, 0, 0), reduce="mean")


def unrolled(workload: Perceptron, params: Params, episodes: Episodes, scan: bool = False) -> Callable[[], Result]:
    meta_step = meta_gradient(workload, scan)
    return lambda: meta_step(params, *episodes)


def scanned(workload: Perceptron, params: Params, episodes: Episodes) -> Callable[[], Result]:
    return unrolled(workload, params, episodes, scan=True)


def train(workload: Perceptron, params: Params, steps: int, rate: float) -> Callable[[], np.ndarray]:
    """A whole training run: NumPy samples, one call per meta-step does gradient and Adam; returns every query loss."""
    gradient, s = meta_gradient(workload, scan=False), workload.shots

    @fm.jit
    def meta_step(params: Params, state: State, rate: Array, *episodes: Array) -> tuple[Array, tuple[Params, State]]:
        value, grads = gradient(params, *episodes)
        return value, update("adam", params, state, grads, rate, fm.sqrt)

    def run(count: int = steps) -> np.ndarray:
        rng, losses = np.random.default_rng(0), np.empty(count, np.float32)
        carry = params, rule_state("adam", params, np.zeros_like)
        for i, now in enumerate(adam_rates(rate, count)):
            x, y = sinusoids(rng, workload.tasks, s + workload.queries)
            losses[i], carry = meta_step(*carry, now, x[:, :s], y[:, :s], x[:, s:], y[:, s:])
        return losses

    run(1)  # compiles
    return run
