"""JAX on convolutional workloads: tasks one after the other in lax.map, or batched by vmap, compiled whole."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bench.images import SLOPE, ImageWorkload, Ops, predict
from bench.peers_jax import cross_entropy
from bench.workloads import Array, Episodes, Params, Result


def operations(eps: float) -> Ops:
    def normalized(x: Array, layer: Params, stride: int) -> Array:
        scale, shift, w = layer
        x = jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * (jax.lax.rsqrt(var + eps) * scale) + shift

    def pool(x: Array) -> Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    return Ops(
        normalized=normalized,
        relu=jax.nn.relu,
        leaky=lambda x: jax.nn.leaky_relu(x, SLOPE),
        pool=pool,
        mean=lambda x: x.mean((1, 2)),
        flat=lambda x: x.reshape(len(x), -1),
    )


def build(workload: ImageWorkload, params: Params, episodes: Episodes, batch: bool) -> Callable[[], Result]:
    ops = operations(workload.eps)

    def loss(params: Params, x: Array, y: Array) -> Array:
        return cross_entropy(predict(workload, params, x, ops), y)

    def episode(params: Params, xs: Array, ys: Array, xq: Array, yq: Array) -> Array:
        for _ in range(workload.steps):
            params = [p - workload.rate * g for p, g in zip(params, jax.grad(loss)(params, xs, ys), strict=True)]
        return loss(params, xq, yq)

    def meta_gradient(params: Params, *data: Array) -> Result:
        task = jax.value_and_grad(episode)
        each = jax.vmap(task, (None, 0, 0, 0, 0))(params, *data) if batch else jax.lax.map(lambda e: task(params, *e), data)
        return jax.tree.map(lambda a: a.mean(0), each)

    with jax.enable_x64(params[0].dtype == np.float64):
        args = jax.device_put((params, *episodes))
        compiled = jax.jit(meta_gradient).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def mapped(workload: ImageWorkload, params: Params, episodes: Episodes) -> Callable[[], Result]:
    return build(workload, params, episodes, batch=False)


def batched(workload: ImageWorkload, params: Params, episodes: Episodes) -> Callable[[], Result]:
    return build(workload, params, episodes, batch=True)
