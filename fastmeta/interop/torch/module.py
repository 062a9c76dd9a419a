"""``nn.Module`` -> traced function: the exported graph, walked with fastmeta's functions."""

from __future__ import annotations

import inspect
import operator
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.node import map_aggregate
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from fastmeta.errors import expected
from fastmeta.interop.torch import aten
from fastmeta.interop.torch.guards import holds
from fastmeta.trace import Array, trace
from fastmeta.tree import tree_map

__all__ = ["ImportedModule", "from_torch"]

FLOATS = (torch.float32, torch.float64)
LENGTHS = (torch.sym_float, torch.sym_max, torch.sym_min, torch.sym_sqrt, torch.sym_sum)  # functions of lengths
DTYPES = {torch.float32: "f32", torch.float64: "f64", torch.int32: "i32", torch.int64: "i32", torch.bool: "bool"}


def from_torch(module: Any, example: Any) -> tuple[ImportedModule, dict[str, Any]]:
    """(function, parameters) of an ``nn.Module``: ``function(parameters, *inputs)`` computes what the module does.

    Args:
        module: in the mode it is to run in: after ``module.train()`` batch norm uses the statistics of the batch at hand,
            after ``module.eval()`` its running ones, which are constants of the function.
        example: a tensor, or a tuple of tensors, that the module takes.  All lengths but the first one's are part of the
            function; the first, the number of examples, is free unless the module fixes it, or takes other ways for other
            numbers: then it is held to those of the example's.

    Parameters are {name: array} by the names and in the layout of ``module.named_parameters()``, sharing their memory:
    images are [n, channels, height, width] and linear weights [out, in], as PyTorch has them.  What is computed under
    ``torch.no_grad()`` is constant to derivatives.
    Outputs may be nested in tuples, lists and dicts.
    Errors: NotImplementedError naming every operation that has no translation and the submodule it is in, and for backward
    hooks, derivatives of one's own (``torch.autograd.Function``) and buffers that a call changes, but for the running statistics
    of batch norm; TypeError for parameters that are not float32 or float64; RuntimeError with what ``torch.export`` says of a
    module it cannot export.

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
    for kind, tensors, dtypes, hint in (
        ("parameters", dict(module.named_parameters()), FLOATS, "Convert them with module.float()"),
        ("examples", dict(enumerate(examples)), DTYPES, "Convert it with its float()"),
    ):
        for name, x in tensors.items():
            if x.dtype not in dtypes:
                got = f"{name} of {str(x.dtype)[6:]}"
                raise expected("from_torch", f"{kind} of {' or '.join(str(d)[6:] for d in dtypes)}", got, TypeError, hint)
    if all(len(x) == 1 for x in examples if x.dim()):  # a first length of 1 would be taken for a constant
        examples = tuple(torch.cat([x, x]) if x.dim() else x for x in examples)
    free = tuple({0: torch.export.Dim.AUTO} if x.dim() and len(x) > 1 else None for x in examples)
    _refuse_own_derivatives(module, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own deprecations, and LSTM's cached weights
        try:
            exported = torch.export.export(module, examples, dynamic_shapes=_by_argument(module, free))
        except Exception as error:  # of many kinds
            hint = "The whole text is above. Python's if of a tensor's values, .data and torch.autograd inside of forward are frequent causes"
            raise expected("from_torch", "a module that torch.export takes", _first_line(error), RuntimeError, hint) from error
        _cut_where_no_grad(exported)
        exported = exported.run_decompositions({})
    _refuse_changed_buffers(module, exported)
    owners = {id(p): name for name, p in module.named_parameters()}
    function = ImportedModule(exported, {name: owners[id(p)] for name, p in module.named_parameters(remove_duplicate=False)})
    params = function.init()
    avals = [(tuple(x.shape), DTYPES[x.dtype]) for x in (*map(torch.from_numpy, params.values()), *examples)]
    trace(lambda *xs: function(dict(zip(params, xs, strict=False)), *xs[len(params) :]), avals)  # refuses what it cannot do
    return function, params


def _by_argument(module: Any, free: tuple[Any, ...]) -> tuple[Any, ...]:
    """What holds for each example as torch.export takes it: those of ``*args`` together."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(free)
    return free if first >= len(free) else (*free[:first], free[first:])


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _refuse_own_derivatives(module: Any, examples: tuple[Any, ...]) -> None:
    """Refuses what torch.export would drop in silence: backward hooks of submodules, and backward methods of the user's own."""
    hint = "Write that part with fastmeta's own functions: fm.stop_gradient makes most derivatives of one's own"
    for name, part in module.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise expected("from_torch", "modules without backward hooks", name or "one of the module itself", NotImplementedError, hint)
    state = {name: x.detach().clone() for name, x in module.named_buffers()}  # which a call may change
    with torch.random.fork_rng(devices=()), torch.enable_grad():
        outputs = pytree.tree_leaves(torch.func.functional_call(module, state, examples))
    waiting = [x.grad_fn for x in outputs if isinstance(x, torch.Tensor)]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            got = f"{type(node).__name__.removesuffix('Backward')} with a backward of its own"
            raise expected("from_torch", "derivatives that are PyTorch's", got, NotImplementedError, hint)
        waiting += [before for before, _ in node.next_functions]


