"""Bad input: every case is refused with its exception type and message, the same on every backend.

A message reads ``[where] expected ..., got ...``; errors of the engine end with the user's own line.
"""

from __future__ import annotations

import math
import operator
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hosts import BACKENDS, PURE

import fastmeta as fm
from fastmeta.names import MODULE, VALUE

HERE = re.escape(Path(__file__).name)
WIDE = np.float64


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


class Case(NamedTuple):
    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    error: type[Exception]
    message: str


def case(name: str, call: Callable[..., Any], *args: Any, error: type[Exception] = ValueError, message: str) -> Any:
    return pytest.param(Case(name, call, args, error, message), id=name)


def refusal(call: Callable[[], Any], error: type[Exception], message: str) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) is error, caught.value
    assert re.match(message, text), f"{message!r} does not match {text!r}"
    return text


# ---------------------------------------------------------------------------------------------- array functions
# Run compiled on both backends, and at once on plain arrays.

IN_AXIS = r"expected an axis in -1\.\.0 of \(2,\), got 2"
TWO_FLOATS = r"expected one float dtype for all operands, got f32\[.*\] and f64\[.*\]\. Convert one with fm\.astype, or pass dtype= where it is made"
INDEX = r"expected an index in 0\.\.2, got "

ARRAY_CASES = [
    # elementwise
    case("add-shapes", lambda x, y: fm.add(x, y), ones(2), ones(3), message=r"\[add\] expected shapes that broadcast together, got \(2,\) and \(3,\)"),
    case("multiply-dtypes", lambda x, y: fm.multiply(x, y), ones(2), ones(2, dtype=WIDE), error=TypeError, message=r"\[multiply\] " + TWO_FLOATS),
    case("maximum-dtypes", lambda x, y: fm.maximum(x, y), ones(2, dtype=WIDE), ones(3), error=TypeError, message=r"\[maximum\] expected one float dtype"),
    case("zeros-beside-float64", lambda x: fm.add(fm.zeros((2,)), x), ones(2, dtype=WIDE), error=TypeError, message=r"\[add\] " + TWO_FLOATS),
    case("add-none", lambda x: fm.add(x, None), ones(2), error=TypeError, message=r"\[add\] expected arrays and numbers, got NoneType"),
    case("add-text", lambda x: fm.add(x, "1"), ones(2), error=TypeError, message=r"\[array\] expected an array or a number, got str"),
    case("exp-list", lambda x: fm.exp([x, x]), ones(2), error=TypeError, message=r"\[exp\] expected arrays and numbers, got list"),
    case("add-one-operand", lambda x: fm.add(x), ones(2), error=TypeError, message=r"\[add\] expected 2 operands, got 1"),
    case("exp-two-operands", lambda x: fm.exp(x, x), ones(2), error=TypeError, message=r"\[exp\] expected 1 operands, got 2"),
    case("add-large-integer", lambda x: fm.add(x, 2**31), ints(1), error=OverflowError, message=r"\[array\] expected integers that fit in 32 bits, got 2147483648"),
    case("where-condition", lambda x: fm.where(x, x, x), ones(2), error=TypeError, message=r"\[where\] expected a bool condition, got f32"),
    case("where-shapes", lambda c, x: fm.where(c, x, 0.0), ones(2, dtype=bool), ones(3), message=r"\[where\] expected shapes that broadcast together, got \(2,\) and \(3,\) and \(\)"),
    case("where-dtypes", lambda c, x, y: fm.where(c, x, y), ones(2, dtype=bool), ones(2), ones(2, dtype=WIDE), error=TypeError, message=r"\[where\] " + TWO_FLOATS),
    case("astype-half", lambda x: fm.astype(x, dtype=np.float16), ones(2), error=TypeError, message=r"\[astype\] expected dtype float32, float64, int32 or bool, got .*float16"),
    case("astype-name", lambda x: fm.astype(x, dtype="real"), ones(2), error=TypeError, message=r"\[astype\] expected dtype .*, got real"),
    # reductions
    case("sum-axis", lambda x: fm.sum(x, axis=2), ones(2), message=r"\[sum\] " + IN_AXIS),
    case("sum-axis-traced", lambda x, axis: fm.jit(lambda x, axis: fm.sum(x, axis=axis))(x, axis), ones(2), ints(0), error=TypeError, message=r"\[sum\] expected axes that are known while tracing, got a traced array\. Fix them inside of the function"),
    case("sum-by-name", lambda x: fm.sum(x=x, axis=0), ones(2), error=TypeError, message=r"\[sum\] expected arrays by place, got x="),
    case("sum-axis-twice", lambda x: fm.sum(x, axis=(0, -1)), ones(2), message=r"\[sum\] expected different axes, got \(0, -1\)"),
    case("mean-axis-text", lambda x: fm.mean(x, axis="0"), ones(2), message=r"\[mean\] expected an axis in -1\.\.0 of \(2,\), got 0"),
    case("mean-empty", lambda x: fm.mean(x, axis=0), ones(0, 3), message=r"\[mean\] expected at least one element, got \(0, 3\)"),
    case("var-empty", lambda x: fm.var(x), ones(0), message=r"\[var\] expected at least one element, got \(0,\)"),
    case("var-correction", lambda x: fm.var(x, axis=0, correction=1), ones(1, 3), message=r"\[var\] expected more than 1 elements, got \(1, 3\)"),
    case("median-empty", lambda x: fm.median(x, axis=1), ones(2, 0), message=r"\[median\] expected at least one element, got \(2, 0\)"),
    case("median-axis", lambda x: fm.median(x, axis=2), ones(2), message=r"\[median\] " + IN_AXIS),
    case("max-empty", lambda x: fm.max(x), ones(0), message=r"\[max\] expected at least one element to reduce, got \(0,\)"),
    case("min-bool", lambda x: fm.min(x), ones(2, dtype=bool), error=TypeError, message=r"\[min\] expected numbers, got bool\[2\]"),
    case("argmax-empty", lambda x: fm.argmax(x, axis=0), ones(0, 3), message=r"\[argmax\] expected at least one element to reduce, got \(0, 3\)"),
    case("argmin-axes", lambda x: fm.argmin(x, axis=(0, 1)), ones(2, 3), error=TypeError, message=r"\[argmin\] expected one axis or None, got \(0, 1\)"),
    case("prod-axis", lambda x: fm.prod(x, axis=0.5), ones(2), message=r"\[prod\] expected an axis in -1\.\.0 of \(2,\), got 0\.5"),
    case("cumulative_sum-axis", lambda x: fm.cumulative_sum(x), ones(2, 2), message=r"\[cumulative_sum\] expected axis to be given for more than one axis, got \(2, 2\)"),
    case("softmax-axis", lambda x: fm.softmax(x, axis=2), ones(2), message=r"\[softmax\] " + IN_AXIS),
    case("softmax-scalar", lambda x: fm.softmax(x), np.float32(1), message=r"\[softmax\] expected an array of at least one axis, got \(\)"),
    case("log_softmax-integers", lambda x: fm.log_softmax(x), ints(1, 2), error=TypeError, message=r"\[log_softmax\] expected a float array, got i32\[2\]"),
    case("logsumexp-bools", lambda x: fm.logsumexp(x), ones(2, dtype=bool), error=TypeError, message=r"\[logsumexp\] expected a float array, got bool\[2\]"),
    # products
    case("matmul-inner", lambda x, y: fm.matmul(x, y), ones(2, 3), ones(2, 3), message=r"\[matmul\] expected inner sizes to agree, got \(2, 3\) and \(2, 3\)"),
    case("matmul-vectors", lambda x, y: fm.matmul(x, y), ones(3), ones(2), message=r"\[matmul\] expected inner sizes to agree, got \(3,\) and \(2,\)"),
    case("matmul-batch", lambda x, y: fm.matmul(x, y), ones(2, 3, 4), ones(3, 4, 5), message=r"\[matmul\] expected leading axes that broadcast together, got \(2, 3, 4\) and \(3, 4, 5\)"),
    case("matmul-integers", lambda x: fm.matmul(x, x), ints(1, 2), error=TypeError, message=r"\[matmul\] expected float arrays, got i32"),
    case("matmul-number", lambda x: fm.matmul(x, 2.0), ones(2, 3), message=r"\[matmul\] expected arrays of at least one axis, got \(2, 3\) and 2\.0"),
    case("matmul-dtypes", lambda x, y: fm.matmul(x, y), ones(2, 3), ones(3, 2, dtype=WIDE), error=TypeError, message=r"\[matmul\] " + TWO_FLOATS),
    case("einsum-operands", lambda x: fm.einsum("ij,jk->ik", x), ones(2, 3), message=r"\[einsum\] expected as many operands as terms, got 1 for 'ij,jk->ik'"),
    case("einsum-three", lambda x: fm.einsum("ij,jk,kl->il", x, x, ones(2, 3)), ones(3, 3), message=r"\[einsum\] expected axis 'k' of length 3, got 2"),
    case("einsum-rank", lambda x: fm.einsum("ijk->i", x), ones(2, 3), message=r"\[einsum\] expected 3 axes for 'ijk', got \(2, 3\)"),
    case("einsum-lengths", lambda x: fm.einsum("ij,jk->ik", x, x), ones(2, 3), message=r"\[einsum\] expected axis 'j' of length 3, got 2"),
    case("einsum-result", lambda x: fm.einsum("ij->ijk", x), ones(2, 3), message=r"\[einsum\] expected letters for axes, each result axis once and in an operand, got ij->ijk"),
    case("einsum-ellipsis", lambda x: fm.einsum("...i->i", x), ones(2, 3), message=r"\[einsum\] expected \.\.\. once in a term, and in the result where it is in a term, got \.\.\.i->i"),
    case("einsum-ellipses", lambda x: fm.einsum("...i...->...", x), ones(2, 3), message=r"\[einsum\] expected \.\.\. once in a term"),
    case("einsum-dots", lambda x: fm.einsum("..i->i", x), ones(2, 3), message=r"\[einsum\] expected letters for axes"),
    case("einsum-ellipsis-axes", lambda x: fm.einsum("...ijk->...i", x), ones(2, 3), message=r"\[einsum\] expected at least 3 axes for '\.\.\.ijk', got \(2, 3\)"),
    case("einsum-ellipsis-lengths", lambda x, y: fm.einsum("...i,...i->...", x, y), ones(2, 3), ones(4, 3), message=r"\[einsum\] expected axes for \.\.\. that broadcast together, got \(2,\) and \(4,\)"),
    case("einsum-integers", lambda x: fm.einsum("i,i->", x, x), ints(1, 2), error=TypeError, message=r"\[einsum\] expected float arrays, got i32"),
    case("einsum-dtypes", lambda x, y: fm.einsum("i,i->", x, y), ones(2), ones(2, dtype=WIDE), error=TypeError, message=r"\[einsum\] " + TWO_FLOATS),
    case("einsum-specification", lambda x: fm.einsum(x, x), ones(2), error=TypeError, message=r"\[einsum\] expected a text like 'ij,jk->ik' before the operands, got (ndarray|Tracer)"),
    case("tensordot-lengths", lambda x: fm.tensordot(x, x, 1), ones(2, 3), message=r"\[tensordot\] expected summed axes of the same lengths, got \[3\] and \[2\]"),
    case("tensordot-counts", lambda x: fm.tensordot(x, x, ((0, 1), (0,))), ones(2, 3), message=r"\[tensordot\] expected summed axes of the same lengths, got \[2, 3\] and \[2\]"),
    case("tensordot-number", lambda x: fm.tensordot(x, x, 3), ones(2, 3), message=r"\[tensordot\] expected a number of axes in 0\.\.2, got 3"),
    case("tensordot-pair", lambda x: fm.tensordot(x, x, (0, 1, 1)), ones(2, 3), message=r"\[tensordot\] expected a number of axes or a pair \(axes of x, axes of y\), got \(0, 1, 1\)"),
    case("tensordot-twice", lambda x: fm.tensordot(x, x, ((0, -2), (0, 0))), ones(2, 3), message=r"\[tensordot\] expected different axes, got \(\(0, -2\), \(0, 0\)\)"),
    case("tensordot-axis", lambda x: fm.tensordot(x, x, (2, 0)), ones(2, 3), message=r"\[tensordot\] expected an axis in -2\.\.1 of \(2, 3\), got 2"),
    case("tensordot-integers", lambda x: fm.tensordot(x, x, 1), ints(1, 2), error=TypeError, message=r"\[tensordot\] expected float arrays, got i32"),
    case("tensordot-dtypes", lambda x, y: fm.tensordot(x, y, 1), ones(2), ones(2, dtype=WIDE), error=TypeError, message=r"\[tensordot\] " + TWO_FLOATS),
    # norms, diagonals
    case("norm-ord", lambda x: fm.norm(x, ord=3), ones(2), message=r"\[norm\] expected ord 1, 2 or infinity, got 3"),
    case("norm-axis", lambda x: fm.norm(x, axis=2), ones(2), message=r"\[sum\] " + IN_AXIS),
    case("diagonal-axes", lambda x: fm.diagonal(x), ones(2), message=r"\[diagonal\] expected at least two axes, got \(2,\)"),
    case("diagonal-offset", lambda x: fm.diagonal(x, offset=0.5), ones(2, 2), error=TypeError, message=r"\[diagonal\] expected an offset of integers known while tracing, got 0\.5"),
    case("diag-axes", lambda x: fm.diag(x), ones(2, 2, 2), message=r"\[diag\] expected a vector or a matrix, got shape \(2, 2, 2\)"),
    case("outer-axes", lambda x, y: fm.outer(x, y), ones(2, 2), ones(2), message=r"\[outer\] expected two vectors, got shapes \(2, 2\) and \(2,\)"),
    case("solve-shape", lambda x, y: fm.solve(x, y), ones(3, 2), ones(2), message=r"\[inverse\] expected "),
    case("cumulative_prod-axis", lambda x: fm.cumulative_prod(x), ones(2, 2), message=r"\[cumulative_prod\] expected axis to be given for more than one axis, got \(2, 2\)"),
    # shapes
    case("reshape-size", lambda x: fm.reshape(x, (4,)), ones(2, 3), message=r"\[reshape\] expected a shape of 6 elements for \(2, 3\), got \(4,\)"),
    case("reshape-rest", lambda x: fm.reshape(x, (4, -1)), ones(2, 3), message=r"\[reshape\] expected a shape of 6 elements for \(2, 3\), got \(4, -1\)"),
    case("reshape-two-rests", lambda x: fm.reshape(x, (-1, -1)), ones(2, 3), message=r"\[reshape\] expected a shape of 6 elements for \(2, 3\), got \(-1, -1\)"),
    case("reshape-float", lambda x: fm.reshape(x, (2.0, 3.0)), ones(2, 3), error=TypeError, message=r"\[reshape\] expected a shape of integers known while tracing, got \(2\.0, 3\.0\)"),
    case("permute_dims-repeated", lambda x: fm.permute_dims(x, (0, 0)), ones(2, 3), message=r"\[permute_dims\] expected a permutation of the 2 axes of \(2, 3\), got \(0, 0\)"),
    case("permute_dims-short", lambda x: fm.permute_dims(x, (0,)), ones(2, 3), message=r"\[permute_dims\] expected a permutation of the 2 axes of \(2, 3\), got \(0,\)"),
    case("broadcast_to-shape", lambda x: fm.broadcast_to(x, (2, 2)), ones(3), message=r"\[broadcast_to\] expected a shape that broadcasts to \(2, 2\), got \(3,\)"),
    case("broadcast_to-fewer-axes", lambda x: fm.broadcast_to(x, (3,)), ones(2, 3), message=r"\[broadcast_to\] expected a shape that broadcasts to \(3,\), got \(2, 3\)"),
    case("broadcast_to-negative", lambda x: fm.broadcast_to(x, (-1, 3)), ones(3), message=r"\[broadcast_to\] expected lengths of at least 0, got \(-1, 3\)"),
    case("expand_dims-axis", lambda x: fm.expand_dims(x, axis=3), ones(2), message=r"\[expand_dims\] expected an axis in -2\.\.1, got 3"),
    case("expand_dims-axes", lambda x: fm.expand_dims(x, (0, 3)), ones(2), message=r"\[expand_dims\] expected different axes in -3\.\.2, got \(0, 3\)"),
    case("expand_dims-twice", lambda x: fm.expand_dims(x, (0, -3)), ones(2), message=r"\[expand_dims\] expected different axes in -3\.\.2, got \(0, -3\)"),
    case("moveaxis-counts", lambda x: fm.moveaxis(x, (0, 1), 0), ones(2, 3), message=r"\[moveaxis\] expected as many different sources as destinations, got \(0, 1\) and 0"),
    case("roll-counts", lambda x: fm.roll(x, (1, 2, 3), (0, 1)), ones(2, 3), message=r"\[roll\] expected a shift for each axis, got \(1, 2, 3\) for \(0, 1\)"),
    case("roll-shifts", lambda x: fm.roll(x, (1, 2)), ones(2, 3), message=r"\[roll\] expected one shift for one axis, got \(1, 2\)"),
    case("meshgrid-vectors", lambda x, y: fm.meshgrid(x, y)[0], ones(2), ones(2, 3), message=r"\[meshgrid\] expected vectors, got shapes \(2,\), \(2, 3\)"),
    case("meshgrid-indexing", lambda x: fm.meshgrid(x, indexing="yx")[0], ones(2), message=r"\[meshgrid\] expected indexing 'xy' or 'ij', got 'yx'"),
    case("squeeze-length", lambda x: fm.squeeze(x, axis=0), ones(2), message=r"\[squeeze\] expected axes of length 1, got axis 0 of \(2,\)"),
    case("flip-axis", lambda x: fm.flip(x, axis=2), ones(2), message=r"\[flip\] " + IN_AXIS),
    case("concat-shapes", lambda x, y: fm.concat([x, y]), ones(2, 3), ones(2, 4), message=r"\[concat\] expected f32\[2, 3\] but for axis 0, got f32\[2, 4\]"),
    case("concat-ranks", lambda x, y: fm.concat([x, y]), ones(2, 3), ones(2), message=r"\[concat\] expected f32\[2, 3\] but for axis 0, got f32\[2\]"),
    case("concat-dtypes", lambda x, y: fm.concat([x, y]), ones(2), ones(2, dtype=WIDE), error=TypeError, message=r"\[concat\] " + TWO_FLOATS),
    case("concat-nothing", lambda x: fm.concat([]), ones(2), message=r"\[concat\] expected at least one array, got none"),
    case("concat-number", lambda x: fm.concat([x, 1.0]), ones(2), error=TypeError, message=r"\[concat\] expected an array, got float"),
    case("concat-array", lambda x: fm.concat(x), ones(2, 3), error=TypeError, message=r"\[concat\] expected a list of arrays, got f32\[2, 3\]"),
    case("stack-shapes", lambda x, y: fm.stack([x, y]), ones(2), ones(3), message=r"\[stack\] expected arrays of one shape, \(2,\), got \(3,\)"),
    case("stack-axis", lambda x: fm.stack([x], axis=2), ones(2), message=r"\[stack\] expected an axis in -2\.\.1, got 2"),
    case("pad-count", lambda x: fm.pad(x, widths=((1, 1),)), ones(2, 2), message=r"\[pad\] expected 2 pairs \(before, after\) of lengths of at least 0, got \(\(1, 1\),\)"),
    case("pad-mode", lambda x: fm.pad(x, ((1, 1),), "constant"), ones(2), error=TypeError, message=r"\[pad\] expected value a number, got 'constant'"),
    case("pad-negative", lambda x: fm.pad(x, widths=((-1, 1),)), ones(2), message=r"\[pad\] expected 1 pairs .* of at least 0, got \(\(-1, 1\),\)"),
    # indices
    case("take-axis", lambda x, k: fm.take(x, k), ones(3, 3), ints(0), message=r"\[take\] expected axis to be given for more than one axis, got \(3, 3\)"),
    case("take-floats", lambda x, k: fm.take(x, k), ones(3), ones(2), error=TypeError, message=r"\[take\] expected integer indices, got f32\[2\]"),
    case("take-float", lambda x: fm.take(x, 1.5), ones(3), error=TypeError, message=r"\[take\] expected integer indices, got float"),
    case("take-outside", lambda x, k: fm.take(x, k), ones(3), ints(0, 3), error=IndexError, message=r"\[take\] " + INDEX + "3"),
    case("take-negative", lambda x, k: fm.take(x, k), ones(3), ints(0, -1), error=IndexError, message=r"\[take\] " + INDEX + "-1"),
    case("take_along_axis-shape", lambda x, k: fm.take_along_axis(x, k), ones(3, 3), ints([0], [0]), message=r"\[take\] expected an index that matches \(3, 3\) but for axis 1, got \(2, 1\)"),
    case("take_along_axis-outside", lambda x, k: fm.take_along_axis(x, k), ones(3, 3), ints([0], [1], [7]), error=IndexError, message=r"\[take\] " + INDEX + "7"),
    case("scatter_add-indices", lambda x, k: fm.scatter_add(x, k, 1.0), ones(3), ints([0], [1]), message=r"\[scatter_add\] expected indices of one axis, got \(2, 1\)"),
    case("scatter_add-updates", lambda x, k, u: fm.scatter_add(x, k, u), ones(3), ints(0, 1), ones(3), message=r"\[scatter_add\] expected a shape that broadcasts to \(2,\), got \(3,\)"),
    case("scatter_add-dtypes", lambda x, k, u: fm.scatter_add(x, k, u), ones(3), ints(0, 1), ones(2, dtype=WIDE), error=TypeError, message=r"\[scatter_add\] " + TWO_FLOATS),
    case("scatter_add-floats-to-integers", lambda x, k: fm.scatter_add(x, k, 0.5), ints(1, 2, 3), ints(0, 1), error=TypeError, message=r"\[scatter_add\] expected updates of dtype i32, got float"),
    case("scatter_add-outside", lambda x, k: fm.scatter_add(x, k, 1.0), ones(3), ints(0, 7), error=IndexError, message=r"\[scatter_add\] " + INDEX + "7"),
    case("one_hot-floats", lambda x: fm.one_hot(x, 3), ones(3), error=TypeError, message=r"\[one_hot\] expected integer labels, got f32\[3\]"),
    case("one_hot-negative", lambda x: fm.one_hot(x, -1), ints(0), message=r"\[one_hot\] expected n a whole number of at least 0, got -1"),
    case("one_hot-dtype", lambda x: fm.one_hot(x, 3, dtype=np.int64), ints(0), error=TypeError, message=r"\[one_hot\] expected dtype float32, float64, int32 or bool, got .*int64"),
    # neural
    case("mse-shapes", lambda x, y: fm.nn.mse(x, y), ones(3), ones(3, 1), message=r"\[mse\] expected a target of shape \(3,\), got \(3, 1\)"),
    case("cross_entropy-shapes", lambda x, y: fm.nn.cross_entropy(x, y), ones(3, 4), ints([0], [1], [2]), message=r"\[cross_entropy\] expected labels of shape \(3,\), got \(3, 1\)"),
    case("cross_entropy-floats", lambda x, y: fm.nn.cross_entropy(x, y), ones(3, 4), ones(3), error=TypeError, message=r"\[cross_entropy\] expected integer labels, got float32"),
    case("cross_entropy-scalar", lambda x, y: fm.nn.cross_entropy(x, y), np.float32(1), np.int64(0), message=r"\[cross_entropy\] expected logits of at least one axis, got "),
    case("cross_entropy-label", lambda x, y: fm.nn.cross_entropy(x, y), ones(3, 3), ints(0, 3, 1), error=IndexError, message=r"\[cross_entropy\] expected a label in 0\.\.2, got 3"),
    case("cross_entropy-list", lambda x, y: fm.nn.cross_entropy(x, [y[0], y[1]]), ones(2, 3), ints(0, 1), error=TypeError, message=r"\[cross_entropy\] expected labels as one array, got list"),
    case("accuracy-shapes", lambda x, y: fm.nn.accuracy(x, y), ones(3, 2), ints(0, 1, 0, 1), message=r"\[accuracy\] expected labels of shape \(3,\), got \(4,\)"),
    case("linear-inner", lambda x, w: fm.nn.linear(x, w), ones(4, 3), ones(4, 2), message=r"\[matmul\] expected inner sizes to agree, got \(4, 3\) and \(4, 2\)"),
    case("linear-bias", lambda x, w, b: fm.nn.linear(x, w, b), ones(4, 3), ones(3, 2), ones(4, 2), message=r"\[linear\] expected b of shape \(2,\), got \(4, 2\)"),
    case("batch_norm-rank", lambda x: fm.nn.batch_norm(x), ones(3), message=r"\[batch_norm\] expected an array of at least two axes, got \(3,\)"),
    case("batch_norm-one-row", lambda x: fm.nn.batch_norm(x), ones(1, 3), message=r"\[batch_norm\] expected more than one element per channel \(or given statistics\), got \(1, 3\)"),
    case("batch_norm-scale", lambda x, s: fm.nn.batch_norm(x, s), ones(4, 3), ones(4, 3), message=r"\[batch_norm\] expected scale of shape \(3,\), got \(4, 3\)"),
    case("batch_norm-statistics", lambda x, s: fm.nn.batch_norm(x, statistics=(s, s)), ones(4, 3), ones(4), message=r"\[batch_norm\] expected a mean of shape \(3,\), got \(4,\)"),
]  # fmt: skip


