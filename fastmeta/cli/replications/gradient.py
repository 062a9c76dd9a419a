"""Configurations of MAML and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fastmeta import algorithms, nn, optim
from fastmeta.cli.recipes import BATCH_NORM, TEST_SEED, VALIDATION_SEED
from fastmeta.cli.replications.base import Replication
from fastmeta.data import Omniglot
from fastmeta.models import Conv4

__all__ = ["GRADIENT", "GradientReplication"]

# learning rate at the start, meta-steps -> rule; Adam ends at a hundredth of its rate, Reptile's interpolation at 0
META_RULES: dict[str, Callable[[float, int], optim.Optimizer]] = {
    "adam": lambda lr, steps: optim.adam(optim.cosine(lr, lr / 100, steps)),
    "sgd": lambda lr, steps: optim.sgd(optim.linear(lr, 0.0, steps)),
}
ROTATIONS = "task"  # one of four turns is drawn for each class of each task, in tests too


@dataclass(frozen=True, kw_only=True)
class GradientReplication(Replication):
    """A learner with inner steps around Conv4: ``strided`` convolutions with ``head`` "mean" are the net of MAML, pooled
    ones with "flatten" that of matching networks.  Training tasks have as many ways as test tasks.

    >>> GRADIENT["omniglot-maml-5w1s"].make_learner().inner_lr
    0.4
    """

    inner_lr: float
    inner_steps: int
    strided: bool = True
    head: str = "mean"
    meta_rule: str = "adam"
    split_seed: int = 0

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


GRADIENT: Mapping[str, GradientReplication] = MappingProxyType(
    {
        "omniglot-maml-5w1s": GradientReplication("MAML", inner_lr=0.4, inner_steps=1, test_steps=3, version=2, steps=24_000),
        "omniglot-fomaml-5w1s": GradientReplication("FOMAML", inner_lr=0.4, inner_steps=1, test_steps=3, version=2, steps=20_000),
        "omniglot-meta-sgd-5w1s": GradientReplication("MetaSGD", inner_lr=0.4, inner_steps=1, test_steps=1, version=2, steps=20_000),
        "omniglot-anil-5w1s": GradientReplication("ANIL", inner_lr=0.4, inner_steps=1, test_steps=3),
        "omniglot-reptile-5w1s": GradientReplication(
            "Reptile", inner_lr=0.2, inner_steps=5, test_steps=50, options={"inner_rule": "sgd", "inner_batch": 10}, head="flatten",
            train_shots=10, queries=1, tasks=5, steps=20_000, meta_rule="sgd", meta_lr=1.0, validate_every=5000, validation_episodes=100,
        ),
        "omniglot-maml-plus-plus-5w1s": GradientReplication(
            "MAMLPlusPlus", inner_lr=0.1, inner_steps=5, test_steps=5, options={"multi_loss": 1000}, version=2,
        ),
        "omniglot-imaml-5w1s": GradientReplication(
            "IMAML", inner_lr=0.02, inner_steps=16, test_steps=16, options={"damping": 2.0, "iterations": 5}, head="flatten",
            version=2, steps=3000, validate_every=500, validation_episodes=100,
        ),
        "omniglot-maml-5w5s": GradientReplication("MAML", inner_lr=0.4, inner_steps=1, test_steps=3, shots=5, train_shots=5),
        "omniglot-maml-20w1s": GradientReplication(
            "MAML", inner_lr=0.4, inner_steps=1, test_steps=3, ways=20, tasks=4, queries=2, version=2, steps=45_000,
            validate_every=2500, validation_episodes=100,
        ),
    }
)  # fmt: skip
