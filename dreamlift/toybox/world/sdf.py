"""Signed-distance shapes: primitives, combinations, and rigid placement.

A *shape* is a function ``(x, y, z) -> distance`` of three tensors ``(N,)``, negative inside. Coordinates are three separate
tensors because a column of ``(N, 3)`` is strided, and on a CPU strided access costs more than the arithmetic. Every shape is
(very nearly) 1-Lipschitz, so sphere tracing does not step through it; some shapes (prisms, intersections, blends)
underestimate the distance away from the surface, which only increases the number of steps.

Formulas: Inigo Quilez, *Distance functions*, https://iquilezles.org/articles/distfunctions/, unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Shape = Callable[[Tensor, Tensor, Tensor], Tensor]
Vec = tuple[float, float, float]


def length(*axes: Tensor) -> Tensor:
    """Euclidean length ``(N,)`` of vectors with the coordinates ``axes``, each ``(N,)``."""
    total = axes[0] * axes[0]
    for axis in axes[1:]:
        total = total.addcmul(axis, axis)
    return total.sqrt()


def sphere(radius: float) -> Shape:
    return lambda x, y, z: length(x, y, z) - radius


def ellipsoid(rx: float, ry: float, rz: float) -> Shape:
    """An ellipsoid with the semi-axes rx, ry, rz: exact to first order at the surface, an underestimate inside.

    The semi-axes should be within a factor of 2 of each other: far from a flat ellipsoid the distance is overestimated.
    """
    smallest = min(rx, ry, rz)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        x, y, z = x / rx, y / ry, z / rz
        k0 = length(x, y, z)
        k1 = length(x / rx, y / ry, z / rz)
        # Outside, divide by the gradient of k0. Inside, that would be steeper than 1 and unstable near the centre.
        return (k0 - 1.0) * torch.where(k0 < 1.0, torch.full_like(k0, smallest), k0 / k1.clamp_min(1e-6))

    return distance


def ogive(radius: float, height: float) -> Shape:
    """A pointed dome with a base of ``radius`` at y = 0 and its tip at y = ``height``, united with its mirror image below."""
    arc = (radius * radius + height * height) / (2.0 * radius)
    return lambda x, y, z: length(length(x, z) + (arc - radius), y) - arc


def box(hx: float, hy: float, hz: float, rounding: float = 0.0) -> Shape:
    """A box with half sizes hx, hy, hz (rounding included)."""
    ix, iy, iz = hx - rounding, hy - rounding, hz - rounding

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        qx, qy, qz = x.abs() - ix, y.abs() - iy, z.abs() - iz
        inside = torch.maximum(torch.maximum(qx, qy), qz).clamp_max(0.0)
        return length(qx.clamp_min(0.0), qy.clamp_min(0.0), qz.clamp_min(0.0)) + inside - rounding

    return distance


def cylinder(radius: float, half: float, rounding: float = 0.0) -> Shape:
    """A capped cylinder along y with half height ``half`` (rounding included in the sizes)."""
    ir, ih = radius - rounding, half - rounding

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        q, h = length(x, z) - ir, y.abs() - ih
        return length(q.clamp_min(0.0), h.clamp_min(0.0)) + torch.maximum(q, h).clamp_max(0.0) - rounding

    return distance


def cone(bottom: float, top: float, half: float, rounding: float = 0.0) -> Shape:
    """A capped cone along y: radius ``bottom`` at y = -half and ``top`` at y = +half (rounding is added outside)."""
    kx, ky = top - bottom, 2.0 * half
    kk = kx * kx + ky * ky

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        q = length(x, z)
        cap = torch.where(y < 0.0, torch.full_like(q, bottom), torch.full_like(q, top))
        ax, ay = q - torch.minimum(q, cap), y.abs() - half
        t = (((top - q) * kx + (half - y) * ky) / kk).clamp(0.0, 1.0)
        bx, by = q - top + t * kx, y - half + t * ky
        squared = torch.minimum(ax * ax + ay * ay, bx * bx + by * by)
        inside = (bx < 0.0) & (ay < 0.0)
        return torch.where(inside, -1.0, 1.0) * squared.sqrt() - rounding

    return distance


def bar(start: Vec, end: Vec, start_radius: float, end_radius: float | None = None) -> Shape:
    """A rod with round ends from ``start`` to ``end``, tapered if ``end_radius`` is given."""
    end_radius = start_radius if end_radius is None else end_radius
    dx, dy, dz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    squared = dx * dx + dy * dy + dz * dz
    growth = end_radius - start_radius
    # The change of radius along the rod raises the Lipschitz constant to at most this value.
    lipschitz = math.sqrt(1.0 + growth * growth / squared)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        x, y, z = x - start[0], y - start[1], z - start[2]
        t = ((x * dx + y * dy + z * dz) / squared).clamp(0.0, 1.0)
        return (length(x - t * dx, y - t * dy, z - t * dz) - (start_radius + growth * t)) / lipschitz

    return distance


def bowl(radius: float, depth: float, thickness: float) -> Shape:
    """A spherical dish: lowest point at y = 0, rim of ``radius`` at y = ``depth``."""
    curve = (radius * radius + depth * depth) / (2.0 * depth)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        shell = (length(x, y - curve, z) - curve).abs() - 0.5 * thickness
        return torch.maximum(torch.maximum(shell, length(x, z) - radius), y - curve)

    return distance


def torus(major: float, minor: float, stretch: float = 1.0) -> Shape:
    """A ring around the z axis; ``stretch`` > 1 elongates it along y into a chain link."""
    gap = major * (stretch - 1.0)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        y = (y.abs() - gap).clamp_min(0.0) if gap else y
        return length(length(x, y) - major, z) - minor

    return distance


def prism(outline: Sequence[tuple[float, float]], half: float, axis: str = "z", rounding: float = 0.0) -> Shape:
    """A convex, counter-clockwise polygon extruded by ``half`` in both directions (rounding is added outside).

    The polygon lies in ``(x, y)`` for axis z, ``(z, y)`` for axis x and ``(x, z)`` for axis y. The distance is the largest of
    the signed distances to the planes of the faces and of the bounding box: exact at the faces, an underestimate beyond the
    edges. (The bounding box matters at sharp tips, where the planes of all faces are near.)
    """
    us, vs = zip(*outline, strict=True)
    mid_u, half_u, mid_v, half_v = *_span(us), *_span(vs)
    planes = []
    for (ax, ay), (bx, by) in zip(outline, [*outline[1:], outline[0]], strict=True):
        size = math.hypot(bx - ax, by - ay)
        nx, ny = (by - ay) / size, (ax - bx) / size
        planes.append((nx, ny, nx * ax + ny * ay))

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        u, v, w = {"z": (x, y, z), "x": (z, y, x), "y": (x, z, y)}[axis]
        farthest = torch.maximum(w.abs() - half, torch.maximum((u - mid_u).abs() - half_u, (v - mid_v).abs() - half_v))
        for nx, ny, offset in planes:
            farthest = torch.maximum(farthest, u * nx + v * ny - offset)
        return farthest - rounding

    return distance


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Middle and half of the range of ``values``."""
    low, high = min(values), max(values)
    return 0.5 * (low + high), 0.5 * (high - low)