@pytest.mark.parametrize("bad", ARRAY_CASES)
def test_array_functions(bad: Case) -> None:
    texts = []
    for name in BACKENDS:
        with fm.set_backend(name):
            texts.append(refusal(lambda: fm.jit(bad.call)(*bad.args), bad.error, bad.message))
    assert texts[0] == texts[1]
    assert re.search(rf"{HERE}:\d+\)$", texts[0]), f"no line of this file in {texts[0]!r}"
    refusal(lambda: bad.call(*bad.args), bad.error, bad.message)


@pytest.mark.parametrize("bad", ARRAY_CASES)
def test_array_functions_inside_tasks(bad: Case) -> None:
    """The same under map_tasks(value_and_grad(...)); indices outside then name the task."""
    mapped = [np.stack([np.zeros_like(x) if bad.error is IndexError and x.dtype.kind == "i" else x] * 2 + [x] * 2) for x in map(np.asarray, bad.args)]

    def task(p: Any, *args: Any) -> Any:
        return p * fm.mean(fm.astype(bad.call(*args), dtype="float32"))

    meta = fm.map_tasks(fm.value_and_grad(task), in_axes=(None, *[0] * len(mapped)), reduce="mean")
    texts = []
    for name in BACKENDS:
        with fm.set_backend(name):
            texts.append(refusal(lambda: meta(np.float32(1), *mapped), bad.error, bad.message))
    assert texts[0] == texts[1]
    if bad.error is IndexError:
        assert f"in task 2 ({__file__}:" in texts[0]


