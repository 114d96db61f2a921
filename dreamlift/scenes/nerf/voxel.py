"""The field ``voxel``: nested dense grids, summed into one grid per evaluation.

Level ``l`` holds a raw density and three raw colours at the ``n_l^3`` corners of a grid over the cube. If each ``n_l - 1``
divides the next (17, 33, 65), every coarse corner is also a fine corner, and a trilinear function on the coarse grid is
trilinear on the fine grid. The sum of all levels is therefore *exactly* one grid of the finest resolution,

    G = up(... up(up(L_0) + L_1) ...) + L_n,        f(x) = trilinear(G, x)

and only G is sampled. A coarse level accumulates the gradients of many samples and determines the overall shape; fine levels
add detail (multi-resolution grids as in Neural Sparse Voxel Fields, Liu et al. 2020, and DVGO, Sun et al. 2022,
https://arxiv.org/abs/2111.11215, which also activates after the interpolation, as here).

Density is ``activation(raw + blob)``, colour ``sigmoid(raw)``. Normals are ``-grad / |grad|`` of the raw density by
central differences on G, interpolated: smooth, and differentiable with first-order autograd only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dreamlift.scenes.base import ParamGroup
from dreamlift.scenes.nerf import field_numba
from dreamlift.scenes.nerf.field import ACTIVATIONS, Blob, Field, FieldSamples, activate_density
from dreamlift.shading.vectors import safe_normalize
from dreamlift.system import jit

FIT_SWEEPS = 2  # passes over each level of a fit to colours
FIT_MARGIN = 0.02  # fitted colours lie in [margin, 1 - margin], since the sigmoid reaches 0 and 1 at infinity only


@dataclass(frozen=True)
class Voxel:
    """Settings of the voxel field."""

    resolutions: tuple[int, ...] = (17, 33, 65)  # corners per side of each level, coarse to fine; each n - 1 divides the next
    switch_on: tuple[float, ...] = (0.0, 0.0, 0.2)  # progress (0..1) at which each level is activated
    activation: str = "softplus"  # density activation: "softplus" or "exp"
    blob: Blob = dataclasses.field(default_factory=Blob)  # the initial density
    lr: float = 0.05  # learning rate (Adam); raw values are of the order of the blob's scale

    def __post_init__(self) -> None:
        pairs = list(zip(self.resolutions, self.resolutions[1:], strict=False))
        if not self.resolutions or self.resolutions[0] < 2 or any((f - 1) % (c - 1) or f <= c for c, f in pairs):
            raise ValueError(
                f"Voxel.resolutions are {self.resolutions}; they must grow, and each n - 1 must divide the next one's "
                "(for example 17, 33, 65)."
            )
        if len(self.switch_on) != len(self.resolutions) or list(self.switch_on) != sorted(self.switch_on):
            raise ValueError(
                f"Voxel.switch_on is {self.switch_on}; give one growing progress value for each of the "
                f"{len(self.resolutions)} resolutions."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Voxel.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}.")

    def build(self, bounds: float, rng: torch.Generator) -> VoxelField:
        """A field on the CPU. ``rng`` is not used: all levels are initialised to zero, which leaves the blob."""
        return VoxelField(self, bounds)

    def parameter_count(self) -> int:
        """Number of trained scalars: all levels."""
        return 4 * sum(n**3 for n in self.resolutions)

    def sample_bytes(self) -> int:
        """Peak bytes per sample of a render with its backward pass."""
        return 80


class VoxelField(Field):
    """See the module's docstring."""

    active: Tensor  # () int64, number of active levels
    bias: Tensor  # (n, n, n) the blob at the finest level's corners

    def __init__(self, settings: Voxel, bounds: float) -> None:
        super().__init__()
        self.settings, self.bounds = settings, bounds
        self.levels = nn.ParameterList(torch.zeros(n, n, n, 4) for n in settings.resolutions)
        self.register_buffer("active", torch.ones((), dtype=torch.int64))
        # A coarser level uses every k-th corner. Not saved: it follows from the settings.
        finest = settings.resolutions[-1]
        axis = torch.linspace(-bounds, bounds, finest)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        bias = settings.blob(torch.stack([x, y, z], dim=-1))
        self.register_buffer("bias", bias, persistent=False)
        self.advance(0.0)

    def combined(self) -> Tensor:
        """The sum of the active levels and the blob: raw values ``(n, n, n, 4)`` of the finest active resolution."""
        levels = list(self.levels)[: int(self.active)]
        stride = (self.settings.resolutions[-1] - 1) // (levels[-1].shape[0] - 1)
        return combine(self.bias[::stride, ::stride, ::stride], levels)

    def query(self, points: Tensor, normals: bool = False) -> FieldSamples:
        grid = self.combined()
        raw_density, raw_color = sample_grid(grid, points, self.bounds)
        density = activate_density(raw_density, self.settings.activation)
        normal = None
        if normals:
            _, direction = sample_grid(slopes(grid), points, self.bounds)
            normal = -safe_normalize(direction)
        return FieldSamples(density, raw_color.sigmoid(), normal, grid)

    def density(self, points: Tensor) -> Tensor:
        return activate_density(sample_grid(self.combined(), points, self.bounds)[0], self.settings.activation)

    def advance(self, progress: float) -> None:
        self.active.fill_(max(1, sum(progress >= start for start in self.settings.switch_on)))

    @torch.no_grad()
    def fit_colors(self, points: Tensor, colors: Tensor, rng: torch.Generator) -> None:
        """See :meth:`Field.fit_colors`, without a regression: each level takes what the coarser ones leave.

        A corner of a level takes the mean of the remaining differences around it, with trilinear weights. ``rng`` is not used.
        """
        wanted = colors.clamp(FIT_MARGIN, 1 - FIT_MARGIN).logit()
        for number in [n for n in range(int(self.active)) for _ in range(FIT_SWEEPS)]:
            level = self.levels[number]
            rest = wanted - sample_grid(self.combined(), points, self.bounds)[1]
            sums = spread(rest, points, level.shape[0], self.bounds)
            level[..., 1:] += sums[..., 1:] / sums[..., :1].clamp(min=1e-3)

    def param_groups(self) -> list[ParamGroup]:
        return [{"name": "voxel", "params": list(self.levels.parameters()), "lr": self.settings.lr}]


