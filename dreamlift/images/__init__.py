"""A user's picture of an object: reading it, cutting the object out, framing it, its depth and its camera."""
