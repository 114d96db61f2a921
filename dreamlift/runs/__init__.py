"""Runs on disk: start, resume, export, checkpoints, progress."""
