"""Named, versioned configurations of ``fastmeta reproduce``: published Omniglot experiments within a time limit.

A configuration that changes gets a higher version, so that a result tells what it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from fastmeta import algorithms, nn, optim
from fastmeta.cli.recipes import BATCH_NORM, TEST_SEED, VALIDATION_SEED
from fastmeta.data import Omniglot
from fastmeta.models import Conv4

__all__ = ["REPLICATIONS", "Replication"]

# learning rate at the start, meta-steps -> rule; Adam ends at a hundredth of its rate, Reptile's interpolation at 0
META_RULES: dict[str, Callable[[float, int], optim.Optimizer]] = {
    "adam": lambda lr, steps: optim.adam(optim.cosine(lr, lr / 100, steps)),
    "sgd": lambda lr, steps: optim.sgd(optim.linear(lr, 0.0, steps)),
}
ROTATIONS = "task"  # one of four turns is drawn for each class of each task, in tests too


@dataclass(frozen=True)
class Replication:
    """One experiment.  Training ends after ``steps``, ``patience`` validations without a new best, or ``minutes``.

    The net is Conv4: ``strided`` convolutions with ``head`` "mean" are the net of MAML, pooled ones with "flatten" that of
    matching networks.  ``options`` are further arguments of the learner.  ``train_shots`` are those of training tasks.

    >>> REPLICATIONS["omniglot-maml-20w1s"].ways
    20
    """

    learner: str
    inner_lr: float
    inner_steps: int
    test_steps: int
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 64
    strided: bool = True
    head: str = "mean"
    ways: int = 5
    shots: int = 1
    train_shots: int = 1
    queries: int = 5
    test_queries: int = 15
    tasks: int = 8
    steps: int = 10_000
    minutes: float = 25.0
    meta_rule: str = "adam"
    meta_lr: float = 3e-3
    validate_every: int = 1000
    validation_episodes: int = 200
    patience: int = 10
    test_episodes: int = 1000
    split_seed: int = 0
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def make_learner(self) -> algorithms.InnerLoop:
        """The learner around its net."""
        net = Conv4(self.channels, self.ways, strided=self.strided, head=self.head)
        make: Callable[..., algorithms.InnerLoop] = getattr(algorithms, self.learner)
        return make(
            net, loss=nn.cross_entropy, inner_lr=self.inner_lr, inner_steps=self.inner_steps, **dict(self.options)
        )

    def optimizer(self) -> optim.Optimizer:
        """The rule of the meta-parameters, with its schedule over ``steps``."""
        return META_RULES[self.meta_rule](self.meta_lr, self.steps)

    def sampler(self, split: str, data: str | None) -> Omniglot:
        """The tasks of a split; no split meets the random stream of another."""
        train = split == "train"
        offset = {"train": 0, "validation": VALIDATION_SEED, "test": TEST_SEED}[split]
        return Omniglot(
            data,
            split=split,
            ways=self.ways,
            shots=self.train_shots if train else self.shots,
            queries=self.queries if train else self.test_queries,
            tasks=self.tasks if train else 20,
            seed=self.seed + offset,
            rotations=ROTATIONS,
            split_seed=self.split_seed,
        )

    def protocol(self) -> dict[str, str]:
        """The conditions of the figures, for people."""
        return {
            "split": f"1,100 training, 100 validation and 423 test characters, shuffled by seed {self.split_seed}",
            "rotations": "a multiple of 90 degrees drawn per class and task, in training and in tests",
            "batch_norm": BATCH_NORM[self.options.get("batch_norm", "batch")],
            "loss": "mean cross-entropy over examples, mean over tasks",
        }


REPLICATIONS: Mapping[str, Replication] = MappingProxyType(
    {
        "omniglot-maml-5w1s": Replication("MAML", inner_lr=0.4, inner_steps=1, test_steps=3, version=2, steps=24_000),
        "omniglot-fomaml-5w1s": Replication("FOMAML", inner_lr=0.4, inner_steps=1, test_steps=3, version=2, steps=20_000),
        "omniglot-meta-sgd-5w1s": Replication("MetaSGD", inner_lr=0.4, inner_steps=1, test_steps=1, version=2, steps=20_000),
        "omniglot-anil-5w1s": Replication("ANIL", inner_lr=0.4, inner_steps=1, test_steps=3),
        "omniglot-reptile-5w1s": Replication(
            "Reptile", inner_lr=1e-3, inner_steps=5, test_steps=50, options={"inner_rule": "adam"}, train_shots=10,
            tasks=5, steps=20_000, meta_rule="sgd", meta_lr=1.0, validate_every=5000, validation_episodes=100,
        ),
        "omniglot-maml-plus-plus-5w1s": Replication(
            "MAMLPlusPlus", inner_lr=0.1, inner_steps=5, test_steps=5, options={"multi_loss": 1000}, meta_lr=1e-3,
        ),
        "omniglot-imaml-5w1s": Replication(
            "IMAML", inner_lr=0.1, inner_steps=16, test_steps=16, options={"damping": 2.0, "iterations": 5},
            meta_lr=1e-3, validation_episodes=100,
        ),
        "omniglot-maml-5w5s": Replication("MAML", inner_lr=0.4, inner_steps=1, test_steps=3, shots=5, train_shots=5),
        "omniglot-maml-20w1s": Replication(
            "MAML", inner_lr=0.1, inner_steps=5, test_steps=5, ways=20, tasks=4, queries=2, validation_episodes=100,
        ),
    }
)  # fmt: skip