def place(shape: Shape, at: Vec = (0.0, 0.0, 0.0), turn_deg: Vec = (0.0, 0.0, 0.0)) -> Shape:
    """The shape rotated about x, then y, then z (degrees), and translated to ``at``."""
    if not any(turn_deg):
        return lambda x, y, z: shape(x - at[0], y - at[1], z - at[2])
    a, b, c = (math.radians(angle) for angle in turn_deg)
    ca, sa, cb, sb, cc, sc = math.cos(a), math.sin(a), math.cos(b), math.sin(b), math.cos(c), math.sin(c)
    # R = Rz Ry Rx; R^T maps a point to the shape's frame, so the columns of R are used.
    r = (
        (cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa),
        (sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa),
        (-sb, cb * sa, cb * ca),
    )

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        x, y, z = x - at[0], y - at[1], z - at[2]
        return shape(*(x * r[0][i] + y * r[1][i] + z * r[2][i] for i in range(3)))

    return distance


def mirror(shape: Shape, axes: str = "x") -> Shape:
    """The shape and its mirror images across the planes of ``axes``; it must lie on the positive side of each."""
    return lambda x, y, z: shape(x.abs() if "x" in axes else x, y.abs() if "y" in axes else y, z.abs() if "z" in axes else z)


def union(*shapes: Shape) -> Shape:
    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        nearest = shapes[0](x, y, z)
        for shape in shapes[1:]:
            nearest = torch.minimum(nearest, shape(x, y, z))
        return nearest

    return distance


def intersection(*shapes: Shape) -> Shape:
    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        farthest = shapes[0](x, y, z)
        for shape in shapes[1:]:
            farthest = torch.maximum(farthest, shape(x, y, z))
        return farthest

    return distance


def difference(shape: Shape, hole: Shape) -> Shape:
    return lambda x, y, z: torch.maximum(shape(x, y, z), -hole(x, y, z))


def smooth_minimum(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """The minimum of two distances, smoothed where they differ by less than ``radius`` (quadratic polynomial blend)."""
    overlap = (radius - (a - b).abs()).clamp_min(0.0)
    return torch.minimum(a, b) - overlap * overlap * (0.25 / radius)
