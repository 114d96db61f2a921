"""Rendering of 3D Gaussians: EWA projection and per-pixel alpha compositing.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, https://arxiv.org/abs/2308.04079). A
Gaussian with mean mu, covariance S = R diag(s)^2 R^T and opacity o, seen by a camera (W, t) with the projection's
Jacobian J at its mean (eq. 5; "EWA Volume Splatting", Zwicker et al. 2001), covers pixel x with

    P = J W S W^T J^T    S' = P + 0.3 I    alpha = min(0.99, o (|P| / |S'|)^(1/2) exp(-(x - mu')^T S'^-1 (x - mu') / 2))
    T_i = prod_{j<i} (1 - alpha_j)         w_i = T_i alpha_i       picture = sum_i w_i f_i

from front to back. 0.3 is the paper's low-pass filter in squared pixels, which makes every Gaussian about a pixel wide. The
factor with the determinants is not in the paper but from "Mip-Splatting" (Yu et al. 2023, eq. 9,
https://arxiv.org/abs/2311.16493): it reduces the opacity as the filter widens a Gaussian. Without it, silhouettes grow by
half a pixel, which matters in 64-pixel renders: a scene trained on them has holes at higher resolutions. An alpha below
1/255 is treated as zero, and Gaussians behind a transmittance below 1e-4 are ignored.

This file is the reference, in torch, on lists of (Gaussian, pixel) pairs, for any device and precision. Compiled kernels
(:mod:`dreamlift.scenes.gaussians.splat_numba`) replace it for float32 on a CPU, and gsplat, if installed, on a GPU.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dreamlift.scenes.gaussians import splat_numba
from dreamlift.system import jit
from dreamlift.types import Cameras

LOW_PASS = 0.3  # squared pixels
MIN_ALPHA, MAX_ALPHA = 1 / 255, 0.99
STOP = 1e-4  # transmittance below which further Gaussians are ignored
NEAR = 0.01  # world units in front of the camera
PAIRS_AT_ONCE = 1 << 20  # (Gaussian, pixel) pairs per chunk of the torch path


@dataclass(frozen=True)
class Projected:
    """N Gaussians, projected into B views."""

    means2d: Tensor  # (B, N, 2) pixels
    covs2d: Tensor  # (B, N, 3) xx, xy, yy in squared pixels, with the low-pass filter
    thinning: Tensor  # (B, N) in (0, 1]: the opacity factor of the low-pass filter
    depths: Tensor  # (B, N) along the camera's axis, world units


@dataclass(frozen=True)
class Items:
    """The visible (view, Gaussian) pairs, ordered by view, then from front to back."""

    means2d: Tensor  # (M, 2)
    conics: Tensor  # (M, 3) the inverse covariance: xx, xy, yy
    opacities: Tensor  # (M,)
    features: Tensor  # (M, C)
    limits: Tensor  # (M,) value of the exponent's quadratic form above which alpha is below 1/255
    boxes: Tensor  # (M, 4) int64: x0, y0, x1, y1 of the covered pixels, inclusive
    views: Tensor  # (M,) int64


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """``R diag(s)^2 R^T (N, 3, 3)`` of quaternions ``(N, 4)`` (w, x, y, z; any length) and ``scales (N, 3)`` (eq. 6)."""
    factor = rotations(quats) * scales[:, None, :]
    return factor @ factor.mT


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices ``(N, 3, 3)`` of quaternions ``(N, 4)`` (w, x, y, z) of any nonzero length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).view(-1, 3, 3)


def axis_normals(quats: Tensor, scales: Tensor, toward: Tensor) -> Tensor:
    """The shortest axes ``(B, N, 3)`` of the Gaussians, with the sign that faces ``toward (B, N, 3)``."""
    shortest = scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    axis = rotations(quats).gather(2, shortest)[..., 0]
    facing = (axis * toward).sum(-1, keepdim=True)
    return torch.where(facing < 0, -axis, axis.expand_as(toward))


def project_splats(means: Tensor, covs: Tensor, cameras: Cameras) -> Projected:
    """Project Gaussians with ``means (N, 3)`` and covariances ``covs (N, 3, 3)`` into B views.

    As in the paper's code, the Jacobian is evaluated at most 1.3 times as far from the centre as the picture's edge: farther
    out, the linear approximation of the perspective diverges.
    """
    w2c = torch.linalg.inv(cameras.c2w.to(means))
    K = cameras.K.to(means)
    local = torch.einsum("bij,nj->bni", w2c[:, :3, :3], means) + w2c[:, None, :3, 3]
    depths = local[..., 2]
    z = depths.clamp(min=NEAR)
    focal, centre = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1)[:, None], K[:, None, :2, 2]
    slope = local[..., :2] / z[..., None]
    size = torch.tensor([cameras.width, cameras.height]).to(means)
    margin = 0.15 * size / focal
    low, high = -centre / focal - margin, (size - centre) / focal + margin
    kept = torch.minimum(torch.maximum(slope, low), high)
    zero = torch.zeros_like(z)
    fx, fy = focal.expand_as(slope).unbind(-1)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * kept[..., 0] / z], -1), torch.stack([zero, fy / z, -fy * kept[..., 1] / z], -1)], -2
    )  # (B, N, 2, 3)
    full = jacobian @ w2c[:, None, :3, :3]
    covs2d = full @ covs @ full.mT
    xx, xy, yy = covs2d[..., 0, 0], covs2d[..., 0, 1], covs2d[..., 1, 1]
    wide = torch.stack([xx + LOW_PASS, xy, yy + LOW_PASS], -1)
    # The determinant of a needle is rounding noise; the clamp also keeps the gradient of the square root finite.
    share = (xx * yy - xy.square()) / (wide[..., 0] * wide[..., 2] - xy.square())
    return Projected(slope * focal + centre, wide, share.clamp(min=1e-4).sqrt(), depths)


@dataclass(frozen=True)
class Drawn:
    """Renders of N Gaussians."""

    features: Tensor  # (B, H, W, C) sum of w_i f_i, not divided by the opacity
    opacity: Tensor  # (B, H, W, 1) in [0, 1]
    means2d: Tensor  # (B, N, 2) pixels; part of the graph, for retain_grad
    seen: Tensor  # (B, N) bool: contributes to the render


def render_splats(splats: tuple[Tensor, Tensor, Tensor, Tensor], features: Tensor, cameras: Cameras) -> Drawn:
    """Render N Gaussians with the fastest available implementation.

    Args:
        splats: means ``(N, 3)``, quats ``(N, 4)`` (w, x, y, z; any length), scales ``(N, 3)`` in world units, opacities
            ``(N,)`` in [0, 1].
        features: ``(B, N, C)`` values to composite, for each of the B cameras.
    """
    if splats[0].is_cuda and len(splats[0]) and importlib.util.find_spec("gsplat") is not None:
        return _render_gsplat(splats, features, cameras)
    means, quats, scales, opacities = splats
    projected = project_splats(means, covariances(quats, scales), cameras)
    return draw(projected, opacities, features, cameras.width, cameras.height)


def _render_gsplat(splats: tuple[Tensor, Tensor, Tensor, Tensor], features: Tensor, cameras: Cameras) -> Drawn:
    """:func:`render_splats` with gsplat's CUDA kernels (Apache-2.0, https://docs.gsplat.studio); tested with gsplat 1.5.3.

    gsplat's largest alpha depends on its version and may differ slightly from 0.99.
    """
    from gsplat import rasterization  # pyright: ignore[reportMissingImports]

    means, quats, scales, opacities = splats
    blended, opacity, meta = rasterization(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=features,
        viewmats=torch.linalg.inv(cameras.c2w.to(means)), Ks=cameras.K.to(means),
        width=cameras.width, height=cameras.height, near_plane=NEAR, eps2d=LOW_PASS, packed=False, render_mode="RGB",
        rasterize_mode="antialiased",
    )  # fmt: skip
    seen = (meta["radii"] > 0).view(*features.shape[:2], -1).all(-1)  # one radius per Gaussian in old versions, two in new ones
    return Drawn(blended, opacity, meta["means2d"], seen)


def draw(projected: Projected, opacities: Tensor, features: Tensor, width: int, height: int) -> Drawn:
    """Composite Gaussians into B pictures of ``width`` x ``height`` pixels.

    Args:
        opacities: ``(N,)`` in [0, 1].
        features: ``(B, N, C)`` values to composite: colours, depths, normals.

    If there are too many pairs, the torch path works in bands of rows, recomputed in the backward pass.
    """
    items, seen = collect(projected, opacities, features, width, height)
    views, channels = features.shape[0], features.shape[2]
    if jit.usable(items.means2d, items.conics, items.opacities, items.features):
        geometry = (items.limits, items.boxes, items.views)
        out = splat_numba.composite(
            (items.means2d, items.conics, items.opacities, items.features), geometry, (width, height, views)
        )
    else:
        out = composite_pairs(items, width, height, views)
    blended, opacity = out
    return Drawn(blended.view(views, height, width, channels), opacity.view(views, height, width, 1), projected.means2d, seen)


def collect(projected: Projected, opacities: Tensor, features: Tensor, width: int, height: int) -> tuple[Items, Tensor]:
    """The visible (view, Gaussian) pairs with the bounding boxes of the pixels that they cover, and their mask ``(B, N)``."""
    xx, xy, yy = projected.covs2d.unbind(-1)
    determinant = xx * yy - xy.square()
    conics = torch.stack([yy, -xy, xx], -1) / determinant.clamp(min=1e-12)[..., None]
    thinned = opacities * projected.thinning
    with torch.no_grad():
        # alpha = 1/255 where the quadratic form is 2 ln(255 o): an ellipse whose box has these half sides.
        limits = 2 * torch.log(thinned.clamp(min=1e-12) / MIN_ALPHA)
        half = (limits.clamp(min=0)[..., None] * torch.stack([xx, yy], -1)).sqrt()
        size = torch.tensor([width, height]).to(half)
        low = torch.ceil(projected.means2d - half - 0.5).clamp(min=0)
        high = torch.minimum(torch.floor(projected.means2d + half - 0.5), size - 1)
        seen = (high >= low).all(-1) & (limits > 0) & (projected.depths > NEAR) & (determinant > 0)
        order = torch.argsort(projected.depths.masked_fill(~seen, math.inf), dim=1, stable=True)
        views, place = seen.gather(1, order).nonzero(as_tuple=True)
        chosen = order[views, place]
        boxes = torch.cat([low[views, chosen], high[views, chosen]], -1).long()
    items = Items(
        projected.means2d[views, chosen], conics[views, chosen], thinned[views, chosen],
        features[views, chosen],
        limits[views, chosen], boxes, views,
    )  # fmt: skip
    return items, seen


def composite_pairs(items: Items, width: int, height: int, views: int) -> tuple[Tensor, Tensor]:
    """Torch twin of the compiled compositing: ``(P, C)`` and ``(P,)`` for the ``P = views * height * width`` pixels."""
    grad = torch.is_grad_enabled()
    bands = row_bands(items, height, views)
    parts = []
    for first, last in bands:
        arguments = (items.means2d, items.conics, items.opacities, items.features, items, first, last, width, height)
        if grad and len(bands) > 1:
            parts.append(checkpoint(_composite_band, *arguments, use_reentrant=False))
        else:
            parts.append(_composite_band(*arguments))
    return torch.cat([blended for blended, _ in parts]), torch.cat([opacity for _, opacity in parts])


def row_bands(items: Items, height: int, views: int) -> list[tuple[int, int]]:
    """Ranges of rows (of all views, stacked vertically) with at most ``PAIRS_AT_ONCE`` pairs, or of a single row."""
    x0, y0, x1, y1 = items.boxes.unbind(-1)
    start, stop = items.views * height + y0, items.views * height + y1 + 1
    change = torch.zeros(views * height + 1, dtype=torch.int64, device=items.boxes.device)
    columns = x1 - x0 + 1
    counts = change.index_add(0, start, columns).index_add(0, stop, -columns).cumsum(0)[:-1].tolist()
    bands, first, held = [], 0, 0
    for row, count in enumerate(counts):
        if row > first and held + count > PAIRS_AT_ONCE:
            bands.append((first, row))
            first, held = row, 0
        held += count
    return [*bands, (first, len(counts))]


def _composite_band(
    means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor,
    items: Items, first: int, last: int, width: int, height: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Composite rows ``first..last``. The four tensors with gradients are separate arguments, for ``checkpoint``."""
    with torch.no_grad():
        owner, x, y = _pairs(items, first, last, height)
        row = items.views[owner] * height + y - first
        pixel, order = torch.sort(row * width + x, stable=True)  # stable: keeps the depth order within each pixel
        owner, x, y = owner[order], x[order], y[order]
    dx = x + 0.5 - means2d[owner, 0]
    dy = y + 0.5 - means2d[owner, 1]
    xx, xy, yy = conics[owner].unbind(-1)
    form = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
    with torch.no_grad():
        near = form <= items.limits[owner]
    owner, pixel, form = owner[near], pixel[near], form[near]
    alpha = (opacities[owner] * torch.exp(-0.5 * form)).clamp(max=MAX_ALPHA)
    count = (last - first) * width
    # Log transmittance before each pair: a running sum minus its value at the pixel's first pair. It runs over all pixels
    # and therefore needs double precision, which Apple's GPUs lack.
    logs = torch.log1p(-alpha)
    logs = (logs.cpu() if logs.device.type == "mps" else logs).double()
    running = logs.cumsum(0) - logs
    begins = torch.searchsorted(pixel, torch.arange(count, device=pixel.device))
    at_begin = torch.cat([running, running.new_zeros(1)])[begins.to(logs.device)]
    light = torch.exp(running - at_begin[pixel.to(logs.device)]).to(alpha.dtype).to(alpha.device)
    weights = torch.where(light >= STOP, light * alpha, torch.zeros_like(alpha))
    blended = features.new_zeros(count, features.shape[1]).index_add(0, pixel, weights[:, None] * features[owner])
    return blended, weights.new_zeros(count).index_add(0, pixel, weights)


def _pairs(items: Items, first: int, last: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """All (item, x, y) of the boxes within rows ``first..last``, in the order of the items."""
    x0, y0, x1, y1 = items.boxes.unbind(-1)
    base = items.views * height
    low = torch.maximum(y0, first - base)
    high = torch.minimum(y1, last - 1 - base)
    columns, rows = x1 - x0 + 1, (high - low + 1).clamp(min=0)
    area = columns * rows
    owner = torch.repeat_interleave(torch.arange(len(area), device=area.device), area)
    local = torch.arange(len(owner), device=area.device) - (area.cumsum(0) - area)[owner]
    row = torch.div(local, columns[owner], rounding_mode="floor")
    return owner, x0[owner] + local - row * columns[owner], low[owner] + row
