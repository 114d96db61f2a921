"""Where a prior's files are found: known names, folders, hub names, and one-file checkpoints, which are converted."""
