"""PyTorch contestants: a loop over tasks, torch.func, and tasks batched by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from bench.workloads import Episodes, Params, Perceptron, Result, predict, rule_state, update

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy}


def tensors(params: Params, episodes: Episodes, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data = [torch.from_numpy(a) for a in episodes]
    data = [d.to(dtype) if d.is_floating_point() else d.long() for d in data]  # labels must be int64
    return [torch.tensor(p, dtype=dtype) for p in params], data


def loss_of(workload: Perceptron) -> Callable[[Params, Tensor, Tensor], Tensor]:
    activation, criterion = ACTIVATIONS[workload.activation], LOSSES[workload.loss]
    return lambda params, x, y: criterion(predict(params, x, activation), y)


def adapt(workload: Perceptron, params: Params, gradient: Callable[[Params], Sequence[Tensor]]) -> Params:
    state = rule_state(workload.rule, params, torch.zeros_like)
    for rate in workload.rates:
        params, state = update(workload.rule, params, state, gradient(params), rate, torch.sqrt)
    return params


def loop(
    workload: Perceptron, params: Params, episodes: Episodes, dtype: torch.dtype = torch.float32
) -> Callable[[], Result]:
    """autograd.grad with create_graph, one task after the other: how most meta-learning code is written."""
    theta, data = tensors(params, episodes, dtype)
    loss = loss_of(workload)
    leaves = [p.requires_grad_() for p in theta]

    def meta_step() -> Result:
        total, sums = torch.zeros((), dtype=dtype), [torch.zeros_like(p) for p in leaves]
        for xs, ys, xq, yq in zip(*data, strict=True):
            adapted = adapt(
                workload,
                leaves,
                lambda p: torch.autograd.grad(loss(p, xs, ys), p, create_graph=True),  # noqa: B023
            )
            value = loss(adapted, xq, yq)
            torch._foreach_add_(sums, torch.autograd.grad(value, leaves))
            total += value.detach()
        return total / workload.tasks, torch._foreach_div(sums, workload.tasks)

    return meta_step


def func(workload: Perceptron, params: Params, episodes: Episodes, compiled: bool = False) -> Callable[[], Result]:
    """torch.func: the gradient of one episode, mapped over tasks."""
    theta, data = tensors(params, episodes, torch.float32)
    loss = loss_of(workload)

    def episode(params: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        return loss(adapt(workload, params, lambda p: grad(loss)(p, xs, ys)), xq, yq)

    def meta_step(params: Params, *data: Tensor) -> Result:
        gradients, values = vmap(grad_and_value(episode), in_dims=(None, 0, 0, 0, 0))(params, *data)
        return values.mean(), [g.mean(0) for g in gradients]

    run = torch.compile(meta_step) if compiled else meta_step
    return lambda: run(theta, *data)


def compiled(workload: Perceptron, params: Params, episodes: Episodes) -> Callable[[], Result]:
    """torch.compile of the torch.func program: the fastest PyTorch here once its half minute of compiling is paid."""
    return func(workload, params, episodes, compiled=True)


def bmm(workload: Perceptron, params: Params, episodes: Episodes) -> Callable[[], Result]:
    """Tasks batched by hand: fast weights [T, in, out] and [T, 1, out], layers are baddbmm, losses summed."""
    theta, data = tensors(params, episodes, torch.float32)
    activation, criterion, tasks = ACTIVATIONS[workload.activation], LOSSES[workload.loss], workload.tasks
    leaves = [p.requires_grad_() for p in theta]
    xs, ys, xq, yq = data

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        *hidden, (w, b) = zip(params[::2], params[1::2], strict=True)
        for weight, bias in hidden:
            x = activation(torch.baddbmm(bias, x, weight))
        return criterion(torch.baddbmm(b, x, w).flatten(0, 1), y.flatten(0, 1))  # mean over tasks and examples

    def meta_step() -> Result:
        fast = [p.expand(tasks, *p.shape) if p.ndim == 2 else p.expand(tasks, 1, -1) for p in leaves]
        adapted = adapt(workload, fast, lambda p: torch.autograd.grad(loss(p, xs, ys) * tasks, p, create_graph=True))
        value = loss(adapted, xq, yq)
        return value.detach(), torch.autograd.grad(value, leaves)

    return meta_step


def reference(workload: Perceptron, params: Params, episodes: Episodes) -> np.ndarray:
    """Loss and meta-gradient in float64 as one vector: what every contestant must agree with."""
    value, gradient = loop(workload, params, episodes, torch.float64)()
    return torch.cat([value.reshape(1), *(g.reshape(-1) for g in gradient)]).numpy()