# ------------------------------------------------------------------------- tracing, transforms, loops, entry

TRACED = r"\[trace\] expected a value known while tracing for "
RETURNED = r"\[trace\] expected a value of a running trace, got Tracer\(float32\[2\]\) of a function that has already returned"
x2 = ones(2)
kept: list[Any] = []


def keep(x: Any) -> Any:
    kept[:] = [x]
    return x


def assign(x: Any) -> Any:
    x[0] = 1.0
    return x


def assign_into_numpy(x: Any) -> Any:
    y = np.zeros(2, np.float32)
    y[0] = x[0]
    return y


def add_into_numpy(x: Any) -> Any:
    y = np.zeros(2, np.float32)
    y += x
    return y


def after(use: Callable[[Any], Any]) -> Any:
    fm.jit(lambda x: keep(x) * 2.0)(x2)
    return use(kept[0])


def inner_leak(x: Any) -> Any:
    fm.grad(lambda y: fm.sum(keep(y)))(x)
    return kept[0] + 1.0


def named(x: Any, *, k: int) -> Any:
    return fm.sum(x * k)


def total(p: Any) -> Any:
    return sum(fm.sum(v) for v in (p.values() if isinstance(p, dict) else [p]))


def steps(step: Callable[..., Any], init: Any, *args: Any, **static: Any) -> Callable[[], Any]:
    return lambda: fm.scan(step, init, *args, **static)


