"""Configurations of learners that compare queries with the support set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fastmeta import algorithms, optim
from fastmeta.cli.recipes import TEST_SEED, VALIDATION_SEED
from fastmeta.cli.replications.base import Replication
from fastmeta.data import Omniglot, Sampler, vinyals
from fastmeta.models import Conv4, RelationEncoder, RelationModule

__all__ = ["METRIC", "MetricReplication"]

BATCH_NORM = {
    "batch": "batch (transductive): statistics of support and queries together, in training and in tests",
    "running": "running (inductive): support set and queries of tests by averages over training",
}
OF_TESTS = ("ways", "shots", "test_episodes", "version", "trained")  # training does not depend on them


@dataclass(frozen=True, kw_only=True)
class MetricReplication(Replication):
    """A learner around the embedding Conv4 (pooled, flattened), `RelationNet` around its own nets, trained on ``train_ways``.

    Adam's rate falls by half every ``halve_every`` meta-steps.  Validation tasks have ``validation_ways`` and the shots of
    training.  ``trained`` names the configuration whose training this one tests in another way.

    >>> r = METRIC["omniglot-proto-20w1s"]
    >>> r.ways, r.train_ways, r.training("omniglot-proto-20w1s")[0]
    (20, 60, 'omniglot-proto-5w1s')
    """

    train_ways: int = 60
    validation_ways: int = 5
    halve_every: int = 2000
    trained: str | None = None
    tasks: int = 1
    meta_lr: float = 1e-3
    steps: int = 20_000
    minutes: float = 30.0
    validate_every: int = 500
    validation_episodes: int = 100

    def training(self, name: str) -> tuple[str, dict[str, Any]]:
        """The name of the training, and the settings without those of tests."""
        settings = {k: v for k, v in self.settings().items() if k not in OF_TESTS}
        return self.trained or name, settings

    def make_learner(self) -> algorithms.MetricLearner:
        """The learner around its net."""
        make: Callable[..., algorithms.MetricLearner] = getattr(algorithms, self.learner)
        c = self.channels
        nets = [RelationEncoder(c), RelationModule(c)] if self.learner == "RelationNet" else [Conv4(c, None)]
        return make(*nets, ways=self.train_ways, **dict(self.options))

    def optimizer(self) -> optim.Optimizer:
        """Adam with its schedule."""
        return optim.adam(optim.step_decay(self.meta_lr, 0.5, self.halve_every))

    def sampler(self, split: str, data: str | None) -> Sampler:
        """The tasks of a split."""
        train, test = split == "train", split == "test"
        return Omniglot(
            data,
            classes=vinyals(split),
            ways=self.ways if test else self.train_ways if train else self.validation_ways,
            shots=self.shots if test else self.train_shots,
            queries=self.queries if train else self.test_queries,
            tasks=self.tasks if train else 20,
            seed=self.seed + {"train": 0, "validation": VALIDATION_SEED, "test": TEST_SEED}[split],
            rotations="class",
        )

    def protocol(self) -> dict[str, str]:
        """The conditions of the figures, for people."""
        return {
            "split": "1,028 training, 172 validation and 423 test characters, the lists of Vinyals et al. 2016",
            "rotations": "each character turned by 0, 90, 180 and 270 degrees is four classes, in training and in tests",
            "batch_norm": BATCH_NORM[self.options.get("batch_norm", "batch")],
            "loss": "the learner's own, mean over queries, mean over tasks",
        }


def _proto(**changes: Any) -> MetricReplication:
    return MetricReplication("ProtoNet", options={"batch_norm": "running"}, **changes)


def _matching(temperature: float, **changes: Any) -> MetricReplication:
    options = {"metric": "cosine", "temperature": temperature, "batch_norm": "running"}
    return MetricReplication("MatchingNet", options=options, **changes)


def _siamese(objective: str, **changes: Any) -> MetricReplication:
    options = {"objective": objective, "batch_norm": "running"}
    return MetricReplication("Siamese", options=options, train_ways=20, tasks=2, **changes)


METRIC: Mapping[str, MetricReplication] = MappingProxyType(
    {
        "omniglot-proto-5w1s": _proto(),
        "omniglot-proto-20w1s": _proto(ways=20, trained="omniglot-proto-5w1s"),
        "omniglot-proto-5w5s": _proto(shots=5, train_shots=5, validate_every=250),
        "omniglot-proto-20w5s": _proto(ways=20, shots=5, train_shots=5, validate_every=250, trained="omniglot-proto-5w5s"),
        # with one shot, matching by the squared distance is a prototypical network
        "omniglot-matching-5w5s": MetricReplication(
            "MatchingNet", options={"metric": "sqeuclidean", "batch_norm": "running"}, shots=5, train_shots=5, validate_every=250,
        ),
        "omniglot-matching-cosine-5w1s": _matching(0.1),
        "omniglot-matching-cosine-20w1s": _matching(0.1, ways=20, trained="omniglot-matching-cosine-5w1s"),
        "omniglot-relation-5w1s": MetricReplication("RelationNet", train_ways=5, queries=10, tasks=2, halve_every=10_000),
        "omniglot-siamese-5w1s": _siamese("weighted-l1"),
        "omniglot-siamese-contrastive-5w1s": _siamese("contrastive"),
    }
)  # fmt: skip
