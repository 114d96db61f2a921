"""Is the embedded prior sound? Pictures sampled from it by a stock scheduler go before the judge.

    python benchmarks/prior.py [--colors 3] [--out docs/pictures/prior.png]

Each kind that the prior knows is asked for in some colours and from eight sides, the side said in three ways: not at all, in
words, and in words with the camera. The judge names category, colour and azimuth (of asymmetric kinds: the median error).
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from dreamlift.priors.loading.sources import locate  # noqa: E402
from dreamlift.priors.network import camera_features  # noqa: E402
from dreamlift.prompts import DIRECTIONS, article  # noqa: E402
from dreamlift.toybox.judging.judge import azimuth_error_deg, load_judge  # noqa: E402
from dreamlift.toybox.training.network import kinds_known, load_folder  # noqa: E402
from dreamlift.toybox.training.prior import sample_grid, save_grid  # noqa: E402
from dreamlift.toybox.world.things import COLORS, held_out  # noqa: E402
from dreamlift.toybox.world.truth import is_asymmetric  # noqa: E402

ELEVATION = math.radians(20.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--colors", type=int, default=2, help="colours of each kind")
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="a PNG of the pictures that were told words and camera")
    arguments = parser.parse_args()
    networks, (judge, accuracy) = load_folder(locate(arguments.prior)), load_judge()
    kinds, colors = kinds_known(networks.tokenizer), list(COLORS)
    rows = [(kind, colors[(5 * i + j) % len(colors)], side) for i, kind in enumerate(kinds) for j in range(arguments.colors)
            for side in range(8)]  # fmt: skip
    azimuth = torch.tensor([side * math.pi / 4 for _, _, side in rows])
    camera = camera_features(azimuth, torch.full_like(azimuth, ELEVATION))
    sided = torch.tensor([is_asymmetric(kind) for kind, _, _ in rows])
    unseen = torch.tensor([held_out(kind, color) for kind, color, _ in rows])
    names, tints = [judge.categories.index(kind) for kind, _, _ in rows], [colors.index(color) for _, color, _ in rows]
    print(f"{len(rows)} pictures, {len(kinds)} kinds, CFG {arguments.guidance_scale:g}; the judge itself: {accuracy}")
    print(f"{'the view is said':18s} category (held out) color  azimuth error, median deg")
    for label, in_words, told in (("not at all", False, None), ("in words", True, None), ("words and camera", True, camera)):
        prompts = [f"{article(color)} {color} {kind.replace('_', ' ')}" + (f", {DIRECTIONS[side]}" if in_words else "")
                   for kind, color, side in rows]  # fmt: skip
        pictures = torch.cat([
            sample_grid(networks, prompts[i : i + 32], seed=i, guidance_scale=arguments.guidance_scale,
                        camera=None if told is None else told[i : i + 32])
            for i in range(0, len(rows), 32)
        ])  # fmt: skip
        verdict = judge.judge(pictures)
        right = verdict.category.argmax(dim=1) == torch.tensor(names)
        tinted = verdict.color.argmax(dim=1) == torch.tensor(tints)
        error = azimuth_error_deg(verdict.azimuth, azimuth)[sided]
        fresh = f"{float(right[unseen].float().mean()):.3f}" if unseen.any() else "-"
        print(f"{label:18s} {float(right.float().mean()):8.3f} {fresh:>10s} {float(tinted.float().mean()):6.3f}"
              f" {float(error.median()):8.1f}", flush=True)  # fmt: skip
    by_kind = right.view(len(kinds), -1).float().mean(dim=1).tolist()
    print("by kind: " + ", ".join(f"{kind} {share:.2f}" for kind, share in zip(kinds, by_kind, strict=True)))
    if arguments.out is not None:
        save_grid(arguments.out, pictures, columns=16, scale=1)


if __name__ == "__main__":
    main()
