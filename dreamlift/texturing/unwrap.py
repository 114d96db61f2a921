"""Unwrapping a mesh into charts with xatlas (https://github.com/jpcy/xatlas)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dreamlift.meshing.geometry import check_mesh, with_normals
from dreamlift.types import Mesh


def unwrap(mesh: Mesh, size: int = 1024, padding: int = 4) -> Mesh:
    """The mesh with UVs ``(V', 2)`` in [0, 1]; vertices on seams are doubled, the faces' order stays.

    Args:
        mesh: UVs that it has are replaced; its texture is dropped. Normals are computed before the split, so that
            shading is smooth across seams.
        size: texels along each side of the texture that will be baked; the gaps between charts depend on it.
        padding: gap between charts, in texels.

    Raises:
        EmptySceneError, ValueError: the mesh is empty or malformed.
    """
    import xatlas

    check_mesh(mesh)
    if size < 16 or padding < 0:
        raise ValueError(f"the texture needs a size of at least 16 and a padding of at least 0, not {size}, {padding}")
    mesh = with_normals(mesh)
    # xatlas drops triangles below an absolute size, so the mesh is scaled to one of about 1 first.
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
        vertex_colors=colors,
        vertex_normals=mesh.vertex_normals[old],
    )
