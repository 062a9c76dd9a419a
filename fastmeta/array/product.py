"""Products: matmul, tensordot and einsum."""

from __future__ import annotations

from math import prod as product
from string import ascii_letters
from typing import Any

import numpy as np

from fastmeta.array.arguments import (
    array_function,
    array_operand,
    axis_of,
    common_dtype,
    converted,
    floats_of,
    graph_of,
    static_integers,
)
from fastmeta.array.shaping import broadcast_to
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import shape as sh
from fastmeta.ops.linalg import INVERSE, LOGDET
from fastmeta.ops.product import matmul as _product
from fastmeta.ops.reduce import total
from fastmeta.program import DTYPES, FLOATS, Var
from fastmeta.trace import Array, located


@array_function
def matmul(x: Any, y: Any) -> Var:
    """The matrix product over the last two axes; leading axes broadcast, vectors are rows or columns as in NumPy.

    Errors: TypeError for two arrays of integers; ValueError for inner sizes that differ, or a number.

    >>> matmul(np.ones((5, 2, 3)), np.ones((3, 4))).shape, matmul(np.ones((5, 2, 3)), np.ones(3)).shape
    ((5, 2, 4), (5, 2))
    """
    g = graph_of("matmul", [x, y])
    dtype = common_dtype("matmul", [x, y])
    if dtype not in FLOATS:
        raise expected("matmul", "float arrays", dtype, TypeError)
    if not (isinstance(x, Var) and isinstance(y, Var)) or not x.shape or not y.shape:
        raise expected("matmul", "arrays of at least one axis", " and ".join(str(getattr(v, "shape", v)) for v in (x, y)))
    a, b = converted(x, dtype, g), converted(y, dtype, g)
    rows, cols = len(a.shape) > 1, len(b.shape) > 1
    a = a if rows else sh.reshape(a, (1, *a.shape))
    b = b if cols else sh.reshape(b, (*b.shape, 1))
    if a.shape[-1] != b.shape[-2]:
        raise expected("matmul", "inner sizes to agree", f"{x.shape} and {y.shape}")
    out = _matmul(a, b)
    shape = out.shape if cols else out.shape[:-1]
    return sh.reshape(out, shape if rows else (*shape[: len(out.shape) - 2], *shape[len(out.shape) - 1 :]))


def _matmul(a: Var, b: Var) -> Var:
    if len(b.shape) == 2 and len(a.shape) > 2:  # one matrix for all: rows are rows
        flat = sh.reshape(a, (product(a.shape[:-1]), a.shape[-1]))
        return sh.reshape(_product(flat, b), (*a.shape[:-1], b.shape[-1]))
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise expected("matmul", "leading axes that broadcast together", f"{a.shape} and {b.shape}") from None
    return _product(sh.broadcast_to(a, (*lead, *a.shape[-2:])), sh.broadcast_to(b, (*lead, *b.shape[-2:])))


@array_function
def tensordot(x: Any, y: Any, *, axes: int | tuple[Any, Any] = 2) -> Var:
    """Products of x and y, summed over ``axes``: so many last ones of x and first ones of y, or (axes of x, axes of y); the others stay in order.

    Errors: TypeError for integers; ValueError for axes of different lengths.

    >>> tensordot(np.ones((2, 3)), np.ones((4, 3)), axes=((1,), (1,))).shape
    (2, 4)
    """
    dtype = common_dtype("tensordot", [array_operand("tensordot", v) for v in (x, y)])
    if dtype not in FLOATS:
        raise expected("tensordot", "float arrays", dtype, TypeError)
    a, b = sh.cast(x, dtype), sh.cast(y, dtype)
    of_a, of_b = _summed(axes, a, b)
    left, right = ([k for k in range(len(v.shape)) if k not in of] for v, of in ((a, of_a), (b, of_b)))
    lengths, m, n = [a.shape[k] for k in of_a], [a.shape[k] for k in left], [b.shape[k] for k in right]
    if lengths != [b.shape[k] for k in of_b]:
        raise expected("tensordot", "summed axes of the same lengths", f"{lengths} and {[b.shape[k] for k in of_b]}")
    rows = sh.reshape(sh.permute(a, (*left, *of_a)), (product(m), product(lengths)))
    columns = sh.reshape(sh.permute(b, (*of_b, *right)), (product(lengths), product(n)))
    return sh.reshape(_product(rows, columns), (*m, *n))


