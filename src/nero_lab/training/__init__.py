"""One run: the training loop, its devices, its checkpoints."""
