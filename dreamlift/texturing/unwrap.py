"""Unwrapping a mesh: charts of its surface are packed into a texture by xatlas (https://github.com/jpcy/xatlas)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dreamlift.meshing.geometry import with_normals
from dreamlift.types import Mesh

MIN_SIZE = 16  # texels along each side of a texture


def unwrap(mesh: Mesh, size: int = 1024, padding: int = 4) -> Mesh:
    """The mesh with new UVs ``(V', 2)`` in [0, 1]; vertices on seams are duplicated, the order of the faces is kept.

    Args:
        mesh: its textures are dropped. Missing normals are computed before the split, so that shading is smooth across
            seams.
        size: texels along each side of the texture to be baked, at least 16; the charts' layout depends on it.
        padding: gap between charts, in texels.

    Raises:
        ValueError: a size or padding below the least accepted one.
    """
    import xatlas

    if size < MIN_SIZE or padding < 0:
        raise ValueError(f"the texture needs a size of at least {MIN_SIZE} and a padding of at least 0, not {size}, {padding}")
    mesh = with_normals(mesh)
    # xatlas drops triangles below an absolute size, so the mesh is first scaled to a size of about 1.
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    scaled = (mesh.vertices - mesh.vertices.mean(axis=0)) / max(extent, 1e-30)
    atlas = xatlas.Atlas()
    atlas.add_mesh(scaled.astype(np.float32), mesh.faces.astype(np.uint32))
    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, padding, True
    atlas.generate(charts, pack)
    old, faces, uvs = atlas[0]
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[old]
    assert mesh.vertex_normals is not None
    return replace(
        mesh,
        vertices=mesh.vertices[old],
        faces=faces.astype(np.int32),
        uvs=np.clip(uvs, 0.0, 1.0).astype(np.float32),
        base_color=None,
        metallic_roughness=None,
        normal_map=None,
        vertex_colors=colors,
        vertex_normals=mesh.vertex_normals[old],
    )
