"""Random composites: objects of one to seven coloured primitives that belong to no category.

They teach a view-conditioned prior what follows from any picture, as opposed to what follows from a known kind of thing. The
numbers of parts, the turns and the carved parts follow Zeroverse (LRM-Zero, Xie et al. 2024,
https://arxiv.org/abs/2406.09371, section 3.1; ``desaixie/zeroverse``), whose primitives are meshes; these are signed distances.
"""

from __future__ import annotations

import numpy as np

from dreamlift.toybox.world.parts import COLORS, Part, Thing
from dreamlift.toybox.world.sdf import Shape, bar, bowl, box, cone, cylinder, ellipsoid, mirror, place, torus
from dreamlift.toybox.world.things import FINISHES, fitted

COMPOSITE = "composite"  # the category of these things; not one of CATEGORIES
PARTS = (3, 5, 5, 4, 3, 2, 1)  # relative frequencies of one to seven parts
PRIMITIVES = 7
TURNED, MIRRORED, BLENDED, CARVED = 0.6, 0.3, 0.4, 0.12  # shares of the parts
MAIN = 0.4  # share of the parts in the main colour, which are those that show the finish
FINISHED = 0.5  # share of the things with a finish


def make_composite(seed: int) -> Thing:
    """A random composite, fitted like the other things of the toybox; it depends on ``seed`` only."""
    rng = np.random.default_rng([seed, 0xC0])
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    count = int(rng.choice(len(PARTS), p=np.array(PARTS) / sum(PARTS))) + 1
    finish = str(rng.choice(FINISHES)) if rng.random() < FINISHED else ""
    return fitted(Thing(COMPOSITE, color, tuple(_part(rng, index, color) for index in range(count)), finish=finish))


def _part(rng: np.random.Generator, index: int, color: str) -> Part:
    sizes = rng.uniform(0.25, 1.0, 3)
    at = rng.uniform(-0.8, 0.8, 3) * (index > 0)
    turn = rng.uniform(-90.0, 90.0, 3) * (rng.random() < TURNED)
    shape = _primitive(rng, sizes)
    if index and rng.random() < MIRRORED:
        at[0] = abs(at[0]) + sizes[0]  # on the positive side of the mirror
        shape = mirror(place(shape, _vec(at), _vec(turn)))
    else:
        shape = place(shape, _vec(at), _vec(turn))
    rgb = COLORS[color] if rng.random() < MAIN else _vec(rng.uniform(0.05, 0.97, 3))
    blend = float(rng.uniform(0.02, 0.25)) if rng.random() < BLENDED else 0.0
    return Part(f"part {index}", shape, rgb, blend, carve=bool(index and rng.random() < CARVED))


def _primitive(rng: np.random.Generator, sizes: np.ndarray) -> Shape:
    """One of seven primitives with sizes (3,) in [0.25, 1]."""
    a, b, c = sizes.tolist()
    match int(rng.integers(PRIMITIVES)):
        case 0:
            least = 0.5 * max(a, b, c)  # semi-axes within a factor of 2
            return ellipsoid(max(a, least), max(b, least), max(c, least))
        case 1:
            return box(a, b, c, 0.15 * min(a, b, c))
        case 2:
            return cylinder(a, b, 0.1 * min(a, b))
        case 3:
            return cone(a, a * float(rng.uniform(0.05, 0.8)), b, 0.03)
        case 4:
            return torus(a, a * float(rng.uniform(0.2, 0.5)))
        case 5:
            return bar((0.0, -b, 0.0), (0.0, b, 0.0), 0.5 * a, 0.5 * a * float(rng.uniform(0.4, 1.0)))
        case _:
            return bowl(a, 0.8 * b, 0.12)


def _vec(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return (x, y, z)
