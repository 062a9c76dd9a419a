"""Small linear regression tasks in float64, and the meta-gradient of gradient descent on them by hand."""

from __future__ import annotations

import numpy as np

from fastmeta.data import Episode

TASKS = 3
W = {"a": np.array([0.3, -1.0]), "b": np.array([2.0])}  # of `linear`; as one vector: [a, a, b]


def linear(params, x):
    return x[:, :2] @ params["a"] + x[:, 2:] @ params["b"]


def regression(seed=0, n=6):
    rng = np.random.default_rng(seed)
    x, xq = rng.normal(size=(2, TASKS, n, 3))
    y, yq = rng.normal(size=(2, TASKS, n))
    return Episode(x, y, xq, yq)


def vector(params):
    return np.concatenate([params["a"], params["b"]])


def slope(w, x, y):
    return 2 * x.T @ (x @ w - y) / len(x)


def by_hand(rates, e, loss_weights=None, order=2):
    """Mean loss, its gradient in the weights [3] and in the rates [steps, 3] of w <- w - rates[k] * slope(w).

    The reverse pass: with u the gradient after step k, that of rates[k] is -u * slope and u becomes u - H (rates[k] * u).
    """
    steps = len(rates)
    loss_weights = [0.0] * (steps - 1) + [1.0] if loss_weights is None else loss_weights
    total, d_w, d_rates = 0.0, np.zeros(3), np.zeros((steps, 3))
    for x, y, xq, yq in zip(*e, strict=True):
        path = [vector(W)]
        for rate in rates:
            path.append(path[-1] - rate * slope(path[-1], x, y))
        u = np.zeros(3)
        for k in reversed(range(steps)):
            w = path[k + 1]
            total += loss_weights[k] * np.mean((xq @ w - yq) ** 2) / TASKS
            u = u + loss_weights[k] * slope(w, xq, yq)
            d_rates[k] -= u * slope(path[k], x, y) / TASKS
            if order == 2:
                u = u - 2 * x.T @ (x @ (rates[k] * u)) / len(x)
        d_w += u / TASKS
    return total, d_w, d_rates


def check(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
