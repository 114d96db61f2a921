"""The camera of a photo, found by comparing candidate cameras with a text prior that is told the camera.

    camera = argmin over c of the mean over t, eps of |x0_hat(alpha x + sigma eps; prompt, c) - x|^2

with the same noise for all candidates; each error is relative to its mean over the candidates, so that all noise levels
count alike. Diffusion Classifier (Li et al. 2023, https://arxiv.org/abs/2303.16203) chooses classes in this way, ID-Pose
(Cheng et al. 2023, https://arxiv.org/abs/2306.17140) relative poses. It needs a prior that is told absolute cameras, such as
``toybox``, and a prompt that names the kind of object: without one the errors say nothing of the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras
from dreamlift.priors.base import Prior
from dreamlift.prompts import Embeds

TIMES = (0.6, 0.75, 0.9)  # noise levels at which the side and the height of the camera change the prediction
SECTORS = 24  # azimuths of the first search
ELEVATIONS = tuple(range(-10, 61, 10))  # degrees; those of toybox's training pictures
FIRST_ELEVATION = 20.0  # degrees, of the first search
KEPT = 2  # azimuths that are tried at all elevations
DRAWS = 2  # of noise, at each noise level, after the first search
NEAR_DEG = 30.0  # azimuths that count as the same side
RESAMPLED = 200
SURE = 0.75  # least share of the resampled draws that agree on the side
EDGE_DEG = 1.0  # from the lowest and the highest elevation that are tried
STEADY_DEG = 8.0  # largest standard error of an elevation that is used


@dataclass(frozen=True)
class Estimate:
    """A photo's camera, and how far the draws of noise agree on it. Angles are degrees."""

    azimuth: float  # in [-180, 180); 0 is the front, grows toward +x
    elevation: float
    azimuth_error: float  # standard error over the draws of noise, without other sides
    elevation_error: float  # standard error over the draws of noise
    second_azimuth: float  # the best azimuth on another side
    agreement: float  # share of the resampled draws whose best azimuth lies within 30 degrees of ``azimuth``

    @property
    def sided(self) -> bool:
        """Whether the side can be relied upon."""
        return self.agreement >= SURE

    @property
    def steady(self) -> bool:
        """Whether the elevation can be relied upon. One at an end of the range is where a search that finds nothing ends."""
        inside = ELEVATIONS[0] + EDGE_DEG < self.elevation < ELEVATIONS[-1] - EDGE_DEG
        return inside and self.elevation_error <= STEADY_DEG


def estimate_camera(
    prior: Prior, embeds: Embeds, picture: Tensor, guesses: Sequence[float] = (), seed: int = 0
) -> Estimate:  # fmt: skip
    """The camera from which ``picture (S, S, 3)``, in [0, 1] over the prior's backdrop and at its scale, was taken.

    About 290 predictions of the network. Only elevations that the prior was trained with are tried: -10 to 60 degrees.

    Args:
        guesses: azimuths in degrees that are tried beside the best ones of a search at one elevation.
    """
    noise = torch.Generator().manual_seed(seed)
    search = _Search(prior, embeds, prior.encode(picture[None].to(prior.device)), noise)
    around = torch.arange(SECTORS) * (360.0 / SECTORS) - 180.0
    first = search.errors(around, torch.full_like(around, FIRST_ELEVATION), 1).mean(0)
    kept = torch.cat([around[lowest(first, KEPT)], torch.tensor(list(guesses))])

    heights = torch.tensor(ELEVATIONS, dtype=torch.float32)
    sides, levels = torch.meshgrid(kept, heights, indexing="ij")
    joint = search.errors(sides.flatten(), levels.flatten(), DRAWS).unflatten(1, sides.shape)
    side = int(joint.mean(0).amin(1).argmin())
    profile = joint[:, side]
    elevation, elevation_error = _vertex_and_error(profile, heights, noise)

    steps = kept[side] + torch.tensor([-15.0, 0.0, 15.0])
    turns = search.errors(steps, torch.full_like(steps, elevation), DRAWS)
    azimuth, azimuth_error = _vertex_and_error(turns, steps, noise)
    winners = kept[resampled(joint, noise).amin(2).argmin(1)]
    away = difference_deg(kept, kept[side]) > NEAR_DEG
    rival = torch.where(away, joint.mean(0).amin(1), torch.inf)
    return Estimate(
        wrapped_deg(azimuth), elevation, azimuth_error, elevation_error,
        float(kept[rival.argmin()]) if bool(away.any()) else wrapped_deg(azimuth + 180.0),
        float((difference_deg(winners, kept[side]) <= NEAR_DEG).float().mean()),
    )  # fmt: skip


