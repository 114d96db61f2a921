"""A texture or material on a mesh that keeps its shape."""
