"""SNAIL: causal convolutions and causal attention over the labelled support set and a query."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import features
from fastmeta.algorithms.sequence import SequenceLearner, dense, linear
from fastmeta.errors import expected, whole
from fastmeta.trace import Array

__all__ = ["SNAIL"]


class SNAIL(SequenceLearner):
    """Simple neural attentive learner: a sequence of embeddings beside their labels, with a query, without label, at the end.

    Blocks of attention and of dilated convolutions by turns, each of which puts its results beside what it has read: attention,
    convolutions, attention, convolutions, attention, and a linear layer.  A row sees itself and earlier ones only.  Convolutions
    have two taps and the dilations 1, 2, 4, ... until all rows are seen, so that their number depends on the length, and
    support sets have ways * shots examples.  As no support example sees a query, their part is computed once for all queries.

    Meta-parameters: {"model", "blocks" (a list of them), "out"}.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` that says ``model.outputs``, its features.
        ways: classes of every task.
        shots: support examples of a class, of every task; in sum that is, single classes may have more and others fewer.
        filters: of each convolution; the three attentions have a half, twice and four times as many keys, and half as many values.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or another number of classes or examples.
    Source: Mishra et al. 2018, section 3 and the network for few-shot classification of its appendix.

    >>> from fastmeta.models import MLP
    >>> learner = SNAIL(MLP((2, 8, 4)), ways=2, shots=1, filters=8)
    >>> x, y = np.eye(2, dtype=np.float32), np.array([1, 0])
    >>> adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> learner.predict(adapted, x).shape
    (2, 2)
    """

    def __init__(self, model: Callable[..., Any], ways: int, shots: int, filters: int = 128, batch_norm: str = "batch"):
        super().__init__(model, ways, batch_norm)
        self.shots = whole(self._name, "shots", shots)
        self.filters = whole(self._name, "filters", filters, least=4)

    @property
    def _dilations(self) -> list[int]:
        """Of each block the dilation of its convolution, 0 for attention."""
        convolutions = [2**k for k in range(math.ceil(math.log2(self.ways * self.shots + 1)))]
        return [0, *convolutions, 0, *convolutions, 0]

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: weights normal with deviation 1 / sqrt(inputs), biases 0."""
        rng = np.random.default_rng([seed, 1])  # another stream than the model's
        n, keys = features(self._name, "model", self.model) + self.ways, [4 * self.filters, 2 * self.filters, self.filters // 2]
        blocks = []
        for dilation in self._dilations:
            blocks.append(_convolution(rng, n, self.filters) if dilation else _attention(rng, n, keys.pop()))
            n += self.filters if dilation else blocks[-1]["value"]["b"].size
        return {"model": super().init(seed), "blocks": blocks, "out": dense(rng, n, self.ways)}

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> list[Any]:
        n = z.shape[0]
        if n != self.ways * self.shots:
            raise expected(self._name, f"{self.ways} ways * {self.shots} shots = {self.ways * self.shots} support examples", n)
        x, seen = fa.concat([z, fa.one_hot(y, len(classes), dtype=z.dtype)], axis=1), []
        for block, dilation in zip(params["blocks"], self._dilations, strict=True):
            if dilation:
                seen.append(x[n - dilation])
                more = _gated(block, x, fa.concat([fa.zeros_like(x[:dilation]), x[:-dilation]], axis=0))
            else:
                seen.append({name: linear(block[name], x) for name in ("key", "value")})
                more = nn.attention(linear(block["query"], x), seen[-1]["key"], seen[-1]["value"], mask=np.tri(n, dtype=bool))
            x = fa.concat([x, more], axis=1)
        return seen

    def _logits(self, params: Any, task: list[Any], z: Array) -> Array:
        x = fa.pad(z, ((0, 0), (0, self.ways)))  # no label
        for block, dilation, seen in zip(params["blocks"], self._dilations, task, strict=True):
            x = fa.concat([x, _gated(block, x, seen) if dilation else _attended(block, x, seen)], axis=1)
        return linear(params["out"], x)


def _convolution(rng: np.random.Generator, inputs: int, filters: int) -> dict[str, Any]:
    """Both taps, "now" and "before" [inputs, 2 filters], and "b" [2 filters]: what passes, and the gates."""
    both = dense(rng, 2 * inputs, 2 * filters)
    return {"now": both["w"][:inputs], "before": both["w"][inputs:], "b": both["b"]}


def _attention(rng: np.random.Generator, inputs: int, keys: int) -> dict[str, Any]:
    return {name: dense(rng, inputs, n) for name, n in (("query", keys), ("key", keys), ("value", keys // 2))}


def _gated(block: Any, x: Array, before: Array) -> Array:
    """The gated convolution of rows x [n, inputs] and the rows before, [n, inputs] or one of all [inputs]: [n, filters]."""
    both = fa.add(nn.linear(x, block["now"], block["b"]), fa.matmul(before, block["before"]))
    filters = both.shape[1] // 2
    return fa.multiply(fa.tanh(both[:, :filters]), fa.sigmoid(both[:, filters:]))


def _attended(block: Any, x: Array, seen: Any) -> Array:
    """The attention of each query x [n, inputs] to what is kept of the support set and to itself: [n, values]."""
    query, key, value = (linear(block[name], x) for name in ("query", "key", "value"))
    support = fa.matmul(query, fa.permute_dims(seen["key"], (1, 0)))
    own = fa.sum(fa.multiply(query, key), axis=1, keepdims=True)
    shares = fa.softmax(fa.multiply(fa.concat([support, own], axis=1), 1.0 / math.sqrt(query.shape[1])), axis=1)
    return fa.add(fa.matmul(shares[:, :-1], seen["value"]), fa.multiply(shares[:, -1:], value))
