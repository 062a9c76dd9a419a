"""What learners that compare queries with a support set share: no inner loop, any number of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import Learner, Loss, accuracy, examples, quadruple
from fastmeta.compile import jit, map_tasks
from fastmeta.errors import expected, whole
from fastmeta.trace import Array, Tracer, as_array
from fastmeta.tree import is_array

__all__ = ["MetricLearner"]


class MetricLearner(Learner):
    """A learner that embeds examples with a model and classifies queries by comparing them with the support set.

    A subclass writes `_fit`, what it keeps of an embedded support set, and `_logits`, the scores of embedded queries;
    `_weights` if the meta-parameters hold more than the model's, and `_objective` if its loss is not the scores' cross-entropy.

    The number of classes is counted from the labels, so that training and test may differ in it; inside a trace (a
    compiled meta-step, as the trainer's) labels have no values yet, and it is ``ways``.  Every class 0..ways-1 must have
    an example in every support set.

    Support and queries of an episode pass the model as one batch in `loss` and `measure`, as in the released code of
    prototypical networks, and apart in `adapt` and `predict`: a model whose batch norm takes the statistics of its batch
    sees different batches.

    >>> from fastmeta.models import MLP
    >>> class Dot(MetricLearner):
    ...     '''Scores are products with the sum of a class.'''
    ...     def _fit(self, params, z, y, classes):
    ...         return fa.matmul(fa.permute_dims(fa.one_hot(y, len(classes)), (1, 0)), z)
    ...     def _logits(self, params, task, z):
    ...         return fa.matmul(z, fa.permute_dims(task, (1, 0)))
    >>> learner, y = Dot(MLP((2, 3))), np.array([[0, 1]])
    >>> x = np.eye(2, dtype=np.float32)[None]
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, y, x, y))
    >>> aux["outputs"].shape, gradient[0]["w"].shape
    ((1, 2, 2), (2, 3))
    """

    def __init__(self, model: Callable[..., Any], ways: int | None = None):
        if not callable(model):
            raise expected(self._name, "model a function", type(model).__name__, TypeError)
        self.model = model
        self.ways = None if ways is None else whole(self._name, "ways", ways)
        self._adapting = jit(lambda params, x, y, classes: self._fit(params, self._embed(params, x), y, classes))
        self._predicting = jit(lambda params, task, x: self._logits(params, task, self._embed(params, x)))
        self._measuring = map_tasks(lambda p, e, classes: self.loss(p, e, classes)[1], in_axes=(None, 0, None))

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model."""
        return self.model.init(seed)  # type: ignore[attr-defined]  # our models have it; plain functions start elsewhere

    def loss(self, params: Any, episode: Any, classes: range | None = None) -> Loss:
        """Query loss of one task, traced.  ``aux``: "loss" (the same), "outputs" [queries, ways] and "accuracy".

        ``classes`` is ``range(ways)``, the learner's own if None.
        """
        support_x, support_y, query_x, query_y = quadruple(self._name, episode)
        for name, x, y in (("support", support_x, support_y), ("query", query_x, query_y)):
            examples(self._name, name, x, y)
            if np.dtype(y.dtype).kind not in "iu":
                raise expected(self._name, f"{name}_y of whole numbers, the classes", y.dtype, TypeError)
        if support_x.shape[1:] != query_x.shape[1:]:
            raise expected(self._name, "support and queries alike", f"{list(support_x.shape)} and {list(query_x.shape)}")
        z = self._embed(params, fa.concat([support_x, query_x]))
        n = support_x.shape[0]
        task = self._fit(params, z[:n], support_y, self._classes(classes))
        value, outputs = self._objective(params, task, z[n:], query_y)
        return value, {"loss": value, "outputs": outputs, "accuracy": accuracy(outputs, query_y)}

    def value_and_grad(self, params: Any, episodes: Any, *phase: Any) -> tuple[Loss, Any]:
        """((loss, aux), gradient): means over tasks; labels that are arrays are checked and their classes counted."""
        episodes = quadruple(self._name, episodes)
        if not phase and not isinstance(episodes[1], Tracer):
            phase = (self._count(episodes[1], episodes[3]),)
        return super().value_and_grad(params, episodes, *phase)

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """What `predict` needs for one task: the parameters and what the learner keeps of the support set.

        The support set is x [n, ...] and y [n], as two arguments, a pair, or an episode whose support is taken.
        """
        self._no_steps(steps)
        if len(support) == 1 and isinstance(support[0], tuple):
            support = support[0][:2] if len(support[0]) == 4 else support[0]
        if len(support) != 2:
            raise expected(self._name, "a support set (x, y)", f"{len(support)} arguments", TypeError)
        x, y = (part if is_array(part) else as_array(part) for part in support)
        return params, self._adapting(params, x, y, self._count(y))

    def predict(self, adapted: Any, x: Array) -> Array:
        """Scores [n, ways] of x [n, ...], the logits of its classes."""
        return self._predicting(*adapted, x)

    def measure(self, params: Any, episodes: Any, steps: int | None = None) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" and "accuracies" [tasks, 1]; there are no inner steps."""
        self._no_steps(steps)
        episodes = quadruple(self._name, episodes)
        aux = self._measuring(params, episodes, self._count(episodes[1], episodes[3]))
        return {"losses": aux["loss"][:, None], "accuracies": aux["accuracy"][:, None]}

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        options = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "model"}
        return f"{self._name}({', '.join([repr(self.model), *(f'{k}={v!r}' for k, v in options.items())])})"

    # -- one task, traced

    @abstractmethod
    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Any:
        """What is kept of the embedded support set z [n, ...] with labels y [n]."""

    @abstractmethod
    def _logits(self, params: Any, task: Any, z: Array) -> Array:
        """Scores [n, ways] of the embedded queries z [n, ...]."""

    def _objective(self, params: Any, task: Any, z: Array, y: Array) -> tuple[Array, Array]:
        """The loss of the embedded queries z [n, ...] with labels y [n], and their scores."""
        outputs = self._logits(params, task, z)
        return nn.cross_entropy(outputs, y), outputs

    def _embed(self, params: Any, x: Array) -> Array:
        return self.model(self._weights(params), x)

    def _weights(self, params: Any) -> Any:
        """The model's weights among the meta-parameters."""
        return params

    # -- arguments

    def _classes(self, classes: range | None) -> range:
        if classes is not None:
            return classes
        if self.ways is None:
            raise expected(self._name, "ways where labels are traced, as in a trainer", None)
        return range(self.ways)

    def _count(self, support_y: Any, query_y: Any = None) -> range:
        """The classes of labels that are known, [..., n]; each must be in every support set, and no others in queries."""
        y = np.asarray(support_y)
        if y.dtype.kind not in "iu":
            raise expected(self._name, "support_y of whole numbers, the classes", y.dtype, TypeError)
        if not y.size:
            raise expected(self._name, "at least one support example", list(y.shape))
        classes = range(int(y.max()) + 1)
        if y.min() < self._least_label:
            raise expected(self._name, f"labels of at least {self._least_label}", int(y.min()))
        present = (y[..., None, :] == np.arange(len(classes))[:, None]).any(axis=-1)
        if not present.all():
            *task, empty = (int(k) for k in np.argwhere(~present)[0])
            where = f"class {empty} without one" + (f" in task {task[0]}" if task else "")
            raise expected(self._name, f"support examples of every class 0..{len(classes) - 1}", where)
        if query_y is not None:
            q = np.asarray(query_y)
            if q.size and not (q.min() >= 0 and q.max() < len(classes)):
                raise expected(self._name, f"query labels in 0..{len(classes) - 1}, the support's", f"{q.min()}..{q.max()}")
        return classes

    _least_label = 0

    def _no_steps(self, steps: int | None) -> None:
        if steps not in (None, 0):
            raise expected(self._name, "no inner steps (None or 0)", steps)
