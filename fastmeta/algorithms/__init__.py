"""Learners: functions from (meta-parameters, episode) to a loss; the engine does the rest."""

from fastmeta.algorithms.learner import Learner, summary
from fastmeta.algorithms.maml import MAML

__all__ = ["MAML", "Learner", "summary"]
