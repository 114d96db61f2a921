"""Training of the embedded priors."""
