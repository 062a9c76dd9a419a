"""Neural building blocks: images are [n, h, w, channels], convolution weights [kh, kw, in, out], linear weights [in, out].

Labels are integers, losses are means.  Errors are those of `fastmeta.array`, and what a docstring tells.
"""

from fastmeta.array import log_softmax, relu, sigmoid, softmax, tanh
from fastmeta.nn.activations import gelu, leaky_relu, silu, softplus
from fastmeta.nn.images import (
    avg_pool2d,
    conv1d,
    conv2d,
    conv_transpose2d,
    depthwise_conv2d,
    global_average_pool,
    max_pool2d,
)
from fastmeta.nn.layers import accuracy, cross_entropy, dropout, linear, mse
from fastmeta.nn.normalization import batch_norm, group_norm, layer_norm
from fastmeta.nn.recurrent import attention, bidirectional, gru, gru_cell, gru_init, lstm, lstm_cell, lstm_init

__all__ = [
    "accuracy", "attention", "avg_pool2d", "batch_norm", "bidirectional", "conv1d", "conv2d", "conv_transpose2d", "cross_entropy", "depthwise_conv2d",
    "dropout", "gelu", "global_average_pool", "group_norm", "gru", "gru_cell", "gru_init", "layer_norm", "leaky_relu", "linear", "log_softmax", "lstm", "lstm_cell",
    "lstm_init", "max_pool2d", "mse", "relu", "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip
