"""Differentiable rasterisation on a CPU by compiled kernels: the twins of the torch code in :mod:`dreamlift.raster.soft`.

Vertices are converted to float64; inputs and outputs are float32 or float64. There are gradients with respect to vertices and
values, of first order only, and none with respect to cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamlift.raster import edges_numba, surface_numba
from dreamlift.raster.visibility import NEAR, Scan, scan
from dreamlift.system import jit
from dreamlift.types import Cameras

LEAST = 4096  # surface points per thread, at least
ROWS = 32  # rows of pixels per thread, at least


def can_fuse(*tensors: Tensor) -> bool:
    """Whether the kernels accept these tensors: on a CPU, all float32 or all float64."""
    first = tensors[0].dtype
    return (
        jit.fast_kernels_available()
        and first in (torch.float32, torch.float64)
        and all(t.device.type == "cpu" and t.dtype == first for t in tensors)
    )


@dataclass(frozen=True)
class Drawn:
    """Data that the kernels of one batch of pictures share."""

    scan: Scan
    starts: np.ndarray  # (B H + 1,) the first surface point of each row


def surface(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[tuple[Tensor, ...], Drawn]:
    """The fields ids to axial of a :class:`dreamlift.raster.soft.RasterPoints`, and the data that the other functions need."""
    found = scan(vertices.detach(), faces, cameras)
    starts = np.zeros(found.ids.shape[0] * found.ids.shape[1] + 1, np.int64)
    surface_numba.count_hits(found.ids.reshape(-1, cameras.width), starts[1:])
    drawn = Drawn(found, starts.cumsum())
    return (torch.from_numpy(found.ids), *_Points.apply(vertices, jit.array(faces), drawn)), drawn  # pyright: ignore


class _Points(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, faces: np.ndarray, drawn: Drawn) -> tuple[Tensor, ...]:
        ids, count = drawn.scan.ids, int(drawn.starts[-1])
        pixel, corners = (torch.empty(shape, dtype=torch.int64) for shape in ((count,), (count, 3)))
        barycentrics, depth = vertices.new_empty(count, 3), vertices.new_empty(count, 1)
        axial = vertices.new_full(ids.shape, torch.inf)
        out = (pixel.numpy(), corners.numpy(), barycentrics.numpy(), depth.numpy(), axial.view(-1).numpy())
        seen, kernel = (ids, faces, drawn.starts), surface_numba.points_forward
        rows = ids.shape[0] * ids.shape[1]
        jit.parallel_ranges(lambda low, high: kernel(seen, drawn.scan.image, drawn.scan.rays, low, high, out), rows, ROWS)
        ctx.drawn, ctx.packed, ctx.dtype = drawn, (out[0], out[1], drawn.starts), vertices.dtype
        ctx.mark_non_differentiable(pixel, corners, axial)
        ctx.set_materialize_grads(False)
        return pixel, corners, barycentrics, depth, axial

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        drawn, kernel = ctx.drawn, surface_numba.points_backward
        none = torch.empty(0, 3, dtype=ctx.dtype)
        given = tuple(jit.array(none if grad is None else grad) for grad in grads[2:4])
        height, width = drawn.scan.ids.shape[1:]

        def one(view: int) -> np.ndarray:
            out = np.zeros(drawn.scan.image.shape[1:])
            kernel(ctx.packed, drawn.scan.image[view], drawn.scan.rays[view], (view * height, height, width), given, out)
            return out

        views = len(drawn.scan.ids)
        parts = jit.parallel_ranges(lambda low, high: [one(view) for view in range(low, high)], views, 1)
        total = torch.zeros(drawn.scan.image.shape[1:], dtype=ctx.dtype)
        for lens, of_image in zip(drawn.scan.lenses, (each for part in parts for each in part), strict=True):
            surface_numba.to_world(of_image, lens, total.numpy())
        return total, None, None


class Interpolate(torch.autograd.Function):
    """``apply(values (V, C), barycentrics (N, 3), corners (N, 3))``: ``(N, C)``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, barycentrics: Tensor, corners: Tensor) -> Tensor:
        out = values.new_empty(len(corners), values.shape[1])
        given, target = (jit.array(values), jit.array(barycentrics), corners.numpy()), out.numpy()
        kernel = surface_numba.interpolate_forward
        jit.parallel_ranges(lambda low, high: kernel(given, low, high, target), len(corners), LEAST)
        ctx.save_for_backward(values, barycentrics, corners)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, barycentrics, corners = ctx.saved_tensors
        valued, weighted = ctx.needs_input_grad[:2]
        of_values = values.new_zeros(len(values) if valued else 0, values.shape[1])
        of_weights = barycentrics.new_empty(len(corners) if weighted else 0, 3)
        out = (of_values.numpy(), of_weights.numpy())
        surface_numba.interpolate_backward(jit.array(values), jit.array(barycentrics), corners.numpy(), grads[0].numpy(), out)
        return of_values if valued else None, of_weights if weighted else None, None


