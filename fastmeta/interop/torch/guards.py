"""What ``torch.export`` found to hold for lengths of an example's inputs: "L['x'].size()[0] % 5 == 0", say."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fastmeta.errors import expected

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.Not: operator.not_, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}


def holds(guard: str, inputs: Mapping[str, Any]) -> bool:
    """Whether a guard holds for inputs of these shapes, by name; several of ``*name`` are a list.

    Errors: NotImplementedError that names what is more than arithmetic: a guard that cannot be held must not be dropped.

    >>> holds("L['x'].size()[0] % 5 == 0", {"x": (10, 3)})
    True
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name(id="L"):
                return inputs
            case ast.Subscript():
                return value(node.value)[value(node.slice)]
            case ast.Call(func=ast.Attribute(value=tensor, attr="size"), args=[]):
                return value(tensor)
            case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(value, node.args))
            case ast.BinOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](value(node.operand))
            case ast.Compare() if all(type(op) in OPERATORS for op in node.ops):
                sides = [value(side) for side in (node.left, *node.comparators)]
                return all(OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False))
            case ast.BoolOp():
                return (all if isinstance(node.op, ast.And) else any)(map(value, node.values))
        raise expected("from_torch", "conditions on lengths that are arithmetic", ast.unparse(node), NotImplementedError)

    return bool(value(ast.parse(guard, mode="eval").body))
