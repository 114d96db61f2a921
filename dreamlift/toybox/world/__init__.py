"""The procedural world on whose renders the embedded priors are trained."""
