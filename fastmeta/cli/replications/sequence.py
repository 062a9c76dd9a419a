"""Configurations of learners that read the support set as a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fastmeta.cli.replications.metric import MetricReplication
from fastmeta.data import Sampler, Shuffled

__all__ = ["SEQUENCE", "SequenceReplication"]


@dataclass(frozen=True, kw_only=True)
class SequenceReplication(MetricReplication):
    """A learner around the embedding Conv4, as `MetricReplication`; support examples come in random order.

    >>> SEQUENCE["omniglot-snail-5w1s"].train_ways
    5
    """

    train_ways: int = 5
    tasks: int = 16
    minutes: float = 20.0

    def sampler(self, split: str, data: str | None) -> Sampler:
        """The tasks of a split."""
        return Shuffled(super().sampler(split, data))

    def protocol(self) -> dict[str, str]:
        """The conditions of the figures, for people."""
        loss = "cross-entropy of queries, each read after the support set, whose order is drawn for each task; mean over queries, mean over tasks"
        return super().protocol() | {"loss": loss}


SEQUENCE: Mapping[str, SequenceReplication] = MappingProxyType(
    {
        # with the paper's 200 units, or three times the rate, the LSTM learned alone what it can and made no use of the memory
        "omniglot-mann-5w1s": SequenceReplication("MANN", options={"hidden": 100}, channels=32, halve_every=5000),
        "omniglot-snail-5w1s": SequenceReplication("SNAIL", options={"shots": 1, "batch_norm": "running"}, halve_every=2500),
    }
)
