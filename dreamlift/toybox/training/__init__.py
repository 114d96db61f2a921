"""How the embedded priors are trained."""