@dataclass(frozen=True)
class _Search:
    """Errors of the prior's predictions for one picture, told different cameras."""

    prior: Prior
    embeds: Embeds
    x: Tensor  # (1, C, h, w) the encoded picture
    noise: torch.Generator

    @torch.no_grad()
    def errors(self, azimuth: Tensor, elevation: Tensor, draws: int) -> Tensor:
        """Relative errors ``(N, K)`` of K cameras, in degrees ``(K,)``, for N = draws x noise levels."""
        count, rows = len(azimuth), []
        ones = torch.ones(count)
        cameras = orbit_cameras(torch.deg2rad(azimuth), torch.deg2rad(elevation), ones, ones, self.prior.resolution)
        cond = self.embeds.at(cameras.to(self.prior.device))
        for time in TIMES * draws:
            t = torch.full((count,), time, device=self.x.device)
            alpha, sigma = self.prior.schedule(t)
            eps = torch.randn(self.x.shape, generator=self.noise).to(self.x)
            found = self.prior.predict_noise(alpha * self.x + sigma * eps, t, cond, 1.0)
            # x0_hat - x = (eps - eps_hat) sigma / alpha: the factor is the same for all cameras.
            error = (found - eps).square().mean(dim=(1, 2, 3)).cpu()
            rows.append(error / error.mean())
        return torch.stack(rows)


def lowest(values: Tensor, count: int) -> Tensor:
    """Indices ``(count,)`` of the lowest local minima of ``values (K,)`` on a circle, or of others if there are fewer."""
    minimum = (values <= values.roll(1)) & (values <= values.roll(-1))
    return torch.where(minimum, values, values + values.max() - values.min() + 1.0).argsort()[:count]


def vertex(errors: Tensor, at: Tensor) -> Tensor:
    """Positions ``(B,)`` of the minima of ``errors (B, K)`` at evenly spaced ``at (K,)``, by a parabola through three values.

    A minimum at an end of the range stays there.
    """
    best = errors.argmin(1).clamp(1, len(at) - 2)
    low, middle, high = (errors.gather(1, (best + k)[:, None])[:, 0] for k in (-1, 0, 1))
    bend = low - 2.0 * middle + high
    shift = torch.where(bend > 0, 0.5 * (low - high) / bend.clamp_min(1e-12), torch.sign(low - high))
    return at[best] + shift.clamp(-1.0, 1.0) * (at[1] - at[0])


def resampled(errors: Tensor, noise: torch.Generator) -> Tensor:
    """Means ``(RESAMPLED, ...)`` of ``errors (N, ...)`` over draws with replacement (the bootstrap; Efron 1979)."""
    count = len(errors)
    rows = torch.randint(count, (RESAMPLED, count), generator=noise)
    return errors[rows].mean(1)


def _vertex_and_error(errors: Tensor, at: Tensor, noise: torch.Generator) -> tuple[float, float]:
    """The minimum of the mean of ``errors (N, K)`` at ``at (K,)``, and its standard error over the draws."""
    return float(vertex(errors.mean(0)[None], at)), float(vertex(resampled(errors, noise), at).std())


def wrapped_deg(angle: float) -> float:
    """Degrees in [-180, 180)."""
    return (angle + 180.0) % 360.0 - 180.0


def difference_deg(a: Tensor, b: Tensor) -> Tensor:
    """Absolute differences of angles in degrees, 0 to 180."""
    return ((a - b + 180.0) % 360.0 - 180.0).abs()
