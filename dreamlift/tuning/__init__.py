"""Fine-tuning of a prior on a few pictures: DreamBooth and textual inversion."""