def combine_torch(bias: Tensor, levels: list[Tensor]) -> Tensor:
    """Torch twin of :func:`combine`."""
    grid = levels[0]
    for level in levels[1:]:
        size = list(level.shape[:3])
        coarse = grid.permute(3, 0, 1, 2)[None]
        up = nn.functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)
        grid = level + up[0].permute(1, 2, 3, 0)
    return torch.cat([grid[..., :1] + bias[..., None], grid[..., 1:]], dim=-1)


class _Combine(torch.autograd.Function):
    """Numba version of :func:`combine`."""

    @staticmethod
    def forward(ctx, bias: Tensor, *levels: Tensor) -> Tensor:
        ctx.shapes = [level.shape for level in levels]
        grid = levels[0]
        for level in levels[1:]:
            coarse, fine, out = jit.array(grid), jit.array(level), torch.empty_like(level)
            planes = out.numpy()
            jit.parallel_ranges(partial(field_numba.upsample_forward, coarse, fine, out=planes), fine.shape[0], 16)
            grid = out
        grid = grid.clone() if len(levels) == 1 else grid
        grid[..., 0] += bias
        return grid

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [grad]
        for shape in reversed(ctx.shapes[:-1]):
            out = grad.new_zeros(shape)
            field_numba.upsample_backward(jit.array(grads[0]), out.numpy())
            grads.insert(0, out)
        return (None, *grads)


def combine(bias: Tensor, levels: list[Tensor]) -> Tensor:
    """The sum ``(m, m, m, 4)`` of nested ``levels (n, n, n, 4)``, coarse to fine; ``bias (m, m, m)`` is added to channel 0."""
    if jit.usable(bias, *levels):
        return _Combine.apply(bias, *levels)  # pyright: ignore[reportReturnType]
    return combine_torch(bias, levels)


