"""The procedural world that the embedded priors are trained on."""
