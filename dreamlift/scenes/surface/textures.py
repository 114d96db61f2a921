"""Textures with three channels in [0, 1] on a fixed surface: an image pyramid over the UVs, or a field in space.

The image is a Laplacian pyramid of raw values (Burt and Adelson 1983, "The Laplacian Pyramid as a Compact Image Code",
https://doi.org/10.1109/TCOM.1983.1095851): with levels ``L_k`` of n_k x n_k texels, each sampled bilinearly,

    value(uv) = sigmoid(sum_k w_k L_k(uv)),        w_k = clamp(1 - log2(n_k d), 0, 1)

where d is the width of a render's sample in UV units. A coarse level accumulates the gradients of many samples. A level whose
texels are finer than the render's samples is ignored, as in mip-mapping (Williams 1983, "Pyramidal Parametrics",
https://doi.org/10.1145/800059.801126): otherwise the noise of a distillation loss would accumulate in texels that no render
resolves. Latent-Paint (Metzer et al. 2022, https://arxiv.org/abs/2211.07600) optimises a single 128 x 128 image instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from dreamlift.scenes.base import ParamGroup
from dreamlift.scenes.nerf.field import Field
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.voxel import Voxel, VoxelField


@dataclass(frozen=True)
class Image:
    """Settings of an image texture on the mesh's UVs."""

    size: int = 512  # texels per side of the finest level
    coarsest: int = 32  # texels per side of the coarsest level; too few mix the colours of charts adjacent in the image
    lr: float = 0.03  # learning rate of the raw values, before the sigmoid (Adam)

    def __post_init__(self) -> None:
        if not 4 <= self.coarsest <= self.size <= 8192:
            raise ValueError(f"size is {self.size} and coarsest {self.coarsest}; accepted: 4 <= coarsest <= size <= 8192")
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr:g}; it must be positive")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Texels per side of the levels, coarse to fine: ``size`` is halved down to ``coarsest``."""
        found = [self.size]
        while found[0] // 2 >= self.coarsest:
            found.insert(0, found[0] // 2)
        return tuple(found)

    def parameter_count(self) -> int:
        """Number of trained scalars: three channels of all levels."""
        return 3 * sum(n * n for n in self.sizes)

    def sample_bytes(self) -> int:
        """Peak bytes per sample of a render with its backward pass."""
        return 100


TEXTURES = {"image": Image, "voxel": Voxel, "hashgrid": Hashgrid}


class Texture(nn.Module, ABC):
    """Three channels in [0, 1] as a function of a surface point and its UVs."""

    @abstractmethod
    def forward(self, points: Tensor, uvs: Tensor, width: Tensor | None = None) -> Tensor:
        """Values ``(N, 3)`` in [0, 1], initially 0.5; differentiable in the parameters.

        Args:
            points: ``(N, 3)`` in the world.
            uvs: ``(N, 2)``, v = 0 at the upper edge.
            width: ``(N,)`` width of the render's sample at each point, in UV units; None uses all levels.
        """

    @abstractmethod
    def smooth_over(self) -> list[Tensor]:
        """Arrays ``(..., C)`` for the total variation: an image, a grid, or an empty list."""

    @abstractmethod
    def advance(self, progress: float) -> None:
        """Activate the levels scheduled for ``progress`` (0..1) of the run."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The trainable parameters with their learning rates."""


def build_texture(settings: Image | Voxel | Hashgrid, bounds: float, rng: torch.Generator, name: str) -> Texture:
    """A texture on the CPU; ``name`` is the prefix of its parameter groups' names."""
    if isinstance(settings, Image):
        return ImageTexture(settings, name)
    return FieldTexture(settings.build(bounds, rng), name)


class ImageTexture(Texture):
    """See the module's docstring."""

    def __init__(self, settings: Image, name: str) -> None:
        super().__init__()
        self.settings, self.name = settings, name
        self.levels = nn.ParameterList(torch.zeros(1, 3, n, n) for n in settings.sizes)

    def forward(self, points: Tensor, uvs: Tensor, width: Tensor | None = None) -> Tensor:
        where = (2 * uvs - 1)[None, None]  # (1, 1, N, 2)
        raw = uvs.new_zeros(3, len(uvs))
        for level in self.levels:
            found = grid_sample(level, where, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
            if width is not None:
                found = found * (1 - torch.log2((level.shape[-1] * width).clamp_min(1e-9))).clamp(0, 1)
            raw = raw + found
        return raw.T.sigmoid()

    def smooth_over(self) -> list[Tensor]:
        size = [self.settings.size] * 2
        raw = sum(interpolate(level, size=size, mode="bilinear", align_corners=False) for level in self.levels)
        assert isinstance(raw, Tensor)
        return [raw[0].permute(1, 2, 0).sigmoid()]

    def advance(self, progress: float) -> None:
        pass

    def param_groups(self) -> list[ParamGroup]:
        return [{"name": f"{self.name}.image", "params": list(self.levels.parameters()), "lr": self.settings.lr}]


class FieldTexture(Texture):
    """The albedo of a field; its density is not used."""

    def __init__(self, volume: Field, name: str) -> None:
        super().__init__()
        self.field, self.name = volume, name

    def forward(self, points: Tensor, uvs: Tensor, width: Tensor | None = None) -> Tensor:
        return self.field.query(points).albedo

    def smooth_over(self) -> list[Tensor]:
        if isinstance(self.field, VoxelField):
            return [self.field.combined()[..., 1:].sigmoid()]
        return []

    def advance(self, progress: float) -> None:
        self.field.advance(progress)

    def param_groups(self) -> list[ParamGroup]:
        return [{**group, "name": f"{self.name}.{group['name']}"} for group in self.field.param_groups()]


def total_variation(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours along each axis but the last of ``values (..., C)``, summed over the axes.

    Rudin, Osher and Fatemi 1992, in the squared form of Plenoxels (Fridovich-Keil et al. 2022, section 3.4).
    """
    return torch.stack([values.diff(dim=axis).square().mean() for axis in range(values.ndim - 1)]).sum()


def joined_odds(base: Tensor, change: Tensor) -> Tensor:
    """``sigmoid(logit(base) + logit(change))``, for values in [0, 1]; a ``change`` of 0.5 is neutral.

    Computed as a product of odds, which avoids log(0): ``b c / (b c + (1 - b) (1 - c))``.
    """
    both = base * change
    return both / (both + (1 - base) * (1 - change)).clamp_min(1e-12)
