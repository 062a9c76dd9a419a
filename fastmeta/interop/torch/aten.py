"""The ATen operations that have a translation: each of these files enters its own rows into the one table."""

from fastmeta.interop.torch import (  # noqa: F401  (they add their rows)
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

__all__ = ["TABLE", "Image", "plain"]