def _refuse_changed_buffers(module: Any, exported: Any) -> None:
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.BUFFER_MUTATION:
            continue
        owner = module.get_submodule(spec.target.rpartition(".")[0])
        if not isinstance(owner, _NormBase):
            hint = "A function keeps no state: call module.eval() first if that ends it, or give the buffer as an input"
            got = f"{spec.target} of {type(owner).__name__}"
            raise expected("from_torch", "calls that change no buffers but batch norm's statistics", got, NotImplementedError, hint)


def _cut_where_no_grad(exported: Any) -> None:
    """Detaches what is computed under ``torch.no_grad()``, which decompositions would forget."""
    for node in list(exported.graph.nodes):
        if node.target is not torch.ops.higher_order.wrap_with_set_grad_enabled or node.args[0]:
            continue
        for result in list(node.users):
            with exported.graph.inserting_after(result):
                cut = exported.graph.call_function(torch.ops.aten.detach.default, (result,))
            cut.meta = dict(result.meta)
            result.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut and user.op != "output")
    exported.graph_module.recompile()


class Step(NamedTuple):
    """A node of the graph: what computes it, of which operands, and where in the module it comes from."""

    name: str
    target: Any  # a key of the table, or a function of Python's
    args: Any
    options: Any
    place: str


@dataclass(frozen=True)
class Ref:
    """The result of a step, or an input."""

    name: str


