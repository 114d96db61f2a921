"""How well does ``toybox-geometry`` draw places and normals?

    python benchmarks/geometry.py [--count 32] [--prior toybox-geometry] [--sheet docs/pictures/geometry.png]

Things that no training has shown (other seeds, held-out combinations as well), each from one camera, 20 degrees below to 85
above. The prior is told the words and the camera and samples once (20 DDIM steps; guidance 2 away from
the map's word alone, or 1 where guidance was distilled into the weights).
Words do not determine a thing's proportions: so a second true thing with the same words is measured in the same way.

Printed for both: IoU of the masks; mean distance of the places (the things have a radius of 0.85) and median angle of the
normals in the pixels that both show. The sheet has four pictures a thing: true places, the prior's, true normals, the prior's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from dreamlift.priors.files.nouns import guided_of
from dreamlift.priors.loading.sources import locate
from dreamlift.priors.network import camera_features
from dreamlift.prompts import compass_words
from dreamlift.toybox.training.geometry import make_views, map_pictures
from dreamlift.toybox.training.network import MAP_WORDS, Networks, load_folder
from dreamlift.toybox.training.prior import sample_grid, save_grid
from dreamlift.toybox.world.things import describe
from dreamlift.types import Cameras

FIRST = 10**7  # seeds of things that are in no training set


def true_maps(seed: int, cameras: Cameras, other: bool = False) -> tuple[Tensor, str]:
    """Places and normals ``(2, S, S, 3)`` of the thing of ``seed`` (or of one more with its words), and the words."""
    told = describe(np.random.default_rng(seed), False)
    own = 2 * seed + other
    maps, _ = map_pictures(told.thing(own), cameras)
    return maps[0], told.caption()


def drawn_maps(networks: Networks, words: list[str], cameras: list[Cameras], scale: float) -> Tensor:
    """The prior's places and normals ``(N, 2, S, S, 3)``, with guidance of ``scale``."""
    azimuth, elevation = (torch.cat([getattr(each, name) for each in cameras]) for name in ("azimuth", "elevation"))
    views = [compass_words(float(a), float(e)) for a, e in zip(azimuth, elevation, strict=True)]
    told = camera_features(azimuth, elevation)
    drawn = []
    for word in MAP_WORDS.values():
        prompts = [f"{said}, {word}, {view}" for said, view in zip(words, views, strict=True)]
        drawn.append(sample_grid(networks, prompts, 0, scale, told, [word] * len(prompts)))
    return torch.stack(drawn, dim=1)


def figures(found: Tensor, true: Tensor) -> dict[str, float]:
    """Mask IoU, mean distance of the places, median angle of the normals, of maps ``(2, S, S, 3)`` against the true ones."""
    masks = [(each[0].amax(-1) > 0.15) for each in (found, true)]
    both = masks[0] & masks[1]
    places = [2 * each[0][both] - 1 for each in (found, true)]
    normals = [torch.nn.functional.normalize(2 * each[1][both] - 1, dim=-1) for each in (found, true)]
    angles = (normals[0] * normals[1]).sum(-1).clamp(-1, 1).acos().rad2deg()
    return {
        "IoU": float(both.sum() / (masks[0] | masks[1]).sum()),
        "places": float((places[0] - places[1]).norm(dim=-1).mean()),
        "normals": float(angles.median()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32, help="things")
    parser.add_argument("--prior", default="toybox-geometry", help="a name or a folder")
    parser.add_argument("--sheet", type=Path, help="also write a PNG of the first 16")
    arguments = parser.parse_args()
    seeds = range(FIRST, FIRST + arguments.count)
    cameras = [make_views(np.random.default_rng([seed, 1]), 1, 64) for seed in seeds]
    with torch.inference_mode():
        true = [true_maps(seed, each) for seed, each in zip(seeds, cameras, strict=True)]
        again = [true_maps(seed, each, True)[0] for seed, each in zip(seeds, cameras, strict=True)]
        folder = locate(arguments.prior)
        scale = 2.0 if guided_of(folder) == 1.0 else 1.0
        drawn = drawn_maps(load_folder(folder), [words for _, words in true], cameras, scale)
    for name, maps in (("the prior", list(drawn)), ("another true thing", again)):
        rows = [figures(found, wanted) for found, (wanted, _) in zip(maps, true, strict=True)]
        iou, places, angle = (each(row[key] for row in rows) for key, each in
                              (("IoU", fmean), ("places", fmean), ("normals", median)))  # fmt: skip
        print(f"{name}: mask IoU {iou:.2f}, places off by {places:.3f}, normals by {angle:.0f} degrees (median)")
    if arguments.sheet:
        pairs = [
            picture
            for i in range(min(16, len(drawn)))
            for number in (0, 1)
            for picture in (true[i][0][number], drawn[i, number])
        ]
        save_grid(arguments.sheet, torch.stack(pairs), columns=16, scale=1)


if __name__ == "__main__":
    main()
