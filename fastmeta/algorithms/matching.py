"""Matching networks: attention over the support examples, each on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import kernels, nn
from fastmeta.algorithms.inner import positive
from fastmeta.algorithms.learner import features
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.algorithms.protonet import one_metric
from fastmeta.errors import whole
from fastmeta.loops import scan
from fastmeta.trace import Array

__all__ = ["MatchingNet", "best_of_class", "members"]


class MatchingNet(MetricLearner):
    """Matching network: a class's probability is the attention that a query pays to the support examples of the class.

    Attention is softmax(-distance / temperature) over the support set.  With one support example a class and the squared
    distance this is a prototypical network.

    With ``context`` above 0 embeddings depend on the whole support set (full context embeddings): a bidirectional LSTM runs over
    the support examples, in their order, and its outputs are added to their embeddings; a query is read by an LSTM with
    attention over these for ``context`` steps.  Meta-parameters are then {"model", "support" (both directions), "query"}.

    Args:
        model: an embedding ``model(params, x) -> [n, features]``; for ``context`` one that says ``model.outputs``, its features.
        metric: "cosine" (the paper's), "sqeuclidean", "euclidean", "dot" or "l1".
        temperature: by which distances are divided, above 0; 1 in the paper.
        context: steps of the query's LSTM; 0 for embeddings of single examples.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Vinyals et al. 2016, equation 1, section 2.1.2 and appendix A.

    >>> from fastmeta.models import MLP
    >>> learner = MatchingNet(MLP((2, 8, 4)), context=3)
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> learner.predict(adapted, x).shape
    (2, 2)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        metric: str = "cosine",
        temperature: float = 1.0,
        context: int = 0,
        ways: int | None = None, batch_norm: str = "batch",
    ):
        super().__init__(model, ways, batch_norm)
        self.metric = one_metric(self._name, metric)
        self.temperature = positive(self._name, "temperature", temperature)
        self.context = whole(self._name, "context", context, least=0)

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model, and of the LSTMs if there are any."""
        weights = super().init(seed)
        if not self.context:
            return weights
        n = features(self._name, "model", self.model)
        rng = np.random.default_rng([seed, 1])  # another stream than the model's
        support = {name: nn.lstm_init(rng, n, n) for name in ("forward", "backward")}
        return {"model": weights, "support": support, "query": nn.lstm_init(rng, 2 * n, n)}

    def _weights(self, params: Any) -> Any:
        return params["model"] if self.context else params

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> tuple[Array, Array]:
        if self.context:
            both = nn.bidirectional(nn.lstm, params["support"], z)
            n = z.shape[1]
            z = fa.add(z, fa.add(both[:, :n], both[:, n:]))
        return z, members(y, classes)

    def _logits(self, params: Any, task: tuple[Array, Array], z: Array) -> Array:
        keys, of_class = task
        if self.context:
            z = self._read(params["query"], z, keys)
        scores = fa.multiply(kernels.pairwise_distance(z, keys, metric=self.metric), -1.0 / self.temperature)
        return _log_sums(scores, of_class)

    def _read(self, lstm: Any, z: Array, keys: Array) -> Array:
        """The queries z [n, D] after ``context`` steps of an LSTM that sees them and what it attends to among the keys."""

        def step(state: Any, _: None) -> tuple[Any, None]:
            h, c = state
            attended = kernels.attention(h, keys, keys, metric="dot")
            h, c = nn.lstm_cell(lstm, fa.concat([z, attended], axis=1), (h, c))
            return (fa.add(h, z), c), None

        zero = fa.zeros_like(z)
        return scan(step, (zero, zero), length=self.context)[0][0]


def members(y: Array, classes: range) -> Array:
    """Bools [n, classes]: of which class an example is."""
    return fa.equal(fa.expand_dims(y, axis=1), np.asarray(classes, np.int32))


def best_of_class(scores: Array, of_class: Array) -> Array:
    """The largest of a query's scores [queries, n] among the examples of each class: [queries, classes]."""
    return fa.max(fa.where(of_class, fa.expand_dims(scores, axis=2), float("-inf")), axis=1)


def _log_sums(scores: Array, of_class: Array) -> Array:
    """log(sum(exp(scores [queries, n]))) over the examples of each class: [queries, classes].

    Shifted by the largest score of each class, so that no class underflows; the sums are one product, and nothing of
    queries x n x classes is differentiated.
    """
    top = fa.stop_gradient(best_of_class(scores, of_class))
    empty = fa.equal(top, float("-inf"))
    top = fa.where(empty, 0.0, top)
    member = fa.astype(of_class, dtype=scores.dtype)
    own = fa.matmul(top, fa.permute_dims(member, (1, 0)))  # of the class of each example
    sums = fa.matmul(fa.exp(fa.subtract(scores, own)), member)
    return fa.where(empty, float("-inf"), fa.add(fa.log(fa.where(empty, 1.0, sums)), top))
