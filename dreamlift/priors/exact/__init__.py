"""Priors with an exact score, for tests: a Gaussian mixture, and a finite set of posed pictures."""
