"""The things of the toybox, by category, colour, finish and accessory, fitted into [-1, 1]^3.

Conventions are those of :mod:`dreamlift.types`: +y up, +z front. A thing's bounding box is centred at the origin and its
bounding sphere has radius ``FIT_RADIUS``. ``make_thing`` depends on its arguments only; one seed gives the same shape in every
colour. A new category is one builder and one line in the ``BUILDERS`` of its group.

Some combinations of category, colour and accessory are excluded from training (:func:`held_out`); they test whether the prior
generalises to unseen combinations of known words.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.prompts import article
from dreamlift.toybox.world.kinds import animals, buildings, characters, furniture, plants, tableware, tools, vehicles
from dreamlift.toybox.world.parts import COLORS, DARK, WOOD, Dice, Part, Rgb, Thing, shade
from dreamlift.toybox.world.sdf import box, cylinder, place, union

__all__ = [
    "CATEGORIES",
    "COLORS",
    "FIT_RADIUS",
    "GROUPS",
    "Description",
    "Part",
    "Thing",
    "describe",
    "fitted",
    "held_out",
    "make_thing",
]

FIT_RADIUS = 0.85  # radius of the bounding sphere; leaves a margin in the cube [-1, 1]^3

GROUPS: dict[str, dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]]] = {
    "tableware": tableware.BUILDERS,
    "furniture": furniture.BUILDERS,
    "tools": tools.BUILDERS,
    "vehicles": vehicles.BUILDERS,
    "buildings": buildings.BUILDERS,
    "plants and food": plants.BUILDERS,
    "animals": animals.BUILDERS,
    "characters": characters.BUILDERS,
}
CATEGORIES = {name: builder for group in GROUPS.values() for name, builder in group.items()}
STRETCHES = {"tall": 1.4, "short": 0.68}
FINISHES = ("striped", "spotted", "wooden", "metallic")
ATTRIBUTES = ("", *STRETCHES, *FINISHES)
SYNONYMS: dict[str, tuple[str, ...]] = {
    "mug": ("cup",), "car": ("automobile",), "airplane": ("plane",), "boat": ("ship",), "sofa": ("couch",),
    "rabbit": ("bunny",), "bear": ("teddy bear",), "house": ("cottage",), "train": ("locomotive",), "hat": ("cap",),
    "rocket": ("spaceship",), "truck": ("lorry",), "bookshelf": ("bookcase",), "mushroom": ("toadstool",),
    "bottle": ("flask",), "goblet": ("chalice",),
}  # fmt: skip
"""Other nouns for a category, of one or two words."""
RELATED: dict[str, tuple[str, ...]] = {
    "airplane": ("aircraft", "jet", "airliner", "glider"), "astronaut": ("cosmonaut", "spaceman"), "bear": ("panda", "grizzly"),
    "bed": ("cradle", "bunk"), "bench": ("pew",), "boat": ("canoe", "yacht", "sailboat", "ferry", "submarine"),
    "bookshelf": ("shelf", "cupboard", "wardrobe", "cabinet"), "bottle": ("jar", "carafe"), "bowl": ("dish", "basin"),
    "bus": ("van", "minibus", "coach", "tram"), "cake": ("pie", "tart", "gateau"), "cupcake": ("muffin",),
    "car": ("bicycle", "bike", "motorcycle", "motorbike", "scooter", "taxi", "vehicle"), "castle": ("fortress", "palace"),
    "cat": ("kitten", "kitty", "lion", "tiger", "fox"), "chair": ("armchair", "seat", "throne", "rocker"),
    "church": ("chapel", "cathedral", "temple"), "dog": ("puppy", "hound", "wolf", "horse", "pony", "cow", "sheep"),
    "duck": ("bird", "chicken", "hen", "goose", "swan", "parrot"), "elephant": ("mammoth", "rhino", "hippo", "dinosaur"),
    "fish": ("shark", "whale", "dolphin"), "flower": ("rose", "tulip", "daisy"), "ghost": ("phantom", "spirit"),
    "gnome": ("dwarf", "elf", "goblin"), "goblet": ("glass", "wineglass", "trophy"), "guitar": ("violin", "ukulele", "cello"),
    "hat": ("helmet", "crown"), "helicopter": ("chopper", "drone"), "house": ("home", "hut", "cabin", "barn", "building"),
    "lamp": ("lantern", "light", "candle"), "mug": ("tumbler", "beaker", "stein"), "pan": ("pot", "skillet", "wok"),
    "pig": ("piglet", "boar", "hog"), "pumpkin": ("gourd", "melon"), "rabbit": ("hare", "mouse", "hamster", "squirrel"),
    "robot": ("android", "cyborg", "droid"), "rocket": ("missile", "shuttle", "spacecraft"), "sofa": ("settee", "loveseat"),
    "table": ("desk",), "teapot": ("kettle", "jug", "pitcher"), "tractor": ("bulldozer", "excavator"), "turtle": ("tortoise",),
    "tree": ("fir", "pine", "oak", "palm", "bush"), "truck": ("pickup", "wagon"), "vase": ("urn", "amphora"),
}  # fmt: skip
"""Nouns that the toybox does not have, and the category that is suggested to who asks for one."""


@dataclass(frozen=True)
class Description:
    """The words of a thing's caption."""

    category: str  # a key of CATEGORIES
    color: str  # a key of COLORS
    attribute: str = ""  # one of ATTRIBUTES
    hat: str = ""  # colour of its hat; "": none
    box: bool = False  # whether it stands on a wooden box

    @property
    def accessory(self) -> str:
        return "hat" if self.hat else "box" if self.box else ""

    def thing(self, seed: int) -> Thing:
        """A thing of this description, with proportions drawn from ``seed``. Raises ValueError, see :func:`make_thing`."""
        return make_thing(self.category, self.color, seed, self.attribute, self.hat, self.box)

    def caption(self, noun: str | None = None, colored: bool = True) -> str:
        """The caption, such as "a tall red duck wearing a blue hat"; ``noun`` may be one of the category's ``SYNONYMS``."""
        noun = noun or self.category.replace("_", " ")
        words = " ".join(word for word in (self.attribute, self.color if colored else "", noun) if word)
        hat = f" wearing {article(self.hat)} {self.hat} hat" if self.hat else ""
        return f"{article(words)} {words}{hat}{' on a wooden box' if self.box else ''}"


