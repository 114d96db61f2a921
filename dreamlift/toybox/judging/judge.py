"""The judge: a classifier of pictures by the toybox's categories, colours, attributes and azimuths.

A small convolutional network, trained on renders of seeds that no prior was trained on (:mod:`dreamlift.toybox.judging.train`).
The azimuth is predicted as a distribution over ``SECTORS`` sectors, which can represent ambiguous views. Diversity is measured
between the embeddings before the classifier heads.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, SYNONYMS, Description, can_wear

FOLDER = Path(__file__).parents[2] / "weights" / "judge"
SIZE = 64  # pixels per side of the network's input
SECTORS = 24  # azimuth sectors, 15 degrees each; the first is centred at azimuth 0
FRONT_DEG = 45.0  # a view is "front" within this angle of azimuth 0
# Test-time augmentation: window size relative to the picture, and its shift to the right and down in half pictures.
LOOKS = ((1.0, 0.0, 0.0), (1.1, 0.0, 0.0), (0.95, 0.0, 0.0), (1.05, 0.05, 0.03), (1.05, -0.05, -0.03))


@dataclass(frozen=True)
class Verdict:
    """The judge's predictions for B pictures; all but the embedding are probabilities."""

    category: Tensor  # (B, C), in the order of the judge's categories
    color: Tensor  # (B, len(COLORS))
    attribute: Tensor  # (B, len(ATTRIBUTES))
    sectors: Tensor  # (B, SECTORS)
    embedding: Tensor  # (B, E), unit length

    @property
    def azimuth(self) -> Tensor:
        """Azimuths ``(B,)`` in radians: the mean direction of the most probable sector and two neighbours on each side."""
        best = self.sectors.argmax(dim=1, keepdim=True)
        around = (best + torch.arange(-2, 3, device=best.device)) % SECTORS
        weights, angles = self.sectors.gather(1, around), sector_angles().to(best.device)[around]
        return torch.atan2((weights * angles.sin()).sum(1), (weights * angles.cos()).sum(1))

    @property
    def front(self) -> Tensor:
        """Probabilities ``(B,)`` of an azimuth within ``FRONT_DEG`` of the front."""
        return self.sectors[:, sector_angles().abs() <= math.radians(FRONT_DEG) + 1e-6].sum(dim=1)


class Judge(nn.Module):
    """Residual network (He et al. 2016, https://arxiv.org/abs/1512.03385, pre-activation) on pixel-unshuffled pictures."""

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
        """Embeddings ``(B, E)`` and the logits of the four heads for ``pictures (B, 3, 64, 64)`` in [0, 1]."""
        x = self.stem(functional.pixel_unshuffle(pictures * 2.0 - 1.0, 2))
        for stage in self.stages:
            x = stage(x)
        features = self.embed(functional.silu(self.norm(x)).mean(dim=(2, 3)))
        return features, [head(functional.silu(features)) for head in self.heads]

    @torch.no_grad()
    def judge(self, pictures: Tensor) -> Verdict:
        """Predictions for ``pictures (B, H, W, 3)``, sRGB in [0, 1], square and of any size.

        They are means over slightly shifted and scaled versions of each picture (``LOOKS``); docs/toybox.md has the gain.
        """
        x = pictures.movedim(-1, 1).float().clamp(0.0, 1.0)
        if x.shape[-1] != SIZE:
            x = functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        embeddings, logits = zip(*(self(_placed(x, *look)) for look in LOOKS), strict=True)
        tables = (torch.stack(each).softmax(dim=-1).mean(dim=0) for each in zip(*logits, strict=True))
        category, color, attribute, sectors = tables
        return Verdict(category, color, attribute, sectors, functional.normalize(torch.stack(embeddings).mean(dim=0), dim=1))


def _placed(x: Tensor, zoom: float, right: float, down: float) -> Tensor:
    """Pictures ``(B, 3, S, S)`` in a window ``zoom`` times as wide, shifted by ``right`` and ``down`` half pictures."""
    if (zoom, right, down) == (1.0, 0.0, 0.0):
        return x
    return warped(x, x.new_tensor([[zoom, 0.0, right], [0.0, zoom, down]]).expand(len(x), 2, 3))


