"""The field ``hashgrid``: a multi-resolution hash encoding and a small MLP.

Level ``l`` of L divides the cube into ``n_l^3`` cells, ``n_l = floor(n_0 b^l)``. The features of its corners are rows of a
table: one row per corner if the level fits into T rows, otherwise row

    h(x, y, z) = (x xor y * 2654435761 xor z * 805459861) mod T

A point's encoding is the trilinear interpolation of the eight rows of its cell, concatenated over the levels. Instant-NGP
(Mueller et al. 2022), eqs. 2-4, https://arxiv.org/abs/2201.05989. Finer levels are activated one by one during the run, as
in threestudio's ``ProgressiveBandHashGrid``. Normals are finite differences of the density (threestudio's
``finite_difference``).

The encoding runs in compiled kernels where available: numba on a CPU, Triton (:mod:`dreamlift.scenes.nerf.hashgrid_triton`)
on a GPU. The layout is features-first, ``(C, N)``: each level writes contiguous memory, and the MLP is two matrix products.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from dreamlift.scenes.background import ColorActivation, activate_color
from dreamlift.scenes.base import ParamGroup
from dreamlift.scenes.nerf import field_numba
from dreamlift.scenes.nerf.field import ACTIVATIONS, Blob, Field, FieldSamples, activate_density
from dreamlift.scenes.nerf.volume import on_triton
from dreamlift.shading.vectors import safe_normalize
from dreamlift.system import jit


@dataclass(frozen=True)
class Hashgrid:
    """Settings of the hash-grid field. The defaults are threestudio's and meant for a GPU."""

    levels: int = 16  # resolution levels of the encoding
    features: int = 2  # features per table row; the compiled CPU kernel supports 2 only
    log2_rows: int = 19  # base-2 logarithm of a level's largest number of table rows
    base_resolution: int = 16  # cells per side of the coarsest level
    growth: float = 1.447269  # ratio of the resolutions of consecutive levels; the default gives 4,096 at the 16th level
    hidden: int = 64  # width of the MLP's one hidden layer
    start_levels: int = 8  # levels that are active from the beginning
    start_at: float = 0.25  # progress (0..1) at which the next level is activated (threestudio: step 2,500 of 10,000)
    every: float = 0.05  # progress between the activations of further levels
    activation: str = "softplus"  # density activation: "softplus" or "exp"
    # colors from raw values: sigmoid, or linear (x / 2 + 1 / 2, not limited to [0, 1]; DeepFloyd IF's range in threestudio)
    color_activation: ColorActivation = "sigmoid"
    blob: Blob = dataclasses.field(default_factory=Blob)  # the initial density
    normal_eps: float = 0.01  # step of the finite differences for normals, world units
    lr: float = 0.01  # learning rate of the table (Adam)
    mlp_lr: float = 0.001  # learning rate of the MLP (Adam; threestudio's ProlificDreamer)

    def __post_init__(self) -> None:
        if self.start_levels < 1 or self.levels < 1 or self.features < 1 or not 4 <= self.log2_rows <= 24:
            raise ValueError(
                f"Hashgrid: levels={self.levels}, start_levels={self.start_levels}, features={self.features} must be "
                f"at least 1 and log2_rows={self.log2_rows} in 4..24."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Hashgrid.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}.")

    def build(self, bounds: float, rng: torch.Generator) -> HashgridField:
        """A field on the CPU, its parameters drawn from ``rng``."""
        return HashgridField(self, bounds, rng)

    def parameter_count(self) -> int:
        """Number of trained scalars: the table and the MLP."""
        return layout_of(self).first[-1] * self.features + self.hidden * (self.levels * self.features + 4)

    def sample_bytes(self) -> int:
        """Peak bytes per sample of a render with its backward pass: features and hidden units, and their gradients."""
        return 80 + 2 * (4 * self.levels * self.features + 4 * self.hidden + 40)


@dataclass(frozen=True)
class Layout:
    """The rows of each level in the table."""

    resolutions: tuple[int, ...]  # (L) cells per side
    first: tuple[int, ...]  # (L + 1) first row of each level, then the total number of rows


def layout_of(settings: Hashgrid) -> Layout:
    """The resolution and first row of each level."""
    resolutions = [math.floor(settings.base_resolution * settings.growth**level) for level in range(settings.levels)]
    first = [0]
    for n in resolutions:
        first.append(first[-1] + min((n + 1) ** 3, 2**settings.log2_rows))
    return Layout(tuple(resolutions), tuple(first))


