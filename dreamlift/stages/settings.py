"""Settings of the optimisation: weights of the scene's regularisers, and Adam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dreamlift.schedules import Schedule, value_at


@dataclass(frozen=True)
class Weights:
    """Weights of the scene's regularisers. A term of weight 0 is off and not computed."""

    sparsity: float | Schedule = 0.0  # mean opacity of the picture: empties space that no view needs
    opaque: float | Schedule = 0.0  # binary entropy of the opacity: pixels become either solid or empty
    orientation: float | Schedule = 0.0  # normals that face away from the camera (Ref-NeRF)
    distortion: float | Schedule = 0.0  # spread of a ray's weights along the ray (mip-NeRF 360)
    tv: float | Schedule = 0.0  # total variation of a voxel grid or a texture
    depth_variance: float | Schedule = 0.0  # variance of depth along each ray (HiFA)
    normal_consistency: float | Schedule = 0.0  # 1 - cosine between neighbouring faces of a mesh
    laplacian: float | Schedule = 0.0  # distance of each vertex to the mean of its neighbours

    def at(self, progress: float) -> Mapping[str, float]:
        """The terms that are on, with their weights."""
        values = {name: value_at(value, progress) for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value != 0.0}

    def ever(self) -> frozenset[str]:
        """The terms that are on at some time of a run (101 times of it are tried)."""
        return frozenset(name for i in range(101) for name in self.at(i / 100))


@dataclass(frozen=True)
class Adam:
    """The optimiser. Learning rates come from the scene's parts; this scales and shapes them."""

    lr_scale: float | Schedule = 1.0  # multiplies all learning rates
    beta1: float = 0.9  # decay of the first moment, 0 to 1
    beta2: float = 0.99  # decay of the second moment, 0 to 1
    eps: float = 1e-15  # as in Instant-NGP and threestudio: grids have tiny gradients
    clip_norm: float | None = None  # largest norm of all gradients together; null: no limit

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; accepted: 0 up to, but not including, 1")
        if self.eps <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"eps is {self.eps:g} and clip_norm {self.clip_norm}; both must be positive")
        if min(value_at(self.lr_scale, progress) for progress in (0.0, 0.5, 1.0)) < 0:
            raise ValueError("lr_scale becomes negative; it must be 0 or more at all times")
