"""The toybox: a procedural world, and the training of the embedded priors and of the judge on its renders."""
