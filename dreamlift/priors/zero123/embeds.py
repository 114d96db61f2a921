"""From an encoded reference picture to the conditioning of each target camera.

    latent models:  token = W [CLIP embedding, T] + b,   T = [elev_ref - elev_tgt, sin daz, cos daz, T_3]
    T_3 = r_tgt - r_ref (Zero-1-to-3), or the reference's angle from the zenith, pi/2 - elev_ref (Stable-Zero123)
    pixel model:    states = W [token, ray] + b, ray of dreamlift.priors.zero123.rays; the pose is also an input of the network
                    (dreamlift.priors.network.pose_features)

daz is the target's azimuth minus the reference's, in dreamlift's sense, which is Zero-1-to-3's. The unguided prediction has
zeros in place of the token, after the pose layer, and of the reference's latents, as all inference codes have it (training
drops the CLIP embedding before the layer). Sources: ``ldm/models/diffusion/ddpm.py`` and ``gradio_new.py`` of
https://github.com/cvlab-columbia/zero123; threestudio's ``stable_zero123_guidance.py``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import spherical_to_cartesian
from dreamlift.priors.network import pose_features
from dreamlift.priors.zero123.encoding import PACKING
from dreamlift.priors.zero123.lift import Volume, coarse_picture, shown
from dreamlift.priors.zero123.rays import ray_features
from dreamlift.prompts import Backdrop, Embeds
from dreamlift.types import Cameras, Conditioning

# sRGB of what references lie over: white for all published models, one of these for toybox-view
BACKDROPS = ((1.0, 1.0, 1.0), (0.70, 0.75, 0.80), (0.12, 0.14, 0.20))
RADIUS = 1.85  # mean of the training cameras' distances, U(1.5, 2.2); the object's longest side is 1
MOST_CLOSER = 0.7  # largest |r_tgt - r_ref| in training


class View(NamedTuple):
    """The numbers of B cameras that a pose is made of."""

    azimuth: Tensor  # (B,) radians
    elevation: Tensor  # (B,) radians
    height: Tensor  # (B,) half of what the picture shows at the origin, world units

    @classmethod
    def of(cls, cameras: Cameras) -> View:
        half = 0.5 * cameras.height / cameras.K[:, 1, 1].to(cameras.distance)
        return cls(cameras.azimuth, cameras.elevation, cameras.distance * half)

    def rows(self, index: Tensor) -> View:
        return View(*(values[index] for values in self))

    def to(self, device: torch.device) -> View:
        return View(*(values.to(device) for values in self))


def relative_pose(reference: View, target: View, stable: bool) -> Tensor:
    """T ``(B, 4)``; with ``stable`` as Stable-Zero123 expects it.

    Distances are told by how large things appear: a target that shows ``k`` times the height of the reference at the origin
    is ``(k - 1) r_ref`` farther away, with one field of view for all as in training; 0 where all cameras have one distance.
    """
    turn = target.azimuth - reference.azimuth
    farther = ((target.height / reference.height - 1.0) * RADIUS).clamp(-MOST_CLOSER, MOST_CLOSER)
    last = 0.5 * math.pi - reference.elevation if stable else farther
    return torch.stack([reference.elevation - target.elevation, turn.sin(), turn.cos(), last], dim=-1)


@dataclass(frozen=True)
class ViewEmbeds(Embeds):
    """N encoded reference pictures, over each of K backdrops."""

    colors: tuple[tuple[float, float, float], ...]  # K, the first is the usual one
    photos: View  # (N,) the pictures' cameras
    tokens: Tensor  # (K, N, L, E)
    latents: Tensor  # (K, N, C, h, w)
    weight: Tensor  # (D, E + P) of the pose layer
    bias: Tensor  # (D,)

    def at(self, cameras: Cameras, backdrops: Sequence[Backdrop] = (), show: str = "color") -> Conditioning:
        """See :meth:`Embeds.at`. Of several pictures, each camera has the nearest one; places, whose frame is a picture's,
        have the first. Places lie on black, while the picture lies over the usual backdrop."""
        target = View.of(cameras).to(self.tokens.device)
        told = [each.color for each in backdrops] if backdrops and show != "place" else [self.colors[0]] * len(cameras)
        row = torch.tensor([self.colors.index(color) for color in told], device=self.tokens.device)
        photo = torch.zeros_like(row) if show == "place" else self.nearest(target)
        states, pose = self.told(self.tokens[row, photo], self.photos.rows(photo), target, show)
        beside, coarse = self.beside(row, photo, cameras, pose)
        return Conditioning(
            states, torch.zeros_like(states), cameras=cameras, image_latents=beside, coarse=coarse, pose=pose,
            frame_azimuth=float(self.photos.azimuth[0]),
        )  # fmt: skip

    def nearest(self, target: View) -> Tensor:
        """Index ``(B,)`` of the picture whose direction from the origin is nearest to each of B targets."""
        here, there = (
            spherical_to_cartesian(each.azimuth, each.elevation, torch.ones_like(each.azimuth))
            for each in (self.photos, target)
        )
        return (there @ here.T).argmax(dim=1)

    def beside(self, row: Tensor, photo: Tensor, cameras: Cameras, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is concatenated to the noisy pictures ``(B, C, h, w)``, and coarse pictures or None.

        ``row`` and ``photo (B,)`` are indices of latents; ``pose (B, P)`` is that of :meth:`told`.
        """
        return self.latents[row, photo], None

    @abstractmethod
    def told(self, tokens: Tensor, reference: View, target: View, show: str) -> tuple[Tensor, Tensor]:
        """The states ``(B, L, D)`` and the pose ``(B, P)`` of B targets, from the tokens ``(B, L, E)`` of their references."""


@dataclass(frozen=True)
class LatentViewEmbeds(ViewEmbeds):
    """Of the latent models."""

    stable: bool  # Stable-Zero123's fourth number

    def told(self, tokens: Tensor, reference: View, target: View, show: str) -> tuple[Tensor, Tensor]:
        pose = relative_pose(reference, target, self.stable).to(tokens)
        return functional.linear(torch.cat([tokens, pose[:, None]], dim=-1), self.weight, self.bias), pose


@dataclass(frozen=True)
class PixelViewEmbeds(ViewEmbeds):
    """Of the pixel model."""

    volumes: Volume  # of the N pictures

    def beside(self, row: Tensor, photo: Tensor, cameras: Cameras, pose: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ViewEmbeds.beside`. The lifts of the pictures follow, seen by the cameras: the coarse pictures."""
        volumes = Volume(*(each[photo] for each in self.volumes))
        backdrops = torch.tensor(self.colors).to(self.latents)[row]
        lifted = shown(volumes, cameras.to(self.latents.device), self.photos.azimuth[photo], backdrops, self.latents.shape[-1])
        coarse = coarse_picture(lifted, pose[:, -1], PACKING)
        return torch.cat([self.latents[row, photo], lifted.to(self.latents)], dim=1), coarse

    def told(self, tokens: Tensor, reference: View, target: View, show: str) -> tuple[Tensor, Tensor]:
        ones = torch.ones_like(target.azimuth)
        place = ones if show == "place" else torch.zeros_like(ones)
        turn = target.azimuth - reference.azimuth
        rays = ray_features(turn, reference.elevation, target.elevation, math.isqrt(tokens.shape[1])).to(tokens)
        states = functional.linear(torch.cat([tokens, rays], dim=-1), self.weight, self.bias)
        return states, pose_features(turn, reference.elevation, target.elevation, ones, place).to(tokens)
