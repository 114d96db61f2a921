"""Memory estimates of a radiance field's renders, with constants measured in short runs (``benchmarks/memory.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamlift.scenes.base import StepShape
from dreamlift.scenes.nerf.hashgrid import Hashgrid, layout_of
from dreamlift.scenes.nerf.volume import HAS_TRITON
from dreamlift.system import jit

if TYPE_CHECKING:
    from dreamlift.scenes.nerf.scene import Nerf

# Bytes per sample, in float32. Packed intervals, points, weights, their gradients, and temporaries of the sampling:
SAMPLE = 70
VOXEL = 72  # raw and activated density and colour, and their gradients
TWIN = 270  # per level and evaluation of a hash grid, without a compiled encoding
NORMALS, TERMS = 180, 100  # normals and lit colours; regularisers along rays
PER_SAMPLE_KEPT = 75  # kept per sample between the chunks of rays
LOW_RAYS = 4096


def step_bytes(scene: Nerf, shape: StepShape) -> int:
    """Live bytes of one step's renders with their gradients, without empty-space skipping."""
    field, rays = scene.field, shape.views * shape.side**2
    at_once = min(rays, scene.chunk_rays or rays)
    along = TERMS if shape.terms & {"distortion", "depth_variance"} else 0
    if isinstance(field, Hashgrid):
        fixed = 3 * 4 * layout_of(field).first[-1] * field.features
    else:
        fixed = 8 * 16 * field.resolutions[-1] ** 3
    each = sample_bytes(scene, shape.device, shape.normals) + NORMALS * shape.normals
    kept = (PER_SAMPLE_KEPT + NORMALS * shape.normals // 3) * (at_once < rays)
    return fixed + scene.samples_per_ray * (at_once * each + rays * (kept + along)) + rays * 200


def sample_bytes(scene: Nerf, device: str, normals: bool = False) -> int:
    """Live bytes of one sample and of the field's values there."""
    field = scene.field
    if not isinstance(field, Hashgrid):
        return SAMPLE + VOXEL
    features, evaluations = 4 * field.levels * field.features, 4 if normals else 1
    compiled = HAS_TRITON if device == "cuda" else device == "cpu" and jit.fast_kernels_available()
    encoded = 0 if compiled else evaluations * field.levels * TWIN
    return SAMPLE + evaluations * (features + 4 * field.hidden + 64) + 2 * 4 * field.hidden + features + encoded
