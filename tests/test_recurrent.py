"""LSTM, GRU and attention against torch in float64, their derivatives to second order, and what they refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import fastmeta as fm
from fastmeta import nn

RNG = np.random.default_rng(0)
TIME, BATCH, INPUTS, HIDDEN = 4, 3, 2, 5
INITS = {"lstm": nn.lstm_init, "gru": nn.gru_init}
LAYERS = {"lstm": nn.lstm, "gru": nn.gru}


def parameters(kind, seed=0, inputs=INPUTS, hidden=HIDDEN):
    rng = np.random.default_rng(seed)
    return {k: v + 0.1 * rng.normal(size=v.shape) for k, v in INITS[kind](rng, inputs, hidden).items()}


def torchs(kind, *directions):
    """The torch layer with these parameters."""
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](INPUTS, HIDDEN, bidirectional=len(directions) == 2).double()
    with torch.no_grad():
        for p, end in zip(directions, ("", "_reverse"), strict=False):
            getattr(layer, f"weight_ih_l0{end}").copy_(torch.tensor(p["w"].T))
            getattr(layer, f"weight_hh_l0{end}").copy_(torch.tensor(p["u"].T))
            getattr(layer, f"bias_ih_l0{end}").copy_(torch.tensor(p["b"]))
            other = getattr(layer, f"bias_hh_l0{end}").zero_()
            if "bn" in p:
                other[2 * HIDDEN :] = torch.tensor(p["bn"])
    return layer


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_are_torchs_with_their_gradients(kind, backend, loops):
    p, x = parameters(kind), RNG.normal(size=(TIME, BATCH, INPUTS))
    start = [RNG.normal(size=(BATCH, HIDDEN)) for _ in range(2 if kind == "lstm" else 1)]
    weight = RNG.normal(size=(TIME, BATCH, HIDDEN))
    layer = torchs(kind, p)
    xt = torch.tensor(x, requires_grad=True)
    first = [torch.tensor(s)[None] for s in start]
    outputs, last = layer(xt, tuple(first) if kind == "lstm" else first[0])
    (outputs * torch.tensor(weight)).sum().backward()

    def run(p, x):
        return LAYERS[kind](p, x, tuple(start) if kind == "lstm" else start[0])

    got, state = fm.jit(run)(p, x)
    np.testing.assert_allclose(got, outputs.detach(), 1e-10)
    for a, b in zip(*[s if isinstance(s, tuple) else (s,) for s in (state, last)], strict=True):
        np.testing.assert_allclose(a, b.detach()[0], 1e-10)
    g, gx = fm.grad(lambda p, x: fm.sum(run(p, x)[0] * weight), argnums=(0, 1))(p, x)
    np.testing.assert_allclose(gx, xt.grad, 1e-9)
    for ours, theirs in (("w", layer.weight_ih_l0.grad.T), ("u", layer.weight_hh_l0.grad.T), ("b", layer.bias_ih_l0.grad)):
        np.testing.assert_allclose(g[ours], theirs, 1e-9)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_both_directions_are_torchs(kind, backend):
    p = {"forward": parameters(kind, 1), "backward": parameters(kind, 2)}
    x = RNG.normal(size=(TIME, BATCH, INPUTS))
    want = torchs(kind, p["forward"], p["backward"])(torch.tensor(x))[0].detach()
    got = fm.jit(lambda p, x: nn.bidirectional(LAYERS[kind], p, x))(p, x)
    np.testing.assert_allclose(got, want, 1e-10)
    np.testing.assert_allclose(nn.bidirectional(LAYERS[kind], p, x[:, 0]), want[:, 0], 1e-10)


def test_cells_are_one_step_of_their_layers():
    p, q, x = parameters("lstm"), parameters("gru"), RNG.normal(size=(BATCH, INPUTS))
    h, c = RNG.normal(size=(2, BATCH, HIDDEN))
    for a, b in zip(nn.lstm_cell(p, x, (h, c)), nn.lstm(p, x[None], (h, c))[1], strict=True):
        np.testing.assert_allclose(a, b, 1e-12)
    np.testing.assert_allclose(nn.gru_cell(q, x, h), nn.gru(q, x[None], h)[1], 1e-12)


def test_derivatives_to_second_order(loops):
    x = RNG.normal(size=(3, INPUTS))
    for kind in ("lstm", "gru"):
        p = {name: parameters(kind, k, hidden=2) for k, name in enumerate(("forward", "backward"))}
        fm.testing.check_grads(lambda p, x, k=kind: fm.sum(fm.square(nn.bidirectional(LAYERS[k], p, x))), (p, x), rtol=1e-5, atol=1e-5)


def test_attention_is_torchs(backend):
    q, k, v = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 5, 4)), RNG.normal(size=(2, 5, 6))
    mask = RNG.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    for m in (None, mask):
        want = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), attn_mask=None if m is None else torch.tensor(m))
        np.testing.assert_allclose(fm.jit(lambda q, k, v, m=m: nn.attention(q, k, v, mask=m))(q, k, v), want, 1e-9, atol=1e-12)


def test_attentions_derivatives_to_second_order():
    q, k, v = RNG.normal(size=(2, 3)), RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2))
    mask = np.array([True, True, False, True])
    fm.testing.check_grads(lambda q, k, v: fm.sum(fm.sin(nn.attention(q, k, v, mask=mask))), (q, k, v), rtol=1e-5, atol=1e-5)


def test_initial_values():
    p = nn.lstm_init(np.random.default_rng(0), 7, 16)
    assert p["w"].shape == (7, 64) and p["w"].dtype == np.float32 and np.abs(p["u"]).max() <= 0.25
    np.testing.assert_array_equal(p["b"].reshape(4, 16).sum(1), [0, 16, 0, 0])


P, Q = parameters("lstm"), parameters("gru")
H = np.zeros((BATCH, HIDDEN))
BAD = [
    (lambda: nn.lstm_cell(P, np.ones((BATCH, 3)), (H, H)), ValueError, "[lstm_cell] expected w of shape (3, 20), got (2, 20)"),
    (lambda: nn.lstm_cell(P, np.ones((1, INPUTS)), (H, H)), ValueError, "[lstm_cell] expected h of shape (1, 5), got (3, 5)"),
    (lambda: nn.gru(Q | {"bn": np.ones(3)}, np.ones((TIME, INPUTS))), ValueError, "[gru] expected bn of shape (5,), got (3,)"),
    (lambda: nn.lstm(Q, np.ones((TIME, INPUTS))), ValueError, "[lstm] expected w of shape (2, 20), got (2, 15)"),
    (lambda: nn.lstm(P, np.ones(INPUTS)), ValueError, "[lstm] expected x [time, ..., inputs], got shape (2,)"),
    (lambda: nn.attention(H, H, H[:2]), ValueError, "[attention] expected query [.., n, d], keys [.., m, d], values [.., m, e], got"),
    (lambda: nn.attention(H, H, H, mask=np.ones((3, 3))), TypeError, "[attention] expected a mask of bools, got float64"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()
