"""Vertex colours in pictures: multiplied into a texture, or, for parts without one, as a palette that is interpolated exactly.

A texture is multiplied by the vertex colours in linear light (glTF 2.0, section 3.9.2): the colours are sampled on a lattice
in each triangle and averaged over the texels. A palette has a block of 2 x 2 texels for each distinct triple of corner colours
a, b, c: bilinear interpolation of the block (a, b; c, b + c - a) is linear over the triangle between the first three centres.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.reading.part import Part

FINE, COARSE = 512, 2048  # least and largest number of texels a side of the map of vertex colours
SAMPLES, CHUNK = 6_000_000, 1_000_000  # of all triangles together, about, and at a time
SPREAD = 0.1  # standard deviation within a texel (linear light) from which a texture is used with different colours


def tinted(part: Part) -> Part:
    """The part with its vertex colours multiplied into its image, if it has both."""
    if part.image is None or part.shades is None or part.uvs is None:
        return part
    shades = part.shades[np.unique(part.faces)]
    if (shades == shades[0]).all():
        return replace(part, image=_times(part.image, srgb_to_linear(shades[0])), shades=None)
    if (part.image == part.image[0, 0]).all():
        product = srgb_to_linear(part.shades) * srgb_to_linear(part.image[0, 0] / 255.0)
        return replace(part, image=None, shades=linear_to_srgb(product))
    return multiplied(part)


def multiplied(part: Part) -> Part:
    """The part with its vertex colours in its image, which has 512 texels a side or more then."""
    assert part.image is not None
    image = part.image
    if max(image.shape[:2]) < FINE:
        factor = FINE // max(image.shape[:2]) + 1
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (min(side, COARSE) for side in image.shape[:2])
    factors = _shade_map(part, height, width)
    rows, columns = (np.arange(side) * small // side for side, small in zip(image.shape[:2], (height, width), strict=True))
    product = np.empty_like(image)
    for row in range(len(image)):  # row by row: a texture may have 8192 x 8192 texels
        product[row] = _times(image[row], factors[rows[row], columns])
    return replace(part, image=product, shades=None)


def _times(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """uint8 sRGB times a factor in linear light."""
    table = srgb_to_linear(np.arange(256) / 255.0)
    return (linear_to_srgb(np.clip(table[image] * factor, 0, 1)) * 255 + 0.5).astype(np.uint8)


def _shade_map(part: Part, height: int, width: int) -> np.ndarray:
    """The mean vertex colours ``(height, width, 3)`` in linear light of the surface in each texel."""
    assert part.uvs is not None
    assert part.shades is not None
    places, colors = part.uvs[part.faces] * [width, height], srgb_to_linear(part.shades)[part.faces]
    edges = np.linalg.norm(places - np.roll(places, 1, axis=1), axis=-1).max(axis=1)
    edges *= min(1.0, (SAMPLES / max(float((edges**2).sum()), 1e-9)) ** 0.5)
    counts = 2 ** np.ceil(np.log2(np.clip(1.2 * edges, 2, 4096))).astype(int)  # samples along the longest edge
    sums, squares, hits = np.zeros((height * width, 3)), np.zeros(height * width), np.zeros(height * width)
    for count in np.unique(counts):
        i, j = np.divmod(np.arange(count * count), count)
        i, j = i[i + j < count], j[i + j < count]
        # Centres of the lattice's cells, which lie inside: samples on an edge could fall into texels of another part.
        weights = np.stack([i + 1 / 3, j + 1 / 3, count - i - j - 2 / 3], axis=1) / count
        chosen = np.flatnonzero(counts == count)
        for some in np.array_split(chosen, max(1, len(chosen) * len(weights) // CHUNK)):
            at = np.floor(np.einsum("kc,fcd->fkd", weights, places[some])).astype(np.int64) % [width, height]
            texel, values = (at[..., 1] * width + at[..., 0]).ravel(), np.einsum("kc,fcd->fkd", weights, colors[some])
            values = values.reshape(-1, 3)
            for channel in range(3):
                sums[:, channel] += np.bincount(texel, values[:, channel], minlength=len(sums))
            squares += np.bincount(texel, (values**2).sum(axis=1), minlength=len(sums))
            hits += np.bincount(texel, minlength=len(sums))
    full = hits > 0
    mean = np.ones((height * width, 3))
    mean[full] = sums[full] / hits[full, None]
    spread = squares[full] / hits[full] - (mean[full] ** 2).sum(axis=1)
    if (spread > SPREAD**2).mean() > 0.1:
        warnings.warn("its vertex colours differ where its texture repeats: their mean is used there", stacklevel=3)
    return _filled(mean.reshape(height, width, 3), full.reshape(height, width))


def _filled(values: np.ndarray, full: np.ndarray) -> np.ndarray:
    """The values with those of neighbours where there are none, some texels far, for bilinear look-ups at the edges."""
    for _ in range(4):
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            shifted = np.roll(full, step, axis)
            take = shifted & ~full
            values[take] = np.roll(values, step, axis)[take]
            full = full | take
    return values


def palette_side(part: Part) -> int:
    """Texels a side of the part's exact palette; 1 for a single colour."""
    return 2 * int(np.ceil(np.sqrt(len(np.unique(_triples(part, 8), axis=0))))) if _varies(part) else 1


