"""A run on disk: start, resume, export, checkpoints, progress."""
