"""Settings of the optimization: the weights of the scene's regularizers, and Adam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dreamlift.schedules import Schedule, value_at

OF_NORMALS = frozenset(("orientation", "normal_smooth", "normal_smooth_3d"))  # terms that need renders with normals


@dataclass(frozen=True)
class Weights:
    """Weights of the scene's regularizers. A term of weight 0 is not computed."""

    sparsity: float | Schedule = 0.0  # weight of the picture's mean opacity, which removes unneeded density; 0: off
    opaque: float | Schedule = 0.0  # weight of the opacity's binary entropy, which makes pixels opaque or empty; 0: off
    orientation: float | Schedule = 0.0  # weight of visible normals that face away from the camera (Ref-NeRF); 0: off
    # weight of the squared differences of neighboring pixels of the normals' picture (threestudio); 0: off
    normal_smooth: float | Schedule = 0.0
    # weight of the change of the normal at points that are moved by N(0, 0.01), all samples alike (stable-dreamfusion); 0: off
    normal_smooth_3d: float | Schedule = 0.0
    distortion: float | Schedule = 0.0  # weight of the spread of density along each ray (mip-NeRF 360); 0: off
    tv: float | Schedule = 0.0  # weight of the squared total variation of a voxel grid or a texture; 0: off
    depth_variance: float | Schedule = 0.0  # weight of the variance of depth along rays of opacity above 0.5 (HiFA); 0: off
    emptiness: float | Schedule = 0.0  # weight of log(1 + 10 w) of each sample's compositing weight w (SJC); 0: off
    normal_consistency: float | Schedule = 0.0  # weight of 1 - cosine between the normals of adjacent mesh faces; 0: off
    vertex_consistency: float | Schedule = (
        0.0  # weight of 1 - cosine between normals of adjacent vertices (threestudio); 0: off
    )
    laplacian: float | Schedule = 0.0  # weight of the length of each vertex's sum of edges, world units (threestudio); 0: off

    def at(self, progress: float) -> Mapping[str, float]:
        """The terms whose weight is not 0, with their weights."""
        values = {name: value_at(value, progress) for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value != 0.0}

    def ever(self) -> frozenset[str]:
        """The terms whose weight is not 0 at one or more of 101 evenly spaced values of progress."""
        return frozenset(name for i in range(101) for name in self.at(i / 100))


@dataclass(frozen=True)
class Adam:
    """The optimizer: Adam or one of its variants. The learning rates are settings of the scene and of the loss."""

    # adam (Kingma & Ba 2015), adamw (decoupled weight decay, Loshchilov & Hutter 2019), or adamax (largest gradient for the
    # second moment, Kingma & Ba 2015, section 7.1)
    variant: Literal["adam", "adamw", "adamax"] = "adam"
    weight_decay: float = 0.01  # share of a value removed per step, times the learning rate, at least 0; adamw only

    lr_scale: float | Schedule = 1.0  # factor on all learning rates, at least 0
    beta1: float = 0.9  # decay rate of the first moment, in [0, 1)
    beta2: float = 0.99  # decay rate of the second moment, in [0, 1)
    eps: float = 1e-15  # term added to the denominator, > 0; as small as in Instant-NGP, since gradients of grids are small
    clip_norm: float | None = None  # largest norm of the scene's gradient, > 0; larger ones are scaled down; null: no limit

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; accepted: 0 up to, but not including, 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay:g}; it must not be negative")
        if self.eps <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"eps is {self.eps:g} and clip_norm {self.clip_norm}; both must be positive")
        if min(value_at(self.lr_scale, progress) for progress in (0.0, 0.5, 1.0)) < 0:
            raise ValueError("lr_scale becomes negative; it must be 0 or more at all times")