@lru_cache
def levels_of(layout: Layout, device: torch.device) -> Tensor:
    """The levels for the Triton kernels, ``(L, 3)`` int32: resolution, first row, rows - 1 if hashed, otherwise 0."""
    rows = [
        (n, first, 0 if after - first == (n + 1) ** 3 else after - first - 1)
        for n, first, after in zip(layout.resolutions, layout.first, layout.first[1:], strict=False)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def encode_torch(table: Tensor, points: Tensor, layout: Layout, active: int) -> Tensor:
    """Torch twin of :func:`encode`."""
    parts = []
    for level, n in enumerate(layout.resolutions):
        if level >= active:
            parts.append(table.new_zeros(table.shape[1], points.shape[0]))
            continue
        rows = table[layout.first[level] : layout.first[level + 1]]
        where = (points * n).clamp(0, n)
        corner = where.long().clamp(0, n - 1)
        fraction = where - corner
        total = torch.zeros((), dtype=table.dtype, device=table.device)
        for k in range(8):
            bits = torch.tensor([k & 1, k >> 1 & 1, k >> 2 & 1], device=points.device)
            x, y, z = (corner + bits).unbind(-1)
            if rows.shape[0] == (n + 1) ** 3:
                row = (z * (n + 1) + y) * (n + 1) + x
            else:
                row = (x ^ (y * 2654435761) ^ (z * 805459861)) & (rows.shape[0] - 1)
            weight = torch.where(bits.bool(), fraction, 1 - fraction).prod(-1)
            total = total + weight[:, None] * rows[row]
        parts.append(total.T)
    return torch.cat(parts)


class _Encode(torch.autograd.Function):
    """Numba version of :func:`encode`, differentiable in the table only."""

    @staticmethod
    def forward(ctx, table: Tensor, points: Tensor, layout: Layout, active: int) -> Tensor:
        out = table.new_empty(2 * len(layout.resolutions), points.shape[0])
        rows, where, target = jit.array(table), jit.array(points), out.numpy()
        plan = (np.array(layout.resolutions), np.array(layout.first), active)
        jit.parallel_ranges(
            lambda low, high: field_numba.hash_forward(rows, where, plan, low, high, target), points.shape[0], 4096
        )
        ctx.where, ctx.plan, ctx.shape = where, plan, table.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        out = grad.new_zeros(ctx.shape)
        seen, target = jit.array(grad), out.numpy()
        jit.parallel_ranges(
            lambda low, high: field_numba.hash_backward(target, ctx.where, ctx.plan, seen, low, high), ctx.plan[2], 1
        )
        return out, None, None, None


def encode(table: Tensor, points: Tensor, layout: Layout, active: int) -> Tensor:
    """Features ``(L * F, N)`` of ``points (N, 3)`` in [0, 1] (clamped) from ``table (S, F)``; points get no gradient.

    Only the first ``active`` levels are evaluated; the others give zeros.
    """
    if table.shape[1] == 2 and jit.usable(table, points):
        return _Encode.apply(table, points, layout, active)  # pyright: ignore[reportReturnType]
    if on_triton(table):
        from dreamlift.scenes.nerf.hashgrid_triton import EncodeTriton

        return EncodeTriton.apply(table, points, levels_of(layout, table.device), active)  # pyright: ignore[reportReturnType]
    return encode_torch(table, points, layout, active)


class HashgridField(Field):
    """See the module's docstring."""

    active: Tensor  # () int64, number of active levels

    def __init__(self, settings: Hashgrid, bounds: float, rng: torch.Generator) -> None:
        super().__init__()
        self.settings, self.bounds, self.layout = settings, bounds, layout_of(settings)
        inputs = settings.levels * settings.features

        def uniform(limit: float, *shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=rng) * 2 - 1) * limit)

        self.table = uniform(1e-4, self.layout.first[-1], settings.features)
        # He's uniform initialisation without biases, as in threestudio's VanillaMLP.
        self.first = uniform(math.sqrt(6 / inputs), settings.hidden, inputs)
        self.second = uniform(math.sqrt(6 / settings.hidden), 4, settings.hidden)
        self.register_buffer("active", torch.ones((), dtype=torch.int64))
        self.advance(0.0)

    def _raw(self, points: Tensor) -> Tensor:
        """Raw density without the blob, and raw colours: ``(4, N)`` at ``points (N, 3)``."""
        unit = (points + self.bounds) * (0.5 / self.bounds)
        features = encode(self.table, unit, self.layout, int(self.active))
        return self.second @ (self.first @ features).relu()

    def query(self, points: Tensor, normals: bool = False) -> FieldSamples:
        raw = self._raw(points)
        density = activate_density(raw[0] + self.settings.blob(points), self.settings.activation)
        normal = None
        if normals:
            eps = self.settings.normal_eps
            steps = torch.eye(3, dtype=points.dtype, device=points.device) * eps
            ahead = [self.density((points + step).clamp(-self.bounds, self.bounds)) for step in steps]
            normal = -safe_normalize((torch.stack(ahead, dim=-1) - density[:, None]) / eps)
        return FieldSamples(density, activate_color(raw[1:], self.settings.color_activation).T.contiguous(), normal)

    def density(self, points: Tensor) -> Tensor:
        return activate_density(self._raw(points)[0] + self.settings.blob(points), self.settings.activation)

    def advance(self, progress: float) -> None:
        joined = 0
        if progress >= self.settings.start_at:
            # 1e-6: floating-point error must not round 0.3 = 0.2 + 2 * 0.05 down to one step.
            joined = 1 + math.floor((progress - self.settings.start_at) / self.settings.every + 1e-6)
        self.active.fill_(min(self.settings.levels, self.settings.start_levels + joined))

    def param_groups(self) -> list[ParamGroup]:
        return [
            {"name": "hashgrid", "params": [self.table], "lr": self.settings.lr},
            {"name": "mlp", "params": [self.first, self.second], "lr": self.settings.mlp_lr},
        ]
