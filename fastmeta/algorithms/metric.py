"""What learners that compare queries with a support set share: no inner loop, any number of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import Learner, Loss, accuracy, examples, functions, initial, no_steps
from fastmeta.compile import jit
from fastmeta.errors import expected, whole
from fastmeta.loops import map_tasks
from fastmeta.models.batch_norm import averaged, one_mode
from fastmeta.trace import Array, Tracer

__all__ = ["MetricLearner"]

MODES = ("batch", "running")


class MetricLearner(Learner):
    """A learner that embeds examples with a model and classifies queries by comparing them with the support set.

    A subclass writes `_fit`, what it keeps of an embedded support set, and `_logits`, the scores of embedded queries;
    `_weights` if the meta-parameters hold more than the model's, and `_objective` if its loss is not the scores' cross-entropy.

    The number of classes is counted from the labels, so that training and test may differ in it; inside a trace (a
    compiled meta-step, as the trainer's) labels have no values yet, and it is ``ways``.  Every class 0..ways-1 must have
    an example in every support set.

    Support and queries of an episode pass the model as one batch in `loss` and `measure`, as in the released code of
    prototypical networks, and apart in `adapt` and `predict`.  ``batch_norm`` says by whose statistics examples are normalised
    in tests.  "batch": those of the batch at hand, so that a prediction depends on the other queries (transductive).
    "running": averages over training, support set and queries alike; they are state, which a trainer carries and returns, and
    tests take it.  In training it is always the batch.

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

    def __init__(self, model: Callable[..., Any], ways: int | None = None, batch_norm: str = "batch"):
        functions(self._name, model=model)
        self.model: Any = model  # a callable; ours have init and init_state, plain functions start elsewhere
        self.ways = None if ways is None else whole(self._name, "ways", ways)
        self.batch_norm = one_mode(self._name, batch_norm, MODES, model)
        self._adapting = jit(self._adapted)
        self._predicting = jit(lambda params, task, x, s: self._logits(params, task, self._embed(params, x, s)[0]))
        self._measuring = map_tasks(lambda p, e, classes, s: self.loss(p, e, classes, s)[1], in_axes=(None, 0, None, None))

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model."""
        return initial(self._name, self.model, seed)

    def check(self, episodes: Any) -> None:
        """Refuses tasks of another number of classes than ``ways``, and support sets without an example of each."""
        _, support_y, _, query_y, *_ = self._parts(episodes)
        found = len(self._count(support_y, query_y))
        if found != len(self._classes(None)):
            raise expected(self._name, f"ways {found}, the number of classes of the training tasks", self.ways)

    def init_state(self) -> Any:
        """Statistics before any training, as `fastmeta.models` make them; () for batch norm "batch"."""
        return () if self.batch_norm == "batch" else self.model.init_state()

    def update_state(self, state: Any, aux: dict[str, Any]) -> Any:
        """Exponential averages: 0.9 of the old statistics and 0.1 of the tasks' mean."""
        return state if self.batch_norm == "batch" else averaged(state, aux["statistics"])

    def loss(self, params: Any, episode: Any, classes: range | None = None, state: Any = None) -> Loss:
        """Query loss of one task, traced.

        ``aux``: "loss" (the same), "outputs" [queries, ways], "accuracy", and "statistics" of batch norm unless it is "batch".
        ``classes`` is ``range(ways)``, the learner's own if None; ``state`` that of tests, None in training.
        """
        params, support_x, support_y, query_x, query_y = self._given(params, self._parts(episode))
        for name, x, y in (("support", support_x, support_y), ("query", query_x, query_y)):
            examples(self._name, name, x, y)
            if np.dtype(y.dtype).kind not in "iu":
                raise expected(self._name, f"{name}_y of whole numbers, the classes", y.dtype, TypeError)
        if support_x.shape[1:] != query_x.shape[1:]:
            raise expected(self._name, "support and queries alike", f"{list(support_x.shape)} and {list(query_x.shape)}")
        z, statistics = self._embed(params, fa.concat([support_x, query_x]), state)
        n = support_x.shape[0]
        task = self._fit(params, z[:n], support_y, self._classes(classes))
        value, outputs = self._objective(params, task, z[n:], query_y)
        aux = {"loss": value, "outputs": outputs, "accuracy": accuracy(outputs, query_y)}
        return value, aux if statistics is None else aux | {"statistics": statistics}

    def value_and_grad(self, params: Any, episodes: Any, *phase: Any) -> tuple[Loss, Any]:
        """((loss, aux), gradient): means over tasks; labels that are arrays are checked and their classes counted."""
        episodes = self._parts(episodes)
        if not phase and not isinstance(episodes[1], Tracer):
            phase = (self._count(episodes[1], episodes[3]),)
        return super().value_and_grad(params, episodes, *phase)

    def adapt(self, params: Any, *support: Any, steps: int | None = None, state: Any = ()) -> Any:
        """What `predict` needs for one task: the parameters, what the learner keeps of the support set, and the state.

        The support set is x [n, ...] and y [n], as two arguments, a pair, or an episode whose support is taken.
        """
        no_steps(self._name, steps)
        given = self._support(support)
        return params, self._adapting(params, given, self._count(given[1]), self._checked(state)), state

    def predict(self, adapted: Any, x: Array, state: Any = ()) -> Array:
        """Scores [n, ways] of x [n, ...], the logits of its classes; by the state that `adapt` had unless another is given."""
        if not isinstance(adapted, tuple) or len(adapted) != 3:
            raise expected(self._name, "what adapt made of a support set", type(adapted).__name__, TypeError)
        params, task, adapted_state = adapted
        return self._predicting(params, task, self._examples(x), self._checked(state or adapted_state))

    def measure(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" and "accuracies" [tasks, 1]; there are no inner steps."""
        no_steps(self._name, steps)
        episodes = self._parts(episodes)
        aux = self._measuring(params, episodes, self._count(episodes[1], episodes[3]), self._checked(state))
        return {"losses": aux["loss"][:, None], "accuracies": aux["accuracy"][:, None]}

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

    def _adapted(self, params: Any, support: Any, classes: range, state: Any) -> Any:
        params, x, y = self._given(params, support)
        return self._fit(params, self._embed(params, x, state)[0], y, classes)

    def _objective(self, params: Any, task: Any, z: Array, y: Array) -> tuple[Array, Array]:
        """The loss of the embedded queries z [n, ...] with labels y [n], and their scores."""
        outputs = self._logits(params, task, z)
        return nn.cross_entropy(outputs, y), outputs

    def _embed(self, params: Any, x: Array, state: Any) -> tuple[Array, Any]:
        """The embedding of x, and x's own statistics if batch norm needs averages; by ``state`` unless it is None."""
        weights = self._weights(params)
        if self.batch_norm == "batch":
            return self.model(weights, x), None
        if state is not None:
            return self.model(weights, x, mode="running", state=state), None
        z, statistics = self.model(weights, x, mode="running", return_statistics=True)
        return z, statistics

    def _weights(self, params: Any) -> Any:
        """The model's weights among the meta-parameters."""
        return params

    # -- arguments

    def _classes(self, classes: range | None) -> range:
        if classes is not None:
            return classes
        if self.ways is None:
            raise expected(self._name, "ways, the number of classes: what is compiled, as a trainer's step, cannot count traced labels", None)
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
        if len(classes) > y.shape[-1]:  # before a row for each is made
            raise expected(self._name, f"support examples of every class 0..{classes[-1]}", f"{y.shape[-1]} examples in all")
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

    def _checked(self, state: Any) -> Any:
        """The state, once it is there if and only if batch norm needs it: None for "batch"."""
        if (self.batch_norm == "batch") != (isinstance(state, tuple) and not state):
            need = "no state" if self.batch_norm == "batch" else "state, that of the training,"
            got = "none" if isinstance(state, tuple) and not state else type(state).__name__
            raise expected(self._name, f"{need} for batch_norm {self.batch_norm!r}", got)
        return None if self.batch_norm == "batch" else state