ENGINE_CASES = [
    # Python that needs numbers
    case("if", lambda: fm.jit(lambda x: x if x > 0 else -x)(np.float32(1)), error=TypeError, message=TRACED + r"if, while, and, or, got Tracer\(bool\[\]\)\. Use fm\.where\(condition, a, b\); .* fm\.scan"),
    case("while", lambda: fm.jit(lambda x: [0 for _ in iter(lambda: bool(x < 3), False)])(np.float32(1)), error=TypeError, message=TRACED + "if, while"),
    case("and", lambda: fm.jit(lambda x: x and x)(x2), error=TypeError, message=TRACED + r"if, while, and, or, got Tracer\(float32\[2\]\)"),
    case("float", lambda: fm.jit(lambda x: float(x))(np.float32(1)), error=TypeError, message=TRACED + r"float\(\), got Tracer\(float32\[\]\)"),
    case("round", lambda: fm.jit(lambda x: round(x, 2))(np.float32(1)), error=TypeError, message=TRACED + r"round\(\), got Tracer\(float32\[\]\)\. Use fm\.round\(x\)"),
    case("format", lambda: fm.jit(lambda x: f"{x} {x:.3f}")(np.float32(1)), error=TypeError, message=TRACED + r"the format '\.3f', got Tracer\(float32\[\]\)\. Use the value after the call: return it from the function, beside a loss with has_aux=True"),
    case("math", lambda: fm.jit(lambda x: math.exp(x))(np.float32(1)), error=TypeError, message=TRACED + r"float\(\)"),
    case("int", lambda: fm.jit(lambda x: int(x))(np.float32(1)), error=TypeError, message=TRACED + r"int\(\), range\(\) or an index"),
    case("range", lambda: fm.jit(lambda n: sum(range(n)))(3), error=TypeError, message=TRACED + r"int\(\), range\(\) or an index, got Tracer\(int32\[\]\)"),
    case("list-index", lambda: fm.jit(lambda n: [1, 2][n])(1), error=TypeError, message=TRACED + r"int\(\), range\(\) or an index"),
    case("slice-bound", lambda: fm.jit(lambda x, n: x[:n])(x2, 1), error=TypeError, message=TRACED + r"int\(\), range\(\) or an index"),
    case("numpy-ufunc", lambda: fm.jit(lambda x: np.exp(x))(x2), error=TypeError, message=TRACED + r"a NumPy function, .* Use the function of the same name in fastmeta"),
    case("numpy-function", lambda: fm.jit(lambda x: np.sum(x))(x2), error=TypeError, message=TRACED + r"a NumPy function, got Tracer\(float32\[2\]\)"),
    case("numpy-concatenate", lambda: fm.jit(lambda x: np.concatenate([x, x]))(x2), error=TypeError, message=TRACED + "a NumPy function"),
    case("numpy-array", lambda: fm.jit(lambda x: np.array([x, x]))(x2), error=TypeError, message=TRACED + "a NumPy function"),
    case("numpy-out", lambda: fm.jit(lambda x: np.add(x2, x, out=np.zeros(2, np.float32)))(x2), error=TypeError, message=TRACED + "a NumPy function"),
    case("assignment", lambda: fm.jit(assign)(x2), error=TypeError, message=TRACED + r"assignment into it, got Tracer\(float32\[2\]\)\. Use fm\.where, fm\.concat or fm\.scatter_add"),
    case("assignment-into-numpy", lambda: fm.jit(assign_into_numpy)(x2), error=TypeError, message=TRACED + r"float\(\)"),
    case("addition-into-numpy", lambda: fm.jit(add_into_numpy)(x2), error=TypeError, message=TRACED + "a NumPy function"),
    case("len-of-scalar", lambda: fm.jit(lambda x: len(x))(np.float32(1)), error=TypeError, message=r"\[len\] expected an array of at least one axis, got Tracer\(float32\[\]\)"),
    case("iteration-over-scalar", lambda: fm.jit(lambda x: [v for v in x])(np.float32(1)), error=TypeError, message=r"\[len\] expected an array of at least one axis"),
    case("reshape-to-traced", lambda: fm.jit(lambda x, n: fm.reshape(x, (n,)))(x2, 2), error=TypeError, message=r"\[reshape\] expected a shape of integers known while tracing, got \(Tracer\(int32\[\]\),\)"),
    case("leak-to-array-function", lambda: after(fm.exp), error=RuntimeError, message=RETURNED),
    case("leak-to-operator", lambda: after(lambda x: x + 1.0), error=RuntimeError, message=RETURNED),
    case("leak-to-trace", lambda: after(lambda x: fm.jit(lambda y: y + x)(x2)), error=RuntimeError, message=RETURNED),
    case("leak-to-argument", lambda: after(fm.jit(lambda y: y + 1.0)), error=RuntimeError, message=RETURNED),
    case("leak-of-inner-trace", lambda: fm.jit(inner_leak)(x2), error=RuntimeError, message=RETURNED),
    # operators and methods
    case("and-integers", lambda: fm.jit(lambda i: i & 1)(ints(2, 3)), error=TypeError, message=r"\[&\] expected bools, got int32\. Use fm\.logical_and of conditions such as x != 0, or arithmetic such as i % 2"),
    case("or-array", lambda: fm.jit(lambda i: ints(2, 3) | (i > 2))(ints(2, 3)), error=TypeError, message=r"\[\|\] expected bools, got int64\. Use fm\.logical_or"),
    case("or-number", lambda: fm.jit(lambda x: (x > 0) | 1)(x2), error=TypeError, message=r"\[\|\] expected bools, got int\. Use fm\.logical_or"),
    case("xor-floats", lambda: fm.jit(lambda x: x ^ x)(x2), error=TypeError, message=r"\[\^\] expected bools, got float32\. Use fm\.not_equal"),
    case("invert-integers", lambda: fm.jit(lambda i: ~i)(ints(2, 3)), error=TypeError, message=r"\[~\] expected bools, got int32\. Use fm\.logical_not"),
    case("numpy-at-traced", lambda: fm.jit(lambda i: np.arange(3.0)[i])(ints(2, 1)), error=TypeError, message=TRACED + r"a NumPy function, .* for array\[x\] of a NumPy array fm\.take\(array, x, axis=0\)"),
    case("builtin-max", lambda: fm.jit(lambda x: max(x, 0.0))(np.float32(1)), error=TypeError, message=TRACED + r"if, .* fm\.maximum and fm\.minimum for max\(\) and min\(\)"),
    case("dot-axes", lambda: fm.jit(lambda x: x.dot(x))(ones(2, 2, 2)), message=r"\[dot\] expected a vector or a matrix to multiply with, got shape \(2, 2, 2\)\. Use fm\.matmul or fm\.einsum"),
    case("diagonal-axes", lambda: fm.jit(lambda x: x.diagonal(0, 1, -1))(ones(2, 2)), message=r"\[diagonal\] expected two axes of \(2, 2\), got \(1, -1\)"),
    # indexing
    case("index-count", lambda: fm.jit(lambda x: x[0, 0])(x2), error=IndexError, message=r"\[index\] expected at most 1 indices and one \.\.\. for \(2,\), got 2 indices"),
    case("index-outside", lambda: fm.jit(lambda x: x[2])(x2), error=IndexError, message=r"\[index\] expected an index in -2\.\.1 for axis 0 of \(2,\), got 2"),
    case("index-float", lambda: fm.jit(lambda x: x[0.5])(x2), error=TypeError, message=r"\[index\] expected integers, slices, \.\.\., None or an integer array, got 0\.5"),
    case("index-bools", lambda: fm.jit(lambda x: x[x > 0])(x2), error=TypeError, message=r"\[take\] expected integer indices, got bool\[2\]. Mask with fm.where"),
    case("index-mask-length", lambda: fm.jit(lambda x: x[np.array([True, False, True])])(x2), error=IndexError, message=r"\[index\] expected a mask of length 2, got 3"),
    case("index-two-arrays", lambda: fm.jit(lambda x: x[:, ints(0, 1, 1), ints(1, 0)])(ones(2, 2, 2)), error=IndexError, message=r"\[index\] expected arrays that broadcast together, got \(3,\) and \(2,\)"),
    case("index-array-outside", lambda: fm.jit(lambda x: x[ints(0, 1, -3)])(x2), error=IndexError, message=r"\[index\] expected indices in -2\.\.1, got -3"),
    case("index-float-array", lambda: fm.jit(lambda x: x[ones(2)])(x2), error=TypeError, message=r"\[index\] expected integers, .* or an integer array, got an array of float32"),
    case("index-traced-list", lambda: fm.jit(lambda x, n: x[[n, 0]])(x2, 1), error=TypeError, message=r"\[array\] expected an array, got a list of traced values\. Join them with fm\.stack"),
    case("index-float-arrays", lambda: fm.jit(lambda x, y: x[y, y])(ones(2, 2), x2), error=TypeError, message=r"\[take\] expected integer indices, got f32\[2\]"),
    case("index-two-ellipses", lambda: fm.jit(lambda x: x[..., ints(0), ...])(ones(2, 2)), error=IndexError, message=r"\[index\] expected at most 2 indices and one \.\.\."),
    case("slice-step", lambda: fm.jit(lambda x: x[::0])(x2), error=TypeError, message=r"\[index\] expected a slice of integers with a step other than 0, got None:None:0"),
    case("slice-float", lambda: fm.jit(lambda x: x[:1.5])(x2), error=TypeError, message=r"\[index\] expected a slice of integers .*, got None:1\.5:None"),
    # new arrays
    case("zeros-length", lambda: fm.jit(lambda x: fm.zeros((2, -1)))(x2), message=r"\[zeros\] expected lengths of at least 0, got \(2, -1\)"),
    case("ones-traced", lambda: fm.jit(lambda n: fm.ones(n))(3), error=TypeError, message=r"\[ones\] expected a shape of integers known while tracing, got Tracer"),
    case("zeros-dtype", lambda: fm.jit(lambda x: fm.zeros(2, dtype=np.int64))(x2), error=TypeError, message=r"\[zeros\] expected dtype float32, float64, int32 or bool, got .*int64"),
    case("full-integer", lambda: fm.jit(lambda x: fm.full(2, 2**31))(x2), error=OverflowError, message=r"\[full\] expected integers that fit in 32 bits, got 2147483648"),
    case("arange-traced", lambda: fm.jit(lambda n: fm.arange(n))(3), error=TypeError, message=r"\[arange\] expected finite numbers known while tracing, got \(0, Tracer\(int32\[\]\), 1\)"),
    case("arange-step", lambda: fm.jit(lambda x: fm.arange(0, 3, 0))(x2), message=r"\[arange\] expected a step other than 0, got 0"),
    case("linspace-count", lambda: fm.jit(lambda x: fm.linspace(0, 1, 2.5))(x2), error=TypeError, message=r"\[linspace\] expected num a whole number, got 2\.5"),
    # what may enter
    case("complex", lambda: fm.jit(lambda x: x + 1)(ones(2, dtype=complex)), error=TypeError, message=r"\[array\] expected float32, float64, an integer dtype or bool, got complex128"),
    case("objects", lambda: fm.jit(lambda x: x + 1)(np.array([object(), 1])), error=TypeError, message=r"\[array\] expected .*, got object"),
    case("texts", lambda: fm.jit(lambda x: x + 1)(np.array(["a"])), error=TypeError, message=r"\[array\] expected .*, got <U1"),
    case("halves", lambda: fm.jit(lambda x: x + 1)(ones(2, dtype=np.float16)), error=TypeError, message=r"\[array\] expected .*, got float16"),
    case("int64-range", lambda: fm.jit(lambda x: x + 1)(ints(2**31, -5)), error=OverflowError, message=r"\[array\] expected integers that fit in 32 bits, got -5\.\.2147483648"),
    case("uint64-range", lambda: fm.jit(lambda x: x + 1)(np.array([2**64 - 1], np.uint64)), error=OverflowError, message=r"\[array\] expected integers that fit in 32 bits"),
    case("integer-range", lambda: fm.jit(lambda x, n: x + n)(x2, 2**31), error=OverflowError, message=r"\[array\] expected integers that fit in 32 bits"),
    case("float64-with-float32", lambda: fm.jit(lambda x, y: x @ y)(x2, ones(2, dtype=WIDE)), error=TypeError, message=r"\[matmul\] " + TWO_FLOATS),
    case("unhashable-option", lambda: fm.jit(lambda x, s: x)(x2, {1}), error=TypeError, message=r"\[jit\] expected arrays, numbers and options that hash, got set"),
    case("jit-of-nothing", lambda: fm.jit(None), error=TypeError, message=r"\[jit\] expected a function, got NoneType"),
    case("unknown-option", lambda: fm.sum(x2, axes=0), error=TypeError, message=r".*unexpected keyword argument 'axes'"),
    case("unknown-map_tasks-option", lambda: fm.map_tasks(total, out_axes=0), error=TypeError, message=r".*unexpected keyword argument 'out_axes'"),
    case("array-by-name-only", lambda: fm.map_tasks(named)(ones(3, 2), k=ones(3, 2)), error=TypeError, message=r"\[map_tasks\] expected arrays by position, where in_axes tells which have a task axis, got k by name only"),
    case("set-by-name-only", lambda: fm.jit(named)(x2, k={1}), error=TypeError, message=r"\[jit\] expected arrays, numbers and options that hash, got set"),
    case("unknown-name", lambda: fm.jit(total)(x2, z=1), error=TypeError, message=r".*unexpected keyword argument 'z'"),
    case("unknown-name-only", lambda: fm.jit(named)(x2, k=1, z=1), error=TypeError, message=r".*unexpected keyword argument 'z'"),
    case("hvp-by-name", lambda: fm.hvp(total)(x2, v=x2), error=TypeError, message=r"\[total\] expected arguments by position, got v by name"),
    # derivatives
    case("grad-of-vector", lambda: fm.grad(lambda x: x)(x2), error=TypeError, message=r"\[grad\] expected a function that returns one float scalar, got f32\[2\]"),
    case("grad-of-integer", lambda: fm.grad(lambda x: fm.argmax(x))(x2), error=TypeError, message=r"\[grad\] expected a function that returns one float scalar, got i32\[\]"),
    case("grad-of-nothing", lambda: fm.grad(lambda x: None)(x2), error=TypeError, message=r"\[grad\] expected a function that returns one float scalar, got NoneType"),
    case("grad-of-pair", lambda: fm.grad(lambda x: (fm.sum(x), x))(x2), error=TypeError, message=r"\[grad\] expected a function that returns one scalar \(or has_aux=True\), got \(\*, \*\)"),
    case("grad-aux-missing", lambda: fm.grad(total, has_aux=True)(x2), error=TypeError, message=r"\[grad\] expected a function that returns \(scalar, aux\), got \*"),
    case("grad-aux-nested", lambda: fm.grad(lambda x: ((fm.sum(x), x), x), has_aux=True)(x2), error=TypeError, message=r"\[grad\] expected a function that returns \(scalar, aux\), got \(\(\*, \*\), \*\)"),
    case("grad-integers", lambda: fm.grad(total)(ints(1, 2)), error=TypeError, message=r"\[grad\] expected float parameters, got i32\[2\] in leaf 0"),
    case("grad-text", lambda: fm.grad(lambda p: fm.sum(p["w"]))({"w": x2, "name": "relu"}), error=TypeError, message=r"\[grad\] expected argument 0 of arrays and numbers, got 'relu'"),
    case("argnums-range", lambda: fm.grad(total, argnums=1)(x2), message=r"\[grad\] expected different argnums within the 1 arguments, got 1"),
    case("argnums-twice", lambda: fm.value_and_grad(lambda x, y: fm.sum(x), argnums=(0, -2))(x2, x2), message=r"\[grad\] expected different argnums within the 2 arguments, got \(0, -2\)"),
    case("argnums-text", lambda: fm.grad(total, argnums="x"), error=TypeError, message=r"\[grad\] expected argnums an integer or a tuple of integers, got 'x'"),
    case("argnums-list", lambda: fm.value_and_grad(total, argnums=[0]), error=TypeError, message=r"\[value_and_grad\] expected argnums an integer or a tuple of integers, got \[0\]"),
    case("jvp-shape", lambda: fm.jvp(total, (x2,), (ones(3),)), message=r"\[jvp\] expected tangents like the primals, f32\[2\], got f32\[3\]"),
    case("jvp-dtype", lambda: fm.jvp(total, (x2,), (ones(2, dtype=WIDE),)), message=r"\[jvp\] expected tangents like the primals, f32\[2\], got f64\[2\]"),
    case("jvp-tree", lambda: fm.jvp(total, ({"a": x2},), ({"b": x2},)), error=TypeError, message=r"\[jvp\] expected tangents of structure \(\{'a': \*\},\), got \(\{'b': \*\},\)"),
    case("jvp-count", lambda: fm.jvp(total, (x2,), (x2, x2)), error=TypeError, message=r"\[jvp\] expected tangents of structure \(\*,\), got \(\*, \*\)"),
    case("jvp-not-a-tuple", lambda: fm.jvp(total, x2, x2), error=TypeError, message=r"\[jvp\] expected primals as a tuple, one for each argument, got ndarray"),
    case("vjp-shape", lambda: fm.vjp(lambda x: x, x2)[1](ones(3)), message=r"\[vjp\] expected a cotangent like the result, f32\[2\], got f32\[3\]"),
    case("vjp-tree", lambda: fm.vjp(lambda x: {"a": x}, x2)[1]({"b": x2}), error=TypeError, message=r"\[vjp\] expected a cotangent of structure \{'a': \*\}, got \{'b': \*\}"),
    case("jvp-aux", lambda: fm.jvp(total, (x2,), (x2,), has_aux=True), error=TypeError, message=r"\[jvp\] expected a function that returns \(result, aux\), got Tracer"),
    case("vjp-aux", lambda: fm.vjp(total, x2, has_aux=True), error=TypeError, message=r"\[vjp\] expected a function that returns \(result, aux\), got Tracer"),
    case("jacfwd-integers", lambda: fm.jacfwd(lambda x: x * 2)(ints(1, 2)), error=TypeError, message=r"\[jacfwd\] expected float arguments and results, got i32\[2\]"),
    case("jacrev-integers", lambda: fm.jacrev(lambda x: fm.argmax(x))(x2), error=TypeError, message=r"\[jacrev\] expected float arguments and results, got i32\[\]"),
    case("jacrev-argnums", lambda: fm.jacrev(total, argnums=(0, 1)), message=r"\[jacrev\] expected one of argnums, got \(0, 1\)"),
    case("hessian-argnums", lambda: fm.hessian(total, argnums=2)(x2), message=r"\[jacfwd\] expected different argnums within the 1 arguments, got 2"),
    case("hessian-vector", lambda: fm.hessian(lambda x: x)(x2), error=TypeError, message=r"\[grad\] expected a function that returns one float scalar, got f32\[2\]"),
    case("hvp-vector", lambda: fm.hvp(lambda x: fm.sum(x * x))(x2, ones(3)), message=r"\[jvp\] expected tangents like the primals, f32\[2\], got f32\[3\]"),
    case("hvp-arguments", lambda: fm.hvp(total)(x2), error=TypeError, message=r"\[hvp\] expected the arguments of the function and a vector, got 1 arguments"),
    case("hvp-argnums", lambda: fm.hvp(total, argnums=2)(x2, x2), message=r"\[hvp\] expected different argnums within the 1 arguments, got 2"),
    case("ragged-update", lambda: fm.jit(lambda p, g: fm.tree_map(lambda a, b: a - b, p, g))({"w": x2, "b": x2}, {"w": x2}), message=r"\[tree_map\] expected trees of structure \{'b': \*, 'w': \*\}, got \{'w': \*\}"),
    case("ragged-lists", lambda: fm.tree_map(lambda a, b: a, [1, 2], (1, 2)), message=r"\[tree_map\] expected trees of structure \[\*, \*\], got \(\*, \*\)"),
    # map_tasks
    case("in_axes-value", lambda: fm.map_tasks(total, in_axes=1), message=r"\[map_tasks\] expected in_axes of 0 or None, got 1"),
    case("in_axes-bool", lambda: fm.map_tasks(total, in_axes=(True, 0)), message=r"\[map_tasks\] expected in_axes of 0 or None, got True"),
    case("in_axes-array", lambda: fm.map_tasks(total, in_axes=np.zeros(2)), message=r"\[map_tasks\] expected in_axes of 0 or None, got array"),
    case("in_axes-count", lambda: fm.map_tasks(lambda x, y: x, in_axes=(0, 0, 0))(x2, x2), message=r"\[map_tasks\] expected in_axes of one entry per argument, 2, got \(0, 0, 0\)"),
    case("in_axes-few", lambda: fm.map_tasks(lambda x, y: x, in_axes=(0,))(x2, x2), message=r"\[map_tasks\] expected in_axes of one entry per argument, 2, got \(0,\)"),
    case("in_axes-tree", lambda: fm.map_tasks(lambda p, y: y, in_axes=({"b": 0}, 0))({"a": x2}, x2), message=r"\[map_tasks in_axes\] expected a prefix of \(\{'a': \*\}, \*\), got \(\{'b': 0\}, 0\)"),
    case("in_axes-none", lambda: fm.map_tasks(total, in_axes=None)(x2), message=r"\[map_tasks\] expected one number of tasks in all mapped arguments, got no mapped argument"),
    case("mapped-scalar", lambda: fm.map_tasks(total)(np.float32(1)), message=r"\[map_tasks\] expected a leading task axis \(or in_axes None\), got a scalar"),
    case("tasks-differ", lambda: fm.map_tasks(lambda x, y: x)(x2, ones(3)), message=r"\[map_tasks\] expected one number of tasks in all mapped arguments, got \[2, 3\]"),
    case("tasks-differ-later", lambda: [g(x2, y) for g in [fm.map_tasks(lambda x, y: x * y)] for y in (x2, ones(3))], message=r"\[map_tasks\] expected one number of tasks in all mapped arguments, got \[2, 3\]"),
    case("no-tasks", lambda: fm.map_tasks(total)(ones(0, 2)), message=r"\[map_tasks\] expected at least one task, got 0"),
    case("no-tasks-later", lambda: [g(x) for g in [fm.map_tasks(total)] for x in (ones(3, 2), ones(0, 2))], message=r"\[map_tasks\] expected at least one task, got 0"),
    case("no-tasks-nested", lambda: fm.jit(lambda x: fm.map_tasks(total)(x))(ones(0, 2)), message=r"\[map_tasks\] expected at least one task, got 0"),
    case("reduce-value", lambda: fm.map_tasks(total, reduce="max"), message=r"\[map_tasks\] expected reduce of None, 'mean' or 'sum', got 'max'"),
    case("reduce-tree", lambda: fm.map_tasks(lambda x: x, reduce=("mean", "mean"))(x2), message=r"\[map_tasks reduce\] expected a prefix of \*, got \('mean', 'mean'\)"),
    case("reduce-count", lambda: fm.map_tasks(lambda x: (x, x), reduce=("mean",))(x2), message=r"\[map_tasks reduce\] expected a prefix of \(\*, \*\), got \('mean',\)"),
    case("reduce-integers", lambda: fm.map_tasks(lambda x: fm.argmax(x), reduce="sum")(ones(2, 2)), error=TypeError, message=r"\[map_tasks\] expected floats to sum, got i32\[\]\. Convert with fm\.astype"),
    # scan
    case("scan-carry-shape", steps(lambda c, x: (fm.stack([c, c]), x), np.float32(0), x2), error=TypeError, message=r"\[scan\] expected a carry of f32\[\], got f32\[2\]"),
    case("scan-carry-dtype", steps(lambda c, x: (c + x, x), 0, x2), error=TypeError, message=r"\[scan\] expected a carry of i32\[\], got f32\[\]"),
    case("scan-carry-tree", steps(lambda c, x: ((c, c), x), np.float32(0), x2), error=TypeError, message=r"\[scan\] expected a carry of structure \*, got \(\*, \*\)"),
    case("scan-carry-text", steps(lambda c, x: (c, x), "a", x2), error=TypeError, message=r"\[scan\] expected a carry of arrays and numbers, got 'a'"),
    case("scan-carry-none", steps(lambda c, x: (x, x), None, x2), error=TypeError, message=r"\[scan\] expected a carry with None where it had None, got one with None elsewhere"),
    case("scan-one-result", steps(lambda c, x: c + x, np.float32(0), x2), error=TypeError, message=r"\[scan\] expected a step that returns the pair \(carry, y\), got Tracer\(float32\[\]\)\. Return \(carry, None\) if there is no y"),
    case("scan-one-result-none", steps(lambda c, x: c, {"a": np.float32(0), "b": None}, x2), error=TypeError, message=r"\[scan\] expected a step that returns the pair \(carry, y\), got dict\. Return"),
    case("scan-reverse", steps(lambda c, x: (c, x), np.float32(0), x2, reverse=1), error=TypeError, message=r"\[scan\] expected reverse True or False, got 1"),
    case("scan-lengths", steps(lambda c, x: (c, x), np.float32(0), (x2, ones(3))), message=r"\[scan\] expected one length, of all xs or given, got 2, 3"),
    case("scan-length-and-xs", steps(lambda c, x: (c, x), np.float32(0), x2, length=4), message=r"\[scan\] expected one length, of all xs or given, got 2, 4"),
    case("scan-no-length", steps(lambda c, x: (c, None), np.float32(0)), message=r"\[scan\] expected one length, of all xs or given, got neither xs nor length"),
    case("scan-negative-length", steps(lambda c, x: (c, None), np.float32(0), length=-1), error=TypeError, message=r"\[scan\] expected length a whole number of at least 0, known while tracing, got -1"),
    case("scan-float-length", steps(lambda c, x: (c, None), np.float32(0), length=2.5), error=TypeError, message=r"\[scan\] expected length a whole number .*, got 2\.5"),
    case("scan-traced-length", lambda: fm.jit(lambda n: fm.scan(lambda c, x: (c, None), np.float32(0), length=n))(3), error=TypeError, message=r"\[scan\] expected length a whole number .*, got Tracer\(int32\[\]\)"),
    case("scan-scalar-xs", steps(lambda c, x: (c, x), np.float32(0), np.float32(1)), message=r"\[scan\] expected xs with a leading axis, got a scalar"),
]  # fmt: skip


