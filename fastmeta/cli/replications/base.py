"""What all configurations have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from fastmeta import optim
from fastmeta.algorithms import InnerLoop, MetricLearner
from fastmeta.data import Sampler

__all__ = ["Replication"]


@dataclass(frozen=True)
class Replication(ABC):
    """One experiment.  Training ends after ``steps``, ``patience`` validations without a new best, or ``minutes``.

    ``ways``, ``shots`` and ``test_queries`` are those of test tasks, ``train_shots`` and ``queries`` those of training tasks.
    ``options`` are further arguments of the learner.  ``test_steps`` are inner steps in tests; None where there are none.

    >>> from fastmeta.cli.replications import REPLICATIONS
    >>> REPLICATIONS["omniglot-maml-20w1s"].ways
    20
    """

    learner: str
    _: KW_ONLY
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 64
    ways: int = 5
    shots: int = 1
    train_shots: int = 1
    queries: int = 5
    test_queries: int = 15
    test_steps: int | None = None
    tasks: int = 8
    steps: int = 10_000
    minutes: float = 25.0
    meta_lr: float = 3e-3
    validate_every: int = 1000
    validation_episodes: int = 200
    patience: int = 10
    test_episodes: int = 1000
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def training(self, name: str) -> tuple[str, dict[str, Any]]:
        """The name of the training and its settings: configurations that share both share the training.

        ``name`` is that of the configuration, and of its training unless told otherwise.
        """
        return name, self.settings()

    @abstractmethod
    def make_learner(self) -> InnerLoop | MetricLearner:
        """The learner around its net."""

    @abstractmethod
    def optimizer(self) -> optim.Optimizer:
        """The rule of the meta-parameters, with its schedule."""

    @abstractmethod
    def sampler(self, split: str, data: str | None) -> Sampler:
        """The tasks of a split; no split meets the random stream of another."""

    @abstractmethod
    def protocol(self) -> dict[str, str]:
        """The conditions of the figures, for people."""
