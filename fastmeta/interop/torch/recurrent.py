"""PyTorch's LSTM: layers and directions of one cell, by PyTorch's order of gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastmeta import array as fa
from fastmeta.compile import scan
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
            own = weights[k * parts : (k + 1) * parts]
            forwards = fa.flip(sequence, axis=0) if direction else sequence
            out, h, c = _layer(forwards, state[0][k], state[1][k], *own)
            outputs.append(fa.flip(out, axis=0) if direction else out)
            hs.append(h)
            cs.append(c)
        sequence = fa.concat(outputs, axis=-1) if both else outputs[0]
    result = fa.permute_dims(sequence, (1, 0, 2)) if batch_first else sequence
    return result, fa.stack(hs), fa.stack(cs)


def _layer(x: Array, h: Array, c: Array, w_in: Array, w_state: Array, *biases: Array) -> tuple[Array, Array, Array]:
    """x [steps, n, in]: (outputs [steps, n, hidden], last h, last c)."""
    inputs = fa.matmul(x, fa.permute_dims(w_in, (1, 0)))  # all steps in one product
    for b in biases:
        inputs = fa.add(inputs, b)
    recurrent = fa.permute_dims(w_state, (1, 0))
    m = w_state.shape[1]

    def step(carry: Any, gates: Array) -> Any:
        h, c = carry
        gates = fa.add(gates, fa.matmul(h, recurrent))
        i, f, g, o = (gates[:, k * m : (k + 1) * m] for k in range(4))
        c = fa.add(fa.multiply(fa.sigmoid(f), c), fa.multiply(fa.sigmoid(i), fa.tanh(g)))
        h = fa.multiply(fa.sigmoid(o), fa.tanh(c))
        return (h, c), h

    (h, c), out = scan(step, (h, c), inputs)
    return out, h, c