def _summed(axes: Any, a: Var, b: Var) -> tuple[list[int], list[int]]:
    """The axes of a, and for each the one of b, over which `tensordot` sums."""
    if isinstance(axes, tuple | list):
        if len(axes) != 2:
            raise expected("tensordot", "a number of axes or a pair (axes of x, axes of y)", axes)
        of_a, of_b = ([axis_of("tensordot", v, k) for k in static_integers("tensordot", each, "axes")] for v, each in zip((a, b), axes, strict=True))
        if len({*of_a}) < len(of_a) or len({*of_b}) < len(of_b):
            raise expected("tensordot", "different axes", axes)
        return of_a, of_b
    (n,), most = static_integers("tensordot", axes, "a number"), min(len(a.shape), len(b.shape))
    if not 0 <= n <= most:
        raise expected("tensordot", f"a number of axes in 0..{most}", n)
    return list(range(len(a.shape) - n, len(a.shape))), list(range(n))


def einsum(spec: str, *operands: Array) -> Array:
    """Einstein summation with an explicit or implied result, e.g. ``"nd,kd->nk"``; ``...`` stands for leading axes that broadcast.

    Of more than two operands the first two make one, and so on from left to right.
    Errors: ValueError for a text that does not fit the operands; TypeError for two or more operands of integers.

    >>> einsum("ij,jk,k->i", np.ones((2, 3)), np.ones((3, 4)), np.ones(4))
    array([12., 12.])
    """
    try:
        terms, out, operands = _terms(spec, operands)
    except (ValueError, TypeError) as error:
        raise located(error) from None
    while len(terms) > 2:
        later = set(out).union(*terms[2:])
        both = "".join(dict.fromkeys(c for c in terms[0] + terms[1] if c in later))
        one = _einsum(*operands[:2], terms=tuple(terms[:2]), out=both)
        terms, operands = [both, *terms[2:]], (one, *operands[2:])
    return _einsum(*operands, terms=tuple(terms), out=out)


def _terms(spec: Any, operands: tuple[Array, ...]) -> tuple[list[str], str, tuple[Array, ...]]:
    """The letters of each operand and of the result, and the operands, all without ``...``."""
    if not isinstance(spec, str):
        raise expected("einsum", "a text like 'ij,jk->ik' before the operands", type(spec).__name__, TypeError)
    left, arrow, out = spec.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise expected("einsum", "as many operands as terms", f"{len(operands)} for {spec!r}")
    letters = left.replace(",", "").replace("...", "")
    if not arrow:
        out = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    named = out.replace("...", "", 1)
    if not all(c.isalpha() for c in letters + named) or len(set(named)) != len(named) or not set(named) <= set(letters):
        raise expected("einsum", "letters for axes, each result axis once and in an operand", spec)
    if "..." not in left + out:
        return terms, out, operands
    if any(term.count("...") > 1 for term in terms) or ("..." in left) != ("..." in out):
        raise expected("einsum", "... once in a term, and in the result where it is in a term", spec)
    return _without_dots(terms, out, operands)


def _without_dots(terms: list[str], out: str, operands: tuple[Array, ...]) -> tuple[list[str], str, tuple[Array, ...]]:
    """Letters in place of ``...``, the axes that it stands for aligned at the right and broadcast."""
    shapes = [np.shape(x) for x in operands]
    counts = [len(shape) - len(term) + 3 if "..." in term else 0 for shape, term in zip(shapes, terms, strict=True)]
    at = [max(term.find("..."), 0) for term in terms]
    for shape, term, n in zip(shapes, terms, counts, strict=True):
        if n < 0:
            raise expected("einsum", f"at least {len(term) - 3} axes for '{term}'", shape)
    spans = [shape[k : k + n] for shape, k, n in zip(shapes, at, counts, strict=True)]
    try:
        common = np.broadcast_shapes(*spans)
    except ValueError:
        raise expected("einsum", "axes for ... that broadcast together", " and ".join(map(str, spans))) from None
    letters = "".join([c for c in ascii_letters if c not in "".join(terms)][: len(common)])
    full = [(*shape[:k], *common[len(common) - n :], *shape[k + n :]) for shape, k, n in zip(shapes, at, counts, strict=True)]
    wide = tuple(broadcast_to(x, shape) for x, shape in zip(operands, full, strict=True))
    named = [term.replace("...", letters[len(letters) - n :]) for term, n in zip(terms, counts, strict=True)]
    return named, out.replace("...", letters), wide