@pytest.mark.parametrize("bad", ENGINE_CASES)
def test_engine(bad: Case) -> None:
    texts = []
    for name in BACKENDS:
        with fm.set_backend(name):
            texts.append(refusal(bad.call, bad.error, bad.message))
    assert texts[0] == texts[1]
    if not bad.name.startswith("unknown"):  # Python's own message
        assert re.search(rf"{HERE}:\d+\)$", texts[0]), f"no line of this file in {texts[0]!r}"


def test_the_line_is_that_of_the_innermost_user_code() -> None:
    def model(p: Any, x: Any) -> Any:
        return x @ p  # here

    def loss(p: Any, x: Any) -> Any:
        return fm.nn.mse(model(p, x), x)

    def episode(p: Any, x: Any) -> Any:
        p = fm.tree_map(lambda p, g: p - g, p, fm.grad(loss)(p, x))
        return loss(p, x)

    meta = fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0), reduce="mean")
    line = model.__code__.co_firstlineno + 1
    refusal(lambda: meta(ones(3, 3), ones(4, 5, 2)), ValueError, rf"\[matmul\] .* \({re.escape(__file__)}:{line}\)$")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_bad_label_names_function_label_task_and_line(count: int, threads: None) -> None:
    fm.set_num_threads(count)
    labels = np.zeros((200, 3), np.int64)
    labels[70, 1], labels[71, 0], labels[150, 2] = 5, -1, 9

    def query(p: Any, x: Any, y: Any) -> Any:
        return fm.nn.cross_entropy(x * p, y)

    message = rf"\[cross_entropy\] expected a label in 0\.\.3, got 5 in task 70 \({re.escape(__file__)}:{query.__code__.co_firstlineno + 1}\)$"
    for meta in (query, fm.grad(query), fm.value_and_grad(query), lambda *a: fm.hvp(query)(*a, np.float32(1))):
        texts = []
        for name in BACKENDS:
            with fm.set_backend(name):
                run = fm.map_tasks(meta, in_axes=(None, 0, 0), reduce="mean")
                texts.append(refusal(lambda: run(np.float32(1), ones(200, 3, 4), labels), IndexError, message))  # noqa: B023  (called at once)
                run(np.float32(1), ones(200, 3, 4), labels * 0)  # good labels run after bad ones
        assert texts[0] == texts[1]


