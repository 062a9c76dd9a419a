"""The inner loop of learners that adapt to a task by a few steps down the gradient of its support loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.algorithms.learner import Learner, Loss, accuracy, examples, functions, initial
from fastmeta.compile import jit
from fastmeta.errors import expected, whole
from fastmeta.gradients import value_and_grad
from fastmeta.loops import map_tasks, scan
from fastmeta.models.batch_norm import MODES, averaged, one_mode
from fastmeta.optim import Optimizer, apply_updates
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["InnerLoop"]


class InnerLoop(Learner):
    """A learner whose tasks take ``inner_steps`` with an inner rule, starting from weights that all tasks share.

    A subclass writes `_rule`, the `fastmeta.optim.Optimizer` of one task's inner steps as a function of the
    meta-parameters, so that whatever is learned about the steps is differentiated like the weights; and `_weights` if
    the meta-parameters hold more than the weights.

    ``batch_norm`` says by whose statistics query sets are normalised in tests.  "batch": their own, so that a prediction
    depends on the other queries (transductive).  "running": averages over the query sets of training.  "per_step": averages
    for each number k of inner steps taken, over what the network saw in training after k steps (support sets, and query
    sets after the last).  Support sets, and in training query sets too, are always normalised by their own.  The averages
    are state: a trainer carries and returns them, and tests take them.

    >>> from fastmeta import nn, optim
    >>> from fastmeta.models import MLP
    >>> class Momentum(InnerLoop):
    ...     '''MAML with momentum in its inner loop.'''
    ...     def _rule(self, params):
    ...         return optim.sgd(0.01, momentum=0.5)
    >>> learner = Momentum(MLP((1, 8, 1)), nn.mse, inner_steps=3)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> aux["inner_losses"].shape, gradient[0]["w"].shape
    ((2, 3), (1, 8))
    """

    order = 2  # 1 treats inner gradients, and losses that a rule reads, as constants
    inner_batch: int | None = None  # support examples in an inner step; None: all of them

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array],
        inner_steps: int,
        batch_norm: str = "batch",
    ):
        functions(self._name, model=model, loss=loss)
        self.model: Any = model  # a callable; ours have init and init_state, plain functions start elsewhere
        self.loss_function = loss
        self.inner_steps = whole(self._name, "inner steps", inner_steps, 1)
        self.batch_norm = one_mode(self._name, batch_norm, MODES, model)
        self._adapting: dict[int, Callable[..., Any]] = {}
        self._measuring: dict[int, Callable[..., Any]] = {}
        self._predicting = jit(lambda adapted, x, state, taken: self._outputs(adapted, x, taken, state)[0])

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model."""
        return initial(self._name, self.model, seed)

    def init_state(self) -> Any:
        """Statistics before any training, as `fastmeta.models` make them; () for batch norm "batch"."""
        if self.batch_norm == "batch":
            return ()
        steps = self.inner_steps if self.batch_norm == "per_step" else None
        return self.model.init_state(steps)

    def update_state(self, state: Any, aux: dict[str, Any]) -> Any:
        """Exponential averages: 0.9 of the old statistics and 0.1 of the tasks' mean."""
        return state if self.batch_norm == "batch" else averaged(state, aux["statistics"])

    def loss(self, params: Any, episode: Any) -> Loss:
        """Query loss after ``inner_steps`` of one task, traced.

        ``aux``: "loss" (the same), "inner_losses" [inner_steps] (support loss before each step), "outputs" of the model
        for the query set, for classification "accuracy", and "statistics" of batch norm unless it is "batch".
        """
        params, support_x, support_y, query_x, query_y = self._task(params, episode)
        weights, seen, _ = self._descend(params, support_x, support_y, self.inner_steps)
        value, aux = self._queried(weights, query_x, query_y, self.inner_steps)
        return value, self._told(aux, seen)

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """The model's weights after ``steps`` (``inner_steps`` if None) on the support set of one task.

        The support set is x [n, ...] and y [n, ...], as two arguments, a pair, or an episode whose support is taken.
        """
        given, k = self._support(support), self._steps(steps)
        if k == 0:
            return self._weights(self._given(params, given)[0])
        if k not in self._adapting:
            self._adapting[k] = jit(lambda p, given: self._adapted(p, given, k))
        return self._adapting[k](params, given)

    def predict(self, adapted: Any, x: Array, state: Any = (), steps: int | None = None) -> Array:
        """The model's outputs for x [n, ...], of weights adapted by ``steps`` (``inner_steps`` if None)."""
        return self._predicting(adapted, self._examples(x), self._checked(state), self._steps(steps))

    def measure(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" [tasks, steps + 1] before and after every inner step, "inner_losses" [tasks, steps],
        and for classification "accuracies" [tasks, steps + 1]."""
        k = self._steps(steps)
        if k not in self._measuring:
            self._measuring[k] = map_tasks(lambda p, e, s: self._trajectory(p, e, k, s), in_axes=(None, 0, None))
        result: dict[str, NDArray[Any]] = self._measuring[k](params, self._parts(episodes), self._checked(state))
        return result

    def __repr__(self) -> str:
        options = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in ("model", "loss_function")}
        return f"{self._name}({', '.join([repr(self.model), *(f'{k}={v!r}' for k, v in options.items())])})"

    # -- one task, traced

    @abstractmethod
    def _rule(self, params: Any) -> Optimizer:
        """The rule of the inner steps of one task."""

    def _weights(self, params: Any) -> Any:
        """The model's weights among the meta-parameters: where every task starts."""
        return params

    def _update(self, rule: Optimizer, grads: Any, loss: Array, state: Any, weights: Any) -> tuple[Any, Any]:
        """(updates, state) of one step of the rule; a learner whose rule reads the support loss hands it on here."""
        return rule.update(grads, state, weights)

    def _descend(
        self, params: Any, x: Array, y: Array, steps: int, watch: Callable[[Any, Any], Any] = lambda weights, taken: (),
        order: int | None = None, start: Any = None,
    ) -> tuple[Any, dict[str, Any], Any]:  # fmt: skip
        """The weights adapted from ``start`` (`_weights` if None); "inner_losses" before each step [steps] and, "per_step",
        "statistics" alike, for `_told`; and ``watch(weights, steps taken)`` after each, stacked."""
        examples(self._name, "support", x, y)
        rule, first = self._rule(params), (order or self.order) == 1
        counted = self.batch_norm == "per_step"  # else nobody asks for the steps taken

        def step(carry: Any, at: Any) -> tuple[Any, Any]:
            (weights, state), (taken, rows) = carry, at
            batch = (x, y) if rows is None else (fa.take(x, rows, axis=0), fa.take(y, rows, axis=0))
            (value, statistics), grads = self._support_gradient(weights, *batch, taken)
            read: tuple[Any, Array] = fa.stop_gradient((grads, value)) if first else (grads, value)
            updates, state = self._update(rule, *read, state, weights)
            weights = apply_updates(weights, updates)
            seen = {"inner_losses": value} | ({"statistics": statistics} if counted else {})
            return (weights, state), (seen, watch(weights, taken + 1 if counted else None))

        start = self._weights(params) if start is None else start
        carry = (start, rule.init(start))
        rows = _batches(x.shape[0], self.inner_batch, steps)
        if steps == 1:
            (weights, _), (seen, watched) = step(carry, (0, None if rows is None else rows[0]))
            seen, watched = tree_map(_first_axis, (seen, watched))
        else:
            count = np.arange(steps, dtype=np.int32) if counted else None
            (weights, _), (seen, watched) = scan(step, carry, (count, rows), length=steps)
        return weights, seen, watched

    def _adapted(self, params: Any, support: Any, steps: int) -> Any:
        params, x, y = self._given(params, support)
        return self._descend(params, x, y, steps)[0]

    def _outputs(self, weights: Any, x: Array, taken: Any, state: Any = None) -> tuple[Array, Any]:
        """(outputs after so many inner steps, x's own statistics); normalised by these if ``state`` is None, else by state."""
        if self.batch_norm == "batch":
            return self.model(weights, x), ()
        options: dict[str, Any] = {"mode": self.batch_norm}
        if self.batch_norm == "per_step":  # steps beyond those of training use the last statistics
            options["step"] = (
                min(taken, self.inner_steps) if isinstance(taken, int) else fa.minimum(taken, self.inner_steps)
            )
        if state is None:
            result: tuple[Array, Any] = self.model(weights, x, return_statistics=True, **options)
            return result
        return self.model(weights, x, state=state, **options), ()

    def _support_gradient(self, weights: Any, x: Array, y: Array, taken: Any) -> tuple[tuple[Array, Any], Any]:
        """((loss, statistics), gradient) of the support set."""
        with_gradient = value_and_grad(lambda w: self._support_loss(w, x, y, taken), has_aux=True)
        result: tuple[tuple[Array, Any], Any] = with_gradient(weights)
        return result

    def _support_loss(self, weights: Any, x: Array, y: Array, taken: Any) -> tuple[Array, Any]:
        outputs, statistics = self._outputs(weights, x, taken)
        return self.loss_function(outputs, y), statistics

    def _queried(self, weights: Any, x: Array, y: Array, taken: Any, state: Any = None) -> Loss:
        """The query loss, and what `loss` tells beside it of the query set."""
        outputs, statistics = self._outputs(weights, x, taken, state)
        value = self.loss_function(outputs, y)
        aux = {"loss": value, "outputs": outputs}
        if self.batch_norm != "batch":
            aux["statistics"] = statistics
        share = accuracy(outputs, y)
        return value, aux if share is None else aux | {"accuracy": share}

    def _told(self, aux: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
        """The ``aux`` of `loss`: of the query set, and of the support set on the way there."""
        if "statistics" in seen:
            rows = tree_map(
                lambda before, last: fa.concat([before, _first_axis(last)]), seen["statistics"], aux["statistics"]
            )
            seen = seen | {"statistics": rows}
        return aux | seen

    def _trajectory(self, params: Any, episode: Any, steps: int, state: Any) -> dict[str, Array]:
        params, support_x, support_y, query_x, query_y = self._task(params, episode)
        examples(self._name, "support", support_x, support_y)

        def watch(weights: Any, taken: Any) -> dict[str, Array]:
            aux = self._queried(weights, query_x, query_y, taken, state)[1]
            return {many: aux[one] for one, many in (("loss", "losses"), ("accuracy", "accuracies")) if one in aux}

        before = tree_map(_first_axis, watch(self._weights(params), 0))
        if steps == 0:
            return before
        _, seen, after = self._descend(params, support_x, support_y, steps, watch)
        losses = {name: fa.concat([before[name], after[name]]) for name in before}
        return losses | {"inner_losses": seen["inner_losses"]}

    # -- arguments

    def _task(self, params: Any, episode: Any) -> tuple[Any, ...]:
        """(parameters, support_x, support_y, query_x, query_y) of one task, traced."""
        task = self._given(params, self._parts(episode))
        examples(self._name, "query", *task[3:])
        return task

    def _checked(self, state: Any) -> Any:
        """State for a test, refused where it is missing or has no meaning."""
        given = not (isinstance(state, tuple) and state == ())
        if given != (self.batch_norm != "batch"):
            what = "state (averaged statistics, as a trainer returns them)" if not given else "no state"
            raise expected(
                self._name, f"{what} for batch_norm {self.batch_norm!r}", type(state).__name__ if given else "none"
            )
        return state

    def _steps(self, steps: int | None) -> int:
        return self.inner_steps if steps is None else whole(self._name, "inner steps", steps, 0)


def _batches(n: int, size: int | None, steps: int) -> NDArray[np.int32] | None:
    """The rows of each step's batch [steps, size] of n; None where every step takes all.

    Rows have their turn in an order that strides over them, so that a batch has every class, as evenly as its size
    allows, of rows that come class by class.
    """
    if size is None or size >= n:
        return None
    order = np.argsort(np.arange(n) % math.ceil(n / size), kind="stable")
    return np.resize(order, (steps, size)).astype(np.int32)  # beyond n it goes on at the start


def _first_axis(x: Array) -> Array:
    return fa.expand_dims(x, axis=0)


def parts(where: str, what: str, given: Any, *names: str) -> list[Any]:
    """The named parts of ``given``, refused unless it is a dict of just these."""
    if not isinstance(given, dict) or given.keys() != set(names):
        got = sorted(given) if isinstance(given, dict) else type(given).__name__
        listed = ", ".join(f'"{name}"' for name in names)
        raise expected(where, f"{what} {{{listed}}}", got, TypeError)
    return [given[name] for name in names]


def positive(where: str, name: str, value: Any) -> float:
    """``value`` as a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise expected(where, f"{name} a number", repr(value), TypeError)
    if not math.isfinite(value) or value <= 0:
        raise expected(where, f"{name} above 0", value)
    return float(value)
