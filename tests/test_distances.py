"""Episodic kernels against their definitions in NumPy float64 and torch, their derivatives, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastmeta as fm
from fastmeta import kernels
from fastmeta.plan import make_plan
from fastmeta.testing import check_grads

N, M, D, T = 7, 5, 4, 3
TORCH = torch.float64


def embeddings(*shape: int, dtype: Any = np.float64, seed: int = 3) -> np.ndarray:
    print("seed", seed, shape)
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def covariances(*lead: int, dtype: Any = np.float64) -> np.ndarray:
    a = embeddings(*lead, D, D, seed=8)
    return (a @ a.swapaxes(-1, -2) + 0.5 * np.eye(D)).astype(dtype)


def mahalanobis2(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    d = x[:, None] - y
    inverse = np.diag(1 / scale) if scale.ndim == 1 else np.linalg.inv(scale)
    return np.sum((d[:, :, None] @ np.broadcast_to(inverse, (len(y), D, D)))[:, :, 0] * d, -1)


def cosine(x: np.ndarray, y: np.ndarray, scale: None = None) -> np.ndarray:
    length = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    return 1 - np.where(length > 0, x @ y.T / np.where(length > 0, length, 1), 0)


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sum((x[:, None] - y) ** 2, -1)


DEFINITIONS: dict[str, Callable[..., np.ndarray]] = {
    "sqeuclidean": lambda x, y, s: squares(x, y),
    "euclidean": lambda x, y, s: np.sqrt(squares(x, y)),
    "cosine": cosine,
    "dot": lambda x, y, s: -x @ y.T,
    "l1": lambda x, y, s: np.sum(np.abs(x[:, None] - y), -1),
    "rbf": lambda x, y, s: 1 - np.exp(-squares(x, y) / (2 * s**2)),
    "sqmahalanobis": mahalanobis2,
    "mahalanobis": lambda x, y, s: np.sqrt(mahalanobis2(x, y, s)),
}
SCALES: dict[str, list[Any]] = {
    "rbf": [np.float64(1.7)],
    "sqmahalanobis": [np.array([0.5, 1, 2, 3]), covariances(), covariances(M)],
    "mahalanobis": [np.array([0.5, 1, 2, 3]), covariances(), covariances(M)],
}
CASES = [pytest.param(m, s, id=f"{m}-{np.ndim(s)}" if s is not None else m) for m in DEFINITIONS for s in SCALES.get(m, [None])]


def test_every_metric_is_tested() -> None:
    assert set(DEFINITIONS) == set(kernels.METRICS)


# ---------------------------------------------------------------------------------------------- pairwise distances


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric, scale", CASES)
def test_distance(metric: str, scale: Any, dtype: Any, backend: str) -> None:
    x, y = embeddings(N, D, dtype=dtype), embeddings(M, D, dtype=dtype)
    y[2] = x[3]  # at distance 0
    s = None if scale is None else scale.astype(dtype)
    want = DEFINITIONS[metric](*(a.astype(np.float64) for a in (x, y)), scale)
    got = kernels.pairwise_distance(x, y, metric=metric, scale=s)
    assert got.dtype == dtype and got.shape == (N, M)
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, want, tolerance, tolerance)
    if metric not in ("dot", "cosine"):
        assert (got >= 0).all()
    if metric in ("euclidean", "l1") or "mahalanobis" in metric:
        assert got[3, 2] == 0
    inside = fm.jit(lambda a, b, c: kernels.pairwise_distance(a, b, metric=metric, scale=c))(x, y, s)
    np.testing.assert_allclose(inside, got, tolerance, tolerance)


@pytest.mark.parametrize("metric, scale", CASES)
def test_distance_of_tasks(metric: str, scale: Any, backend: str) -> None:
    x, y = embeddings(T, N, D), embeddings(T, M, D)
    shared = np.ndim(scale) < 3
    scales = scale if shared else covariances(T, M)
    got = kernels.pairwise_distance(x, y, metric=metric, scale=scales)
    assert got.shape == (T, N, M)
    for t in range(T):
        np.testing.assert_allclose(got[t], DEFINITIONS[metric](x[t], y[t], scales if shared else scales[t]), 1e-12, 1e-12)
    traced = fm.jit(lambda a, b, c: kernels.pairwise_distance(a, b, metric=metric, scale=c))(x, y, scales)
    np.testing.assert_allclose(traced, got, 1e-12, 1e-12)


def test_scale_of_each_task(backend: str) -> None:
    x, y = embeddings(T, N, D), embeddings(T, M, D)
    width, matrices = np.array([0.5, 1.0, 2.0]), covariances(T)
    rbf = kernels.pairwise_distance(x, y, metric="rbf", scale=width)
    full = kernels.pairwise_distance(x, y, metric="mahalanobis", scale=matrices)
    for t in range(T):
        np.testing.assert_allclose(rbf[t], DEFINITIONS["rbf"](x[t], y[t], width[t]), 1e-12)
        np.testing.assert_allclose(full[t], DEFINITIONS["mahalanobis"](x[t], y[t], matrices[t]), 1e-12)


@pytest.mark.parametrize("metric, scale", CASES)
def test_derivatives_of_distance(metric: str, scale: Any, backend: str) -> None:
    """Order 1 and 2, forwards and backwards, in x, y and the scale."""
    args = (embeddings(3, D), embeddings(2, D), scale[:2] if np.ndim(scale) == 3 else scale)
    check_grads(lambda x, y, s: kernels.pairwise_distance(x, y, metric=metric, scale=s), args, rtol=1e-5)


@pytest.mark.parametrize("metric, scale", CASES)
def test_derivatives_against_the_oracle(metric: str, scale: Any) -> None:
    x, y, w, v = embeddings(T, N, D), embeddings(T, M, D), embeddings(T, N, M), embeddings(T, N, D, seed=4)
    scale = covariances(T, M) if np.ndim(scale) == 3 else scale

    def value(a: Any, b: Any) -> Any:
        return fm.sum(fm.sin(kernels.pairwise_distance(a, b, metric=metric, scale=scale)) * w)

    def second(a: Any, b: Any) -> Any:
        return fm.grad(lambda a, b: fm.sum(fm.grad(value)(a, b) * v), argnums=(0, 1))(a, b)

    for f in (fm.grad(value, argnums=(0, 1)), fm.jit(second)):
        got = f(x, y)
        with fm.set_backend("numpy"):
            want = f(x, y)
        for g, o in zip(got, want, strict=True):
            np.testing.assert_allclose(g, o, 1e-9, 1e-9 * np.abs(o).max())


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine", "l1", "rbf", "mahalanobis"])
def test_a_large_offset_costs_no_accuracy(metric: str) -> None:
    x, y = (1000 + embeddings(n, 64, seed=n).astype(np.float32) for n in (30, 20))
    rng = np.random.default_rng(0)
    scale = {"rbf": np.float32(8), "mahalanobis": (np.eye(64) + np.diag(rng.random(64))).astype(np.float32)}.get(metric)
    got = kernels.pairwise_distance(x, y, metric=metric, scale=scale)
    wide = [a.astype(np.float64) for a in (x, y)]
    want = kernels.pairwise_distance(*wide, metric=metric, scale=None if scale is None else scale.astype(np.float64))
    np.testing.assert_allclose(got, want, 1e-4)


def test_coinciding_points_have_finite_derivatives(backend: str) -> None:
    x = embeddings(N, D)
    for metric, scale in (("euclidean", None), ("mahalanobis", covariances()), ("l1", None)):
        g = fm.grad(lambda a, b: fm.sum(kernels.pairwise_distance(a, b, metric=metric, scale=scale)))(x[:1], x[:1])  # noqa: B023
        np.testing.assert_array_equal(g, np.zeros((1, D)))


def test_rows_of_zeros_under_cosine(backend: str) -> None:
    x = np.array([[0.0, 0.0], [1.0, 0.0], [1e-30, 1e-30], [1e30, 0.0]], np.float32)
    d = kernels.pairwise_distance(x, x, metric="cosine")
    np.testing.assert_allclose(d[0], np.ones(4))
    np.testing.assert_allclose(d[1:, 1:], [[0, 1 - 0.5**0.5, 0], [1 - 0.5**0.5, 0, 1 - 0.5**0.5], [0, 1 - 0.5**0.5, 0]], atol=1e-6)
    g = fm.grad(lambda a: fm.sum(kernels.pairwise_distance(a, x[:2], metric="cosine")))(x[:2])
    assert np.isfinite(g).all() and (g[0] == 0).all()


@pytest.mark.parametrize("length", [1e-30, 1e-20, 1e-10, 1e10, 1e20])
def test_derivatives_of_cosine_at_any_length(length: float, backend: str) -> None:
    """The derivative at s x is that at x, over s."""
    x, y = embeddings(N, D, dtype=np.float32), embeddings(M, D, dtype=np.float32)
    f = fm.grad(lambda a: fm.sum(fm.sin(kernels.pairwise_distance(a, y, metric="cosine"))))
    np.testing.assert_allclose(f(x * np.float32(length)) * np.float32(length), f(x), 1e-4, 1e-5)


@pytest.mark.parametrize("metric, scale", CASES)
def test_nothing_of_the_size_of_all_differences_is_kept(metric: str, scale: Any) -> None:
    n, m, d = 300, 250, 40
    x, y, w = (embeddings(*s, dtype=np.float32) for s in ((2, n, d), (2, m, d), (2, n, m)))
    a = embeddings(2, m, d, d).astype(np.float32)
    scale = {0: np.float32(3), 1: np.ones(d, np.float32), 2: np.eye(d, dtype=np.float32), 3: a @ a.swapaxes(-1, -2) + np.eye(d, dtype=np.float32)}.get(
        -1 if scale is None else np.ndim(scale)
    )
    f = fm.map_tasks(
        fm.value_and_grad(lambda x, y, w, s: fm.sum(w * kernels.pairwise_distance(x, y, metric=metric, scale=s)), argnums=(0, 1)),
        in_axes=(0, 0, 0, 0 if np.ndim(scale) == 4 else None),
    )
    arena = make_plan(f.program(x, y, w, scale)).words[9]
    matrices = 4 * m * d * d if np.ndim(scale) == 4 else 0  # the inverses of classes, which are no differences
    assert arena - 4 * matrices < 4 * n * m * d


# --------------------------------------------------------------------------------------- prototypes and their loss

LABELS = np.array([0, 1, 2, 0, 1, 2, 2])


def test_prototypes(backend: str) -> None:
    x, w = embeddings(T, N, D), np.random.default_rng(1).random((T, N))
    y = np.stack([LABELS, LABELS[::-1], np.roll(LABELS, 2)])
    plain, weighted = kernels.prototypes(x, y, n_way=3), kernels.prototypes(x, y, n_way=3, weights=w)
    masked = kernels.prototypes(x, y, n_way=3, weights=w > 0.3)
    for t in range(T):
        for c in range(3):
            of = y[t] == c
            np.testing.assert_allclose(plain[t, c], x[t, of].mean(0), 1e-12)
            np.testing.assert_allclose(weighted[t, c], np.average(x[t, of], 0, w[t, of]), 1e-12)
            kept = of & (w[t] > 0.3)
            np.testing.assert_allclose(masked[t, c], x[t, kept].mean(0) if kept.any() else np.zeros(D), 1e-12)
    np.testing.assert_allclose(fm.jit(lambda a: kernels.prototypes(a, y[0], n_way=3))(x[0]), plain[0], 1e-12)


def test_a_class_without_rows(backend: str) -> None:
    x = embeddings(N, D)
    np.testing.assert_array_equal(kernels.prototypes(x, LABELS, n_way=5)[3:], np.zeros((2, D)))
    four = kernels.proto_loss(x, LABELS, x, LABELS, n_way=4)
    np.testing.assert_allclose(four, kernels.proto_loss(x, LABELS, x, LABELS, n_way=3), 1e-12)  # never chosen
    value, gradient = fm.value_and_grad(lambda a: kernels.proto_loss(a, LABELS, a, LABELS, n_way=4)[0])(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    loss, accuracy = kernels.proto_loss(x, LABELS, x, np.full(N, 3), n_way=4)
    assert loss == np.inf and accuracy == 0


def torch_loss(support: torch.Tensor, query: torch.Tensor, labels: torch.Tensor, query_labels: torch.Tensor, metric: str, scale: Any, tau: float) -> torch.Tensor:
    means = torch.stack([support[labels == c].mean(0) for c in range(3)])
    d = query[:, None] - means
    distance = {
        "sqeuclidean": lambda: (d**2).sum(-1),
        "euclidean": lambda: (d**2).sum(-1).sqrt(),
        "cosine": lambda: 1 - torch.cosine_similarity(query[:, None], means, -1),
        "dot": lambda: -query @ means.T,
        "l1": lambda: d.abs().sum(-1),
        "rbf": lambda: 1 - torch.exp(-(d**2).sum(-1) / (2 * float(scale) ** 2)),
        "sqmahalanobis": lambda: torch.einsum("nmi,ij,nmj->nm", d, torch.linalg.inv(torch.as_tensor(scale)), d),
        "mahalanobis": lambda: torch.einsum("nmi,ij,nmj->nm", d, torch.linalg.inv(torch.as_tensor(scale)), d).sqrt(),
    }[metric]()
    return torch.nn.functional.cross_entropy(-distance / tau, query_labels)


@pytest.mark.parametrize("metric", DEFINITIONS)
def test_proto_loss_against_torch(metric: str, backend: str) -> None:
    scale = {"rbf": 1.7, "sqmahalanobis": covariances(), "mahalanobis": covariances()}.get(metric)
    s, q, v = embeddings(N, D), embeddings(9, D), embeddings(N, D, seed=4)
    query_labels = np.arange(9) % 3

    def loss(a: Any, b: Any) -> Any:
        return kernels.proto_loss(a, LABELS, b, query_labels, n_way=3, metric=metric, scale=scale, temperature=0.7)[0]

    def of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch_loss(a, b, torch.as_tensor(LABELS), torch.as_tensor(query_labels), metric, scale, 0.7)

    ts, tq = (torch.tensor(a, dtype=TORCH, requires_grad=True) for a in (s, q))
    want = of(ts, tq)
    first = torch.autograd.grad(want, (ts, tq), create_graph=True)
    second = torch.autograd.grad((first[0] * torch.as_tensor(v)).sum(), (ts, tq))
    value, gradients = fm.value_and_grad(loss, argnums=(0, 1))(s, q)
    np.testing.assert_allclose(value, want.item(), 1e-10)
    for g, w in zip(gradients, first, strict=True):
        np.testing.assert_allclose(g, w.detach().numpy(), 1e-9, 1e-10)
    got = fm.grad(lambda a, b: fm.sum(fm.grad(loss)(a, b) * v), argnums=(0, 1))(s, q)
    for g, w in zip(got, second, strict=True):
        np.testing.assert_allclose(g, w.numpy(), 1e-9, 1e-10)


def test_proto_loss_of_tasks_with_weights(backend: str) -> None:
    s, q, w = embeddings(T, N, D), embeddings(T, 9, D), np.random.default_rng(2).random((T, N)) + 0.1
    y, qy = np.tile(LABELS, (T, 1)), np.tile(np.arange(9) % 3, (T, 1))
    mask = np.random.default_rng(5).random((T, 9)) < 0.6
    loss, accuracy = kernels.proto_loss(s, y, q, qy, n_way=3, weights=w, query_weights=mask)
    for t in range(T):
        d = squares(q[t], kernels.prototypes(s[t], LABELS, n_way=3, weights=w[t]))
        log_p = -d - np.log(np.exp(-d).sum(1, keepdims=True))
        np.testing.assert_allclose(loss[t], -log_p[np.arange(9), qy[t]][mask[t]].mean(), 1e-10)
        np.testing.assert_allclose(accuracy[t], (d.argmin(1) == qy[t])[mask[t]].mean())


def test_padding_does_not_count(backend: str) -> None:
    """An episode with padded supports and queries has the loss and the gradients of the episode without."""
    s, q, y, qy = embeddings(N, D), embeddings(6, D), LABELS, np.arange(6) % 3
    pad = np.full((2, D), 9.0)
    keep, keep_q = np.arange(N + 2) < N, np.arange(8) < 6
    args = np.concatenate([s, pad]), np.concatenate([q, pad])

    def padded(a: Any, b: Any) -> Any:
        more = {"weights": keep, "query_weights": keep_q}
        return kernels.proto_loss(a, np.append(y, [0, 0]), b, np.append(qy, [1, 1]), n_way=3, **more)[0]

    def bare(a: Any, b: Any) -> Any:
        return kernels.proto_loss(a, y, b, qy, n_way=3)[0]

    (value, grads), (want, wants) = fm.value_and_grad(padded, argnums=(0, 1))(*args), fm.value_and_grad(bare, argnums=(0, 1))(s, q)
    np.testing.assert_allclose(value, want, 1e-12)
    for g, w in zip(grads, wants, strict=True):
        np.testing.assert_allclose(g, np.concatenate([w, np.zeros((2, D))]), 1e-12, 1e-14)


def test_loss_with_a_large_offset() -> None:
    s, q = (1000 + embeddings(n, 64, seed=n).astype(np.float32) / 8 for n in (N, 9))
    f = fm.value_and_grad(lambda a, b: kernels.proto_loss(a, LABELS, b, np.arange(9) % 3, n_way=3)[0], argnums=(0, 1))
    value, gradients = f(s, q)
    want, wants = f(s.astype(np.float64), q.astype(np.float64))
    np.testing.assert_allclose(value, want, 1e-4)
    for g, w in zip(gradients, wants, strict=True):
        np.testing.assert_allclose(g, w, 1e-3, 1e-3 * np.abs(w).max())


def test_a_class_without_rows_costs_no_digits(backend: str) -> None:
    """Its mean, zeros, is far from all others where these have a large offset; by the kernel and, with a temperature that is traced, by the expansion."""
    s, q = (1000 + embeddings(n, 64, seed=n).astype(np.float32) for n in (36, 24))
    labels, query_labels = np.arange(36) % 18, np.arange(24) % 18

    def loss(s: Any, q: Any, temperature: Any) -> Any:
        return kernels.proto_loss(s, labels, q, query_labels, n_way=20, temperature=temperature)[0]

    traced = fm.value_and_grad(loss, argnums=(0, 1))
    number = fm.value_and_grad(lambda s, q: loss(s, q, 1.0), argnums=(0, 1))
    want, wants = traced(s.astype(np.float64), q.astype(np.float64), np.float64(1))
    for value, gradients in (traced(s, q, np.float32(1)), number(s, q)):
        np.testing.assert_allclose(value, want, 1e-4)
        for g, w in zip(gradients, wants, strict=True):
            np.testing.assert_allclose(g, w, 0, 2e-3 * np.abs(w).max())


# ------------------------------------------------------------------------------------------ neighbours, attention


@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest(k: int, backend: str) -> None:
    x, y = embeddings(T, N, D), embeddings(T, 20, D)
    distances, indices = kernels.nearest(x, y, k)
    assert indices.dtype == np.int32 and indices.shape == (T, N, k)
    for t in range(T):
        d = squares(x[t], y[t])
        order = np.argsort(d, 1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices[t], order)
        np.testing.assert_allclose(distances[t], np.take_along_axis(d, order, 1), 1e-10)
    check_grads(lambda a, b: kernels.nearest(a, b, k, metric="l1")[0], (x[0], y[0]))


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean", "dot"])
def test_attention(metric: str, backend: str) -> None:
    x, y, v = embeddings(T, N, D), embeddings(T, M, D), embeddings(T, M, 2)
    mask = np.array([[True, False, True, True, True]] * T)
    got = kernels.attention(x, y, v, metric=metric, temperature=np.array([0.1, 1.0, 3.0]), mask=mask)
    for t, tau in enumerate((0.1, 1.0, 3.0)):
        p = np.exp(-DEFINITIONS[metric](x[t], y[t][mask[t]], None) / tau)
        np.testing.assert_allclose(got[t], p / p.sum(1, keepdims=True) @ v[t][mask[t]], 1e-10)
    check_grads(lambda a, b, c, tau: kernels.attention(a, b, c, metric=metric, temperature=tau, mask=mask[0]), (x[0], y[0], v[0], 0.8))


# ------------------------------------------------------------------------------------------------------ bad input

X, Y2 = np.zeros((4, 2), np.float32), np.ones((3, 2), np.float32)
LAB = np.array([0, 0, 1, 1])
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "metric": (lambda: kernels.pairwise_distance(X, Y2, metric="euclid"), ValueError, "[pairwise_distance] expected a metric of sqeuclidean"),
    "features": (lambda: kernels.pairwise_distance(X, Y2[:, :1], metric="l1"), ValueError, "as many features in x and y, got 2 and 1"),
    "integers": (lambda: kernels.pairwise_distance(X.astype(int), Y2, metric="l1"), TypeError, "x an array of floats, got int32"),
    "one axis": (lambda: kernels.pairwise_distance(X[0], Y2, metric="l1"), ValueError, "x with rows of features"),
    "four axes": (lambda: kernels.pairwise_distance(X[None, None], Y2, metric="l1"), ValueError, "x of 2 axes (or 3, the first being the task's)"),
    "one of tasks": (lambda: kernels.pairwise_distance(X[None], Y2, metric="l1"), ValueError, "y of 3 axes"),
    "no rows": (lambda: kernels.pairwise_distance(X, Y2[:0], metric="l1"), ValueError, "y with rows of features, at least one"),
    "tasks": (lambda: kernels.pairwise_distance(np.stack([X, X]), Y2[None], metric="l1"), ValueError, "one number of tasks"),
    "scale unasked": (lambda: kernels.pairwise_distance(X, Y2, metric="l1", scale=2.0), ValueError, "no scale for l1"),
    "no bandwidth": (lambda: kernels.pairwise_distance(X, Y2, metric="rbf"), ValueError, "scale, a bandwidth, a positive number, got none"),
    "bandwidth 0": (lambda: kernels.pairwise_distance(X, Y2, metric="rbf", scale=0.0), ValueError, "scale, a bandwidth, above 0"),
    "no covariance": (lambda: kernels.pairwise_distance(X, Y2, metric="mahalanobis"), ValueError, "scale, a covariance [2], [2, 2] or [3, 2, 2], got none"),
    "covariance": (lambda: kernels.pairwise_distance(X, Y2, metric="mahalanobis", scale=np.eye(3)), ValueError, "a covariance [2]"),
    "per class": (lambda: kernels.pairwise_distance(X, Y2, metric="mahalanobis", scale=np.ones((4, 2, 2), np.float32)), ValueError, "a covariance [2], [2, 2] or [3, 2, 2], got shape (4, 2, 2)"),
    "singular": (lambda: kernels.pairwise_distance(X, Y2, metric="mahalanobis", scale=np.ones((2, 2), np.float32)), ValueError, "positive definite covariance"),
    "singular at": (
        lambda: kernels.pairwise_distance(X[None], Y2[None], metric="mahalanobis", scale=np.stack([np.ones((2, 2), np.float32)])),
        ValueError, "a singular or indefinite one at (0,)",
    ),
    "variance": (lambda: kernels.pairwise_distance(X, Y2, metric="mahalanobis", scale=np.zeros(2, np.float32)), ValueError, "variances above 0"),
    "label": (lambda: kernels.prototypes(X, LAB, n_way=1), IndexError, "expected an index in 0..0, got 1"),
    "negative label": (lambda: kernels.prototypes(X, LAB - 1, n_way=2), IndexError, "expected an index in 0..1, got -1"),
    "query label": (lambda: kernels.proto_loss(X, LAB, X, LAB + 1, n_way=2), IndexError, "expected an index in 0..1, got 2"),
    "labels": (lambda: kernels.prototypes(X, LAB[:3], n_way=2), ValueError, "labels of shape (4,), got shape (3,)"),
    "float labels": (lambda: kernels.prototypes(X, LAB.astype(np.float32), n_way=2), TypeError, "integer labels"),
    "weights": (lambda: kernels.prototypes(X, LAB, n_way=2, weights=np.array([1.0, -1.0, 1.0, 1.0])), ValueError, "weights of at least 0, got -1.0"),
    "weights' shape": (lambda: kernels.prototypes(X, LAB, n_way=2, weights=np.ones(3)), ValueError, "weights of shape (4,)"),
    "n_way": (lambda: kernels.prototypes(X, LAB, n_way=0), ValueError, "n_way at least 1"),
    "n_way a float": (lambda: kernels.prototypes(X, LAB, n_way=2.0), TypeError, "n_way a whole number"),
    "k": (lambda: kernels.nearest(X, Y2, 4), ValueError, "[nearest] expected k of at most the 3 rows of y, got 4"),
    "k 0": (lambda: kernels.nearest(X, Y2, 0), ValueError, "k at least 1"),
    "temperature": (lambda: kernels.attention(X, Y2, Y2, metric="dot", temperature=0.0), ValueError, "[attention] expected temperature above 0"),
    "temperature of a loss": (lambda: kernels.proto_loss(X, LAB, X, LAB, n_way=2, temperature=-1.0), ValueError, "temperature above 0"),
    "values": (lambda: kernels.attention(X, Y2, Y2[:2], metric="dot"), ValueError, "as many values as keys, got 2 and 3"),
    "mask": (lambda: kernels.attention(X, Y2, Y2, metric="dot", mask=np.ones(3, np.float32)), TypeError, "a mask of bools"),
    "top_k": (lambda: fm.top_k(X, 3), ValueError, "k of at most the 2 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, backend: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value), str(error.value)
    assert "test_distances.py" in str(error.value)


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_after_good(name: str, tasks: bool, backend: str) -> None:
    """What a call has checked is not checked again for arrays of its kinds, and for others is."""
    lead = (lambda a: np.stack([a, a])) if tasks else (lambda a: a)
    for metric in ("l1", "sqeuclidean"):
        kernels.pairwise_distance(lead(X), lead(Y2), metric=metric)
        for k in (1, 3):
            kernels.nearest(lead(X), lead(Y2), k, metric=metric)
    for metric, scale in (("rbf", 2.0), ("mahalanobis", np.eye(2, dtype=np.float32))):
        kernels.pairwise_distance(lead(X), lead(Y2), metric=metric, scale=scale)
    for n_way in (2, 3):
        kernels.prototypes(lead(X), lead(LAB), n_way=n_way)
        kernels.prototypes(lead(X), lead(LAB), n_way=n_way, weights=lead(np.ones(4)))
        for temperature in (1.0, 2.0):
            kernels.proto_loss(lead(X), lead(LAB), lead(X), lead(LAB), n_way=n_way, temperature=temperature)
    for mask in (None, lead(np.ones(3, bool))):
        kernels.attention(lead(X), lead(Y2), lead(Y2), metric="dot", mask=mask)
    test_bad_input(name, backend)


def test_arrays_of_other_kinds_after_the_first_ones() -> None:
    x, y = embeddings(T, N, D), embeddings(T, M, D)
    want = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)

    def f(a: Any, b: Any) -> np.ndarray:
        return kernels.pairwise_distance(a, b, metric="sqeuclidean")

    for _ in range(2):
        np.testing.assert_allclose(f(x, y), want, 1e-12)
        np.testing.assert_allclose(f(x[0], y[0]), want[0], 1e-12)
        assert f(x.astype(np.float32), y.astype(np.float32)).dtype == np.float32
        np.testing.assert_allclose(f(x[:, ::-1], y[:2].repeat(2, 0)[1:]), ((x[:, ::-1, None] - y[[0, 1, 1]][:, None]) ** 2).sum(-1), 1e-12)
        np.testing.assert_allclose(f(x[0].astype(np.float32).tolist(), y[0].astype(np.float32).tolist()), want[0], 1e-5)
        np.testing.assert_allclose(f(torch.from_numpy(x), torch.from_numpy(y)), want, 1e-12)
        np.testing.assert_allclose(fm.jit(f)(x, y), want, 1e-12)


def test_a_label_out_of_range_names_the_task(backend: str) -> None:
    labels = np.stack([LAB, LAB, LAB + 1])
    with pytest.raises(IndexError, match="got 2 in task 2"):
        kernels.prototypes(np.stack([X] * 3), labels, n_way=2)


def test_a_singular_covariance_inside_a_trace_gives_nan(backend: str) -> None:
    for scale in (np.ones((2, 2), np.float32), np.array([[1, 2], [2, 1]], np.float32), np.zeros(2, np.float32)):
        got = fm.jit(lambda s: kernels.pairwise_distance(X, Y2, metric="mahalanobis", scale=s))(scale)
        assert np.isnan(got).all()
