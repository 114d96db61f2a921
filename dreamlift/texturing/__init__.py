"""Textures of meshes: unwrap, bake, transfer."""
