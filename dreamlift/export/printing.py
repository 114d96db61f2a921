"""Meshes for 3D printers: millimetres, +z up, standing on the plate z = 0, closed.

Slicers read an STL, which has no unit, as millimetres, and take z as up. The front (+z of the scene) faces -y, as in Blender.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from dreamlift.meshing.clean import decimate
from dreamlift.meshing.watertight import is_watertight, make_watertight
from dreamlift.types import Mesh

PRINTED = ("stl", "3mf")  # formats whose files are for printers


def closed(mesh: Mesh, resolution: int, faces: int) -> Mesh:
    """The geometry of ``mesh`` as a solid. A mesh that bounds none is returned unchanged, with a warning.

    Args:
        resolution: grid points along the longest side, if the surface must be rebuilt.
        faces: largest number of faces of a surface that was open.
    """
    try:
        solid = make_watertight(mesh, resolution)
    except ValueError as error:
        warnings.warn(f"files for printers (STL, 3MF) are not watertight: {error}", stacklevel=2)
        return mesh
    return solid if is_watertight(mesh) else decimate(solid, max(faces, len(mesh.faces)))


def on_the_plate(mesh: Mesh, size: float) -> Mesh:
    """The mesh with +z up, its longest side ``size`` long, its centre above the origin and its lowest point at z = 0."""
    x, y, z = mesh.vertices.astype(np.float64).T
    points = np.stack([x, -z, y], axis=1)
    used = points[np.unique(mesh.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    anchor = np.array([0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), low[2]])
    placed = (points - anchor) * (size / max(float((high - low).max()), 1e-9))
    return replace(mesh, vertices=placed.astype(np.float32), vertex_normals=None)
