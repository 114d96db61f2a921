"""Measure what ``toybox-view`` knows: ``python -m dreamlift.toybox.training.familiar FOLDER --data data/view-held-out``.

Writes ``familiarity.json`` into the prior's folder: the familiarity (:mod:`dreamlift.priors.zero123.familiarity`) that nearly
all held-out objects reach. Pictures below it get a warning. The share of strangers below it says what the warning is
worth: silhouettes of held-out objects, filled with random textures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dreamlift.priors.base import Prior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.zero123.familiarity import LIMIT, familiarity
from dreamlift.system.files import atomic_write_text
from dreamlift.toybox.training.pairs import Pairs, load_shards, view_cameras
from dreamlift.types import Pictures

WARNED = 0.05  # share of held-out objects whose pictures get a warning


def picture(pairs: Pairs, index: int) -> Pictures:
    """The first reference of one object, with its camera."""
    rgba = torch.from_numpy(pairs.reference[index, :1].astype(np.float32) / 255)
    alpha = rgba[..., 3:]
    rgba = torch.cat([(rgba[..., :3] / alpha.clamp_min(1e-3)).clamp(0, 1) * (alpha > 0), alpha], dim=-1)
    azimuth, elevation = (torch.tensor([float(value)]) for value in pairs.reference_view[index, 0])
    return Pictures(rgba[..., :3], alpha, view_cameras(azimuth, elevation, rgba.shape[1]), reference=rgba)


def stranger(known: Pictures, seed: int) -> Pictures:
    """The silhouette of a picture, filled with a random texture of 4 to 32 spots a side."""
    rng = torch.Generator().manual_seed(seed)
    spots, size = 2 ** int(torch.randint(2, 6, (), generator=rng)), known.rgb.shape[1]
    texture = functional.interpolate(torch.rand(1, 3, spots, spots, generator=rng), (size, size), mode="bicubic")
    rgb = texture.clamp(0, 1).permute(0, 2, 3, 1)
    return Pictures(rgb, known.alpha, known.cameras, reference=torch.cat([rgb, known.alpha], dim=-1))


def calibrate(prior: Prior, pairs: Pairs, count: int) -> dict[str, Any]:
    """The figures of ``count`` objects and as many strangers: quantiles of 5, 50 and 95 %, dB."""
    known = [picture(pairs, index) for index in range(min(count, len(pairs)))]
    own = np.array([familiarity(prior, each) for each in known])
    others = np.array([familiarity(prior, stranger(each, seed)) for seed, each in enumerate(known)])
    least = round(float(np.quantile(own, WARNED)), 2)
    return {
        "least_db": least,
        "held_out_db": [round(float(value), 2) for value in np.quantile(own, (0.05, 0.5, 0.95))],
        "strangers_db": [round(float(value), 2) for value in np.quantile(others, (0.05, 0.5, 0.95))],
        "strangers_below": round(float((others < least).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what toybox-view knows, for the warning about other pictures.")
    parser.add_argument("folder", type=Path, help="the prior's folder, into which familiarity.json is written")
    parser.add_argument("--data", type=Path, default=Path("data/view-held-out"), help="folder of held-out pairs")
    parser.add_argument("--count", type=int, default=100, help="objects")
    arguments = parser.parse_args()
    prior = load_prior(arguments.folder, engine="auto")
    found = calibrate(prior, load_shards(arguments.data, prior.resolution), arguments.count)
    atomic_write_text(arguments.folder / LIMIT, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
