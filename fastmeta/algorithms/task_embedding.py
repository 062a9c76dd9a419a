"""Metric learning of whole tasks: near in the embedding, near in what would solve them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.algorithms.learner import Learner, Loss, functions, initial
from fastmeta.algorithms.sets import encoded
from fastmeta.compile import jit
from fastmeta.errors import expected
from fastmeta.gradients import value_and_grad
from fastmeta.kernels import pairwise_distance
from fastmeta.loops import map_tasks
from fastmeta.trace import Array

__all__ = ["TaskEmbedding"]


class TaskEmbedding(Learner):
    """Embeds a task from its support set, so that distances between embeddings match those between optimal parameters.

    A task's embedding is the mean over its support examples of the model's output for x and y side by side, whatever their order
    and number, and then the head's output for that mean.  The loss of a batch of tasks is the mean over pairs of (distance of embeddings - distance of optima)^2, both
    Euclidean; so it is one of batches, of two tasks at least, and `loss` takes them with their task axis.

    Args:
        model: ``model(params, [n, inputs + targets]) -> [n, features]`` with ``model.init(seed)``, or any such function.
        head: ``head(params, [1, features]) -> [1, ...]`` with ``head.init(seed)``, for what a mean alone cannot tell (a ratio of two
            means, say); None for none.  With a head the meta-parameters are {"model", "head"}.
        optimum: ``optimum(x [m, ...], y [m, ...]) -> [parameters]``, what solves one task, from its support and query examples
            together, traced; a constant for the gradient.

    Targets are floats [n, ...]; class labels go in as one-hot floats.  `predict` gives the distances to the embeddings
    [tasks, features] of other tasks.
    Errors: TypeError or ValueError naming the argument; ValueError for a batch of one task.
    Source: tasks as points of a metric space, Achille et al. 2019 (Task2Vec); means of sets, Zaheer et al. 2017; the loss is the
    stress of Kruskal 1964.

    >>> from fastmeta.models import MLP
    >>> slope = lambda x, y: fa.reshape(fa.mean(x * y) / fa.mean(x * x), (1,))
    >>> learner, rng = TaskEmbedding(MLP((2, 16, 3)), slope), np.random.default_rng(0)
    >>> x = rng.normal(size=(4, 10, 1)).astype(np.float32)
    >>> y = x * rng.normal(size=(4, 1, 1)).astype(np.float32)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, y, x, y))
    >>> aux["loss"].shape, aux["embeddings"].shape
    ((4,), (4, 3))
    """

    def __init__(
        self, model: Callable[..., Any], optimum: Callable[[Array, Array], Array], head: Callable[..., Any] | None = None
    ):
        functions("TaskEmbedding", model=model, optimum=optimum, **({} if head is None else {"head": head}))
        self.model: Any = model  # callables; ours have init, plain functions start elsewhere
        self.head: Any = head
        self.optimum = optimum
        self._embedding = jit(self._embed)
        self._with_gradient = value_and_grad(lambda params, episodes: self.loss(params, episodes), has_aux=True)
        self._losses = jit(lambda params, episodes: self.loss(params, episodes)[1]["loss"])

    def init(self, seed: int = 0) -> Any:
        """Fresh parameters: those of the model, and of the head from a seed of its own."""
        weights = initial(type(self).__name__, self.model, seed)
        if self.head is None:
            return weights
        return {"model": weights, "head": initial(type(self).__name__, self.head, seed, 1)}

    def loss(self, params: Any, episode: Any) -> Loss:
        """The loss of a batch of tasks [tasks, n, ...], traced.

        ``aux``: "loss" [tasks], each task's mean over the others, "embeddings" [tasks, features] and "optima" [tasks, parameters].
        """
        sx, sy, qx, qy = self._parts(episode)
        tasks = sx.shape[0]
        if tasks < 2:
            raise expected("TaskEmbedding", "at least two tasks in a batch", tasks)

        def solved(sx: Array, sy: Array, qx: Array, qy: Array) -> Array:
            best = self.optimum(fa.concat([sx, qx]), fa.concat([sy, qy]))
            if len(best.shape) != 1:
                raise expected("TaskEmbedding", "an optimum [parameters]", f"shape {list(best.shape)}")
            return best

        embeddings = map_tasks(self._embed, in_axes=(None, 0, 0))(params, sx, sy)
        optima = fa.stop_gradient(map_tasks(solved)(sx, sy, qx, qy))
        apart, wanted = (pairwise_distance(e, e, metric="euclidean") for e in (embeddings, optima))
        each = fa.multiply(fa.sum(fa.square(fa.subtract(apart, wanted)), axis=1), 1.0 / (tasks - 1))
        return fa.mean(each), {"loss": each, "embeddings": embeddings, "optima": optima}

    def value_and_grad(self, params: Any, episodes: Any, *phase: Any) -> tuple[Loss, Any]:
        """((loss, aux), gradient) of `loss`."""
        result: tuple[Loss, Any] = self._with_gradient(params, self._parts(episodes))
        return result

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """The embedding [features] of the task with the support set x [n, ...] and y [n, ...]: two arguments or a pair."""
        return self._embedding(params, *self._support(support))

    def predict(self, adapted: Any, x: Array, state: Any = ()) -> Array:
        """The Euclidean distances [tasks] to the embeddings x [tasks, features] of other tasks."""
        return pairwise_distance(fa.expand_dims(adapted, axis=0), self._examples(x), metric="euclidean")[0]

    def measure(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, NDArray[Any]]:
        """Per task: "losses" [tasks, 1], the mean over the other tasks of the batch."""
        return {"losses": np.asarray(self._losses(params, self._parts(episodes)))[:, None]}

    def __repr__(self) -> str:
        return f"TaskEmbedding({self.model!r}{'' if self.head is None else f', head={self.head!r}'})"

    def _embed(self, params: Any, x: Array, y: Array) -> Array:
        if self.head is None:
            return encoded("TaskEmbedding", self.model, params, x, y)[0]
        return self.head(params["head"], encoded("TaskEmbedding", self.model, params["model"], x, y))[0]