def into_palette(part: Part, side: int) -> Part:
    """The part with its vertex colours as an image of ``side`` x ``side`` texels (2 at least); each face gets its own vertices.

    Where there are more triples than blocks, colours are rounded to fewer bits.
    """
    if not _varies(part):
        color = np.full(3, 0.5) if part.shades is None else part.shades[part.faces[0, 0]]
        image = np.broadcast_to((color * 255 + 0.5).astype(np.uint8), (1, 1, 3))
        return replace(part, image=image, shades=None, uvs=np.full((len(part.vertices), 2), 0.5))
    across = side // 2
    part = replace(part, faces=_rotated(part))
    triples = number = None
    for bits in range(8, -1, -1):
        triples, number = np.unique(_triples(part, bits), axis=0, return_inverse=True)
        if len(triples) <= across * across:
            break
    assert triples is not None
    assert number is not None
    image = np.zeros((side, side, 3), np.uint8)
    y, x = 2 * (np.arange(len(triples)) // across), 2 * (np.arange(len(triples)) % across)
    a, b, c = np.moveaxis(triples.reshape(-1, 3, 3), 1, 0)
    image[y, x], image[y, x + 1], image[y + 1, x] = a, b, c
    image[y + 1, x + 1] = np.clip(b.astype(int) + c - a, 0, 255)
    corner = np.stack([x, y], axis=1)[number.reshape(-1)][:, None] + np.array([[0, 0], [1, 0], [0, 1]])
    rows = part.faces.ravel()
    normals = None if part.normals is None else part.normals[rows]
    uvs = (corner.reshape(-1, 2) + 0.5) / side
    own = replace(part, vertices=part.vertices[rows], faces=np.arange(len(rows)).reshape(-1, 3), normals=normals)
    return replace(own, uvs=uvs, image=image, shades=None)


def _varies(part: Part) -> bool:
    return part.shades is not None and bool((part.shades[part.faces] != part.shades[part.faces[0, 0]]).any())


def _rotated(part: Part) -> np.ndarray:
    """The faces, each beginning with the corner a for which b + c - a exceeds the range of colours least."""
    assert part.shades is not None
    turns = np.stack([np.roll(part.faces, -turn, axis=1) for turn in range(3)])
    a, b, c = (part.shades[turns[:, :, corner]] for corner in range(3))
    excess = np.abs(np.clip(b + c - a, 0, 1) - (b + c - a)).sum(axis=-1)
    return turns[excess.argmin(axis=0), np.arange(len(part.faces))]


def _triples(part: Part, bits: int) -> np.ndarray:
    """The colours of each face's corners ``(F, 9)`` uint8, rounded to ``bits``; 0 bits: one colour for all."""
    assert part.shades is not None
    levels = max(2**bits - 1, 1)
    values = part.shades[part.faces].reshape(-1, 9) if bits else np.full((len(part.faces), 9), part.shades.mean())
    return (np.round(values * levels) / levels * 255 + 0.5).astype(np.uint8)
