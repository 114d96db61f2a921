"""Pretrained 2D diffusion models, all behind the interface :class:`dreamlift.priors.base.Prior`."""
