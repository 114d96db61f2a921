"""Regularisers of a rendered picture: pure functions, each an unweighted scalar."""

from __future__ import annotations

from torch import Tensor

from dreamlift.shading.vectors import safe_normalize


def sparsity(opacity: Tensor) -> Tensor:
    """``mean sqrt(o^2 + 0.01)``: penalises the covered part of the picture.

    DreamFusion (Poole et al. 2022), appendix A.2, with threestudio's constant. ``opacity`` of any shape, in [0, 1].
    """
    return (opacity.square() + 0.01).sqrt().mean()


def opaque(opacity: Tensor) -> Tensor:
    """``mean -o log o - (1 - o) log(1 - o)``: pushes each pixel's opacity to 0 or 1.

    The binary entropy of the opacity, clamped to [0.001, 0.999] (threestudio's ``opaque``).
    """
    o = opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def normal_smooth(normal: Tensor, opacity: Tensor) -> Tensor:
    """Mean squared differences of neighbouring pixels of the normals' picture along rows plus along columns.

    The picture is ``o (n / |n| + 1) / 2`` for opacity-weighted ``normal (B, H, W, 3)`` and ``opacity o (B, H, W, 1)``, at least
    2 x 2 pixels (threestudio's ``normal_smooth`` in ``systems/zero123.py`` and ``magic123.py``).
    """
    unit = safe_normalize(normal.reshape(-1, 3)).view(normal.shape)
    picture = 0.5 * (unit + 1.0) * opacity
    return picture.diff(dim=1).square().mean() + picture.diff(dim=2).square().mean()
