"""Rasterisation of triangles: exact visibility, and a differentiable rasteriser."""
