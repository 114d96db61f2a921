"""The judge: what does a picture show, in the toybox's own words, and from which side?

A small convolutional network, trained on renders of things that no prior has seen (:mod:`dreamlift.toybox.judging.train`). Its
classes are the world's: category, colour, attribute, and the azimuth as one of ``SECTORS`` sectors of the circle, so that a
view of which two sides look alike can say so. The embedding before these is what diversity is measured in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, SYNONYMS

FOLDER = Path(__file__).parents[2] / "weights" / "judge"
SIZE = 64  # pixels a side of what the network sees
SECTORS = 24  # of the azimuth, 15 degrees each; the first is centred on the front
FRONT_DEG = 45.0  # a view is "front" within this angle of azimuth 0
LOOKS = ((1.0, 0.0, 0.0), (1.1, 0.0, 0.0), (0.95, 0.0, 0.0), (1.05, 0.05, 0.03), (1.05, -0.05, -0.03))  # zoom out, right, down


@dataclass(frozen=True)
class Verdict:
    """What the judge says of B pictures; the tables are probabilities."""

    category: Tensor  # (B, C), in the order of the judge's categories
    color: Tensor  # (B, len(COLORS))
    attribute: Tensor  # (B, len(ATTRIBUTES))
    sectors: Tensor  # (B, SECTORS)
    embedding: Tensor  # (B, E), unit length

    @property
    def azimuth(self) -> Tensor:
        """Azimuths ``(B,)`` (radians): the mean direction of the best sector and its two neighbours on each side."""
        best = self.sectors.argmax(dim=1, keepdim=True)
        around = (best + torch.arange(-2, 3, device=best.device)) % SECTORS
        weights, angles = self.sectors.gather(1, around), sector_angles().to(best.device)[around]
        return torch.atan2((weights * angles.sin()).sum(1), (weights * angles.cos()).sum(1))

    @property
    def front(self) -> Tensor:
        """Probabilities ``(B,)`` that the pictures show the front."""
        return self.sectors[:, sector_angles().abs() <= math.radians(FRONT_DEG) + 1e-6].sum(dim=1)


class Judge(nn.Module):
    """Residual network (He et al. 2016, https://arxiv.org/abs/1512.03385, with normalisation first) on packed pictures."""

    def __init__(self, categories: tuple[str, ...] = tuple(CATEGORIES), width: int = 64, embedding: int = 128) -> None:
        super().__init__()
        self.categories, self.width = categories, width
        self.stem = nn.Conv2d(12, width // 2, 3, padding=1)
        sizes = (width // 2, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), _Block(b)) for a, b in pairwise(sizes)
        )
        self.norm, self.embed = nn.GroupNorm(8, sizes[-1]), nn.Linear(sizes[-1], embedding)
        self.heads = nn.ModuleList(
            nn.Linear(embedding, count) for count in (len(categories), len(COLORS), len(ATTRIBUTES), SECTORS)
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings ``(B, E)`` and the logits of the four heads, of ``(B, 3, 64, 64)`` in [0, 1]."""
        x = self.stem(functional.pixel_unshuffle(pictures * 2.0 - 1.0, 2))
        for stage in self.stages:
            x = stage(x)
        features = self.embed(functional.silu(self.norm(x)).mean(dim=(2, 3)))
        return features, [head(functional.silu(features)) for head in self.heads]

    @torch.no_grad()
    def judge(self, pictures: Tensor) -> Verdict:
        """The verdict on renders ``(B, H, W, 3)`` sRGB in [0, 1], of any square size.

        It is the mean of several looks (``LOOKS``) at the picture, a little moved and scaled (docs/toybox.md: what that buys).
        """
        x = pictures.movedim(-1, 1).float().clamp(0.0, 1.0)
        if x.shape[-1] != SIZE:
            x = functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        embeddings, logits = zip(*(self(_placed(x, *look)) for look in LOOKS), strict=True)
        tables = (torch.stack(each).softmax(dim=-1).mean(dim=0) for each in zip(*logits, strict=True))
        category, color, attribute, sectors = tables
        return Verdict(category, color, attribute, sectors, functional.normalize(torch.stack(embeddings).mean(dim=0), dim=1))


def _placed(x: Tensor, zoom: float, right: float, down: float) -> Tensor:
    """Pictures ``(B, 3, S, S)`` as seen by a window ``zoom`` times as wide, moved by shares of half a picture."""
    if (zoom, right, down) == (1.0, 0.0, 0.0):
        return x
    return warped(x, x.new_tensor([[zoom, 0.0, right], [0.0, zoom, down]]).expand(len(x), 2, 3))


def warped(x: Tensor, place: Tensor) -> Tensor:
    """Pictures ``(B, C, S, S)`` at affine ``place (B, 2, 3)``: from a pixel's position, in -1 to 1, to where it looks."""
    grid = functional.affine_grid(place, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(out)))


def sector_angles() -> Tensor:
    """Middles ``(SECTORS,)`` of the sectors (radians) in (-pi, pi], the first at 0."""
    angles = torch.arange(SECTORS) * (2.0 * math.pi / SECTORS)
    return torch.where(angles > math.pi + 1e-6, angles - 2.0 * math.pi, angles)


def azimuth_error_deg(guess: Tensor, truth: Tensor) -> Tensor:
    """Absolute angles ``(B,)`` in degrees, 0 to 180, between azimuths ``(B,)`` in radians."""
    turn = guess - truth
    return torch.rad2deg(torch.atan2(turn.sin(), turn.cos()).abs())


def save_judge(judge: Judge, folder: Path, accuracy: dict[str, float]) -> None:
    """Write the weights (fp16) with what they were measured to reach; ``accuracy`` is shown beside every figure."""
    from safetensors.torch import save

    weights = {name: value.detach().half().contiguous() for name, value in judge.state_dict().items()}
    about = {"categories": judge.categories, "width": judge.width, "colors": list(COLORS), "attributes": ATTRIBUTES,
             "accuracy": accuracy}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(folder / "model.safetensors", save(weights))
    atomic_write_text(folder / "config.json", json.dumps(about, indent=1) + "\n")


def load_judge(folder: Path = FOLDER) -> tuple[Judge, dict[str, float]]:
    """The judge, ready to use, and its own accuracy on renders that it was not trained on.

    Raises:
        ValueError: there is none in ``folder``, or it was trained on other words than the world has now.
    """
    from safetensors.torch import load_file

    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"there is no judge in {folder}; train one with: python -m dreamlift.toybox.judging.train")
    about = json.loads(path.read_text())
    if about["colors"] != list(COLORS) or tuple(about["attributes"]) != ATTRIBUTES:
        raise ValueError(f"the judge in {folder} knows other colours or attributes than the world; train it anew")
    judge = Judge(tuple(about["categories"]), about["width"])
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return judge.eval().requires_grad_(False), about["accuracy"]


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for, in the world's words; "" where it does not say."""

    category: str = ""
    color: str = ""
    attribute: str = ""


def understand(prompt: str) -> Wanted:
    """The world's words in a prompt. Colours and nouns of accessories ("wearing a blue hat") are not the thing's own."""
    text = f" {prompt.lower().replace(',', ' ')} "
    for accessory in (" wearing ", " with ", " on "):
        text = text.split(accessory)[0] + " "
    text = " ".join(text.split())
    nouns = {noun: name for name in CATEGORIES for noun in (name.replace("_", " "), *SYNONYMS.get(name, ()))}
    wanted = Wanted()
    # The last noun is the head ("a house plant"); of two that end together, the longer one ("teddy bear" before "bear").
    places = [(f" {text} ".rfind(f" {noun} ") + len(noun), len(noun), name) for noun, name in nouns.items()
              if f" {noun} " in f" {text} "]  # fmt: skip
    if places:
        wanted = replace(wanted, category=max(places)[2])
    for word in text.split():
        if word in COLORS:
            wanted = replace(wanted, color=word)
        elif word in ATTRIBUTES:
            wanted = replace(wanted, attribute=word)
    return wanted
