"""The volumes of assets against those of true things, and the solids that one silhouette gives by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import project
from dreamlift.meshing.distance import signed_distances
from dreamlift.meshing.isosurface import isosurface
from dreamlift.toybox.world.truth import cell_centers
from dreamlift.types import Cameras, Mesh

GRID = 64  # cells a side of the volume IoU, over [-1, 1]^3; the true thing's bounding sphere has a radius of 0.85
COARSE = 32  # cells of the search
FINEST = 0.002  # last step of the search


class Fitted(NamedTuple):
    """A mesh is scaled and shifted so that its volume overlaps the true one best."""

    scale: float
    shift: tuple[float, float, float]
    iou: float

    def apply(self, vertices: np.ndarray) -> np.ndarray:
        return (vertices * self.scale + np.array(self.shift)).astype(np.float32)


def fit_volume(mesh: Mesh, inside: Callable[[Tensor], Tensor]) -> Fitted:
    """Scale and shift of the mesh for the largest volume IoU with a true thing, on a grid of 64 cells a side; no rotation.

    ``inside`` tells of points ``(N, 3)`` whether they are in the true thing. The search changes one of the four numbers at a
    time, first on a coarser grid, from the mesh as it is and from equal bounding boxes.
    """
    volume, low, high = distances(mesh)
    coarse, fine = cell_centers(COARSE), cell_centers(GRID)
    true = inside(coarse)
    box = coarse[true].amin(0) - 1.0 / COARSE, coarse[true].amax(0) + 1.0 / COARSE

    def iou(points: Tensor, wanted: Tensor, at: Tensor) -> float:
        own = _within(volume, low, high, (points - at[1:]) * torch.exp(-at[0]))
        return float((own & wanted).sum() / (own | wanted).sum().clamp_min(1))

    own = torch.from_numpy(mesh.vertices[np.unique(mesh.faces)])
    sides = own.amax(0) - own.amin(0)
    scale = ((box[1] - box[0]).prod() / sides.prod().clamp_min(1e-9)) ** (1.0 / 3.0)
    boxed = torch.cat([scale.log()[None], 0.5 * (box[0] + box[1]) - 0.5 * scale * (own.amax(0) + own.amin(0))])
    found = [climbed(lambda at: iou(coarse, true, at), start) for start in (torch.zeros(4), boxed)]
    wanted = inside(fine)
    best = climbed(lambda at: iou(fine, wanted, at), max(found, key=lambda at: iou(coarse, true, at)), 0.01)
    x, y, z = best[1:].tolist()
    return Fitted(float(best[0].exp()), (x, y, z), iou(fine, wanted, best))


def climbed(score: Callable[[Tensor], float], start: Tensor, step: float = 0.08) -> Tensor:
    """A local maximum of ``score`` near ``start (P,)``: steps along the axes, halved where none of them helps."""
    at, best = start, score(start)
    while step > FINEST:
        tried = [at + sign * step * axis for axis in torch.eye(len(at)) for sign in (1.0, -1.0)]
        scores = [score(each) for each in tried]
        if max(scores) > best:
            best, at = max(scores), tried[int(np.argmax(scores))]
        else:
            step *= 0.5
    return at


def distances(mesh: Mesh) -> tuple[Tensor, float, float]:
    """Signed distances ``(1, 1, S, S, S)`` of a mesh (x is the slowest axis), and the first and last place on each axis."""
    vertices = torch.from_numpy(mesh.vertices).float()
    reach = 1.1 * float(vertices.abs().max())
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    found = signed_distances(vertices, faces, -reach, 2.0 * reach / (GRID - 1), GRID)
    return found.reshape(1, 1, GRID, GRID, GRID), -reach, reach


def _within(volume: Tensor, low: float, high: float, points: Tensor) -> Tensor:
    """Whether points ``(N, 3)`` lie inside, by trilinear interpolation of the distances; those beyond the grid do not."""
    places = 2.0 * (points - low) / (high - low) - 1.0
    grid = places.flip(-1).view(1, 1, 1, -1, 3)  # grid_sample names the fastest axis first
    values = functional.grid_sample(volume, grid, padding_mode="border", align_corners=True).view(-1)
    return (values < 0) & (places.abs() <= 1.0).all(dim=-1)


def hull(photo: Tensor, camera: Cameras, inflated: bool = False) -> Mesh:
    """What the silhouette of ``photo (S, S, 4)`` alone tells: the cone of its rays, cut off in depth, with the photo's colours.

    The cone is cut by two planes across the optical axis, at equal distances before and behind the origin; between them lies
    the length of the silhouette's shorter side. ``inflated``: half the depth of a ray is instead (d (2 R - d))^0.5, with d its
    distance from the outline and R the largest one, which makes a ball of a disk.
    """
    mask = photo[..., 3] > 0.5
    size, half = mask.shape[0], torch.tensor(0.5)
    points = cell_centers(GRID)
    pixels, depth = project(camera, points)
    world = float(camera.distance) / float(camera.K[0, 0, 0])  # of a pixel at the origin
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    shorter = float(min(rows.max() - rows.min(), columns.max() - columns.min()) + 1) * world
    inside = torch.from_numpy(ndimage.distance_transform_edt(mask.numpy())).float() * world  # from the outline
    outside = torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy())).float() * world
    grid = (pixels[0] / size * 2.0 - 1.0).view(1, 1, -1, 2)
    across = functional.grid_sample((inside - outside)[None, None], grid, padding_mode="border", align_corners=False).view(-1)
    away = (depth[0] - camera.distance).abs()
    largest = float(inside.max())
    reach = (across * (2.0 * largest - across)).clamp_min(0).sqrt() if inflated else half * shorter
    vertices, faces = isosurface(torch.minimum(across, reach - away).view(GRID, GRID, GRID), 0.0, -1 + 1 / GRID, 1 - 1 / GRID)
    seen = project(camera, vertices)[0][0] / size * 2.0 - 1.0
    colors = functional.grid_sample(photo[..., :3].permute(2, 0, 1)[None], seen.view(1, 1, -1, 2), align_corners=False)
    return Mesh(vertices.numpy(), faces.numpy().astype(np.int32), vertex_colors=colors[0, :, 0].T.clamp(0, 1).numpy())