def held_out(category: str, color: str, accessory: str = "") -> bool:
    """Whether this combination is excluded from training (one in eight, by a fixed hash of the words)."""
    return zlib.crc32(f"{category}/{color}/{accessory}".encode()) % 8 == 0


def can_wear(category: str) -> bool:
    """Whether things of this category have a crown for a hat."""
    parts = CATEGORIES[category](Dice(np.random.default_rng(0)), COLORS["red"])
    return any(part.crown for part in parts)


def describe(rng: np.random.Generator, training: bool = True, kinds: Sequence[str] = tuple(CATEGORIES)) -> Description:
    """A random description of one of the categories ``kinds``; with ``training``, never a held-out one."""
    names, colors = list(kinds), list(COLORS)
    while True:
        category, color = names[int(rng.integers(len(names)))], colors[int(rng.integers(len(colors)))]
        attribute = ATTRIBUTES[int(rng.integers(1, len(ATTRIBUTES)))] if rng.random() < 0.4 else ""
        draw, hat_color = rng.random(), colors[int(rng.integers(len(colors)))]
        hat = hat_color if draw < 0.5 and hat_color != color and can_wear(category) else ""
        found = Description(category, color, attribute, hat, draw > 0.85)
        if not (training and held_out(category, color, found.accessory)):
            return found


def make_thing(category: str, color: str, seed: int, attribute: str = "", hat: str = "", box: bool = False) -> Thing:
    """The thing of this description, with proportions drawn from ``seed``.

    Raises:
        ValueError: an unknown word, or a hat for a category without a crown.
    """
    for word, known, what in (
        (category, CATEGORIES, "category"),
        (color, COLORS, "color"),
        (attribute, ATTRIBUTES, "attribute"),
    ):
        if word not in known:
            raise ValueError(f"unknown {what} {word!r}; the toybox has: {', '.join(filter(None, known))}")
    # Seeded by the category's name instead of its index, so that a new category does not change the existing ones.
    dice = Dice(np.random.default_rng([seed, zlib.crc32(category.encode())]))
    thing = Thing(category, color, CATEGORIES[category](dice, COLORS[color]))
    if hat:
        bare = tuple(part for part in thing.parts if not part.name.startswith("hat"))
        thing = replace(thing, parts=bare + _hat(thing, hat))
    if box:
        thing = replace(thing, parts=thing.parts + _box(thing))
    stretch = STRETCHES.get(attribute, 1.0)
    return fitted(replace(thing, stretch=stretch, finish=attribute if attribute in FINISHES else ""))


