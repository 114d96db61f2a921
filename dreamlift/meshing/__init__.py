"""From a field to a clean, unwrapped and baked triangle mesh, and an exact renderer to look at it."""