def test_refused_input_leaves_the_function_usable(backend: str) -> None:
    f = fm.map_tasks(fm.value_and_grad(lambda p, x: fm.sum(p * x)), in_axes=(None, 0), reduce="mean")
    want = f(x2, ones(3, 2))
    for args in ((x2, ones(3, 3)), (x2, ones(0, 2)), (x2, ones(3, 2, dtype=WIDE)), (x2, np.float32(1)), ("p", ones(3, 2))):
        with pytest.raises((ValueError, TypeError)):
            f(*args)
        got = f(x2, ones(3, 2))
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])


# ------------------------------------------------------------------------------------------------------ settings

SETTINGS = [
    case("threads-zero", lambda: fm.set_num_threads(0), message=r"\[set_num_threads\] expected a positive integer, got 0"),
    case("threads-negative", lambda: fm.set_num_threads(-2), message=r"\[set_num_threads\] expected a positive integer, got -2"),
    case("threads-float", lambda: fm.set_num_threads(2.0), message=r"\[set_num_threads\] expected a positive integer, got 2\.0"),
    case("threads-bool", lambda: fm.set_num_threads(True), message=r"\[set_num_threads\] expected a positive integer, got True"),
    case("backend-unknown", lambda: fm.set_backend("torch"), message=r"\[set_backend\] expected one of native, numba, cuda, cupy, numpy, got 'torch'"),
    case("backend-none", lambda: fm.set_backend(None), message=r"\[set_backend\] expected one of native, numba, cuda, cupy, numpy, got None"),
]  # fmt: skip


