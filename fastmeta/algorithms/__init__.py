"""Learners: functions from (meta-parameters, episode) to a loss; the engine does the rest."""

from fastmeta.algorithms.anil import ANIL
from fastmeta.algorithms.imaml import IMAML
from fastmeta.algorithms.inner import InnerLoop
from fastmeta.algorithms.learner import Learner, summary
from fastmeta.algorithms.maml import FOMAML, MAML
from fastmeta.algorithms.maml_plus_plus import MAMLPlusPlus
from fastmeta.algorithms.meta_sgd import MetaSGD
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.algorithms.protonet import ProtoNet
from fastmeta.algorithms.reptile import Reptile

__all__ = [
    "ANIL", "FOMAML", "IMAML", "MAML", "InnerLoop", "Learner", "MAMLPlusPlus", "MetaSGD", "MetricLearner", "ProtoNet", "Reptile",
    "summary",
]  # fmt: skip