def warped(x: Tensor, place: Tensor) -> Tensor:
    """Pictures ``(B, C, S, S)`` resampled by ``place (B, 2, 3)``: an affine map from output to input positions in [-1, 1]."""
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
    """Centres ``(SECTORS,)`` of the sectors in radians, in (-pi, pi], the first at 0."""
    angles = torch.arange(SECTORS) * (2.0 * math.pi / SECTORS)
    return torch.where(angles > math.pi + 1e-6, angles - 2.0 * math.pi, angles)


def azimuth_error_deg(guess: Tensor, truth: Tensor) -> Tensor:
    """Absolute differences ``(B,)``, in degrees from 0 to 180, of the azimuths ``guess`` and ``truth (B,)`` in radians."""
    turn = guess - truth
    return torch.rad2deg(torch.atan2(turn.sin(), turn.cos()).abs())


def save_judge(judge: Judge, folder: Path, accuracy: dict[str, float]) -> None:
    """Write the weights (fp16) and their measured ``accuracy``, which is reported with every score."""
    from safetensors.torch import save

    weights = {name: value.detach().half().contiguous() for name, value in judge.state_dict().items()}
    about = {"categories": judge.categories, "width": judge.width, "colors": list(COLORS), "attributes": ATTRIBUTES,
             "accuracy": accuracy}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(folder / "model.safetensors", save(weights))
    atomic_write_text(folder / "config.json", json.dumps(about, indent=1) + "\n")


def load_judge(folder: Path = FOLDER) -> tuple[Judge, dict[str, float]]:
    """The judge, in evaluation mode and frozen, and its accuracy on renders that it was not trained on.

    Raises:
        ValueError: ``folder`` has no judge, or its colours or attributes differ from the toybox's.
    """
    from safetensors.torch import load_file

    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"there is no judge in {folder}; train one with: python -m dreamlift.toybox.judging.train")
    about = json.loads(path.read_text())
    if about["colors"] != list(COLORS) or tuple(about["attributes"]) != ATTRIBUTES:
        raise ValueError(
            f"the judge in {folder} was trained on other colours or attributes than the toybox has; train it anew with: "
            "python -m dreamlift.toybox.judging.train"
        )
    judge = Judge(tuple(about["categories"]), about["width"])
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return judge.eval().requires_grad_(False), about["accuracy"]


@dataclass(frozen=True)
class Wanted(Description):
    """The toybox's words in a prompt; "" where it names none."""

    category: str = ""
    color: str = ""


def understand(prompt: str) -> Wanted:
    """The toybox's words in ``prompt``; those of other accessories (such as "with a blue ribbon") are passed over."""
    told = text = f" {prompt.lower().replace(',', ' ')} "
    for accessory in (" wearing ", " with ", " on "):
        text = text.split(accessory)[0] + " "
    text = " ".join(text.split())
    nouns = {noun: name for name in CATEGORIES for noun in (name.replace("_", " "), *SYNONYMS.get(name, ()))}
    wanted = Wanted()
    # The last noun is the head ("a house plant"); of two that end at the same place, the longer one ("teddy bear", "bear").
    places = [(f" {text} ".rfind(f" {noun} ") + len(noun), len(noun), name) for noun, name in nouns.items()
              if f" {noun} " in f" {text} "]  # fmt: skip
    if places:
        hats = [color for color in re.findall(r" wearing an? (\w+) hat ", told) if color in COLORS]
        category = max(places)[2]
        hat = hats[0] if hats and can_wear(category) else ""
        wanted = replace(wanted, category=category, hat=hat, box=" on a wooden box " in told)
    for word in text.split():
        if word in COLORS:
            wanted = replace(wanted, color=word)
        elif word in ATTRIBUTES:
            wanted = replace(wanted, attribute=word)
    return wanted
