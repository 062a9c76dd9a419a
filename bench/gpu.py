"""``python -m bench.gpu``: second-order MAML on one GPU against JAX jit and torch.func on the same device.

Every contestant gets the same arrays, already on the device; results are compared first, then timed by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastmeta as fm
from bench.measure import provenance
from bench.workloads import Episodes, Params, Perceptron


@dataclass(frozen=True)
class Images:
    """Conv4 on random images: ``steps`` inner steps of a ways-way, one-shot task."""

    name: str
    side: int
    channels: int
    filters: int
    tasks: int
    ways: int = 5
    queries: int = 15
    steps: int = 5
    rate: float = 0.01

    def params(self) -> Params:
        rng, out, c, side = np.random.default_rng(0), [], self.channels, self.side
        for _ in range(4):
            out += [rng.normal(0, np.sqrt(2 / (9 * c)), (3, 3, c, self.filters)), np.ones(self.filters), np.zeros(self.filters)]
            c, side = self.filters, side // 2
        out += [rng.normal(0, np.sqrt(1 / (c * side * side)), (c * side * side, self.ways)), np.zeros(self.ways)]
        return [np.asarray(p, np.float32) for p in out]

    def episodes(self) -> Episodes:
        rng = np.random.default_rng(1)

        def images(n: int) -> tuple[np.ndarray, np.ndarray]:
            x = rng.normal(size=(self.tasks, n, self.side, self.side, self.channels)).astype(np.float32)
            return x, np.tile(np.arange(n, dtype=np.int32) % self.ways, (self.tasks, 1))

        return (*images(self.ways), *images(self.ways * self.queries))


WORKLOADS = [
    Perceptron("sin-K5", tasks=4096),
    Images("conv4-omni", 28, 1, 64, 256),
    Images("conv4-mini", 84, 3, 32, 32),
]


def forward(lib: dict[str, Callable[..., Any]], params: Any, x: Any, images: bool) -> Any:
    if not images:
        for k in range(0, len(params) - 2, 2):
            x = lib["relu"](x @ params[k] + params[k + 1])
        return x @ params[-2] + params[-1]
    for k in range(0, 12, 3):
        x = lib["pool"](lib["relu"](lib["norm"](lib["conv"](x, params[k]), params[k + 1], params[k + 2])))
    return x.reshape((x.shape[0], -1)) @ params[-2] + params[-1]


def episode(lib: dict[str, Callable[..., Any]], w: Any) -> Callable[..., Any]:
    images = isinstance(w, Images)

    def loss(params: Any, x: Any, y: Any) -> Any:
        out = forward(lib, params, x, images)
        return lib["cross_entropy"](out, y) if images else ((out - y) ** 2).mean()

    def run(params: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        for _ in range(w.steps):
            params = [p - w.rate * g for p, g in zip(params, lib["grad"](loss)(params, xs, ys), strict=True)]
        return loss(params, xq, yq)

    return run


def ours(w: Any, params: Params, episodes: Episodes) -> Callable[[], Any]:
    import torch

    lib = {"relu": fm.nn.relu, "pool": fm.nn.max_pool2d, "norm": fm.nn.batch_norm, "conv": fm.nn.conv2d, "cross_entropy": fm.nn.cross_entropy, "grad": fm.grad}
    step = fm.map_tasks(fm.value_and_grad(episode(lib, w)), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    theta, data = [torch.from_numpy(p).cuda() for p in params], [torch.from_numpy(x).cuda() for x in episodes]

    def run() -> Any:
        out = step(theta, *data)
        torch.cuda.synchronize()
        return out

    return run


def torch_func(w: Any, params: Params, episodes: Episodes) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 in full, as ours and JAX below

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        var, mean = torch.var_mean(x, (0, 1, 2), correction=0)
        return (x - mean) * torch.rsqrt(var + 1e-5) * scale + shift

    lib = {
        "relu": torch.relu, "norm": norm, "grad": torch.func.grad,
        "conv": lambda x, k: F.conv2d(x.permute(0, 3, 1, 2), k.permute(3, 2, 0, 1), padding=1).permute(0, 2, 3, 1),
        "pool": lambda x: F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1),
        "cross_entropy": lambda out, y: F.cross_entropy(out, y.long()),
    }  # fmt: skip
    batched = torch.func.vmap(torch.func.grad_and_value(episode(lib, w)), in_dims=(None, 0, 0, 0, 0))
    theta, data = [torch.from_numpy(p).cuda() for p in params], [torch.from_numpy(x).cuda() for x in episodes]

    def run() -> Any:
        grads, values = batched(theta, *data)
        out = values.mean(), [g.mean(0) for g in grads]
        torch.cuda.synchronize()
        return out

    return run


def jax_jit(w: Any, params: Params, episodes: Episodes) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        return (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * scale + shift

    lib = {
        "relu": jax.nn.relu, "norm": norm, "grad": jax.grad,
        "conv": lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        "pool": lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        "cross_entropy": lambda out, y: -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], 1).mean(),
    }  # fmt: skip
    batched = jax.vmap(jax.value_and_grad(episode(lib, w)), in_axes=(None, 0, 0, 0, 0))
    step = jax.jit(lambda *args: jax.tree.map(lambda a: a.mean(0), batched(*args)))
    args = jax.device_put((params, *episodes))
    return lambda: jax.block_until_ready(step(*args))


CONTESTANTS = {"fastmeta": ours, "jax": jax_jit, "torch.func": torch_func}


def flat(result: Any) -> np.ndarray:
    value, grads = result
    return np.concatenate([np.ravel(np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.float64)) for x in (value, *grads)])


def main() -> None:
    """Compares and prints; ``--out`` writes the rows as JSON."""
    import torch

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take the memory that the others need
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="cuda", choices=["cuda", "cupy"])
    parser.add_argument("--only", choices=[w.name for w in WORKLOADS])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    fm.set_backend(options.backend)
    rows: dict[str, Any] = {}
    for w in WORKLOADS:
        if options.only not in (None, w.name):
            continue
        runs = {name: make(w, w.params(), w.episodes()) for name, make in CONTESTANTS.items()}
        results = {name: flat(run()) for name, run in runs.items()}
        scale = np.abs(results["jax"]).max()
        errors = {name: float(np.abs(r - results["jax"]).max() / scale) for name, r in results.items()}
        if max(errors.values()) > 1e-3:
            raise SystemExit(f"{w.name}: results differ, {errors}")
        torch.cuda.empty_cache()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for k in range(options.rounds):
            for name in list(runs)[:: 1 if k % 2 else -1]:
                start = time.perf_counter()
                runs[name]()
                times[name].append(time.perf_counter() - start)
        rows[w.name] = {n: {"best_ms": min(t) * 1e3, "median_ms": statistics.median(t) * 1e3, "error": errors[n]} for n, t in times.items()}
        print(w.name, json.dumps(rows[w.name], indent=1))
    if options.out:
        origin = {**provenance(), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        options.out.write_text(json.dumps({"origin": origin, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
