"""The elementwise operations of the backends, by number: those of the registry's rows, then the planner's own."""

from __future__ import annotations

from fastmeta.ops.elementwise import NUMBERS, REGISTRY
from fastmeta.program import FLOATS, MicroOp

PLANNED = (
    MicroOp("multiply_add", 3, NUMBERS, "x * y + z"),
    MicroOp("at_least", 2, NUMBERS, "select(le(y, x), lit(1), select(ne(x, x), lit(1), lit(0)))"),  # NaN above all numbers
    MicroOp("gate", 2, FLOATS, "select(gt(y, lit(0)), x, lit(0))"),
    MicroOp("half_gate", 2, FLOATS, "select(gt(y, lit(0)), x, select(eq(y, lit(0)), x / lit(2), lit(0)))"),
    MicroOp("copy", 1, NUMBERS, "x"),
)
MICROOPS: tuple[MicroOp, ...] = (*(row.micro for row in REGISTRY.values() if row.micro is not None), *PLANNED)
CAST = len(MICROOPS)  # its own kernel table: [source type][target type]
NUMBER = {op.name: k for k, op in enumerate(MICROOPS)} | {"cast": CAST}