@array_function
def _einsum(*xs: Any, terms: tuple[str, ...], out: str) -> Var:
    dtype = common_dtype("einsum", xs)
    if len(xs) == 2 and dtype not in FLOATS:
        raise expected("einsum", "float arrays", dtype, TypeError)
    size: dict[str, int] = {}
    ys = []
    for k, (x, term) in enumerate(zip(xs, terms, strict=True)):
        x = sh.cast(array_operand("einsum", x), dtype)
        if len(term) != len(x.shape):
            raise expected("einsum", f"{len(term)} axes for '{term}'", x.shape)
        for c, n in zip(term, x.shape, strict=True):
            if size.setdefault(c, n) != n:
                raise expected("einsum", f"axis '{c}' of length {size[c]}", n)
        x, term = _diagonal(x, term)
        others = set("".join(terms[:k] + terms[k + 1 :]))
        gone = [c for c in term if c not in out and c not in others]
        ys.append((total(x, tuple(term.index(c) for c in gone)), "".join(c for c in term if c not in gone)))
    if len(ys) == 1:
        x, term = ys[0]
        return sh.permute(x, tuple(term.index(c) for c in out))
    (a, ta), (b, tb) = ys
    batch = [c for c in ta if c in tb and c in out]
    inner = [c for c in ta if c in tb and c not in out]
    rows, cols = [c for c in ta if c not in tb], [c for c in tb if c not in ta]

    def arrange(x: Var, term: str, *groups: list[str]) -> Var:
        x = sh.permute(x, tuple(term.index(c) for g in groups for c in g))
        return sh.reshape(x, (*[size[c] for c in batch], *[product(size[c] for c in g) for g in groups[1:]]))

    y = _product(arrange(a, ta, batch, rows, inner), arrange(b, tb, batch, inner, cols))
    order = [*batch, *rows, *cols]
    y = sh.reshape(y, tuple(size[c] for c in order))
    return sh.permute(y, tuple(order.index(c) for c in out))


def _diagonal(x: Var, term: str) -> tuple[Var, str]:
    """Keeps the diagonal of repeated letters: a mask and a sum."""
    for c in set(term):
        while term.count(c) > 1:
            i, j = [k for k, t in enumerate(term) if t == c][:2]
            n = x.shape[i]
            eye = sh.broadcast(x.graph.array(np.eye(n, dtype=DTYPES[x.dtype])), x.shape, (i, j))
            x, term = total(ew.multiply(x, eye), (j,)), term[:j] + term[j + 1 :]
    return x, term


@array_function
def inverse(x: Any) -> Var:
    """The inverses of symmetric positive definite matrices [.., n, n], covariances for instance.

    Elimination without exchange of rows: a pivot that is not above rounding gives NaN throughout.  Symmetry is not checked: a compiled
    function gives other matrices with such pivots their true inverse.
    Errors: ValueError for matrices that are not square.

    >>> inverse(np.array([[2.0, 1.0], [1.0, 1.0]]))
    array([[ 1., -1.],
           [-1.,  2.]])
    >>> inverse(np.array([[0.0, 1.0], [1.0, 0.0]]))
    array([[nan, nan],
           [nan, nan]])
    >>> inverse(np.array([[2.0, 1.0], [-1.0, 3.0]])).round(4)
    array([[ 0.4286, -0.1429],
           [ 0.1429,  0.2857]])
    """
    return array_operand("inverse", x).graph.emit(INVERSE, (floats_of(x),))


@array_function
def logdet(x: Any) -> Var:
    """The logarithms of the determinants of symmetric positive definite matrices [.., n, n], one of each: [..].

    NaN, and errors, are those of `inverse`.

    >>> logdet(np.array([[[2.0, 1.0], [1.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])).round(4)
    array([0.    , 1.3863,    nan])
    """
    return array_operand("logdet", x).graph.emit(LOGDET, (floats_of(x),))
