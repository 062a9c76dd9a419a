"""PyTorch's LSTM: layers and directions of `fastmeta.nn.lstm`, which has PyTorch's order of gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.trace import Array


def lstm(
    x: Array, state: Sequence[Array], weights: Sequence[Array], biases: bool, layers: int, both: bool, batch_first: bool
) -> tuple[Array, Array, Array]:  # fmt: skip
    """x [n, steps, in] (``batch_first``) or [steps, n, in] through all layers: (outputs, last h, last c).

    ``weights`` lists, by layer and direction, w_ih [4 hidden, in], w_hh [4 hidden, hidden] and, with ``biases``, b_ih and
    b_hh [4 hidden]; ``state`` is the first (h, c), each [layers * directions, n, hidden].
    Source: Hochreiter and Schmidhuber 1997, as in torch.nn.LSTM.
    """
    sequence = fa.permute_dims(x, (1, 0, 2)) if batch_first else x
    parts = 4 if biases else 2
    hs, cs = [], []
    for layer in range(layers):
        outputs = []
        for direction in range(1 + both):
            k = layer * (1 + both) + direction
            own = _params(*weights[k * parts : (k + 1) * parts])
            out, (h, c) = nn.lstm(own, sequence, (state[0][k], state[1][k]), reverse=direction == 1)
            outputs.append(out)
            hs.append(h)
            cs.append(c)
        sequence = fa.concat(outputs, axis=-1) if both else outputs[0]
    result = fa.permute_dims(sequence, (1, 0, 2)) if batch_first else sequence
    return result, fa.stack(hs), fa.stack(cs)


def _params(w_in: Array, w_state: Array, *biases: Array) -> dict[str, Array]:
    """One layer's weights as `fastmeta.nn.lstm` takes them: transposed, one bias."""
    bias = fa.add(*biases) if biases else np.zeros(w_in.shape[0], w_in.dtype)
    return {"w": fa.permute_dims(w_in, (1, 0)), "u": fa.permute_dims(w_state, (1, 0)), "b": bias}