def slopes_torch(grid: Tensor) -> Tensor:
    """Torch twin of :func:`slopes`."""
    raw = grid[..., 0]
    parts = [torch.zeros_like(raw)]
    for axis in (2, 1, 0):
        last = raw.shape[axis] - 1
        inner = 0.5 * (raw.narrow(axis, 2, last - 1) - raw.narrow(axis, 0, last - 1))
        first = raw.narrow(axis, 1, 1) - raw.narrow(axis, 0, 1)
        final = raw.narrow(axis, last, 1) - raw.narrow(axis, last - 1, 1)
        parts.append(torch.cat([first, inner, final], dim=axis))
    return torch.stack(parts, dim=-1)


class _Slopes(torch.autograd.Function):
    """Numba version of :func:`slopes`."""

    @staticmethod
    def forward(ctx, grid: Tensor) -> Tensor:
        out = torch.empty_like(grid)
        jit.parallel_ranges(partial(field_numba.slopes_forward, jit.array(grid), out=out.numpy()), grid.shape[0], 16)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        out = torch.zeros_like(grad, memory_format=torch.contiguous_format)
        field_numba.slopes_backward(jit.array(grad), out.numpy())
        return out


def slopes(grid: Tensor) -> Tensor:
    """Central differences ``(n, n, n, 4)`` of channel 0 as (0, x, y, z), per cell; one-sided at the border."""
    if jit.usable(grid):
        return _Slopes.apply(grid)  # pyright: ignore[reportReturnType]
    return slopes_torch(grid)


def sample_grid_torch(grid: Tensor, points: Tensor, bounds: float) -> tuple[Tensor, Tensor]:
    """Torch twin of :func:`sample_grid`."""
    where = (points / bounds).view(1, -1, 1, 1, 3)
    out = nn.functional.grid_sample(
        grid.permute(3, 0, 1, 2)[None], where, mode="bilinear", padding_mode="border", align_corners=True
    )
    out = out.view(4, -1)
    return out[0], out[1:].T


class _SampleGrid(torch.autograd.Function):
    """Numba version of :func:`sample_grid`, differentiable in the grid only."""

    @staticmethod
    def forward(ctx, grid: Tensor, points: Tensor, bounds: float) -> tuple[Tensor, Tensor]:
        first, others = grid.new_empty(points.shape[0]), grid.new_empty(points.shape[0], 3)
        source, where, out = jit.array(grid), jit.array(points), (first.numpy(), others.numpy())
        jit.parallel_ranges(
            lambda low, high: field_numba.grid_forward(source, where, bounds, low, high, out), points.shape[0], 8192
        )
        ctx.where, ctx.bounds, ctx.shape = where, bounds, grid.shape
        return first, others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_first: Tensor, grad_others: Tensor) -> tuple[Tensor, None, None]:
        grad = grad_first.new_zeros(ctx.shape)
        grads, out = (jit.array(grad_first), jit.array(grad_others)), grad.numpy()
        parts = jit.workers()
        jit.parallel_ranges(
            lambda low, high: [
                field_numba.grid_backward(out, ctx.where, ctx.bounds, grads, p, parts) for p in range(low, high)
            ],
            parts,
            1,
        )
        return grad, None, None


def spread(values: Tensor, points: Tensor, size: int, bounds: float) -> Tensor:
    """Sums at the corners of a grid ``(size, size, size, 4)``: of the trilinear weights of ``points (N, 3)``, and of their
    weighted ``values (N, 3)``. It is the transpose of :func:`sample_grid`."""
    grid = values.new_zeros(size, size, size, 4).requires_grad_()
    with torch.enable_grad():
        first, others = sample_grid(grid, points, bounds)
        return torch.autograd.grad([first, others], grid, [torch.ones_like(first), values])[0]


def sample_grid(grid: Tensor, points: Tensor, bounds: float) -> tuple[Tensor, Tensor]:
    """Trilinear values of a corner-aligned ``grid (n, n, n, 4)`` over the cube, indexed z, y, x, at ``points (N, 3)``.

    Returns channel 0 as ``(N,)`` and channels 1..3 as ``(N, 3)``. Points outside the cube are clamped to it. The numba
    version has no gradient with respect to the points.
    """
    if jit.usable(grid, points):
        return _SampleGrid.apply(grid, points, bounds)  # pyright: ignore[reportReturnType]
    return sample_grid_torch(grid, points, bounds)
