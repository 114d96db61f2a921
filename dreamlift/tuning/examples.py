"""The pictures that a prior is tuned on, as its network takes them, with their words and cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.prompts import Backdrop, compass_words
from dreamlift.system.streams import random_stream
from dreamlift.types import Cameras


class Place(NamedTuple):
    """Where a picture is shown within another one of the same size."""

    size: float = 1.0  # of the picture's side, at most 1
    down: float = 0.0  # of its middle from that of the other, as a part of the side


WHOLE = (Place(),)
# In other contexts ("on a wooden box") a subject is drawn smaller, and higher. A prior that has seen it at one size forgets
# its colours there.
PLACES = (Place(), Place(0.8, 0.04), Place(0.55, -0.14))


@dataclass(frozen=True)
class Examples:
    """N pictures of one subject, or of its class."""

    latents: Tensor  # (N, C, h, w)
    prompts: tuple[tuple[str, ...], ...]  # N entries: the wordings of a picture, one of which is drawn at each use
    camera: Tensor | None = None  # (N, P), the network's camera input; zeros: not told; None: the network takes none

    def __len__(self) -> int:
        return len(self.latents)

    def every_prompt(self) -> list[str]:
        """All wordings of all pictures, each once."""
        return list(dict.fromkeys(prompt for wordings in self.prompts for prompt in wordings))


def drawn(examples: Examples, stream: str, seed: int, step: int, count: int) -> tuple[list[int], list[str]]:
    """The pictures of a step and their prompts, determined by ``stream``, ``seed`` and ``step``.

    All pictures are used once, in a random order, before one is used again.
    """
    total, rows = len(examples), []
    for place in range(step * count, (step + 1) * count):
        order = torch.randperm(total, generator=random_stream(stream, seed, place // total))
        rows.append(int(order[place % total]))
    rng = random_stream(stream, seed, "prompts", step)
    draws = torch.rand(count, generator=rng).tolist()
    wordings = [examples.prompts[row] for row in rows]
    return rows, [each[int(draw * len(each))] for each, draw in zip(wordings, draws, strict=True)]


def wordings(prompt: str, backdrop: str, camera: tuple[float, float] | None) -> tuple[str, ...]:
    """The prompt with the words of a backdrop, and also with view words where the ``camera`` (radians) is given."""
    said = ", ".join(part for part in (prompt, backdrop) if part)
    return (said,) if camera is None else (said, f"{said}, {compass_words(*camera)}")


@torch.no_grad()
def photo_examples(
    encode: Callable[[Tensor], Tensor], rgb: Tensor, alpha: Tensor | None, prompts: tuple[str, ...],
    backdrops: Sequence[Backdrop], cameras: Cameras | None = None, told: Sequence[bool] = (),
    features: Callable[[Cameras], Tensor] | None = None, view_words: bool = False, at: Sequence[Place] = WHOLE,
) -> Examples:  # fmt: skip
    """Photos over each of the backdrops, or as they are, at each of the places.

    Args:
        encode: pictures ``(B, H, W, 3)`` to latents ``(B, C, h, w)``.
        rgb: ``(N, H, W, 3)`` in [0, 1]. alpha: ``(N, H, W, 1)``; None: the photos are used with their own backgrounds.
        prompts: what any of the photos may be called; one is drawn at each use.
        cameras: of the photos; ``told``: whether each one's is known.
        features: cameras to the network's input ``(N, P)``; None: it takes none.
        view_words: say the side that a photo with a known camera shows.
        at: the photos' places; around a smaller one its border is repeated.
    """
    shown = [(rgb, "")] if alpha is None else [_over(rgb, alpha, backdrop) for backdrop in backdrops]
    shown = [(placed(pictures, place), words) for pictures, words in shown for place in at]
    latents, said, known = [], [], list(told) or [False] * len(rgb)
    for pictures, words in shown:
        latents += [encode(picture[None]).float().cpu() for picture in pictures]
        for index, spoken in enumerate(known):
            side = None
            if view_words and spoken and cameras is not None:
                side = float(cameras.azimuth[index]), float(cameras.elevation[index])
            said.append(tuple(each for prompt in prompts for each in wordings(prompt, words, side)))
    camera = None
    if features is not None and cameras is not None:
        camera = (features(cameras).float().cpu() * torch.tensor(known)[:, None]).repeat(len(shown), 1)
    return Examples(torch.cat(latents), tuple(said), camera)


def placed(pictures: Tensor, place: Place) -> Tensor:
    """Pictures ``(B, S, S, C)`` at a place within ones of the same size, their borders repeated around them."""
    side = pictures.shape[1]
    size = round(side * place.size)
    if size == side:
        return pictures
    channels = pictures.permute(0, 3, 1, 2)
    small = functional.interpolate(channels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    above = min(max(round((side - size) / 2 + side * place.down), 0), side - size)
    left = (side - size) // 2
    padding = (left, side - size - left, above, side - size - above)
    return functional.pad(small, padding, mode="replicate").permute(0, 2, 3, 1)


def _over(rgb: Tensor, alpha: Tensor, backdrop: Backdrop) -> tuple[Tensor, str]:
    return rgb * alpha + (1.0 - alpha) * torch.tensor(backdrop.color, dtype=rgb.dtype), backdrop.words


def joined(*parts: Examples) -> Examples:
    """The pictures of several sets as one, for a tuning on photos and on pictures of other sides."""
    width = next((part.camera.shape[1] for part in parts if part.camera is not None), 0)
    cameras = torch.cat([told(part, list(range(len(part))), width) for part in parts])
    prompts = tuple(prompt for part in parts for prompt in part.prompts)
    return Examples(torch.cat([part.latents for part in parts]), prompts, cameras if width else None)


def told(examples: Examples, rows: list[int], width: int) -> Tensor:
    """The camera input ``(B, width)`` of these pictures; zeros where none is told."""
    return torch.zeros(len(rows), width) if examples.camera is None else examples.camera[rows]
