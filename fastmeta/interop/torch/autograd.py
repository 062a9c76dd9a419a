"""A meta-gradient as a loss that PyTorch can differentiate, and parameters as a state dict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch

from fastmeta.errors import expected
from fastmeta.tree import tree_map

__all__ = ["to_torch_state_dict", "torch_loss"]


def torch_loss(value_and_grad: Callable[..., Any]) -> Callable[..., Any]:
    """A function (params, *rest) -> loss whose ``loss.backward()`` fills the ``.grad`` of the tensors in ``params``.

    Args:
        value_and_grad: ``(params, *rest) -> (value, gradient)`` or ``((value, aux), gradient)`` with a scalar value and a
            gradient of the tree of params: ``fm.value_and_grad(f)``, ``fm.map_tasks(fm.value_and_grad(episode), ...)``,
            a learner's ``value_and_grad``.

    ``params`` is a pytree of tensors, ``dict(module.named_parameters())`` say, which are read in place; the other arguments
    may hold tensors and arrays that need no gradient.  Returns the loss, or (loss, aux) with aux as NumPy arrays.  Value and
    gradient are computed together, forwards; backwards only scales the gradient, so a second derivative is refused (RuntimeError).
    Errors: ValueError for tensors that are not in host memory, and for other arguments that require a gradient, which they
    would not get; TypeError for a function that does not return a value and its gradient; those of the function itself.

    >>> import fastmeta as fm, torch
    >>> loss = torch_loss(fm.value_and_grad(lambda p, x: fm.sum(fm.square(p["w"] * x))))
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> loss({"w": w}, torch.tensor([1.0, 3.0])).backward()
    >>> w.grad
    tensor([ 2., 36.])
    """

    @functools.wraps(value_and_grad)
    def loss(params: Any, *rest: Any) -> Any:
        leaves, tree = optree.tree_flatten(params)
        value, aux = _Loss.apply(value_and_grad, tree, tree_map(_given, rest), *leaves)
        return value if aux is None else (value, aux[0])

    return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value_and_grad: Callable[..., Any], tree: Any, rest: Any, *leaves: Any) -> Any:
        params = tree.unflatten([_host(leaf) for leaf in leaves])
        result = value_and_grad(params, *rest)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise expected("torch_loss", "a function that returns (value, gradient)", f"one that returns {type(result).__name__}", TypeError, "See fm.value_and_grad")
        value, gradient = result
        aux = None
        if isinstance(value, tuple):
            value, aux = value[0], (value[1],)
        if np.shape(value) != ():
            raise expected("torch_loss", "a scalar loss", f"shape {np.shape(value)}", hint='Give map_tasks reduce="mean"')
        if _shapes(gradient) != _shapes(params):
            raise expected("torch_loss", f"a gradient like params, {_shapes(params)[0]}", _shapes(gradient)[0], TypeError)
        ctx.leaves = leaves  # not saved for backward: an optimiser may change them before
        ctx.gradient = [torch.from_numpy(np.asarray(g)) for g in optree.tree_leaves(gradient)]
        return torch.from_numpy(np.asarray(value)), aux

    @staticmethod
    def backward(ctx: Any, scale: Any, _: Any) -> Any:
        return None, None, None, *_Gradient.apply(scale, ctx.gradient, *ctx.leaves)


class _Gradient(torch.autograd.Function):
    """The gradient as a function of the parameters, on which it depends: under create_graph a derivative of it must not be 0.

    (`once_differentiable` minds the scale only, which is a constant mostly.)
    """

    @staticmethod
    def forward(ctx: Any, scale: Any, gradient: Any, *leaves: Any) -> Any:
        return tuple(scale * g for g in gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        hint = "Write what needs the second derivative into the function that torch_loss is given"
        raise expected("torch_loss", "a loss that is differentiated once", "a derivative of its gradient", RuntimeError, hint)


def _shapes(tree: Any) -> tuple[list[tuple[int, ...]], Any]:
    leaves, structure = optree.tree_flatten(tree)
    return [np.shape(x) for x in leaves], structure


def _given(x: Any) -> Any:
    """An argument beside params."""
    if isinstance(x, torch.Tensor) and x.requires_grad:
        hint = "Detach it, or put it into params, which may be any tree of tensors"
        raise expected("torch_loss", "tensors beside params that need no gradient", f"one of shape {list(x.shape)} that does", hint=hint)
    return _host(x)


def _host(x: Any) -> Any:
    """A tensor as the array that shares its memory; anything else as it is."""
    if not isinstance(x, torch.Tensor):
        return x
    if x.device.type != "cpu":
        raise expected("torch_loss", "tensors in host memory", f"a tensor on {x.device}", hint="Move it with .cpu()")
    try:
        return x.detach().numpy()
    except RuntimeError as error:  # of torch.func, or while torch.compile traces
        hint = "Call it outside of torch.func's transforms; fm.grad, fm.jvp and fm.map_tasks nest"
        raise expected("torch_loss", "tensors that hold numbers", error, hint=hint) from None


def to_torch_state_dict(params: Any) -> dict[str, Any]:
    """A pytree of arrays as {name: tensor} for ``module.load_state_dict``: the path of a leaf, joined by dots, is its name.

    The tensors share the arrays' memory where these may be written to.

    >>> to_torch_state_dict({"layers": [{"weight": np.zeros(2, np.float32)}]})
    {'layers.0.weight': tensor([0., 0.])}
    """
    paths, leaves, _ = optree.tree_flatten_with_path(params)
    return {
        ".".join(map(str, path)): torch.from_numpy(np.require(leaf, requirements=["C", "W"]))
        for path, leaf in zip(paths, leaves, strict=True)
    }
