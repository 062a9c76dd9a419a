"""A training step of a prototypical network against PyTorch and JAX: `python -m bench.proto_train [--ways 60] [--rounds 6]`.

One episode of Omniglot's size: Conv4 with 64 channels (batch statistics of support and queries together) on 28x28x1, squared
distances to the class means, mean NLL, gradients to all parameters, and a step of Adam.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bench.__main__ import begin, show
from bench.images import OMNIGLOT, ImageWorkload, embed
from bench.workloads import Params

RATE, EPS = 1e-3, 1e-8
Thunk = Callable[[], tuple[Any, list[Any]]]


def episode(workload: ImageWorkload, ways: int, queries: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images scattered about a pattern for each class: supports [ways, ..], queries [ways * queries, ..], class by class."""
    rng = np.random.default_rng(seed)
    patterns = rng.random((ways, *workload.input), np.float32)
    x, q = (np.repeat(patterns, n, 0) + rng.random((ways * n, *workload.input), np.float32) for n in (1, queries))
    return x, q


def fastmeta(workload: ImageWorkload, params: Params, x: np.ndarray, q: np.ndarray, labels: np.ndarray) -> Thunk:
    import optree

    import fastmeta as fm

    learner = fm.ProtoNet(fm.models.Conv4(workload.channels[0], None, workload.input), ways=len(x))
    theta = optree.tree_unflatten(optree.tree_structure(learner.init()), params)
    adam = fm.optim.adam(RATE)
    data = (x[None], np.arange(len(x), dtype=np.int32)[None], q[None], labels[None])

    @fm.jit
    def step(theta: Any, state: Any, data: Any) -> Any:
        (loss, _), gradient = learner.value_and_grad(theta, data)
        updates, state = adam.update(gradient, state, theta)
        return loss, fm.optim.apply_updates(theta, updates)

    state = adam.init(theta)

    def run() -> tuple[Any, list[Any]]:
        loss, new = step(theta, state, data)
        return loss, optree.tree_leaves(new)

    return run


def torch(workload: ImageWorkload, params: Params, x: np.ndarray, q: np.ndarray, labels: np.ndarray, channels_last: bool = False) -> Thunk:
    import torch
    import torch.nn.functional as F

    from bench.images_torch import operations

    layout = torch.channels_last if channels_last else torch.contiguous_format
    theta = [torch.from_numpy(p) for p in params]
    theta = [(p.permute(3, 2, 0, 1).contiguous(memory_format=layout) if p.ndim == 4 else p).clone() for p in theta]
    images = torch.from_numpy(np.concatenate([x, q])).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    target, ops, ways = torch.from_numpy(labels).long(), operations(workload.eps), len(x)

    def step() -> tuple[Any, list[Any]]:
        leaves = [p.detach().requires_grad_() for p in theta]
        z = embed(workload, leaves, images, ops)
        means, z = z[:ways], z[ways:]
        logits = 2 * z @ means.mT - (z**2).sum(1, keepdim=True) - (means**2).sum(1)
        loss = F.cross_entropy(logits, target)
        with torch.no_grad():  # the first step of Adam, moments at zero
            new = [p - RATE * g / (g.abs() + EPS) for p, g in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)]
        return loss.detach(), [p.permute(2, 3, 1, 0) if p.ndim == 4 else p for p in new]

    return step


def jax(workload: ImageWorkload, params: Params, x: np.ndarray, q: np.ndarray, labels: np.ndarray) -> Thunk:
    import jax
    import jax.numpy as jnp

    from bench.images_jax import operations
    from bench.peers_jax import cross_entropy

    ops, ways = operations(workload.eps), len(x)

    def loss(params: Params, images: Any, target: Any) -> Any:
        z = embed(workload, params, images, ops)
        means, z = z[:ways], z[ways:]
        return cross_entropy(2 * z @ means.T - (z**2).sum(1, keepdims=True) - (means**2).sum(1), target)

    def step(params: Params, images: Any, target: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, images, target)
        return value, [p - RATE * g / (jnp.abs(g) + EPS) for p, g in zip(params, gradient, strict=True)]

    args = jax.device_put((params, np.concatenate([x, q]), labels))
    compiled = jax.jit(step).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def stray(new: list[Any], other: list[Any]) -> float:
    """The share of parameters that a first step of Adam, all of one length, has moved another way: those of gradients near 0."""
    a, b = (np.concatenate([np.asarray(p).ravel() for p in params]) for params in (new, other))
    return float(np.mean(np.abs(a - b) > RATE))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.proto_train", description=__doc__)
    parser.add_argument("--ways", type=int, default=60)
    parser.add_argument("--queries", type=int, default=5, help="per class")
    options, origin = begin(parser)
    from bench import measure

    workload = replace(ImageWorkload("proto-train", **OMNIGLOT), tasks=1)
    params = workload.params()[:-2]  # without the linear layer
    x, q = episode(workload, options.ways, options.queries)
    labels = np.repeat(np.arange(options.ways, dtype=np.int32), options.queries)
    makers: dict[str, Callable[..., Thunk]] = {
        "fastmeta": fastmeta, "torch": torch, "torch-nhwc": lambda *a: torch(*a, channels_last=True), "jax": jax,
    }  # fmt: skip
    thunks = {name: make(workload, params, x, q, labels) for name, make in makers.items()}
    results = {name: thunk() for name, thunk in thunks.items()}
    losses = {name: float(loss) for name, (loss, _) in results.items()}
    strays = {name: stray(new, results["fastmeta"][1]) for name, (_, new) in results.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3 * losses["fastmeta"] or max(strays.values()) > 0.02:
        raise SystemExit(f"proto-train: losses {losses}, parameters that moved otherwise {strays}; no timing")
    rows = measure.rows(measure.interleave(thunks, options.rounds), "ms", 1e3)
    title = f"proto-train {options.ways}-way, {options.queries} queries a class"
    show(title, rows)
    if options.out:
        options.out.write_text(json.dumps({"provenance": origin, "reports": {title: {"losses": losses, "rows": rows}}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
