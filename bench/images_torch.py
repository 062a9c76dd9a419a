"""PyTorch on convolutional workloads: a loop over tasks, in either layout of images, and torch.func."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from bench.images import SLOPE, ImageWorkload, Ops, predict
from bench.peers_torch import tensors
from bench.workloads import Episodes, Params, Result, in_double


def operations(eps: float) -> Ops:
    """Images [n, c, h, w], weights [out, in, k, k]."""

    def normalized(x: Tensor, layer: Params, stride: int) -> Tensor:
        scale, shift, w = layer
        zeros = [(-(-n // stride) - 1) * stride + w.shape[-1] - n for n in x.shape[-2:]]  # "same", as in the others
        if any(n % 2 for n in zeros):  # an odd row or column at the end
            x = F.pad(x, (0, zeros[1] % 2, 0, zeros[0] % 2))
        x = F.conv2d(x, w, stride=stride, padding=[n // 2 for n in zeros])
        return F.batch_norm(x, None, None, scale, shift, training=True, eps=eps)

    return Ops(
        normalized=normalized,
        relu=F.relu,
        leaky=lambda x: F.leaky_relu(x, SLOPE),
        pool=lambda x: F.max_pool2d(x, 2),
        mean=lambda x: x.mean((2, 3)),
        flat=lambda x: x.permute(0, 2, 3, 1).flatten(1),
    )


def prepare(params: Params, episodes: Episodes, layout: torch.memory_format) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and data in torch's order of axes, made once and not timed."""
    theta, (xs, ys, xq, yq) = tensors(params, episodes, torch.from_numpy(params[0]).dtype)
    theta = [p.permute(3, 2, 0, 1).contiguous(memory_format=layout) if p.ndim == 4 else p for p in theta]
    xs, xq = (x.permute(0, 1, 4, 2, 3) for x in (xs, xq))
    if layout == torch.contiguous_format:
        xs, xq = xs.contiguous(), xq.contiguous()
    return theta, [xs, ys, xq, yq]


def restored(value: Tensor, gradient: list[Tensor]) -> Result:
    """The gradient as views in the order of axes that all contestants are compared in."""
    return value, [g.permute(2, 3, 1, 0) if g.ndim == 4 else g for g in gradient]


def loop(
    workload: ImageWorkload,
    params: Params,
    episodes: Episodes,
    layout: torch.memory_format = torch.contiguous_format,
) -> Callable[[], Result]:
    """autograd.grad with create_graph, one task after the other."""
    theta, data = prepare(params, episodes, layout)
    leaves, ops = [p.requires_grad_() for p in theta], operations(workload.eps)

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(predict(workload, params, x, ops), y)

    def meta_step() -> Result:
        total, sums = torch.zeros((), dtype=leaves[0].dtype), [torch.zeros_like(p) for p in leaves]
        for xs, ys, xq, yq in zip(*data, strict=True):
            fast: Params = leaves
            for _ in range(workload.steps):
                inner = torch.autograd.grad(loss(fast, xs, ys), fast, create_graph=True)
                fast = [p - workload.rate * g for p, g in zip(fast, inner, strict=True)]
            value = loss(fast, xq, yq)
            torch._foreach_add_(sums, torch.autograd.grad(value, leaves))
            total += value.detach()
        return restored(total / workload.tasks, torch._foreach_div(sums, workload.tasks))

    return meta_step


def loop_channels_last(workload: ImageWorkload, params: Params, episodes: Episodes) -> Callable[[], Result]:
    return loop(workload, params, episodes, layout=torch.channels_last)


def func(workload: ImageWorkload, params: Params, episodes: Episodes) -> Callable[[], Result]:
    """torch.func: the gradient of one episode, mapped over tasks."""
    theta, data = prepare(params, episodes, torch.contiguous_format)
    ops = operations(workload.eps)

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(predict(workload, params, x, ops), y)

    def episode(params: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        for _ in range(workload.steps):
            params = [p - workload.rate * g for p, g in zip(params, grad(loss)(params, xs, ys), strict=True)]
        return loss(params, xq, yq)

    def meta_step() -> Result:
        gradients, values = vmap(grad_and_value(episode), in_dims=(None, 0, 0, 0, 0))(theta, *data)
        return restored(values.mean(), [g.mean(0) for g in gradients])

    return meta_step


def reference(workload: ImageWorkload, params: Params, episodes: Episodes) -> np.ndarray:
    """Loss and meta-gradient in float64 as one vector: what every contestant must agree with."""
    value, gradient = loop(workload, *in_double(params, episodes))()
    return torch.cat([value.reshape(1), *(g.reshape(-1) for g in gradient)]).numpy()
