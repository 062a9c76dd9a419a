"""JAX contestants: jit(vmap(value_and_grad)) with the inner loop unrolled or as lax.scan, and whole training runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.workloads import Array, Episodes, Params, Perceptron, Result, State, adam_rates, predict, rule_state, update

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sin": jnp.sin}


def mse(prediction: Array, target: Array) -> Array:
    return jnp.mean((prediction - target) ** 2)


def cross_entropy(logits: Array, labels: Array) -> Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


def episode_of(workload: Perceptron, scan: bool) -> Callable[..., Array]:
    activation, criterion = ACTIVATIONS[workload.activation], LOSSES[workload.loss]

    def loss(params: Params, x: Array, y: Array) -> Array:
        return criterion(predict(params, x, activation), y)

    def episode(params: Params, xs: Array, ys: Array, xq: Array, yq: Array) -> Array:
        def step(carry: tuple[Params, State], rate: Array) -> tuple[tuple[Params, State], None]:
            return update(workload.rule, *carry, jax.grad(loss)(carry[0], xs, ys), rate, jnp.sqrt), None

        carry = params, rule_state(workload.rule, params, jnp.zeros_like)
        if scan:
            carry, _ = jax.lax.scan(step, carry, jnp.array(workload.rates, jnp.float32))
        else:
            for rate in workload.rates:
                carry, _ = step(carry, rate)
        return loss(carry[0], xq, yq)

    return episode


def meta_gradient(workload: Perceptron, scan: bool) -> Callable[..., Result]:
    batched = jax.vmap(jax.value_and_grad(episode_of(workload, scan)), in_axes=(None, 0, 0, 0, 0))
    return lambda *args: jax.tree.map(lambda a: a.mean(0), batched(*args))


def unrolled(workload: Perceptron, params: Params, episodes: Episodes, scan: bool = False) -> Callable[[], Result]:
    args = jax.device_put((params, *episodes))
    compiled = jax.jit(meta_gradient(workload, scan))
    return lambda: jax.block_until_ready(compiled(*args))


def scanned(workload: Perceptron, params: Params, episodes: Episodes) -> Callable[[], Result]:
    return unrolled(workload, params, episodes, scan=True)


def train(workload: Perceptron, params: Params, steps: int, rate: float) -> Callable[[], np.ndarray]:
    """A whole training run, sampling included, as one lax.scan program; returns the query loss of every meta-step."""
    gradient, points = meta_gradient(workload, scan=False), workload.shots + workload.queries

    def meta_step(carry: tuple[Params, State], now: tuple[Array, Array]) -> tuple[tuple[Params, State], Array]:
        key, rate = now
        k1, k2, k3 = jax.random.split(key, 3)
        amplitude = jax.random.uniform(k1, (workload.tasks, 1, 1), minval=0.1, maxval=5.0)
        phase = jax.random.uniform(k2, (workload.tasks, 1, 1), maxval=np.pi)
        x = jax.random.uniform(k3, (workload.tasks, points, 1), minval=-5.0, maxval=5.0)
        y, s = amplitude * jnp.sin(x - phase), workload.shots
        value, grads = gradient(carry[0], x[:, :s], y[:, :s], x[:, s:], y[:, s:])
        return update("adam", *carry, grads, rate, jnp.sqrt), value

    def run(params: Params, key: Array, rates: Array) -> tuple[Any, Array]:
        keys = jax.random.split(key, steps)
        return jax.lax.scan(meta_step, (params, rule_state("adam", params, jnp.zeros_like)), (keys, rates))

    args = jax.device_put((params, jax.random.key(0), jnp.array(adam_rates(rate, steps), jnp.float32)))
    compiled = jax.jit(run).lower(*args).compile()
    return lambda: np.asarray(compiled(*args)[1])
