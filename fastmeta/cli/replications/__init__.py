"""Named, versioned configurations of ``fastmeta reproduce``: published Omniglot experiments within a time limit.

A configuration that changes gets a higher version, so that a result tells what it was trained with.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fastmeta.cli.replications.base import Replication
from fastmeta.cli.replications.gradient import GRADIENT, GradientReplication
from fastmeta.cli.replications.metric import METRIC, MetricReplication
from fastmeta.cli.replications.sequence import SEQUENCE, SequenceReplication

__all__ = ["REPLICATIONS", "GradientReplication", "MetricReplication", "Replication", "SequenceReplication"]

REPLICATIONS: Mapping[str, Replication] = MappingProxyType({**GRADIENT, **METRIC, **SEQUENCE})
