"""Recurrent layers in episodes against JAX and PyTorch: `python -m bench.recurrent [--rounds 6] [--out F]`.

Each task is a batch of sequences and the mean squared error of the layer's outputs: the gradient to the shared parameters, and
the second-order meta-gradient through one inner step.  PyTorch's expert puts all tasks of a plain gradient into one nn.LSTM.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.__main__ import begin, show

RATE = 0.1
Thunk = Callable[[], Any]


class Size(NamedTuple):
    tasks: int
    time: int
    batch: int
    inputs: int
    hidden: int


SIZES = (Size(32, 20, 1, 16, 32), Size(32, 20, 8, 16, 32), Size(8, 10, 100, 4, 20), Size(32, 25, 5, 64, 64))
KEYS = ("w", "u", "b")


def data(s: Size, gates: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Parameters without the GRU's "bn", inputs and targets [tasks, time, batch, ..]."""
    rng = np.random.default_rng(0)
    params = [rng.uniform(-1, 1, n).astype(np.float32) * s.hidden**-0.5 for n in ((s.inputs, gates * s.hidden), (s.hidden, gates * s.hidden), (gates * s.hidden,))]
    x, y = (rng.standard_normal((s.tasks, s.time, s.batch, n)).astype(np.float32) for n in (s.inputs, s.hidden))
    return dict(zip(KEYS, params, strict=True)), x, y


def meta(loss: Callable[..., Any], grad: Callable[..., Any]) -> Callable[..., Any]:
    """The loss after one step on the same data."""

    def after(params: Any, x: Any, y: Any) -> Any:
        gradient = grad(loss)(params, x, y)
        return loss({k: params[k] - RATE * gradient[k] for k in KEYS}, x, y)

    return after


def flat(value: Any, gradient: Any) -> tuple[Any, ...]:
    return value, *(gradient[k] for k in KEYS)


def fastmeta(cell: str, s: Size, second: bool) -> Thunk:
    import fastmeta as fm

    params, x, y = data(s, 4 if cell == "lstm" else 3)
    more = {"bn": np.zeros(s.hidden, np.float32)} if cell == "gru" else {}

    def loss(params: Any, x: Any, y: Any) -> Any:
        return fm.mean(fm.square(getattr(fm.nn, cell)({**params, **more}, x)[0] - y))

    step = fm.map_tasks(fm.value_and_grad(meta(loss, fm.grad) if second else loss), in_axes=(None, 0, 0), reduce="mean")
    return lambda: flat(*step(params, x, y))


def jax(cell: str, s: Size, second: bool) -> Thunk:
    import jax
    import jax.numpy as jnp

    params, x, y = jax.device_put(data(s, 4 if cell == "lstm" else 3))

    def lstm(u: Any, state: Any, gates: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(gates + h @ u, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru(u: Any, state: Any, gates: Any) -> Any:
        h, own = state[0], state[0] @ u
        n = s.hidden
        r, z = jnp.split(jax.nn.sigmoid(gates[..., : 2 * n] + own[..., : 2 * n]), 2, -1)
        new = jnp.tanh(gates[..., 2 * n :] + r * own[..., 2 * n :])
        h = new + z * (h - new)
        return (h, state[1]), h

    def loss(params: Any, x: Any, y: Any) -> Any:
        zero = jnp.zeros((s.batch, s.hidden))
        step = {"lstm": lstm, "gru": gru}[cell]
        outputs = jax.lax.scan(lambda state, gates: step(params["u"], state, gates), (zero, zero), x @ params["w"] + params["b"])[1]
        return jnp.mean((outputs - y) ** 2)

    each = jax.vmap(jax.value_and_grad(meta(loss, jax.grad) if second else loss), (None, 0, 0))
    compiled = jax.jit(lambda *a: jax.tree.map(lambda v: v.mean(0), each(*a))).lower(params, x, y).compile()
    return lambda: jax.block_until_ready(flat(*compiled(params, x, y)))


def torch(s: Size) -> Thunk:
    """One nn.LSTM over the sequences of all tasks."""
    import torch

    params, x, y = data(s, 4)
    layer = torch.nn.LSTM(s.inputs, s.hidden)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", params["w"].T), ("weight_hh_l0", params["u"].T), ("bias_ih_l0", params["b"]), ("bias_hh_l0", 0 * params["b"])):
            getattr(layer, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    together, target = (torch.from_numpy(np.moveaxis(a, 0, 1).reshape(s.time, -1, a.shape[-1]).copy()) for a in (x, y))
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]

    def step() -> Any:
        loss = torch.nn.functional.mse_loss(layer(together)[0], target)
        w, u, b = torch.autograd.grad(loss, weights)
        return loss.detach(), w.T, u.T, b

    return step


def workloads() -> dict[str, dict[str, Callable[[], Thunk]]]:
    out: dict[str, dict[str, Callable[[], Thunk]]] = {}
    for s in SIZES:
        for cell in ("lstm", "gru"):
            for second in (False, True):
                title = f"{cell} {'second order' if second else 'gradient'} {tuple(s)}"
                out[title] = {"fastmeta": lambda c=cell, s=s, m=second: fastmeta(c, s, m), "jax": lambda c=cell, s=s, m=second: jax(c, s, m)}
                if cell == "lstm" and not second:
                    out[title]["torch-lstm"] = lambda s=s: torch(s)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recurrent", description=__doc__)
    options, origin = begin(parser)
    from bench import measure

    reports: dict[str, Any] = {}
    for title, makers in workloads().items():
        thunks = {name: make() for name, make in makers.items()}
        reports[title] = {"rows": measure.contest(title, thunks, options.rounds, "us", 1e6)}
        show(title, reports[title]["rows"])
    if options.out:
        options.out.write_text(json.dumps({"provenance": origin, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
