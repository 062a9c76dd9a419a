"""Bad input of image layers and models: refused with exception type and message, the same on every backend and at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bad_input import Case, case, ints, ones, refusal

import fastmeta as fm
from fastmeta.models import Conv4

HERE = re.escape(Path(__file__).name)
WIDE = np.float64
X, W = ones(2, 6, 5, 3), ones(3, 3, 3, 4)

CASES = [
    # conv2d
    case("conv2d-channels", lambda x, w: fm.nn.conv2d(x, w), X, ones(3, 3, 2, 4), message=r"\[conv2d\] expected weights \[kh, kw, 3, out\] for images \(2, 6, 5, 3\), got \(3, 3, 2, 4\)"),
    case("conv2d-channels-1x1", lambda x, w: fm.nn.conv2d(x, w), X, ones(1, 1, 2, 4), message=r"\[conv2d\] expected weights \[kh, kw, 3, out\] for images"),
    case("conv2d-kernel", lambda x, w: fm.nn.conv2d(x, w, padding="valid"), X, ones(3, 6, 3, 4), message=r"\[conv2d\] expected a kernel that fits into the padded images \(6, 5\), got \(3, 6\)"),
    case("conv2d-kernel-padded", lambda x, w: fm.nn.conv2d(x, w, padding=1), X, ones(9, 3, 3, 4), message=r"\[conv2d\] expected a kernel that fits into the padded images \(8, 7\), got \(9, 3\)"),
    case("conv2d-no-images", lambda x, w: fm.nn.conv2d(x, w), ones(0, 6, 5, 3), W, message=r"\[conv2d\] expected at least one image, pixel and channel, got \(0, 6, 5, 3\)"),
    case("conv2d-no-kernel", lambda x, w: fm.nn.conv2d(x, w), X, ones(0, 3, 3, 4), message=r"\[conv2d\] expected weights \[kh, kw, in, out\], none of them 0, got \(0, 3, 3, 4\)"),
    case("conv2d-rank", lambda x, w: fm.nn.conv2d(x, w), ones(6, 5, 3), W, message=r"\[conv2d\] expected images \[n, h, w, channels\], got \(6, 5, 3\)"),
    case("conv2d-weight-rank", lambda x, w: fm.nn.conv2d(x, w), X, ones(3, 3, 4), message=r"\[conv2d\] expected weights \[kh, kw, in, out\], none of them 0, got \(3, 3, 4\)"),
    case("conv2d-integers", lambda x, w: fm.nn.conv2d(x, w), np.ones((2, 6, 5, 3), np.int64), W, error=TypeError, message=r"\[conv2d\] expected float images, got i32\[2, 6, 5, 3\]"),
    case("conv2d-dtypes", lambda x, w: fm.nn.conv2d(x, w), X, ones(3, 3, 3, 4, dtype=WIDE), error=TypeError, message=r"\[conv2d\] expected one float dtype for all operands, got f32\[.*\] and f64\[.*\]\. Convert one with fm\.astype"),
    case("conv2d-integer-weights", lambda x, w: fm.nn.conv2d(x, w), X, np.ones((3, 3, 3, 4), np.int64), error=TypeError, message=r"\[conv2d\] expected weights of dtype f32, got i32\[3, 3, 3, 4\]"),
    case("conv2d-number", lambda x: fm.nn.conv2d(x, 1.0), X, error=TypeError, message=r"\[conv2d\] expected an array, got float"),
    case("conv2d-stride", lambda x, w: fm.nn.conv2d(x, w, stride=0), X, W, message=r"\[conv2d\] expected a stride of at least 1, got 0"),
    case("conv2d-stride-three", lambda x, w: fm.nn.conv2d(x, w, stride=(1, 2, 1)), X, W, error=TypeError, message=r"\[conv2d\] expected a stride of one or two whole numbers, got \(1, 2, 1\)"),
    case("conv2d-stride-float", lambda x, w: fm.nn.conv2d(x, w, stride=1.0), X, W, error=TypeError, message=r"\[conv2d\] expected a stride of one or two whole numbers, got 1\.0"),
    case("conv2d-dilation", lambda x, w: fm.nn.conv2d(x, w, dilation=(2, 0)), X, W, message=r"\[conv2d\] expected a dilation of at least 1, got \(2, 0\)"),
    case("conv2d-dilation-float", lambda x, w: fm.nn.conv2d(x, w, dilation=2.0), X, W, error=TypeError, message=r"\[conv2d\] expected a dilation of one or two whole numbers, got 2\.0"),
    case("conv2d-dilated-kernel", lambda x, w: fm.nn.conv2d(x, w, padding="valid", dilation=(2, 3)), X, W, message=r"\[conv2d\] expected a kernel that fits into the padded images \(6, 5\), got \(5, 7\)"),
    case("conv2d-padding-name", lambda x, w: fm.nn.conv2d(x, w, padding="full"), X, W, message=r"\[conv2d\] expected padding 'same', 'valid' or one or two whole numbers of at least 0, got 'full'"),
    case("conv2d-padding-negative", lambda x, w: fm.nn.conv2d(x, w, padding=-1), X, W, message=r"\[conv2d\] expected padding 'same', .*, got -1"),
    case("conv2d-padding-pair", lambda x, w: fm.nn.conv2d(x, w, padding=(1, -1)), X, W, message=r"\[conv2d\] expected padding 'same', .*, got \(1, -1\)"),
    case("conv2d-padding-three", lambda x, w: fm.nn.conv2d(x, w, padding=(1, 1, 1)), X, W, message=r"\[conv2d\] expected padding 'same', .*, got \(1, 1, 1\)"),
    case("conv2d-padding-float", lambda x, w: fm.nn.conv2d(x, w, padding=1.5), X, W, message=r"\[conv2d\] expected padding 'same', .*, got 1\.5"),
    # conv1d
    case("conv1d-rank", lambda x, w: fm.nn.conv1d(x, w), X, W[0], message=r"\[conv1d\] expected sequences \[n, length, channels\], got \(2, 6, 5, 3\)"),
    case("conv1d-weight-rank", lambda x, w: fm.nn.conv1d(x, w), X[0], W, message=r"\[conv1d\] expected weights \[k, in, out\], none of them 0, got \(3, 3, 3, 4\)"),
    case("conv1d-channels", lambda x, w: fm.nn.conv1d(x, w), X[0], ones(3, 2, 4), message=r"\[conv1d\] expected weights \[k, 3, out\] for sequences \(6, 5, 3\), got \(3, 2, 4\)"),
    case("conv1d-kernel", lambda x, w: fm.nn.conv1d(x, w, padding="valid", dilation=3), X[0], W[0], message=r"\[conv1d\] expected a kernel that fits into the padded sequences \(5,\), got \(7,\)"),
    case("conv1d-padding", lambda x, w: fm.nn.conv1d(x, w, padding=(1, 2)), X[0], W[0], message=r"\[conv1d\] expected padding 'same', 'valid' or one whole number of at least 0, got \(1, 2\)"),
    case("conv1d-stride", lambda x, w: fm.nn.conv1d(x, w, stride=(1, 2)), X[0], W[0], error=TypeError, message=r"\[conv1d\] expected a stride of one whole number, got \(1, 2\)"),
    case("conv1d-nothing", lambda x, w: fm.nn.conv1d(x, w), ones(2, 0, 3), W[0], message=r"\[conv1d\] expected at least one sequence, step and channel, got \(2, 0, 3\)"),
    case("conv1d-integers", lambda x, w: fm.nn.conv1d(x, w), np.ones((2, 5, 3), np.int64), W[0], error=TypeError, message=r"\[conv1d\] expected float sequences, got i32\[2, 5, 3\]"),
    # conv_transpose2d
    case("transpose-channels", lambda x, w: fm.nn.conv_transpose2d(x, w), X, ones(3, 3, 2, 4), message=r"\[conv_transpose2d\] expected weights \[kh, kw, 3, out\]"),
    case("transpose-padding", lambda x, w: fm.nn.conv_transpose2d(x, w, padding=9), X, W, message=r"\[conv_transpose2d\] expected padding that leaves a pixel"),
    case("transpose-stride", lambda x, w: fm.nn.conv_transpose2d(x, w, stride=0), X, W, message=r"\[conv_transpose2d\] expected a stride of at least 1"),
    # depthwise_conv2d
    case("depthwise-channels", lambda x, w: fm.nn.depthwise_conv2d(x, w), X, ones(3, 3, 2), message=r"\[depthwise_conv2d\] expected weights \[kh, kw, 3\] for images \(2, 6, 5, 3\), got \(3, 3, 2\)"),
    case("depthwise-rank", lambda x, w: fm.nn.depthwise_conv2d(x, w), X, W, message=r"\[depthwise_conv2d\] expected weights \[kh, kw, channels\], none of them 0, got \(3, 3, 3, 4\)"),
    case("depthwise-kernel", lambda x, w: fm.nn.depthwise_conv2d(x, w, padding="valid"), X, ones(7, 1, 3), message=r"\[depthwise_conv2d\] expected a kernel that fits into the padded images \(6, 5\), got \(7, 1\)"),
    # pooling
    case("max_pool2d-small", lambda x: fm.nn.max_pool2d(x, window=6), X, message=r"\[max_pool2d\] expected images of at least \(6, 6\), got \(2, 6, 5, 3\)"),
    case("max_pool2d-window", lambda x: fm.nn.max_pool2d(x, window=0), X, message=r"\[max_pool2d\] expected a window of at least 1, got 0"),
    case("max_pool2d-stride", lambda x: fm.nn.max_pool2d(x, stride=(1, -1)), X, message=r"\[max_pool2d\] expected a stride of at least 1, got \(1, -1\)"),
    case("max_pool2d-window-text", lambda x: fm.nn.max_pool2d(x, window="2"), X, error=TypeError, message=r"\[max_pool2d\] expected a window of one or two whole numbers, got '2'"),
    case("max_pool2d-rank", lambda x: fm.nn.max_pool2d(x), ones(6, 5, 3), message=r"\[max_pool2d\] expected images \[n, h, w, channels\], got \(6, 5, 3\)"),
    case("max_pool2d-no-images", lambda x: fm.nn.max_pool2d(x), ones(0, 4, 4, 1), message=r"\[max_pool2d\] expected at least one image, pixel and channel, got \(0, 4, 4, 1\)"),
    case("max_pool2d-integers", lambda x: fm.nn.max_pool2d(x), np.ones((1, 4, 4, 1), np.int64), error=TypeError, message=r"\[max_pool2d\] expected float images, got i32\[1, 4, 4, 1\]"),
    case("avg_pool2d-small", lambda x: fm.nn.avg_pool2d(x, window=(1, 6)), X, message=r"\[avg_pool2d\] expected images of at least \(1, 6\), got \(2, 6, 5, 3\)"),
    case("avg_pool2d-stride", lambda x: fm.nn.avg_pool2d(x, stride=0), X, message=r"\[avg_pool2d\] expected a stride of at least 1, got 0"),
    case("global_average_pool-rank", lambda x: fm.nn.global_average_pool(x), ones(2, 3), message=r"\[global_average_pool\] expected images \[n, h, w, channels\], got \(2, 3\)"),
    case("global_average_pool-empty", lambda x: fm.nn.global_average_pool(x), ones(2, 0, 3, 1), message=r"\[global_average_pool\] expected at least one image, pixel and channel, got \(2, 0, 3, 1\)"),
    # normalisation and dropout
    case("batch_norm-one-pixel", lambda x: fm.nn.batch_norm(x), ones(1, 1, 1, 3), message=r"\[batch_norm\] expected more than one element per channel \(or given statistics\), got \(1, 1, 1, 3\)"),
    case("batch_norm-no-images", lambda x: fm.nn.batch_norm(x), ones(0, 4, 4, 3), message=r"\[batch_norm\] expected more than one element per channel \(or given statistics\), got \(0, 4, 4, 3\)"),
    case("layer_norm-scalar", lambda x: fm.nn.layer_norm(x), np.float32(1), message=r"\[layer_norm\] expected an array of at least one axis, got \(\)"),
    case("layer_norm-scale", lambda x, s: fm.nn.layer_norm(x, s), ones(2, 3), ones(2), message=r"\[layer_norm\] expected scale of shape \(3,\), got \(2,\)"),
    case("group_norm-groups", lambda x: fm.nn.group_norm(x, groups=2), X, message=r"\[group_norm\] expected a number of groups that divides 3 channels, got 2"),
    case("group_norm-no-groups", lambda x: fm.nn.group_norm(x, groups=0), X, message=r"\[group_norm\] expected a number of groups that divides 3 channels, got 0"),
    case("group_norm-rank", lambda x: fm.nn.group_norm(x, groups=1), ones(3), message=r"\[group_norm\] expected an array of at least two axes, got \(3,\)"),
    case("group_norm-shift", lambda x, s: fm.nn.group_norm(x, None, s, groups=3), X, ones(1, 3), message=r"\[group_norm\] expected shift of shape \(3,\), got \(1, 3\)"),
    case("dropout-mask-shape", lambda x, m: fm.nn.dropout(x, m, 0.5), ones(2, 3), ones(3, dtype=bool), message=r"\[dropout\] expected a mask of shape \(2, 3\), got \(3,\)"),
    case("dropout-mask-dtype", lambda x, m: fm.nn.dropout(x, m, 0.5), ones(3), ones(3), error=TypeError, message=r"\[dropout\] expected a mask of bools, got float32"),
    case("dropout-rate", lambda x, m: fm.nn.dropout(x, m, 1.0), ones(3), ones(3, dtype=bool), message=r"\[dropout\] expected a rate in \[0, 1\), got 1\.0"),
]


@pytest.mark.parametrize("bad", CASES)
def test_bad_operands_are_refused_in_a_trace_with_the_users_line(bad: Case, backend: str) -> None:
    text = refusal(lambda: fm.jit(bad.call)(*bad.args), bad.error, bad.message)
    assert re.search(rf"\(.*{HERE}:\d+\)$", text), text


@pytest.mark.parametrize("bad", CASES)
def test_bad_operands_are_refused_at_once(bad: Case) -> None:
    refusal(lambda: bad.call(*bad.args), bad.error, bad.message)


def applied(model: Conv4, *shape: int, **static: Any) -> Any:
    return lambda: model(model.init(), ones(*shape), **static)


SMALL = Conv4(channels=2, input=(16, 16, 1))
MODEL_CASES = [
    case("channels-zero", lambda: Conv4(channels=0), message=r"\[Conv4\] expected channels of at least 1, got 0"),
    case("channels-float", lambda: Conv4(channels=64.0), error=TypeError, message=r"\[Conv4\] expected channels of whole numbers, got 64\.0 \(float\)"),
    case("classes", lambda: Conv4(classes=True), error=TypeError, message=r"\[Conv4\] expected classes of whole numbers, got True \(bool\)"),
    case("input-pair", lambda: Conv4(input=(28, 28)), message=r"\[Conv4\] expected input \(height, width, channels\), got \(28, 28\)"),
    case("input-small", lambda: Conv4(input=(28, 15, 1)), message=r"\[Conv4\] expected images of at least 16 x 16, to be halved 4 times, got \(28, 15, 1\)"),
    case("strided", lambda: Conv4(strided=2), error=TypeError, message=r"\[Conv4\] expected strided True or False, got 2"),
    case("head", lambda: Conv4(head="max"), message=r"\[Conv4\] expected head one of flatten, mean, got 'max'"),
    case("images", applied(SMALL, 4, 16, 17, 1), message=r"\[Conv4\] expected x \[n, 16, 16, 1\], got shape \[4, 16, 17, 1\]"),
    case("rank", applied(SMALL, 4, 256), message=r"\[Conv4\] expected x \[n, 16, 16, 1\], got shape \[4, 256\]"),
    case("one-image", applied(SMALL, 0, 16, 16, 1), message=r"\[conv2d\] expected at least one image, pixel and channel, got \(0, 16, 16, 1\)"),
    case("mode", applied(SMALL, 4, 16, 16, 1, mode="moving"), message=r"\[Conv4\] expected mode 'batch' or 'running' or 'per_step', got 'moving'"),
    case("layers", lambda: SMALL(SMALL.init()[1:], ones(4, 16, 16, 1)), message=r"\[Conv4\] expected 5 layers of parameters, got 4"),
]


@pytest.mark.parametrize("bad", MODEL_CASES)
def test_bad_models_are_refused(bad: Case) -> None:
    refusal(bad.call, bad.error, bad.message)


def test_tasks_with_labels_of_images_are_refused() -> None:
    """An integer image is no image, also inside tasks."""
    run = fm.map_tasks(lambda w, x: fm.sum(fm.nn.conv2d(x, w)), in_axes=(None, 0))
    refusal(lambda: run(W, ints(1, 2)), TypeError, r"\[conv2d\] expected float images, got i32\[\]")
