"""Recurrent cells and layers as functions of parameter trees, and attention; time is the leading axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.errors import expected
from fastmeta.loops import scan
from fastmeta.nn.layers import like
from fastmeta.trace import Array, located

State = tuple[Array, Array]


def lstm_init(rng: np.random.Generator, inputs: int, hidden: int) -> dict[str, Any]:
    """Parameters of an LSTM, float32: {"w" [inputs, 4 hidden], "u" [hidden, 4 hidden], "b" [4 hidden]}.

    The gates stand in the order input, forget, candidate, output.  Weights are uniform within 1 / sqrt(hidden); biases are 0,
    those of the forget gate 1 (Jozefowicz, Zaremba, Sutskever 2015).

    >>> lstm_init(np.random.default_rng(0), inputs=2, hidden=3)["u"].shape
    (3, 12)
    """
    params = _uniform(rng, inputs, hidden, 4)
    params["b"][hidden : 2 * hidden] = 1.0
    return params


def gru_init(rng: np.random.Generator, inputs: int, hidden: int) -> dict[str, Any]:
    """Parameters of a GRU, float32: {"w" [inputs, 3 hidden], "u" [hidden, 3 hidden], "b" [3 hidden], "bn" [hidden]}.

    The gates stand in the order reset, update, candidate; "bn" is added to the state's part of the candidate.  Weights are
    uniform within 1 / sqrt(hidden), biases 0.

    >>> gru_init(np.random.default_rng(0), inputs=2, hidden=3)["w"].shape
    (2, 9)
    """
    return _uniform(rng, inputs, hidden, 3) | {"bn": np.zeros(hidden, np.float32)}


def _uniform(rng: np.random.Generator, inputs: int, hidden: int, gates: int) -> dict[str, Any]:
    bound = 1.0 / math.sqrt(hidden)
    w, u = (rng.uniform(-bound, bound, (n, gates * hidden)).astype(np.float32) for n in (inputs, hidden))
    return {"w": w, "u": u, "b": np.zeros(gates * hidden, np.float32)}


def lstm_cell(params: Any, x: Array, state: State) -> State:
    """The state (h, c), [..., hidden] each, after the input x [..., inputs]; ``params`` as of `lstm_init`.

    i, f, o = sigmoid(x w + h u + b), g = tanh(the same), c' = f c + i g, h' = o tanh(c').

    Errors: ValueError for shapes that do not fit.
    Source: Hochreiter and Schmidhuber 1997 with the forget gate of Gers, Schmidhuber, Cummins 2000; as torch.nn.LSTMCell with
    one bias.

    >>> params = lstm_init(np.random.default_rng(0), inputs=2, hidden=3)
    >>> h, c = lstm_cell(params, np.ones(2, np.float32), (np.zeros(3, np.float32), np.zeros(3, np.float32)))
    >>> h.shape, c.shape
    ((3,), (3,))
    """
    return _lstm_step(params, _projected("lstm_cell", params, x, 4), state, "lstm_cell")


def gru_cell(params: Any, x: Array, h: Array) -> Array:
    """The state h [..., hidden] after the input x [..., inputs]; ``params`` as of `gru_init`.

    r, z = sigmoid(x w + h u + b), n = tanh(x w + b + r (h u + bn)), h' = (1 - z) n + z h.

    Errors: ValueError for shapes that do not fit.
    Source: Cho et al. 2014, in the form of torch.nn.GRUCell with one bias for r and z.

    >>> params = gru_init(np.random.default_rng(0), inputs=2, hidden=3)
    >>> gru_cell(params, np.ones(2, np.float32), np.zeros(3, np.float32)).shape
    (3,)
    """
    return _gru_step(params, _projected("gru_cell", params, x, 3), h, "gru_cell")


def lstm(params: Any, x: Array, state: State | None = None, *, reverse: bool = False) -> tuple[Array, State]:
    """`lstm_cell` along the leading axis of x [time, ..., inputs]: (every h [time, ..., hidden], the last state).

    ``state`` is the first (h, c), zeros if None.  With ``reverse`` it runs from the end to the start; outputs stay in place.

    >>> params = lstm_init(np.random.default_rng(0), inputs=2, hidden=3)
    >>> outputs, (h, c) = lstm(params, np.ones((5, 4, 2), np.float32))
    >>> outputs.shape, bool((outputs[-1] == h).all())
    ((5, 4, 3), True)
    """

    def step(state: State, projected: Array) -> tuple[State, Array]:
        state = _lstm_step(params, projected, state, "lstm")
        return state, state[0]

    gates = _projected("lstm", params, _sequence("lstm", x), 4)
    if state is None:
        zero = np.zeros((*gates.shape[1:-1], params["u"].shape[0]), gates.dtype)
        state = (zero, zero)
    return _along(step, state, gates, reverse)


def gru(params: Any, x: Array, state: Array | None = None, *, reverse: bool = False) -> tuple[Array, Array]:
    """`gru_cell` along the leading axis of x [time, ..., inputs]: (every h [time, ..., hidden], the last); else as `lstm`.

    >>> params = gru_init(np.random.default_rng(0), inputs=2, hidden=3)
    >>> gru(params, np.ones((5, 2), np.float32))[0].shape
    (5, 3)
    """

    def step(h: Array, projected: Array) -> tuple[Array, Array]:
        h = _gru_step(params, projected, h, "gru")
        return h, h

    gates = _projected("gru", params, _sequence("gru", x), 3)
    if state is None:
        state = np.zeros((*gates.shape[1:-1], params["u"].shape[0]), gates.dtype)
    return _along(step, state, gates, reverse)


def bidirectional(layer: Callable[..., Any], params: Any, x: Array) -> Array:
    """``layer`` (`lstm` or `gru`) from the start and from the end of x [time, ..., inputs]: [time, ..., 2 hidden].

    ``params`` is {"forward", "backward"}, the parameters of each direction, whose outputs stand side by side.
    Source: Schuster and Paliwal 1997.

    >>> rng = np.random.default_rng(0)
    >>> params = {name: lstm_init(rng, inputs=2, hidden=3) for name in ("forward", "backward")}
    >>> bidirectional(lstm, params, np.ones((5, 2), np.float32)).shape
    (5, 6)
    """
    ahead, back = layer(params["forward"], x)[0], layer(params["backward"], x, reverse=True)[0]
    return fa.concat([ahead, back], axis=-1)


def attention(query: Array, keys: Array, values: Array, *, mask: Array | None = None) -> Array:
    """softmax(query keys' / sqrt(d)) values: for each query [..., n, d] a mean of the values [..., m, e], [..., n, e].

    Leading axes broadcast: heads are an axis.  ``mask`` of bools, broadcasting to [..., n, m], tells which keys [..., m, d] a
    query may see; one that sees none has NaN.  For other similarities and class probabilities: `fastmeta.kernels.attention`.

    Errors: ValueError for shapes that do not fit; TypeError for a mask that is not of bools.
    Source: Vaswani et al. 2017, equation 1.

    >>> keys = np.array([[20.0, 0.0], [0.0, 20.0]], np.float32)
    >>> attention(keys, keys, np.array([[1.0], [2.0]], np.float32))
    array([[1.],
           [2.]], dtype=float32)
    """
    q, k, v = (np.shape(a) for a in (query, keys, values))
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        raise located(expected("attention", "query [.., n, d], keys [.., m, d], values [.., m, e]", f"{q}, {k} and {v}"))
    axes = tuple(range(len(k)))
    scores = fa.multiply(fa.matmul(query, fa.permute_dims(keys, (*axes[:-2], axes[-1], axes[-2]))), 1.0 / math.sqrt(q[-1]))
    if mask is not None:
        if np.dtype(getattr(mask, "dtype", object)) != np.bool_:
            raise located(expected("attention", "a mask of bools", getattr(mask, "dtype", type(mask).__name__), TypeError))
        scores = fa.where(mask, scores, float("-inf"))
    return fa.matmul(fa.softmax(scores, axis=-1), values)


# -- one step from what the input gives to the gates


def _lstm_step(params: Any, projected: Array, state: State, where: str) -> State:
    h, c = state
    n = params["u"].shape[0]
    for name, part in (("h", h), ("c", c)):
        like(where, name, part, (*projected.shape[:-1], n))
    gates = fa.add(projected, fa.matmul(h, params["u"]))
    i, f, g, o = (gates[..., k * n : (k + 1) * n] for k in range(4))
    c = fa.add(fa.multiply(fa.sigmoid(f), c), fa.multiply(fa.sigmoid(i), fa.tanh(g)))
    return fa.multiply(fa.sigmoid(o), fa.tanh(c)), c


def _gru_step(params: Any, projected: Array, h: Array, where: str) -> Array:
    n = params["u"].shape[0]
    like(where, "h", h, (*projected.shape[:-1], n))
    like(where, "bn", params["bn"], (n,))
    own = fa.matmul(h, params["u"])
    gates = fa.sigmoid(fa.add(projected[..., : 2 * n], own[..., : 2 * n]))
    reset, keep = gates[..., :n], gates[..., n:]
    candidate = fa.tanh(fa.add(projected[..., 2 * n :], fa.multiply(reset, fa.add(own[..., 2 * n :], params["bn"]))))
    return fa.add(candidate, fa.multiply(keep, fa.subtract(h, candidate)))


def _projected(where: str, params: Any, x: Array, gates: int) -> Array:
    """x w + b: of a whole sequence in one product."""
    n = np.shape(params["u"])[0]
    for name, rows in (("w", np.shape(x)[-1] if np.shape(x) else 0), ("u", n)):
        like(where, name, params[name], (rows, gates * n))
    like(where, "b", params["b"], (gates * n,))
    return fa.add(fa.matmul(x, params["w"]), params["b"])


def _sequence(where: str, x: Array) -> Array:
    if len(np.shape(x)) < 2:
        raise located(expected(where, "x [time, ..., inputs]", f"shape {np.shape(x)}"))
    return x


def _along(step: Callable[..., Any], state: Any, gates: Array, reverse: bool) -> tuple[Array, Any]:
    state, outputs = scan(step, state, fa.flip(gates, axis=0) if reverse else gates)
    return fa.flip(outputs, axis=0) if reverse else outputs, state
