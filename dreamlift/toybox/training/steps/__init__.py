"""What every training shares: optimisers, workers, checkpoints."""
