"""Writes LLVM functions on vectors: what the register tiles of products have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features

INT, SMALL, BOOL = ir.IntType(64), ir.IntType(32), ir.IntType(1)
# What Numba compiles for: this machine, or what NUMBA_CPU_FEATURES says.
_FEATURES = (get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES).split(",")
WIDE = "+avx512f" in _FEATURES
VECTOR_BYTES = 64 if WIDE else 32 if "+avx" in _FEATURES else 16
RECORD = 6  # words of a product: A, B, K, and strides in bytes of A along m and k, of B along k


class Writer:
    """A function of the module being written, and the builder at its end."""

    def __init__(self, module: Any, name: str, element: Any, arguments: Sequence[Any]) -> None:
        self.module, self.element = module, element
        self.item = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = VECTOR_BYTES // self.item
        self.vector, self.mask = ir.VectorType(element, self.lanes), ir.VectorType(BOOL, self.lanes)
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def declare(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.module, ir.FunctionType(result, arguments), f"llvm.{name}")

    def at(self, address: Any, kind: Any) -> Any:
        return self.b.inttoptr(address, kind.as_pointer())

    def number(self, address: Any) -> Any:
        return self.b.load(self.at(address, self.element))

    def save_number(self, value: Any, address: Any) -> None:
        self.b.store(value, self.at(address, self.element))

    def record(self, address: Any) -> list[Any]:
        return [self.b.load(self.at(self.b.add(address, INT(8 * k)), INT)) for k in range(RECORD)]

    def read(self, address: Any, present: Any = None) -> Any:
        """The vector at an address, or those of its elements that are present."""
        place = self.at(address, self.vector)
        if present is None:
            value = self.b.load(place)
            value.align = self.item
            return value
        masked = self.declare(self.masked("load"), self.vector, [self.vector.as_pointer(), SMALL, self.mask, self.vector])
        return self.b.call(masked, [place, SMALL(self.item), present, self.vector(None)])

    def save(self, value: Any, address: Any) -> None:
        self.b.store(value, self.at(address, self.vector)).align = self.item

    def save_present(self, value: Any, address: Any, present: Any, whole: Any) -> None:
        """Where all are present without a mask: masked stores are slow on some machines, and cannot be read from before they reach the cache."""
        place = self.at(address, self.vector)
        masked = self.declare(self.masked("store"), ir.VoidType(), [self.vector, self.vector.as_pointer(), SMALL, self.mask])
        with self.b.if_else(whole) as (all_present, otherwise):
            with all_present:
                self.save(value, address)
            with otherwise:
                self.b.call(masked, [value, place, SMALL(self.item), present])

    def masked(self, name: str) -> str:
        return f"masked.{name}.v{self.lanes}f{8 * self.item}.p0"

    def present(self, count: Any) -> Any:
        """The mask of the first `count` elements, compared in their size: without mask registers it is made anew at every use."""
        size = ir.IntType(8 * self.item)
        numbers = ir.Constant(ir.VectorType(size, self.lanes), list(range(self.lanes)))
        return self.b.icmp_signed("<", numbers, self.splat(count if size == INT else self.b.trunc(count, size)))

    def splat(self, value: Any) -> Any:
        kind = ir.VectorType(value.type, self.lanes)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, SMALL(0))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(SMALL, self.lanes), None))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        return self.b.fadd(self.b.fmul(x, y, flags=("contract",)), z, flags=("contract",))

    def total(self, vector: Any) -> Any:
        """The sum of its elements."""
        add = self.declare(f"vector.reduce.fadd.v{self.lanes}f{8 * self.item}", self.element, [self.element, self.vector])
        return self.b.call(add, [self.element(0.0), vector], fastmath=("reassoc",))

    def variables(self, count: int) -> list[Any]:
        """Places of vectors, which LLVM keeps in registers."""
        return [cgutils.alloca_once(self.b, self.vector) for _ in range(count)]

    def clear(self, places: Sequence[Any]) -> None:
        for place in places:
            self.b.store(self.vector(None), place)

    def add_product(self, x: Any, y: Any, place: Any) -> None:
        """place += x * y."""
        self.b.store(self.multiply_add(x, y, self.b.load(place)), place)

    @contextmanager
    def loop(self, count: Any) -> Iterator[Any]:
        with cgutils.for_range(self.b, count) as loop:
            yield loop.index

    def finish(self, added: Any, write: Callable[[bool], None]) -> None:
        """Writes results with what is added to them, or without where its address is 0."""
        with self.b.if_else(self.b.icmp_signed("!=", added, INT(0))) as (present, absent):
            with present:
                write(True)
            with absent:
                write(False)


def choose(builder: Any, number: Any, name: str, element: Any, cases: Mapping[int, Callable[..., Writer]], arguments: Sequence[Any]) -> None:
    """Calls the function of this number, none where there is none; they are written where the module has none of this name."""
    after = builder.append_basic_block("chosen")
    choice = builder.switch(number, after)
    for case, write in cases.items():
        own = f"{name}_{case}"
        function = builder.module.globals.get(own) or write(builder.module, own, element).function
        block = builder.append_basic_block("case")
        choice.add_case(INT(case), block)
        builder.position_at_end(block)
        builder.call(function, arguments)
        builder.branch(after)
    builder.position_at_end(after)