def _hat(thing: Thing, color: str) -> tuple[Part, ...]:
    """The parts of a brimmed hat, at the first crown of ``thing``."""
    crowns = [part.crown for part in thing.parts if part.crown]
    if not crowns or color not in COLORS:
        known = ", ".join(COLORS) if crowns else "categories with a head only"
        raise ValueError(f"no {color!r} hat for {article(thing.category)} {thing.category}; accepted: {known}")
    x, y, z, radius = crowns[0]
    brim = place(cylinder(radius * 1.1, 0.16 * radius, 0.06 * radius), (x, y, z))
    top = place(cylinder(radius * 0.68, 0.5 * radius, 0.1 * radius), (x, y + 0.5 * radius, z))
    band = place(cylinder(radius * 0.8, 0.14 * radius), (x, y + 0.28 * radius, z))
    rgb = COLORS[color]
    return (
        Part("hat", union(brim, top), rgb),
        Part("hat band", band, DARK if sum(rgb) > 0.9 else COLORS["white"], paint=True),
    )


def _box(thing: Thing) -> tuple[Part, ...]:
    """The parts of a wooden box under ``thing``."""
    low, high = _bounding_box(thing)
    x, _, z = (0.5 * (low + high)).tolist()
    half = 0.55 * float(torch.maximum(high - low, torch.tensor(0.6))[[0, 2]].max())
    height = 0.45 * half
    middle = (x, float(low[1]) - height + 0.02, z)
    board = place(box(half * 1.2, 0.09 * half, half * 1.2), middle)
    return (
        Part("box", place(box(half, height, half, 0.05), middle), WOOD),
        Part("box board", board, shade(WOOD, 0.7), paint=True),
    )


def fitted(thing: Thing) -> Thing:
    """The thing with its bounding box centred at the origin and a bounding sphere of radius ``FIT_RADIUS``."""
    low, high = _bounding_box(thing)
    center = 0.5 * (low + high)
    radius = _bounding_radius(thing, center, 0.5 * float((high - low).norm()))
    x, y, z = center.tolist()
    return replace(thing, center=(x, y / thing.stretch, z), scale=FIT_RADIUS / radius)


def _bounding_box(thing: Thing, reach: float = 2.5, count: int = 20, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """Corners ``(3,)`` of the bounding box, found by moving six planes of ``count**2`` samples inward ``rounds`` times.

    Each plane moves by the smallest distance over its samples, until it touches the thing. This is much cheaper than a dense
    grid and also converges if distances are underestimated. The nearest surface point can lie up to half a cell beside the
    nearest sample; all rounds but the last therefore shorten the step accordingly, so that no tip is cut off.
    """
    line = torch.linspace(-1.0, 1.0, count)
    u, v = (grid.reshape(-1) for grid in torch.meshgrid(line, line, indexing="ij"))
    low, high = torch.full((3,), -reach), torch.full((3,), reach)
    for index in range(rounds):
        faces = []
        for axis in range(3):
            others = [i for i in range(3) if i != axis]
            for edge in (low, high):
                face = torch.empty(count * count, 3)
                face[:, axis] = edge[axis]
                for other, grid in zip(others, (u, v), strict=True):
                    face[:, other] = low[other] + (grid + 1.0) * 0.5 * (high[other] - low[other])
                faces.append(face)
        steps = thing.sdf(torch.cat(faces)).view(3, 2, -1).amin(dim=-1).clamp_min(0.0)
        if index < rounds - 1:
            beside = float((high - low).norm()) / (2.0 * (count - 1))
            steps = (steps * steps - beside * beside).clamp_min(0.0).sqrt()
        low, high = low + steps[:, 0], high - steps[:, 1]
    return low, high


def _bounding_radius(thing: Thing, center: Tensor, reach: float, count: int = 900, rounds: int = 4) -> float:
    """Radius of the bounding sphere about ``center (3,)``, found by shrinking a sphere of radius ``reach`` in the same way."""
    index = torch.arange(count) + 0.5
    y = 1.0 - 2.0 * index / count
    ring, angle = (1.0 - y * y).sqrt(), index * 2.399963  # Fibonacci sphere: steps of the golden angle
    directions = torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=-1)
    radius = reach
    for _ in range(rounds):
        radius -= max(float(thing.sdf(center + radius * directions).min()), 0.0)
    return radius
