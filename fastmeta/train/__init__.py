"""Training: the outer loop and its checkpoints."""

from fastmeta.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastmeta.train.trainer import Progress, Trained, Trainer

__all__ = ["Checkpoint", "Progress", "Trained", "Trainer", "load_checkpoint", "save_checkpoint"]
