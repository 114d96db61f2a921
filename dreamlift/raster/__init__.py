"""Triangles to pixels: exact visibility and a differentiable rasteriser."""
