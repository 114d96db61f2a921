"""The 2D diffusion models that teach, all behind :class:`dreamlift.priors.base.Prior`."""