class Picture(torch.autograd.Function):
    """``apply(values (N, C), pixel (N,), count)``: ``(count, C)`` with the values at their pixels, and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pixel: Tensor, count: int) -> Tensor:
        out = values.new_empty(count, values.shape[1])
        surface_numba.scatter(jit.array(values), pixel.numpy(), out.numpy())
        ctx.save_for_backward(pixel)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        out = grads[0].new_empty(len(ctx.saved_tensors[0]), grads[0].shape[1])
        surface_numba.gather(jit.array(grads[0]), ctx.saved_tensors[0].numpy(), out.numpy())
        return out, None, None


def _blend(values: np.ndarray, scan: Scan, axial: Tensor, mesh: tuple[Tensor, Tensor, Tensor]) -> list[tuple]:
    """Blend silhouettes into ``values (B, H W, C)``, in place; the crossings of each view, and how many of them lie in rows."""
    depths, (faces, ends, sides) = jit.array(axial), (jit.array(tensor) for tensor in mesh)

    def one(view: int) -> tuple:
        projected, outlines = (scan.image[view], scan.screen[view]), np.empty(len(ends), np.int64)
        outlines = outlines[: edges_numba.find_outlines(projected, faces, (ends, sides), NEAR, outlines)]
        room = edges_numba.count_crossings(scan.screen[view], ends, outlines, depths.shape[1:])
        found = (np.empty((room, 4), np.int64), np.empty(room), np.empty((room, 2, 3)))
        seen = (scan.ids[view], depths[view])
        count, rows = edges_numba.find_crossings(projected, ends, outlines, seen, scan.lenses[view], found)
        found = (*(each[:count] for each in found), np.empty((count, values.shape[2]), values.dtype))
        for first, last in ((0, rows), (rows, count)):
            edges_numba.blend_forward(values[view], found, first, last)
        return found, rows

    parts = jit.parallel_ranges(lambda low, high: [one(view) for view in range(low, high)], len(values), 1)
    return [each for part in parts for each in part]


def _blend_back(grad: np.ndarray, blended: tuple[tuple, int], out: np.ndarray) -> None:
    """The backward pass of :func:`_blend` for one view: ``grad (P, C)`` changes in place, ``out (V, 3)`` is added to."""
    crossings, rows = blended
    for first, last in ((rows, len(crossings[0])), (0, rows)):
        edges_numba.blend_backward(grad, crossings, first, last, out)


class Antialias(torch.autograd.Function):
    """``apply(picture (B, H, W, C), vertices, axial (B, H, W), mesh, scan)``: the blended picture.

    ``mesh`` is (faces, edges' ends, edges' faces).
    """

    @staticmethod
    def forward(ctx: Any, picture: Tensor, vertices: Tensor, axial: Tensor, mesh: tuple, scan: Scan) -> Tensor:
        out = picture.clone(memory_format=torch.contiguous_format)
        ctx.blended = _blend(out.view(len(out), -1, out.shape[-1]).numpy(), scan, axial, mesh)
        ctx.scan, ctx.dtype = scan, vertices.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = grads[0].clone(memory_format=torch.contiguous_format)
        moved = torch.zeros(ctx.scan.image.shape[1:], dtype=ctx.dtype)
        for work, blended in zip(given.view(len(given), -1, given.shape[-1]).numpy(), ctx.blended, strict=True):
            _blend_back(work, blended, moved.numpy())
        return given, moved, None, None, None


class Draw(torch.autograd.Function):
    """``apply(values (N, C), vertices, pixel (N,), axial, mesh, drawn)``: :class:`Picture`, then :class:`Antialias`.

    It avoids the copies of whole pictures between them.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, vertices: Tensor, pixel: Tensor, axial: Tensor, mesh: tuple, drawn: Drawn
    ) -> Tensor:  # fmt: skip
        out = values.new_empty(*axial.shape, values.shape[1])
        flat = out.view(-1, out.shape[-1]).numpy()
        surface_numba.scatter(jit.array(values), pixel.numpy(), flat)
        ctx.blended = _blend(flat.reshape(len(out), -1, out.shape[-1]), drawn.scan, axial, mesh)
        ctx.scan, ctx.starts, ctx.dtype, ctx.pixel = drawn.scan, drawn.starts, vertices.dtype, pixel.numpy()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = jit.array(grads[0])
        given = given.reshape(len(given), -1, given.shape[-1])
        points, width = grads[0].new_empty(len(ctx.pixel), given.shape[2]), ctx.scan.ids.shape[2]
        surface_numba.gather(given.reshape(-1, given.shape[2]), ctx.pixel, points.numpy())

        moved = torch.zeros(ctx.scan.image.shape[1:], dtype=ctx.dtype)
        for view, ((places, *rest), rows) in enumerate(ctx.blended):
            # Only the crossings' pixels, each once, since several crossings may share one.
            pixels, local = np.empty(2 * len(places), np.int64), np.empty_like(places)
            work = np.empty((len(pixels), given.shape[2]), given.dtype)
            count = edges_numba.take_crossed(places, given[view], pixels, local, work)
            _blend_back(work, ((local, *rest), rows), moved.numpy())
            shown = (ctx.pixel, ctx.starts[view * ctx.scan.ids.shape[1] :])
            edges_numba.put_crossed(pixels[:count], work, shown, width, points.numpy())
        return points, moved, None, None, None, None


def edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """The ends and the faces ``(E, 2)`` of the edges of ``faces (F, 3)``."""
    ends, sides = (torch.empty(3 * len(faces), 2, dtype=torch.int64) for _ in range(2))
    count = int(faces.max()) + 1 if len(faces) else 0
    found = edges_numba.pair_edges(jit.array(faces), count, ends.numpy(), sides.numpy())
    return ends[:found], sides[:found]
