"""Log-determinants, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmeta as fm


def definite(count: int, n: int, dtype) -> np.ndarray:
    x = np.random.default_rng(n).standard_normal((count, n, n))
    return (x @ x.swapaxes(1, 2) / n + np.eye(n)).astype(dtype)


def test_no_matrices(backend):
    assert fm.jit(fm.logdet)(np.zeros((0, 3, 3), np.float32)).shape == (0,)
    np.testing.assert_array_equal(fm.jit(fm.logdet)(np.zeros((2, 0, 0), np.float32)), [0, 0])


def test_only_square_matrices_of_floats():
    with pytest.raises(ValueError, match=r"\[logdet\] expected square matrices \[.., n, n\], got"):
        fm.jit(fm.logdet)(np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(25,), (3, 64), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_determinants(backend, dtype, shape):
    """Also of matrices whose determinants overflow; what is not positive definite gives NaN, for itself alone."""
    *batch, n = shape
    x = 1e3 * definite(int(np.prod(batch, dtype=int)), n, dtype).reshape(*batch, n, n)
    want = np.linalg.slogdet(x.astype(np.float64))[1]
    np.testing.assert_allclose(fm.jit(fm.logdet)(x), want, rtol=1e-5 if dtype == np.float32 else 1e-13)
    if batch:
        first = (0,) * len(batch)
        x[first] = -x[first]
        got = fm.jit(fm.logdet)(x)
        assert np.isnan(got[first]) and np.isnan(got).sum() == 1


def test_marginal_likelihood_of_a_gaussian_process(backend):
    """Value and gradient of the hyperparameters of every task's process, against torch.distributions."""
    rng = np.random.default_rng(0)
    x, y, theta, n = rng.standard_normal((6, 25, 3)), rng.standard_normal((6, 25)), np.array([0.1, 0.2, -1.0]), 25

    def loss(theta, x, y):
        squares = fm.kernels.pairwise_distance(x, x, metric="sqeuclidean")
        k = fm.exp(theta[0] - squares * fm.exp(-2 * theta[1]) / 2) + fm.exp(theta[2]) * np.eye(n)
        return (y @ (fm.inverse(k) @ y) + fm.logdet(k) + n * np.log(2 * np.pi)) / 2

    value, gradient = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0, 0), reduce="mean")(theta, x, y)
    t, tx = torch.tensor(theta, requires_grad=True), torch.tensor(x)
    squares = ((tx[:, :, None] - tx[:, None]) ** 2).sum(-1)
    k = torch.exp(t[0] - squares * torch.exp(-2 * t[1]) / 2) + torch.exp(t[2]) * torch.eye(n, dtype=torch.float64)
    want = -torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), k).log_prob(torch.tensor(y)).mean()
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-10)