@pytest.mark.parametrize("bad", SETTINGS)
def test_settings(bad: Case) -> None:
    before = fm.backends.state.name, fm.backends.state.threads
    refusal(bad.call, bad.error, bad.message)
    assert (fm.backends.state.name, fm.backends.state.threads) == before


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("FASTMETA_NUM_THREADS", "0", "a positive integer, got '0'"),
        ("FASTMETA_NUM_THREADS", "-1", "a positive integer, got '-1'"),
        ("FASTMETA_NUM_THREADS", "many", "a positive integer, got 'many'"),
        ("FASTMETA_NUM_THREADS", "²", "a positive integer, got '²'"),
        ("FASTMETA_BACKEND", "torch", "one of native, numba, cuda, cupy, numpy, got 'torch'"),
        ("FASTMETA_DEBUG", "yes", "0 or 1, got 'yes'"),
        *([] if PURE else [("FASTMETA_WINOGRAD", "no", "0 or 1, got 'no'")]),
    ],
)
def test_environment(name: str, value: str, message: str) -> None:
    script = "import numpy, fastmeta as fm; fm.jit(lambda x: x + 1)(numpy.ones(2, numpy.float32))"
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, name: value}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ValueError: [{name}] expected {message}")


# ------------------------------------------------------------------------------------------------ learners, models


