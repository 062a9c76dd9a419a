"""Memory by address, for compiled code: every instruction of a plan works on addresses, whatever array they belong to.

An address is an int64; `like` is a number whose type is the element's.  Loops whose iterations do not depend on each
other say so to LLVM (`each`), so that they become vector code without checks for overlap, also in place.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.ir.values import MDValue
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

INT = ir.IntType(64)


@intrinsic
def load(typingctx: Any, address: Any, index: Any, like: Any) -> Any:
    """The element at address + index items."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_element(context, builder, like, args[0], args[1]))

    return like(types.int64, types.int64, like), codegen


@intrinsic
def store(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes value to address + index items of its type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(context, builder, value, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), codegen


def _element(context: Any, builder: Any, like: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, context.get_data_type(like).as_pointer()), [index])


@intrinsic
def move(typingctx: Any, to: Any, source: Any, size: Any) -> Any:
    """Moves bytes, which may overlap."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ends = [builder.inttoptr(a, cgutils.voidptr_t) for a in args[:2]]
        cgutils.raw_memmove(builder, *ends, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def clear(typingctx: Any, at: Any, size: Any) -> Any:
    """Sets bytes to zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(args[0], cgutils.voidptr_t), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Adds to an int64 that threads share, and gives what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], INT.as_pointer()), args[1], "monotonic")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def call(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Calls the C function at an address; all its arguments and its result are int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1])
        c_type = ir.FunctionType(INT, [INT] * len(values))
        return builder.call(builder.inttoptr(args[0], c_type.as_pointer()), values)

    return types.int64(types.int64, arguments), codegen


class Words(types.Type):
    """The int64 words at an address: indexed like an array, but from 0 up only: negative indices would cost instructions at every access."""

    def __init__(self) -> None:
        super().__init__(name="Words")


WORDS = Words()


@register_model(Words)
class _Model(PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, INT)


@intrinsic
def words(typingctx: Any, address: Any) -> Any:
    """The words at an address."""
    return WORDS(types.int64), lambda context, builder, signature, args: args[0]


@intrinsic
def _address(typingctx: Any, array: Any) -> Any:
    return types.int64(WORDS), lambda context, builder, signature, args: args[0]


@overload(operator.getitem)
def _get_item(array: Any, index: Any) -> Any:
    def get(array: Any, index: Any) -> Any:
        return load(_address(array), index, 0)

    return get if array is WORDS else None


@overload(operator.setitem)
def _set_item(array: Any, index: Any, value: Any) -> Any:
    def put(array: Any, index: Any, value: Any) -> None:
        store(_address(array), index, np.int64(value))

    return put if array is WORDS else None


@intrinsic
def number(typingctx: Any, bits: Any, like: Any) -> Any:
    """The float of these bits, or of the low half of them, of the type of `like`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(32 if like == types.float32 else 64)
        whole = builder.trunc(args[0], wide) if args[0].type.width > wide.width else args[0]
        return builder.bitcast(whole, context.get_value_type(like))

    return like(bits, like), codegen


class _Node(MDValue):
    """A distinct metadata node; LLVM knows loops and groups of accesses by such nodes."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, (), name=str(len(module.metadata)))

    def descr(self, buf: Any) -> None:
        buf += (f"distinct !{{ {', '.join(op.get_reference() for op in self.operands)} }}", "\n")

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


@intrinsic
def each(typingctx: Any, f: Any, n: Any, to: Any, operands: Any, like: Any, kind: Any) -> Any:
    """to[i] = f(operand_0[i], ..) for i < n, operands of the type of `like` and results of `kind`; `to` may be an operand."""
    scalar = typingctx.resolve_function_type(f, (like,) * len(operands), {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, count, target, sources, _, _ = args
        apply = context.get_function(f, scalar)
        context.add_linking_libs(getattr(apply, "libs", ()))
        pointers = [builder.inttoptr(a, context.get_data_type(like).as_pointer()) for a in cgutils.unpack_tuple(builder, sources)]
        target = builder.inttoptr(target, context.get_data_type(kind).as_pointer())
        accesses, loop = _Node(builder.module), _Node(builder.module)
        parallel = builder.module.add_metadata([ir.MetaDataString(builder.module, "llvm.loop.parallel_accesses"), accesses])
        loop.operands = (loop, parallel)

        before, body, after = builder.block, builder.append_basic_block("each"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, INT(0)), body, after)
        builder.position_at_end(body)
        i = builder.phi(INT)
        i.add_incoming(INT(0), before)
        values = []
        for pointer in pointers:
            values.append(builder.load(builder.gep(pointer, [i])))
            values[-1].set_metadata("llvm.access.group", accesses)
        result = context.cast(builder, apply(builder, values), scalar.return_type, kind)
        builder.store(result, builder.gep(target, [i])).set_metadata("llvm.access.group", accesses)
        following = builder.add(i, INT(1), flags=["nsw"])
        i.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after).set_metadata("llvm.loop", loop)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(f, types.int64, types.int64, operands, like, kind), codegen
