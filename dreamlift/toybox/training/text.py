"""Train only a prior's text encoder to assign colours to the thing and its hat: ``python -m dreamlift.toybox.training.text``.

For a prior whose text encoder has not learnt the order of words (:mod:`dreamlift.toybox.training.reader`). Half of the captions
name a hat. The states of captions without one are kept close to their old values, so that the U-Net stays valid for them. A
further training from the new folder (``python -m dreamlift.toybox.training.prior --init``) adapts the U-Net to the others.
"""

from __future__ import annotations

import argparse
import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.dataset import Pictures, draw_backdrops, load_shards
from dreamlift.toybox.training.network import PACKING, Networks, load_folder, save_folder
from dreamlift.toybox.training.prior import PLAIN_SHARE, make_optimizers
from dreamlift.toybox.training.reader import Reader
from dreamlift.toybox.training.steps.learning import fit
from dreamlift.toybox.world.things import COLORS


@dataclass(frozen=True)
class TextTraining:
    """Settings of the text encoder's training: three minutes on two CPU cores."""

    steps: int = 900
    batch: int = 96  # captions per step
    lr: float = 2e-3
    warmup: int = 30
    keep: float = 10.0  # weight of the change of the states of captions without a hat, relative to their variance
    seed: int = 0


class Captions(NamedTuple):
    """The data of one training step."""

    captions: list[str]
    told: Tensor  # (B, 2), as in dreamlift.toybox.training.prior.Batch

    def share(self, index: int, count: int) -> Captions:
        """The ``index``-th of ``count`` equal parts."""
        own = slice(index, None, count)
        return Captions(self.captions[own], self.told[own])


def draw_captions(pictures: Pictures, settings: TextTraining, step: int) -> Captions:
    """The captions of one step, half of them of things with a hat, determined by the seed and the step."""
    rng = np.random.default_rng([settings.seed, step])
    wearers, half = np.flatnonzero(pictures.hat >= 0), settings.batch // 2
    rows = np.concatenate([rng.choice(wearers, half), rng.integers(0, len(pictures), settings.batch - half)])
    backdrops = draw_backdrops(rng, len(rows), PLAIN_SHARE)
    captions = [pictures.caption(int(i), rng, backdrop=each) for i, each in zip(rows, backdrops, strict=True)]
    return Captions(captions, pictures.told(rows, captions))


def text_loss(networks: Networks, before: torch.nn.Module, batch: Captions, keep: float) -> Tensor:
    """The loss () of the reader, plus ``keep`` times the change of the states of captions without a hat."""
    assert isinstance(networks.reader, Reader)
    tokens = networks.tokenize(batch.captions)
    longest = int(tokens["attention_mask"].sum(dim=1).max())  # most of the 77 tokens are padding
    tokens = {name: value[:, :longest] for name, value in tokens.items()}
    states = networks.encode_text(tokens)
    with torch.no_grad():
        wanted = before(**tokens)[0]
    bare = (tokens["attention_mask"] * (batch.told[:, 1:] == len(COLORS)))[..., None].to(states)
    change = ((states - wanted).square() * bare).sum() / (bare.sum().clamp_min(1.0) * states.shape[-1] * wanted.var())
    return networks.reader.loss(states, tokens, batch.told) + keep * change


def teach(networks: Networks, pictures: Pictures, settings: TextTraining) -> list[float]:
    """Train the text encoder and the reader of ``networks``; returns the loss of each step."""
    before = copy.deepcopy(networks.text_encoder)
    return fit(networks.parameters(), make_optimizers(networks, settings.lr), settings,
               lambda step: draw_captions(pictures, settings, step),
               lambda batch: text_loss(networks, before, batch, settings.keep), report=50)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train only a prior's text encoder to assign colours.")
    parser.add_argument("--init", type=Path, required=True, help="diffusers folder of the prior to begin with")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-text"), help="diffusers folder to write")
    parser.add_argument("--data", type=Path, default=Path("data/toybox"), help="folder of the rendered pictures")
    for name, default in vars(TextTraining()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    tune_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    init, out, data = (arguments.pop(key) for key in ("init", "out", "data"))
    settings, networks = TextTraining(**arguments), load_folder(init)
    torch.manual_seed(settings.seed)
    taught = replace(networks, reader=Reader(networks.text_encoder.config.d_model))
    teach(taught, load_shards(data, PACKING * networks.unet.config.sample_size), settings)
    save_folder(taught, out)


if __name__ == "__main__":
    main()
