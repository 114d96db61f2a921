"""Textures of meshes: unwrapping, baking, sampling, transfer between meshes, drawing."""