def maml(**changed: Any) -> Any:
    return fm.MAML(fm.models.MLP((3, 4, 2)), **changed)


def run_maml(support: int = 4, query: int = 4, labels: Any = None, features: int = 3) -> Any:
    y = np.zeros((2, support), np.int64) if labels is None else labels
    learner = maml(inner_lr=0.1)
    return learner.value_and_grad(learner.init(0), (ones(2, support, features), y, ones(2, query, features), np.zeros((2, query), np.int64)))


LEARNER_CASES = [
    case("empty-support", lambda: run_maml(support=0), message=r"\[MAML\] expected at least one support example, got 0"),
    case("empty-query", lambda: run_maml(query=0), message=r"\[MAML\] expected at least one query example, got 0"),
    case("support-sizes", lambda: run_maml(labels=np.zeros((2, 3), np.int64)), message=r"\[MAML\] expected as many support_x as support_y, got \[4, 3\] and \[3\]"),
    case("label-outside", lambda: run_maml(labels=np.full((2, 4), 2)), error=IndexError, message=r"\[cross_entropy\] expected a label in 0\.\.1, got 2 in task 0"),
    case("features", lambda: run_maml(features=5), message=r"\[MLP\] expected x \[n, \.\.\.\] with 3 features, got shape \[4, 5\]"),
    case("not-an-episode", lambda: maml().value_and_grad(maml().init(0), (x2, x2)), error=TypeError, message=r"\[MAML\] expected an episode \(support_x, support_y, query_x, query_y\), got a tuple of 2"),
    case("inner-lr", lambda: maml(inner_lr=-0.1), message=r"\[MAML\] expected inner_lr above 0, got -0\.1"),
    case("inner-steps", lambda: maml(inner_steps=0), message=r"\[MAML\] expected inner steps at least 1, got 0"),
    case("order", lambda: maml(order=3), message=r"\[MAML\] expected order 1 or 2, got 3"),
    case("maml-option", lambda: maml(outer_lr=1.0), error=TypeError, message=r".*unexpected keyword argument 'outer_lr'"),
    case("maml-module", lambda: fm.MAML(torch.nn.Linear(3, 2)), error=TypeError, message=r"\[MAML\] expected model a function of fastmeta's, got the PyTorch module Linear\. fastmeta\.interop\.torch\.from_torch"),
    case("set-learner-module", lambda: fm.NeuralProcess(fm.models.MLP((2, 3)), torch.nn.Linear(3, 2)), error=TypeError, message=r"\[NeuralProcess\] expected decoder a function of fastmeta's, got the PyTorch module Linear"),
    case("predict-unadapted", lambda: fm.ProtoNet(fm.models.MLP((3, 2))).predict(fm.models.MLP((3, 2)).init(0), ones(4, 3)), error=TypeError, message=r"\[ProtoNet\] expected what adapt made of a support set, got list"),
    case("mlp-sizes", lambda: fm.models.MLP((3,)), message=r"\[MLP\] expected two sizes or more, each at least 1, got \(3,\)"),
    case("mlp-activation", lambda: fm.models.MLP((3, 2), activation="mish"), message=r"\[MLP\] expected activation one of .*, got 'mish'"),
    case("mlp-layers", lambda: fm.models.MLP((3, 2))([], ones(1, 3)), message=r"\[MLP\] expected 1 layers of parameters, got 0"),
]  # fmt: skip


@pytest.mark.parametrize("bad", LEARNER_CASES)
def test_learners(bad: Case, backend: str) -> None:
    refusal(bad.call, bad.error, bad.message)


def test_the_table_is_long_and_has_no_name_twice() -> None:
    for table in (ARRAY_CASES, ENGINE_CASES, SETTINGS, LEARNER_CASES):
        names = [param.id for param in table]
        assert len(set(names)) == len(names)
    assert len(ARRAY_CASES) + len(ENGINE_CASES) >= 150


@pytest.mark.parametrize("name", [*MODULE, *VALUE])
def test_names_of_other_libraries_tell_what_to_use(name: str) -> None:
    """They are not there, what they name instead is."""
    where = MODULE if name in MODULE else VALUE
    hint = where[name]
    with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}. Use {hint}")):
        if where is MODULE:
            getattr(fm, name)
        else:
            fm.jit(lambda x: getattr(x, name))(np.ones(3))
    for path in re.findall(r"\bfm\.([\w.]+)", hint):
        assert operator.attrgetter(path)(fm) is not None


def test_other_names_are_just_not_there() -> None:
    for read in (lambda: fm.nothing, lambda: fm.jit(lambda x: x.nothing)(np.ones(3))):
        with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
            read()
