"""Backgrounds: one colour, a random colour per view, or a learned environment of the ray direction.

Random colours prevent a field from hiding fog or holes against a known background (Dream Fields, Jain et al. 2022, section
3.3). The learned background is DreamFusion's small MLP on the encoded ray direction (Poole et al. 2022, section 3.2); random
colours replace it in a share of the training views (threestudio's ``random_aug``).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dreamlift.scenes.base import ParamGroup

ColorActivation = Literal["sigmoid", "linear"]


def activate_color(raw: Tensor, kind: ColorActivation) -> Tensor:
    """Colours from raw values of any shape; "linear" is threestudio's ``scale_-11_01``."""
    return raw.sigmoid() if kind == "sigmoid" else 0.5 * raw + 0.5


@dataclass(frozen=True)
class Solid:
    """A constant background colour."""

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # sRGB in [0, 1]

    def build(self, rng: torch.Generator) -> Background:
        return Background(self.color, 0.0, None)


@dataclass(frozen=True)
class Random:
    """A random colour per training view; ``color`` in ``eval()`` mode."""

    probability: float = 1.0  # share of the training views with a random colour; the others show `color`
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # sRGB in [0, 1]; the colour of all views outside training

    def build(self, rng: torch.Generator) -> Background:
        return Background(self.color, self.probability, None)


@dataclass(frozen=True)
class Learned:
    """A small MLP on the frequency-encoded ray direction."""

    hidden: int = 16  # width of the MLP's two hidden layers (threestudio: 2 x 16)
    frequencies: int = 2  # octaves of the direction encoding; few, so that the background cannot depict the object
    random_probability: float = 0.5  # share of the training views whose background is a random colour instead
    shared: bool = False  # one random draw for all views of a step, so that they share a background (MVDream)
    color_activation: ColorActivation = "sigmoid"  # colors from raw values: sigmoid, or linear (x / 2 + 1 / 2, not limited)
    lr: float = 1e-3  # learning rate of the MLP (Adam)

    def build(self, rng: torch.Generator) -> Background:
        sizes = [3 + 6 * self.frequencies, self.hidden, self.hidden, 3]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            # Drawn from rng: nn.Linear's own initialisation would use torch's global generator.
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # pyright: ignore[reportAssignmentType]
            limit = math.sqrt(6.0 / fan_in)
            layer.weight.data = (torch.rand(fan_out, fan_in, generator=rng) * 2 - 1) * limit
            layer.bias.data = torch.zeros(fan_out)
            layers += [layer, nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        return Background((1.0, 1.0, 1.0), self.random_probability, network, self.lr, self.shared, self.color_activation)


BACKGROUNDS = {"solid": Solid, "random": Random, "learned": Learned}


class Background(nn.Module):
    """A colour or an MLP, replaced by random colours in a share of the training views."""

    color: Tensor

    def __init__(
        self, color: tuple[float, float, float], probability: float, network: nn.Sequential | None, lr: float = 0.0,
        shared: bool = False, color_activation: ColorActivation = "sigmoid",
    ) -> None:  # fmt: skip
        super().__init__()
        self.probability, self.network, self.lr, self.shared = probability, network, lr, shared
        self.color_activation: ColorActivation = color_activation
        self.register_buffer("color", torch.tensor(color), persistent=False)

    def forward(self, directions: Tensor, rng: torch.Generator) -> Tensor:
        """Colours ``(B, H, W, 3)`` in [0, 1] for unit ``directions (B, H, W, 3)``; random in training mode only."""
        views = directions.shape[0]
        if self.network is None:
            base = self.color.expand_as(directions)
        else:
            first = self.network[0].weight  # (hidden, 3 + 6 frequencies)
            octaves = (first.shape[1] - 3) // 6  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
            scaled = [directions * math.pi * 2.0**k for k in range(octaves)]
            encoded = torch.cat([directions, *[f(x) for x in scaled for f in (torch.sin, torch.cos)]], dim=-1)
            base = activate_color(self.network(encoded), self.color_activation)
        if not self.training or self.probability <= 0:
            return base
        draw = torch.rand(1 if self.shared else views, 4, generator=rng).to(directions)
        chosen = (draw[:, 3] < self.probability)[:, None, None, None]
        return torch.where(chosen, draw[:, None, None, :3].expand_as(base), base)

    def behind(self, given: Tensor | None, directions: Tensor, rng: torch.Generator) -> Tensor:
        """Background colours that broadcast to ``(B, H, W, 3)``: ``given`` (see :meth:`Scene.render`), else this one's."""
        if given is None:
            return self(directions, rng)
        given = given.to(directions)
        return given[:, None, None] if given.dim() == 2 else given

    def param_groups(self) -> list[ParamGroup]:
        if self.network is None:
            return []
        return [{"name": "background", "params": list(self.network.parameters()), "lr": self.lr}]
