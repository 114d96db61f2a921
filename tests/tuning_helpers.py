"""What the tests of fine-tuning share: photos of a made-up thing, small priors, and a tuner without photos."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from big_helpers import CPU
from PIL import Image

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find
from dreamlift.tuning.examples import Examples
from dreamlift.tuning.settings import Tuning, filled
from dreamlift.tuning.tuner import Tuner, make_tuner

PROMPT, KIND = "a zwx mug", "a mug"


def save_photos(folder, count=3):
    """Pictures of a coloured box on a plain background; returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(count):
        picture = np.full((64, 64, 3), 210, np.uint8)
        picture[14:50, 18:46] = rng.integers(0, 180, 3)
        picture[20 : 30 + index, 24:30] = rng.integers(0, 180, 3)
        paths.append(folder / f"p{index}.png")
        Image.fromarray(picture).save(paths[-1])
    return [str(path) for path in paths]


def words(paths, out, prior, *more):
    """A command of the verb that needs no estimate of a camera."""
    return ["dreambooth", *paths, "--class", "mug", "--out", str(out), "--prior", str(prior), "--steps", "2", "--class-count",
            "4", "--azimuth", "0,45,90", "--elevation", "10", "--samples", "0", *map(str, more)]  # fmt: skip


def settings_of(family="latent", known_word=True, **more):
    return filled(Tuning(**{"steps": 3, "batch": 2, **more}), family, known_word)


def tuner_of(folder, settings, word="zwx", cameras=False, **choice):
    """A tuner on random latents of the prior in ``folder``; with ``cameras`` the first two of each kind have one."""
    located = find(PriorChoice(str(folder), **choice))
    unet = located.parts.config("unet")
    channels, side = unet["in_channels"], unet["sample_size"]
    rng = torch.Generator().manual_seed(5)

    def some(prompt, count):
        camera = torch.randn(count, 8, generator=rng) if cameras else None
        if camera is not None:
            camera[2:] = 0.0
        return Examples(torch.randn(count, channels, side, side, generator=rng), ((prompt,),) * count, camera)

    return make_tuner(located.parts, located.choice, some(PROMPT, 3), some(KIND, 5), word, settings, CPU, 16)


def moved(tuner, size=0.3):
    """The tuner after large random changes of all that it trains, so that differences show."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in tuner.parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=rng) * max(float(parameter.std()), 0.05)
    return tuner


@torch.no_grad()
def output_of(tuner, prompts, cameras=None):
    """The tuned network's prediction of two fixed pictures, and their inputs."""
    base = tuner.network.base
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, base.channels, base.sample_size, base.sample_size, generator=rng)
    at = torch.tensor([100, 700])
    return tuner.network(x, at, cameras, tuner.text(prompts)), x, at


@contextmanager
def interrupted(monkeypatch, index):
    """Ctrl-C in the step ``index`` of a tuning."""
    plain = Tuner.step

    def stopped(self):
        if self.index == index:
            raise KeyboardInterrupt
        return plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "step", stopped)
        yield
