"""Connected components of a mask, without a loop over its pixels.

The runs of each row are joined with those of the next row that they touch (4 neighbours), by union-find on the runs: every
run points to the smallest run that it is known to be connected with, until nothing changes.
"""

from __future__ import annotations

import numpy as np

SPECK = 0.004  # parts with a smaller share of the largest part's area are dirt


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(H, W)`` int32 of a mask ``(H, W)`` bool, and the sizes ``(n + 1,)`` in pixels of the labels 0..n.

    Label 0 is what is outside the mask; the components have 1..n in the order of their first pixels.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 1), dtype=np.int8)  # the last column separates the rows
    padded[:, :width] = mask
    edges = np.diff(padded.reshape(-1), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    below = width + 1
    low = np.searchsorted(ends, starts + below, side="right")
    high = np.searchsorted(starts, ends + below, side="left")
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    parent = _joined(len(starts), upper, lower)
    _, number = np.unique(parent, return_inverse=True)
    labels = np.zeros(height * below, dtype=np.int32)
    change = np.zeros(height * below + 1, dtype=np.int64)
    change[starts] += number + 1
    np.subtract.at(change, ends, number + 1)
    labels[:] = np.cumsum(change[:-1])
    labels = labels.reshape(height, below)[:, :width]
    return labels, np.bincount(labels.reshape(-1), minlength=1)


def _joined(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest member of the set of each of ``count`` elements, where ``a[i]`` and ``b[i]`` are in one set."""
    parent = np.arange(count)
    while True:
        one, other = parent[a], parent[b]
        if np.array_equal(one, other):
            return parent
        least = np.minimum(one, other)
        np.minimum.at(parent, one, least)
        np.minimum.at(parent, other, least)
        while not np.array_equal(parent, further := parent[parent]):
            parent = further


def connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The part ``(H, W)`` bool of ``mask`` that is connected with ``seeds``: flood fill."""
    labels, sizes = components(mask)
    wanted = np.zeros(len(sizes), dtype=bool)
    wanted[labels[seeds & mask]] = True
    wanted[0] = False
    return wanted[labels]


def border_of(shape: tuple[int, ...]) -> np.ndarray:
    """True ``(H, W)`` on the outermost pixels."""
    mask = np.ones(shape[:2], dtype=bool)
    mask[1:-1, 1:-1] = False
    return mask


def without_specks(mask: np.ndarray, share: float = SPECK) -> np.ndarray:
    """The parts of a mask ``(H, W)`` bool that have more than ``share`` of the area of its largest one."""
    labels, sizes = components(mask)
    wanted = sizes > share * sizes[1:].max(initial=0)
    wanted[0] = False
    return wanted[labels]
