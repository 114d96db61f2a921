"""Readers of OBJ, PLY and STL files: bytes in, parts and notes out, with NumPy only."""
