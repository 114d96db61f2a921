"""Fine-tuning of a prior on a few pictures: DreamBooth."""
