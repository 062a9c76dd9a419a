"""The ATen operations that have a translation: each of these files enters its own rows into the one table."""

from fastmeta.interop.torch import (
    constants,
    convolutions,
    elements,
    indexing,
    norms,
    pooling,
    products,
    reductions,
    shapes,
)
from fastmeta.interop.torch.table import TABLE, Image, plain

__all__ = [
    "TABLE", "Image", "constants", "convolutions", "elements", "indexing", "norms", "plain", "pooling", "products", "reductions", "shapes",
]  # fmt: skip
