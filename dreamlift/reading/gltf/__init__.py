"""Users' glTF files: ``read_gltf``, and its steps."""

from dreamlift.reading.gltf.read import read_gltf

__all__ = ["read_gltf"]
