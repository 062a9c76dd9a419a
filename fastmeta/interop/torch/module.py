"""``nn.Module`` -> traced function: the exported graph, walked with fastmeta's functions."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind

from fastmeta.errors import expected
from fastmeta.interop.torch import aten, elements, norms  # noqa: F401  (elements and norms add their rows to the table)
from fastmeta.trace import Array, trace

__all__ = ["ImportedModule", "from_torch"]

DTYPES = {torch.float32: "f32", torch.float64: "f64", torch.int32: "i32", torch.int64: "i32", torch.bool: "bool"}


def from_torch(module: Any, example: Any) -> tuple[ImportedModule, dict[str, Any]]:
    """(function, parameters) of an ``nn.Module``: ``function(parameters, *inputs)`` computes what the module does.

    Args:
        module: in the mode it is to run in: after ``module.train()`` batch norm uses the statistics of the batch at hand,
            after ``module.eval()`` its running ones, which are constants of the function.
        example: a tensor, or a tuple of tensors, that the module takes.  All lengths but the first one's are part of the
            function; the first, the number of examples, is free unless the module fixes it.

    Parameters are {name: array} by the names and in the layout of ``module.named_parameters()``, sharing their memory:
    images are [n, channels, height, width] and linear weights [out, in], as PyTorch has them.
    Errors: NotImplementedError naming every operation that has no translation and the submodule it is in; TypeError for
    parameters that are not float32 or float64; whatever ``torch.export`` says of a module it cannot export.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> f, params = from_torch(net, torch.zeros(3, 2, 2))
    >>> f(params, np.ones((5, 2, 2), np.float32)).shape
    (5, 2)
    """
    examples = example if isinstance(example, tuple) else (example,)
    if not isinstance(module, torch.nn.Module):
        raise expected("from_torch", "an nn.Module", type(module).__name__, TypeError)
    if not examples or not all(isinstance(x, torch.Tensor) for x in examples):
        raise expected("from_torch", "an example of tensors", repr([type(x).__name__ for x in examples]), TypeError)
    for name, p in module.named_parameters():
        if p.dtype not in (torch.float32, torch.float64):
            raise expected("from_torch", "parameters of float32 or float64", f"{name} of {p.dtype}", TypeError)
    # A first length of 1 would be taken for a constant.
    examples = tuple(torch.cat([x, x]) if x.dim() and len(x) == 1 else x for x in examples)
    free = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own deprecations, and LSTM's cached weights
        exported = torch.export.export(module, examples, dynamic_shapes=free).run_decompositions({})
    function = ImportedModule(exported)
    params = function.init()
    avals = [(tuple(x.shape), DTYPES[x.dtype]) for x in (*map(torch.from_numpy, params.values()), *examples)]
    trace(lambda *xs: function(dict(zip(params, xs, strict=False)), *xs[len(params) :]), avals)  # refuses what it cannot do
    return function, params


class ImportedModule:
    """A function (params, *inputs) -> output made by `from_torch`; also a model that learners take.

    ``init(seed)`` gives the module's own parameters, whatever the seed.

    >>> f, _ = from_torch(torch.nn.Linear(2, 1, bias=False), torch.zeros(3, 2))
    >>> {name: p.shape for name, p in f.init().items()}
    {'weight': (1, 2)}
    """

    def __init__(self, exported: Any):
        signature = exported.graph_signature
        wanted = [spec.arg.name for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
        if len(wanted) != 1:
            raise expected("from_torch", "a module with one output", f"{len(wanted)} outputs")
        self._output = wanted[0]
        self._nodes = _needed(exported.graph, self._output)
        _refuse_unknown(self._nodes)
        values = {**dict(exported.named_buffers()), **exported.constants, **dict(exported.named_parameters())}
        places = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
        self._parameters: dict[str, str] = {}  # placeholder -> name
        self._constants: dict[str, Any] = {}
        self._inputs: list[tuple[str, tuple[int | None, ...]]] = []
        used = {node.name for node in self._nodes}
        for spec in signature.input_specs:
            place = spec.arg.name
            if spec.kind is InputKind.PARAMETER:
                self._parameters[place] = spec.target
            elif spec.kind is InputKind.USER_INPUT:
                shape = tuple(n if isinstance(n, int) else None for n in places[place].meta["val"].shape)
                self._inputs.append((place, shape))
            elif place in used:
                self._constants[place] = values[spec.target].detach().numpy().copy()
        self._values: Mapping[str, Any] = MappingProxyType({name: values[name] for name in self._parameters.values()})

    def init(self, seed: int = 0) -> dict[str, Any]:
        """The module's parameters {name: array}, in its own memory."""
        return {name: p.detach().numpy() for name, p in self._values.items()}

    def __call__(self, params: Mapping[str, Array], *inputs: Array) -> Array:
        """The module's output for inputs of its shapes; traced, or at once on plain arrays."""
        self._check(params, inputs)
        env: dict[str, Any] = dict(self._constants)
        env |= {place: params[name] for place, name in self._parameters.items()}
        env |= {place: x for (place, _), x in zip(self._inputs, inputs, strict=True)}
        for node in self._nodes:
            if node.op == "call_function":
                args, options = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: env[n.name])
                try:
                    env[node.name] = _function(node.target)(*args, **options)
                except NotImplementedError as error:
                    raise _unknown([f"{node.target} with {error} in {_place(node)}"]) from None
        return aten.plain(env[self._output])

    def _check(self, params: Mapping[str, Array], inputs: tuple[Array, ...]) -> None:
        names = set(self._parameters.values())
        if not isinstance(params, Mapping) or set(params) != names:
            got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise expected("from_torch", f"parameters {sorted(names)}", got)
        if len(inputs) != len(self._inputs):
            raise expected("from_torch", f"{len(self._inputs)} inputs", len(inputs), TypeError)
        for (place, shape), x in zip(self._inputs, inputs, strict=True):
            lengths = tuple(x.shape) if hasattr(x, "shape") else np.shape(x)
            if len(lengths) != len(shape) or any(n is not None and n != m for n, m in zip(shape, lengths, strict=True)):
                axes = ", ".join("n" if n is None else str(n) for n in shape)
                raise expected("from_torch", f"{place} of shape [{axes}]", list(lengths))


def _needed(graph: Any, output: str) -> list[Any]:
    """The nodes that the output depends on, in order: updates of running statistics and checks are not among them."""
    wanted = {output}
    for node in reversed(list(graph.nodes)):
        if node.name in wanted and node.op != "output":
            wanted |= {n.name for n in node.all_input_nodes}
    return [node for node in graph.nodes if node.name in wanted]


def _function(target: Any) -> Any:
    """What computes a node: the row of an ATen operation, or Python's own function for lengths and tuples."""
    return aten.TABLE.get(str(target)) or (target if getattr(operator, getattr(target, "__name__", ""), None) is target else None)


def _refuse_unknown(nodes: list[Any]) -> None:
    unknown = [f"{node.target} in {_place(node)}" for node in nodes if node.op == "call_function" and _function(node.target) is None]
    if unknown:
        raise _unknown(unknown)


def _unknown(operations: list[str]) -> NotImplementedError:
    return expected(
        "from_torch", "operations that have a translation", "; ".join(dict.fromkeys(operations)), NotImplementedError,
        "fastmeta.interop.torch.aten.TABLE lists them",
    )  # fmt: skip


def _place(node: Any) -> str:
    """Where in the module a node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    return f"{path!r} ({str(kind).rpartition('.')[2]})" if path else "the module itself"
