"""Learners: functions from (meta-parameters, episode) to a loss; the engine does the rest."""

from fastmeta.algorithms.anil import ANIL
from fastmeta.algorithms.classifier import FewShotClassifier
from fastmeta.algorithms.covariance import CovarianceNet
from fastmeta.algorithms.frozen import Frozen
from fastmeta.algorithms.imaml import IMAML
from fastmeta.algorithms.inner import InnerLoop
from fastmeta.algorithms.learner import Learner, summary
from fastmeta.algorithms.maml import FOMAML, MAML
from fastmeta.algorithms.maml_plus_plus import MAMLPlusPlus
from fastmeta.algorithms.mann import MANN
from fastmeta.algorithms.matching import MatchingNet
from fastmeta.algorithms.meta_sgd import MetaSGD
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.algorithms.protonet import ProtoNet, SemiSupervisedProtoNet
from fastmeta.algorithms.relation import RelationNet
from fastmeta.algorithms.reptile import Reptile
from fastmeta.algorithms.sequence import SequenceLearner
from fastmeta.algorithms.siamese import Siamese
from fastmeta.algorithms.snail import SNAIL
from fastmeta.algorithms.task_embedding import TaskEmbedding

__all__ = [
    "ANIL", "CovarianceNet", "FOMAML", "FewShotClassifier", "Frozen", "IMAML", "InnerLoop", "Learner", "MAML", "MAMLPlusPlus",
    "MANN", "MatchingNet", "MetaSGD", "MetricLearner", "ProtoNet", "RelationNet", "Reptile", "SNAIL", "SemiSupervisedProtoNet",
    "SequenceLearner", "Siamese", "TaskEmbedding", "summary",
]  # fmt: skip