class ImportedModule:
    """A function (params, *inputs) -> outputs made by `from_torch`; also a model that learners take.

    ``init(seed)`` gives the module's own parameters, whatever the seed.

    >>> f, _ = from_torch(torch.nn.Linear(2, 1, bias=False), torch.zeros(3, 2))
    >>> {name: p.shape for name, p in f.init().items()}
    {'weight': (1, 2)}
    """

    def __init__(self, exported: Any, owners: Mapping[str, str]):
        signature = exported.graph_signature
        outputs = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
        outputs = [arg.value if isinstance(arg, ConstantArgument) else Ref(arg.name) for arg in outputs]
        self._outputs = pytree.tree_unflatten(outputs, exported.call_spec.out_spec)
        nodes = _needed(exported.graph, {x.name for x in outputs if isinstance(x, Ref)})
        _refuse_unknown(nodes)
        values = {**dict(exported.named_buffers()), **exported.constants, **dict(exported.named_parameters())}
        places = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
        self._parameters: dict[str, str] = {}  # placeholder -> name, of the first of several for one parameter
        self._constants: dict[str, Any] = {}
        self._inputs: list[tuple[str, tuple[int | None, ...]]] = []
        used = {node.name for node in nodes}
        for spec in signature.input_specs:
            place = spec.arg.name
            if spec.kind is InputKind.PARAMETER:
                self._parameters[place] = owners[spec.target]
            elif spec.kind is InputKind.USER_INPUT:
                shape = tuple(n if isinstance(n, int) else n.node.maybe_as_int() for n in places[place].meta["val"].shape)
                self._inputs.append((place, shape))
            elif place in used:
                self._constants[place] = values[spec.target].detach().numpy().copy()
        self._values = {name: values[name] for name in self._parameters.values()}
        self._steps = [_step(node) for node in nodes if node.op == "call_function"]
        self._guards: list[str] = list(getattr(exported, "_guards_code", None) or [])

    def init(self, seed: int = 0) -> dict[str, Any]:
        """The module's parameters {name: array}, in its own memory."""
        return {name: p.detach().numpy() for name, p in self._values.items()}

    def __call__(self, params: Mapping[str, Array], *inputs: Array) -> Any:
        """The module's output, or outputs, for inputs of its shapes; traced, or at once on plain arrays."""
        self._check(params, inputs)
        env: dict[str, Any] = dict(self._constants)
        env |= {place: params[name] for place, name in self._parameters.items()}
        env |= {place: x for (place, _), x in zip(self._inputs, inputs, strict=True)}
        for step in self._steps:
            args, options = map_aggregate((step.args, step.options), lambda x: env[x.name] if isinstance(x, Ref) else x)
            try:
                env[step.name] = aten.TABLE.get(step.target, step.target)(*args, **options)
            except NotImplementedError as error:
                raise _unknown([f"{step.target} with {error} in {step.place}"]) from None
        return tree_map(lambda x: aten.plain(env[x.name]) if isinstance(x, Ref) else x, self._outputs)

    def _check(self, params: Mapping[str, Array], inputs: tuple[Array, ...]) -> None:
        names = set(self._parameters.values())
        if not isinstance(params, Mapping) or set(params) != names:
            got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise expected("from_torch", f"parameters {sorted(names)}", got)
        if len(inputs) != len(self._inputs):
            raise expected("from_torch", f"{len(self._inputs)} inputs", len(inputs), TypeError)
        given: list[tuple[int, ...]] = []
        for (place, shape), x in zip(self._inputs, inputs, strict=True):
            lengths = tuple(x.shape) if hasattr(x, "shape") else np.shape(x)
            if len(lengths) != len(shape) or any(n is not None and n != m for n, m in zip(shape, lengths, strict=True)):
                axes = ", ".join("n" if n is None else str(n) for n in shape)
                free = "torch.export took the number of examples for fixed: x.shape[0] leaves it free, where len(x) and loops do not"
                others = len(lengths) == len(shape) and all(n is None or n == m for n, m in zip(shape[1:], lengths[1:], strict=True))
                raise expected("from_torch", f"{place} of shape [{axes}]", list(lengths), hint=free if shape and others else "")
            given.append(lengths)
        self._hold(given)

    def _hold(self, given: Sequence[tuple[int, ...]]) -> None:
        """Refuses lengths for which the module would have taken another way: what export saw holds for its example's."""
        shapes: dict[str, Any] = {place: lengths for (place, _), lengths in zip(self._inputs, given, strict=True)}
        got = ", ".join(f"{place} {list(lengths)}" for place, lengths in shapes.items())
        for place, lengths in list(shapes.items()):  # xs_0, xs_1, ... are those of *xs
            name, _, number = place.rpartition("_")
            if number.isdigit() and not isinstance(shapes.get(name), tuple):
                shapes.setdefault(name, []).append(lengths)
        for guard in self._guards:
            if not holds(guard, shapes):
                held = re.sub(r"L\['(\w+)'\](\[\d+\])?\.size\(\)", r"\1\2.shape", guard)
                hint = "torch.export met this condition with its example: for other numbers, import it with such an example"
                raise expected("from_torch", f"inputs with {held}", got, hint=hint)


def _needed(graph: Any, outputs: set[str]) -> list[Any]:
    """The nodes that the outputs depend on, in order: updates of running statistics and checks are not among them."""
    wanted = set(outputs)
    for node in reversed(list(graph.nodes)):
        if node.name in wanted and node.op != "output":
            wanted |= {n.name for n in node.all_input_nodes}
    return [node for node in graph.nodes if node.name in wanted]


def _step(node: Any) -> Step:
    def named(x: Any) -> Any:
        return Ref(x.name) if isinstance(x, torch.fx.Node) else x

    args, options = map_aggregate((node.args, node.kwargs), named)
    key = str(node.target)
    return Step(node.name, key if key in aten.TABLE else node.target, args, options, _place(node))


def _function(target: Any) -> Any:
    """What computes a node: the row of an ATen operation, or PyTorch's or Python's own function for lengths and tuples."""
    of_lengths = target in LENGTHS or getattr(operator, getattr(target, "__name__", ""), None) is target
    return aten.TABLE.get(str(target)) or (target if of_lengths else None)


def _refuse_unknown(nodes: list[Any]) -> None:
    unknown = [f"{node.target} in {_place(node)}" for node in nodes if node.op == "call_function" and _function(node.target) is None]
    if unknown:
        raise _unknown(unknown)


def _unknown(operations: list[str]) -> NotImplementedError:
    return expected(
        "from_torch", "operations that have a translation", "; ".join(dict.fromkeys(operations)), NotImplementedError,
        "Write that part with fastmeta's own functions; docs/pytorch.md lists what is taken",
    )  # fmt: skip


def _place(node: Any) -> str:
    """Where in the module a node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    return f"{path!r} ({str(kind).rpartition('.')[2]})" if path else "the module itself"
