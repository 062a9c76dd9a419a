"""Training: the outer loop and its checkpoints."""
