"""Compiled CPU kernels for mesh edges and for silhouette antialiasing, forward and backward.

Their torch twins, with the formulas, are ``edges_torch`` and ``antialias_torch`` of :mod:`dreamlift.raster.soft`. A
crossing's share s of the way between two pixels is differentiable in the ends of its edge. Crossings are few, so their
gradients ds/dv are computed in the forward pass.
"""

from __future__ import annotations

import math

import numpy as np

from dreamlift.system.jit import compiled


@compiled
def sort_range(keys: np.ndarray, first: int, last: int) -> None:
    """Sort ``keys[first:last]``, usually a short range, by Shell's method (1959, with Knuth's gaps)."""
    gap = 1
    while gap < (last - first) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for n in range(first + gap, last):
            key, m = keys[n], n
            while m >= first + gap and keys[m - gap] > key:
                keys[m] = keys[m - gap]
                m -= gap
            keys[m] = key
        gap //= 3


@compiled
def pair_edges(faces: np.ndarray, count: int, ends: np.ndarray, sides: np.ndarray) -> int:
    """Write the edges of ``faces (F, 3)``, with vertices below ``count``, to ``ends, sides (3 F, 2)``; returns their number.

    Each corner begins a half-edge. The half-edges of a lower vertex are sorted by the upper vertex, then by their number.
    """
    places = np.zeros(count + 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            places[min(faces[f, k], faces[f, k + 1 if k < 2 else 0]) + 1] += 1
    for v in range(count):
        places[v + 1] += places[v]
    keys = np.empty(3 * len(faces), np.int64)
    for f in range(len(faces)):
        for k in range(3):
            i, j = faces[f, k], faces[f, k + 1 if k < 2 else 0]
            keys[places[min(i, j)]] = max(i, j) << 32 | 3 * f + k
            places[min(i, j)] += 1
    found, first = 0, 0
    for v in range(count):
        last = places[v]
        sort_range(keys, first, last)
        n = first
        while n < last:
            upper, half = keys[n] >> 32, keys[n] & 0xFFFFFFFF
            f = half // 3
            start = faces[f, half - 3 * f]
            ends[found, 0], ends[found, 1] = start, upper if start == v else v
            sides[found, 0], sides[found, 1] = f, -1
            n += 1
            if n < last and keys[n] >> 32 == upper:
                sides[found, 1] = (keys[n] & 0xFFFFFFFF) // 3
                n += 1
            found += 1
        first = last
    return found


@compiled
def find_outlines(view: tuple, faces: np.ndarray, edges: tuple, near: float, out: np.ndarray) -> int:
    """Write the numbers n of one view's outline edges to ``out (E,)``; -n - 1 where the first face has a negative orientation.

    ``view`` is (image, screen) of :func:`dreamlift.raster.visibility_numba.project`, ``edges`` is (ends (E, 2), faces (E, 2)).
    """
    image, screen = view
    ends, sides = edges
    turns = np.empty(len(faces), np.int8)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        x = image[j, 1] * image[k, 2] - image[j, 2] * image[k, 1]
        y = image[j, 2] * image[k, 0] - image[j, 0] * image[k, 2]
        z = image[j, 0] * image[k, 1] - image[j, 1] * image[k, 0]
        volume = image[i, 0] * x + image[i, 1] * y + image[i, 2] * z
        turns[f] = (volume > 0) - (volume < 0)
    count = 0
    for e in range(len(ends)):
        turn = turns[sides[e, 0]]
        if turn == 0 or (sides[e, 1] >= 0 and turns[sides[e, 1]] == turn):
            continue
        if screen[ends[e, 0], 2] > near and screen[ends[e, 1], 2] > near:
            out[count] = e if turn > 0 else -e - 1
            count += 1
    return count


@compiled
def _lines(a: float, b: float, size: int) -> tuple:
    """The lines at k + 1/2 in [min(a, b), max(a, b)) and within the picture, as (first k, count)."""
    first = math.ceil(min(max(min(a, b) - 0.5, 0.0), float(size)))
    return first, math.ceil(min(max(max(a, b) - 0.5, 0.0), float(size))) - first


@compiled
def count_crossings(screen: np.ndarray, ends: np.ndarray, outlines: np.ndarray, size: tuple) -> int:
    """An upper bound on the number of crossings in a picture of ``size`` = (height, width)."""
    total = 0
    for n in range(len(outlines)):
        e = outlines[n] if outlines[n] >= 0 else -outlines[n] - 1
        i, j = ends[e, 0], ends[e, 1]
        steep = abs(screen[j, 0] - screen[i, 0]) < abs(screen[j, 1] - screen[i, 1])
        across = 1 if steep else 0
        total += _lines(screen[i, across], screen[j, across], size[0] if steep else size[1])[1]
    return total


@compiled
def _slot(kept: np.ndarray, places: np.ndarray, near: int, far: int, key: int) -> int:
    """The slot of the hash table ``kept``, whose size is a power of two, that holds or may hold the crossing of two pixels."""
    slot = key & (len(kept) - 1)
    while kept[slot] >= 0 and (places[kept[slot], 0] != near or places[kept[slot], 1] != far):
        slot = (slot + 1) & (len(kept) - 1)
    return slot


@compiled
def _slope(view: tuple, lens: np.ndarray, v: int, axis: int, part: tuple, out: np.ndarray) -> None:
    """The gradient ``out (3,)`` of a position along ``axis``, in pixels, with respect to vertex v.

    ``part`` is (the vertex's weight, the edge's run over its rise).
    """
    image, screen = view
    along = part[0] / image[v, 2]
    across = -part[1] * along
    last = -along * screen[v, axis] - across * screen[v, 1 - axis]
    for k in range(3):
        out[k] = along * lens[axis, k] + across * lens[1 - axis, k] + last * lens[2, k]


@compiled
def _slots(entries: int) -> int:
    """The size of a hash table: a power of two that is at least twice the number of entries."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@compiled
def find_crossings(view: tuple, ends: np.ndarray, outlines: np.ndarray, seen: tuple, lens: np.ndarray, out: tuple) -> tuple:
    """The visible crossings of one view, one per pair of pixels: the one with the greatest share.

    Args:
        view: (image, screen). ends: ``(E, 2)``. outlines: of :func:`find_outlines`.
        seen: (face ids (H, W), depth along the axis (H, W)).
        lens: ``(4, 4)``, the view's projection.
        out: (places (M, 4): near pixel, far pixel, the edge's two vertices; shares (M,); slopes ds/d(vertices) (M, 2, 3)),
            with M of :func:`count_crossings`.

    Returns:
        The number of crossings, and how many of them lie in rows; these come first.
    """
    image, screen = view
    ids, axial = seen
    places, shares, slopes = out
    height, width = ids.shape
    kept = np.empty(_slots(len(shares)), np.int64)  # hash table of the ordered pairs (near, far)
    count, rows = 0, 0
    for axis in range(2):
        kept[:] = -1
        along, across = axis, 1 - axis
        stride, line_stride = (1, width) if axis == 0 else (width, 1)
        for n in range(len(outlines)):
            positive = outlines[n] >= 0
            e = outlines[n] if positive else -outlines[n] - 1
            i, j = ends[e, 0], ends[e, 1]
            if (abs(screen[j, 0] - screen[i, 0]) < abs(screen[j, 1] - screen[i, 1])) != (axis == 0):
                continue
            rise, run = screen[j, across] - screen[i, across], screen[j, along] - screen[i, along]
            # y runs down: a positive face lies to the left of an edge that goes up, and below one that goes right.
            lower = ((rise > 0) == positive) == (axis == 0)
            first, lines = _lines(screen[i, across], screen[j, across], height if axis == 0 else width)
            for line in range(first, first + lines):
                t = (line + 0.5 - screen[i, across]) / rise
                place = screen[i, along] + t * run - 0.5
                left = math.floor(place)
                if left < 0 or left >= (width if axis == 0 else height) - 1:
                    continue
                low = left * stride + line * line_stride
                near, far = (low, low + stride) if lower else (low + stride, low)
                share = place - left if lower else 1.0 - (place - left)
                depth = 1.0 / (1.0 / image[i, 2] + t * (1.0 / image[j, 2] - 1.0 / image[i, 2]))
                if ids[near // width, near % width] < 0 or not axial[far // width, far % width] > depth:
                    continue
                slot = _slot(kept, places, near, far, (2 * low + lower) * 7919)
                m = kept[slot]
                if m < 0:
                    m = count
                    count += 1
                    kept[slot] = m
                elif share < shares[m]:
                    continue
                places[m, 0], places[m, 1], places[m, 2], places[m, 3], shares[m] = near, far, i, j, share
                sign = 1.0 if lower else -1.0
                _slope(view, lens, i, axis, (sign * (1.0 - t), run / rise), slopes[m, 0])
                _slope(view, lens, j, axis, (sign * t, run / rise), slopes[m, 1])
        if axis == 0:
            rows = count
    return count, rows


@compiled
def blend_forward(values: np.ndarray, crossings: tuple, first: int, last: int) -> None:
    """Blend crossings ``first..last`` into ``values (P, C)``.

    ``crossings`` is (places, shares, slopes) of :func:`find_crossings`, and the gaps (M, C), which get the difference between
    near and far before blending.
    """
    places, shares, _, gaps = crossings
    for m in range(first, last):
        for c in range(values.shape[1]):
            gaps[m, c] = values[places[m, 0], c] - values[places[m, 1], c]
    for m in range(first, last):
        weight = shares[m] - 0.5
        target = places[m, 1] if weight > 0 else places[m, 0]
        for c in range(values.shape[1]):
            values[target, c] += weight * gaps[m, c]


@compiled
def blend_backward(grad: np.ndarray, crossings: tuple, first: int, last: int, out: np.ndarray) -> None:
    """The backward pass of :func:`blend_forward`, with the same ``crossings``.

    ``grad (P, C)`` with respect to its output becomes, in place, that with respect to its input; the vertices' gradient is
    added to ``out (V, 3)``.
    """
    places, shares, slopes, gaps = crossings
    channels = grad.shape[1]
    moved = np.empty((last - first, channels))
    for m in range(first, last):
        near, far, weight = places[m, 0], places[m, 1], shares[m] - 0.5
        of_share = 0.0
        for c in range(channels):
            if weight >= 0:
                of_share += grad[far, c] * gaps[m, c]
            if weight <= 0:
                of_share += grad[near, c] * gaps[m, c]
            moved[m - first, c] = weight * (grad[far, c] if weight > 0 else grad[near, c])
        for end in range(2):
            for k in range(3):
                out[places[m, 2 + end], k] += of_share * slopes[m, end, k]
    for m in range(first, last):
        for c in range(channels):
            grad[places[m, 0], c] += moved[m - first, c]
            grad[places[m, 1], c] -= moved[m - first, c]


@compiled
def take_crossed(places: np.ndarray, grad: np.ndarray, pixels: np.ndarray, local: np.ndarray, rows: np.ndarray) -> int:
    """Collect the K distinct pixels of the crossings in ``pixels (2 M,)``, and their rows of ``grad (P, C)`` in ``rows``.

    ``rows`` is (2 M, C). ``local (M, 4)`` gets ``places`` with near and far as indices into ``pixels``. Returns K.
    """
    kept = np.full(_slots(2 * len(places)), -1, np.int64)  # hash table
    count = 0
    for m in range(len(places)):
        for side in range(2):
            pixel = places[m, side]
            slot = pixel * 7919 & (len(kept) - 1)
            while kept[slot] >= 0 and pixels[kept[slot]] != pixel:
                slot = (slot + 1) & (len(kept) - 1)
            if kept[slot] < 0:
                kept[slot], pixels[count] = count, pixel
                for c in range(grad.shape[1]):
                    rows[count, c] = grad[pixel, c]
                count += 1
            local[m, side], local[m, 2 + side] = kept[slot], places[m, 2 + side]
    return count


@compiled
def put_crossed(pixels: np.ndarray, rows: np.ndarray, shown: tuple, width: int, out: np.ndarray) -> None:
    """Copy ``rows (K, C)`` of one view's ``pixels (K,)`` to ``out (N, C)``; pixels without a surface point are skipped.

    ``shown`` is (the pixels (N,) of all views' surface points, ascending; the first point of each of this view's rows).
    """
    pixel, starts = shown
    for n in range(len(pixels)):
        row = pixels[n] // width
        low, high = starts[row], starts[row + 1]  # a binary search
        sought = pixels[n] - row * width
        while low < high:
            middle = (low + high) // 2
            if pixel[middle] % width < sought:
                low = middle + 1
            else:
                high = middle
        if low < starts[row + 1] and pixel[low] % width == sought:
            for c in range(rows.shape[1]):
                out[low, c] = rows[n, c]
