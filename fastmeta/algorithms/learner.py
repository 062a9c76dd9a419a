"""What every learner offers, and the numbers by which learners are judged."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastmeta import nn
from fastmeta.errors import expected
from fastmeta.gradients import value_and_grad
from fastmeta.loops import map_tasks
from fastmeta.trace import Array, as_array
from fastmeta.tree import is_array

__all__ = ["Learner", "summary"]

Loss = tuple[Any, dict[str, Any]]

PARTS = ("support_x", "support_y", "query_x", "query_y")  # of an episode


class Learner(ABC):
    """A function from (meta-parameters, episode) to a loss, with what follows from it.

    A subclass writes `init`, `loss`, `adapt`, `predict` and `measure`; one with a meta-gradient of its own `task_gradient`
    too, one whose loss changes with the meta-step `phase`, and one with state `init_state` and `update_state`.  Episodes are ``fm.data.Episode`` or any tuple
    (support_x, support_y, query_x, query_y): [tasks, n, ...] for `value_and_grad`, `measure` and `evaluate`, [n, ...] for
    `loss`.  Labels are integers for classification; targets are floats for regression.  A learner that is ``described`` takes
    ``fm.data.DescribedEpisode``, with a fifth part: what is told of each task beside its examples.

    >>> import fastmeta as fm
    >>> class Constant(Learner):
    ...     '''Predicts one learned number.'''
    ...     def init(self, seed=0):
    ...         return np.float32(1.0)
    ...     def loss(self, params, episode):
    ...         value = fm.mean(fm.square(episode[3] - params))
    ...         return value, {"loss": value, "inner_losses": fm.reshape(value, (1,))}
    ...     def adapt(self, params, *support, steps=None):
    ...         return params
    ...     def predict(self, adapted, x, state=()):
    ...         return np.full(len(x), adapted)
    ...     def measure(self, params, episodes, steps=None, state=()):
    ...         return {"losses": np.mean((episodes[3] - params) ** 2, axis=1)[:, None]}
    >>> x = np.zeros((2, 3), np.float32)
    >>> (loss, aux), gradient = Constant().value_and_grad(np.float32(1.0), (x, x, x, x))
    >>> float(loss), float(gradient), aux["loss"].shape
    (1.0, 2.0, (2,))
    """

    described = False  # whether tasks come with metadata, by which the learner conditions its parameters

    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        self = super().__new__(cls)
        self._made_of = args, options
        return self

    def __reduce__(self) -> Any:
        """Pickled as what it was made of: compiled functions stay behind."""
        args, options = self._made_of
        return functools.partial(type(self), **options), args

    def __setattr__(self, name: str, value: Any) -> None:
        if any(isinstance(getattr(type(self), made, None), functools.cached_property) for made in self.__dict__):
            hint = "What it was made of is compiled by now: make another"
            raise expected(type(self).__name__, "a learner to stay what it is", f"{name}={value!r}", AttributeError, hint)
        super().__setattr__(name, value)

    @functools.cached_property
    def _mapped(self) -> Callable[..., Any]:
        def task(params: Any, episode: Any, phase: tuple[Any, ...]) -> tuple[Loss, Any]:
            return self.task_gradient(params, episode, *phase)

        return map_tasks(task, in_axes=(None, 0, None), reduce=(("mean", None), "mean"))

    @abstractmethod
    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters."""

    @abstractmethod
    def loss(self, params: Any, episode: Any) -> Loss:
        """The loss of one task and ``aux``, traced.

        ``aux`` holds at least "loss" (scalar) and, of learners with inner steps, "inner_losses" [steps], by which a trainer finds a
        task that diverged; "accuracy" (scalar) for classification, and "residual" (scalar) of a learner that solves a system for
        its gradient.
        """

    @abstractmethod
    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """What `predict` needs for one task, learned from its support set: (x, y) as two arguments or one pair; metadata is a third."""

    @abstractmethod
    def predict(self, adapted: Any, x: Array, state: Any = ()) -> Array:
        """The outputs for x [n, ...] of the task that ``adapted`` was made for."""

    @abstractmethod
    def measure(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, NDArray[Any]]:
        """Per task and number of inner steps: "losses" [tasks, steps + 1] on the query set, and "accuracies" alike."""

    def check(self, episodes: Any) -> None:
        """Refuses a meta-batch that does not fit the learner; a trainer asks before it compiles, when labels are still known."""
        return

    def init_state(self) -> Any:
        """What training keeps beside meta-parameters and out of every gradient; () for nothing.

        A trainer passes it through `update_state` after every meta-step, and tests need it: `predict`, `measure`, `evaluate`.
        """
        return ()

    def update_state(self, state: Any, aux: dict[str, Any]) -> Any:
        """The state after a meta-step whose ``aux``, with a leading task axis, is given; traced."""
        return state

    def phase(self, step: int) -> tuple[Any, ...]:
        """Further arguments of `loss` and `value_and_grad` at meta-step ``step``; none unless a learner says otherwise.

        Numbers and arrays among them are data; anything else that hashes is compiled for, once for each value.
        """
        return ()

    def task_gradient(self, params: Any, episode: Any, *phase: Any) -> tuple[Loss, Any]:
        """((loss, aux), gradient) of one task, traced: the gradient of `loss`, unless a learner has its own."""
        result: tuple[Loss, Any] = value_and_grad(lambda p: self.loss(p, episode, *phase), has_aux=True)(params)
        return result

    def value_and_grad(self, params: Any, episodes: Any, *phase: Any) -> tuple[Loss, Any]:
        """((loss, aux), gradient): loss and gradient as means over tasks, ``aux`` with a leading task axis.

        ``phase`` is what `phase` gives for the meta-step at hand.  Also inside a trace, so that a whole meta-step can be
        one compiled function.
        """
        result: tuple[Loss, Any] = self._mapped(params, self._parts(episodes), phase)
        return result

    def evaluate(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, Any]:
        """Means over tasks with 95 % intervals, as `summary` gives them."""
        return summary(self.measure(params, episodes, steps, state))

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _examples(self, x: Any) -> Array:
        """The examples that `predict` was given, lists too, as an array."""
        return x if is_array(x) else as_array(x)

    def _parts(self, episodes: Any) -> tuple[Any, ...]:
        """The parts of an episode or a batch of episodes: four, or five if the learner is ``described``."""
        names = (*PARTS, "metadata") if self.described else PARTS
        if not isinstance(episodes, tuple | list) or len(episodes) != len(names):  # a torch DataLoader gives lists
            n = len(episodes) if isinstance(episodes, tuple) else None
            got = type(episodes).__name__ if n is None else f"a tuple of {n}"
            hint = "Metadata is for other learners; without it this one takes episode[:4]" if n == len(PARTS) + 1 else ""
            raise expected(self._name, f"an episode ({', '.join(names)})", got, TypeError, hint)
        return tuple(episodes)

    def _support(self, support: tuple[Any, ...]) -> tuple[Any, ...]:
        """x and y, and metadata if the learner is ``described``, of what `adapt` was given: arguments, a tuple of them, or an episode."""
        names = ("x", "y", "metadata") if self.described else ("x", "y")
        if len(support) == 1 and isinstance(support[0], tuple):
            (support,) = support
            if len(support) == len(names) + 2:  # an episode
                support = (*support[:2], *support[len(PARTS) :])
        if len(support) != len(names):
            raise expected(self._name, f"a support set ({', '.join(names)})", f"{len(support)} arguments", TypeError)
        return tuple(part if is_array(part) else as_array(part) for part in support)

    def _given(self, params: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """The parameters and the parts of one task, traced: metadata, the last part if the learner is ``described``, goes into the parameters."""
        if not self.described:
            return params, *parts
        *rest, metadata = parts
        if np.dtype(metadata.dtype).kind != "f":
            raise expected(self._name, "metadata of floats", metadata.dtype, TypeError)
        return self._conditioned(params, metadata), *rest

    def _conditioned(self, params: Any, metadata: Array) -> Any:
        """The parameters for the one task that ``metadata`` tells of, traced; what a learner writes that is ``described``."""
        return params


def initial(where: str, model: Any, seed: int, stream: int = 0) -> Any:
    """The parameters that a model begins with; further models of a learner have a ``stream`` each, so that none starts like another."""
    if not callable(getattr(model, "init", None)):
        raise expected(where, "a model with init(seed)", type(model).__name__, TypeError, "A plain function's parameters are given, to Trainer as params")
    return model.init(int(np.random.default_rng([seed, stream]).integers(2**31)) if stream else seed)


def functions(where: str, **given: Any) -> None:
    """Refuses what is to be a function, of parameters and x or of outputs and targets, and is none that can be traced."""
    for name, value in given.items():
        if not callable(value):
            raise expected(where, f"{name} a function", type(value).__name__, TypeError)
        if any(c.__module__.startswith("torch.nn.") for c in type(value).__mro__):
            hint = "fastmeta.interop.torch.from_torch(module, example) gives a function and its parameters"
            raise expected(where, f"{name} a function of fastmeta's", f"the PyTorch module {type(value).__name__}", TypeError, hint)


def features(where: str, name: str, model: Any) -> int:
    """The length of the vectors that a model gives, by its ``outputs``."""
    n = getattr(model, "outputs", None)
    if not isinstance(n, int | np.integer):
        got = f"{type(model).__name__} without it" if n is None else n
        raise expected(where, f"{name}.outputs, the number of its features", got, TypeError)
    return int(n)


def summary(measured: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Means and 95 % intervals (1.96 s / sqrt(tasks)) of what `Learner.measure` gives, after each number of inner steps.

    {"tasks", "steps", "loss", "loss_interval", "losses" [steps + 1], "losses_interval", and the same for "accuracy"}.

    >>> result = summary({"losses": np.array([[4.0, 1.0], [4.0, 3.0]])})
    >>> result["tasks"], result["steps"], result["loss"], result["losses"]
    (2, 1, 2.0, [4.0, 2.0])
    >>> round(result["loss_interval"], 3)
    1.96
    """
    losses = measured["losses"]
    out: dict[str, Any] = {"tasks": losses.shape[0], "steps": losses.shape[1] - 1}
    for one, many in (("loss", "losses"), ("accuracy", "accuracies")):
        if many not in measured:
            continue
        values = measured[many].astype(np.float64)
        n = len(values)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = values.mean(axis=0)
            interval = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(mean.shape, np.nan)
        out |= {one: float(mean[-1]), f"{one}_interval": float(interval[-1])}
        out |= {many: mean.tolist(), f"{many}_interval": interval.tolist()}
    return out


def no_steps(where: str, steps: int | None) -> None:
    """Refuses a number of inner steps where there are none."""
    if steps not in (None, 0):
        raise expected(where, "no inner steps (None or 0)", steps)


def examples(where: str, name: str, x: Array, y: Array) -> None:
    """Refuses an empty set of examples, or inputs and targets that are not as many."""
    if not x.shape or not y.shape or x.shape[0] != y.shape[0]:
        raise expected(where, f"as many {name}_x as {name}_y", f"{list(x.shape)} and {list(y.shape)}")
    if x.shape[0] == 0:
        raise expected(where, f"at least one {name} example", 0)


def accuracy(outputs: Array, targets: Array) -> Array | None:
    """The share of right classes, or None if targets are no class labels."""
    labels = np.dtype(targets.dtype).kind in "iu" and len(outputs.shape) == len(targets.shape) + 1
    return nn.accuracy(outputs, targets) if labels else None
