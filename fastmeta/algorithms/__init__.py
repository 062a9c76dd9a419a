"""Learners: functions from (meta-parameters, episode) to a loss; the engine does the rest."""

from fastmeta.algorithms.am3 import AM3
from fastmeta.algorithms.anil import ANIL
from fastmeta.algorithms.classifier import FewShotClassifier
from fastmeta.algorithms.conditional_maml import ConditionalMAML
from fastmeta.algorithms.covariance import CovarianceNet
from fastmeta.algorithms.es_maml import ESMAML
from fastmeta.algorithms.frozen import Frozen
from fastmeta.algorithms.hyper_network import HyperNetwork
from fastmeta.algorithms.imaml import IMAML
from fastmeta.algorithms.inner import InnerLoop
from fastmeta.algorithms.learned_optimizer import LearnedOptimizer
from fastmeta.algorithms.learner import Learner, summary
from fastmeta.algorithms.lstm_meta_learner import LSTMMetaLearner
from fastmeta.algorithms.maml import FOMAML, MAML
from fastmeta.algorithms.maml_plus_plus import MAMLPlusPlus
from fastmeta.algorithms.mann import MANN
from fastmeta.algorithms.matching import MatchingNet
from fastmeta.algorithms.meta_sgd import MetaSGD
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.algorithms.neural_process import NeuralProcess
from fastmeta.algorithms.protonet import ProtoNet, SemiSupervisedProtoNet
from fastmeta.algorithms.relation import RelationNet
from fastmeta.algorithms.reptile import Reptile
from fastmeta.algorithms.sequence import SequenceLearner
from fastmeta.algorithms.sets import SetLearner
from fastmeta.algorithms.siamese import Siamese
from fastmeta.algorithms.snail import SNAIL
from fastmeta.algorithms.task_embedding import TaskEmbedding
from fastmeta.algorithms.weight_generator import WeightGenerator

__all__ = [
    "AM3", "ANIL", "ConditionalMAML", "CovarianceNet", "ESMAML", "FOMAML", "FewShotClassifier", "Frozen", "HyperNetwork",
    "IMAML", "InnerLoop", "LSTMMetaLearner", "LearnedOptimizer", "Learner", "MAML", "MAMLPlusPlus", "MANN", "MatchingNet",
    "MetaSGD", "MetricLearner", "NeuralProcess", "ProtoNet", "RelationNet", "Reptile", "SNAIL", "SemiSupervisedProtoNet",
    "SequenceLearner", "SetLearner", "Siamese", "TaskEmbedding", "WeightGenerator", "summary",
]  # fmt: skip
