"""A radiance field, rendered by ray marching."""
