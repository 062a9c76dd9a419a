"""PyTorch's LSTM, GRU and RNN: layers and directions of `fastmeta.nn.lstm` and `gru`, which have PyTorch's order of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.loops import scan
from fastmeta.trace import Array


def lstm(
    x: Array, state: Sequence[Array], weights: Sequence[Array], biases: bool, layers: int, both: bool, batch_first: bool
) -> tuple[Array, Array, Array]:  # fmt: skip
    """x [n, steps, in] (``batch_first``) or [steps, n, in] through all layers: (outputs, last h, last c).

    ``weights`` lists, by layer and direction, w_ih [4 hidden, in], w_hh [4 hidden, hidden] and, with ``biases``, b_ih and
    b_hh [4 hidden]; ``state`` is the first (h, c), each [layers * directions, n, hidden].
    Source: Hochreiter and Schmidhuber 1997, as in torch.nn.LSTM.
    """

    def run(k: int, own: Sequence[Array], sequence: Array, reverse: bool) -> tuple[Array, Any]:
        return nn.lstm(lstm_params(*own), sequence, (state[0][k], state[1][k]), reverse=reverse)

    result, states = _through(run, x, weights, biases, layers, both, batch_first)
    return result, fa.stack([h for h, _ in states]), fa.stack([c for _, c in states])


def gru(x: Array, state: Array, weights: Sequence[Array], biases: bool, layers: int, both: bool, batch_first: bool) -> tuple[Array, Array]:
    """The same with three gates and one ``state`` [layers * directions, n, hidden]: (outputs, last h).

    Source: Cho et al. 2014, as in torch.nn.GRU.
    """

    def run(k: int, own: Sequence[Array], sequence: Array, reverse: bool) -> tuple[Array, Any]:
        return nn.gru(gru_params(*own), sequence, state[k], reverse=reverse)

    result, states = _through(run, x, weights, biases, layers, both, batch_first)
    return result, fa.stack(states)


def rnn(
    activation: Callable[[Array], Array], x: Array, state: Array, weights: Sequence[Array], biases: bool, layers: int, both: bool, batch_first: bool
) -> tuple[Array, Array]:  # fmt: skip
    """The same without gates.

    Source: Elman 1990, as in torch.nn.RNN.
    """

    def run(k: int, own: Sequence[Array], sequence: Array, reverse: bool) -> tuple[Array, Any]:
        def step(h: Array, now: Array) -> tuple[Array, Array]:
            h = rnn_cell(activation, now, h, *own)
            return h, h

        last, outputs = scan(step, state[k], fa.flip(sequence, axis=0) if reverse else sequence)
        return (fa.flip(outputs, axis=0) if reverse else outputs), last

    result, states = _through(run, x, weights, biases, layers, both, batch_first)
    return result, fa.stack(states)


def rnn_cell(activation: Callable[[Array], Array], x: Array, h: Array, w_in: Array, w_state: Array, *biases: Array | None) -> Array:
    """The state after the input x."""
    y = fa.add(fa.matmul(x, fa.permute_dims(w_in, (1, 0))), fa.matmul(h, fa.permute_dims(w_state, (1, 0))))
    for bias in biases:
        y = y if bias is None else fa.add(y, bias)
    return activation(y)


def _through(
    run: Callable[[int, Sequence[Array], Array, bool], tuple[Array, Any]],
    x: Array, weights: Sequence[Array], biases: bool, layers: int, both: bool, batch_first: bool,
) -> tuple[Array, list[Any]]:  # fmt: skip
    """Layer after layer, in one direction or both: outputs, and the last state of each layer and direction."""
    sequence = fa.permute_dims(x, (1, 0, 2)) if batch_first else x
    parts = 4 if biases else 2
    states = []
    for layer in range(layers):
        outputs = []
        for direction in range(1 + both):
            k = layer * (1 + both) + direction
            out, last = run(k, weights[k * parts : (k + 1) * parts], sequence, direction == 1)
            outputs.append(out)
            states.append(last)
        sequence = fa.concat(outputs, axis=-1) if both else outputs[0]
    return fa.permute_dims(sequence, (1, 0, 2)) if batch_first else sequence, states


def lstm_params(w_in: Array, w_state: Array, *biases: Array) -> dict[str, Array]:
    """One layer's weights as `fastmeta.nn.lstm` takes them: transposed, one bias."""
    bias = fa.add(*biases) if biases else fa.zeros_like(w_in[:, 0])
    return {"w": fa.permute_dims(w_in, (1, 0)), "u": fa.permute_dims(w_state, (1, 0)), "b": bias}


def gru_params(w_in: Array, w_state: Array, *biases: Array) -> dict[str, Array]:
    """The same for `fastmeta.nn.gru`: the candidate's bias of the state stands apart, since the reset gate is applied to it."""
    hidden = w_state.shape[1]
    of_input, of_state = biases or (fa.zeros_like(w_in[:, 0]), fa.zeros_like(w_in[:, 0]))
    gates = fa.concat([of_state[: 2 * hidden], fa.zeros_like(of_state[2 * hidden :])])
    return {"w": fa.permute_dims(w_in, (1, 0)), "u": fa.permute_dims(w_state, (1, 0)), "b": fa.add(of_input, gates), "bn": of_state[2 * hidden :]}
