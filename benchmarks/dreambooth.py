"""What does a prior draw of a subject that it was tuned on, from other sides and in other contexts?

    python benchmarks/dreambooth.py                               # the duck, the verb's default steps
    python benchmarks/dreambooth.py --kind robot --steps 40

The subjects and their photos are those of dreambooth3d.py. Each way of tuning draws the subject, the subject on a wooden box,
and the subject with a blue hat, from eight sides 15 degrees above (guidance scale 3, 20 sampling steps). Each picture is
compared with the truth in that context:

    PSNR      of the pictures, 64 pixels
    cosine    of the judge's embeddings
    azimuth   error in degrees, by the judge, median
    kind      share of the sides on which the judge sees the right kind
    drift     share of eight pictures of "a red KIND" in which the judge sees this kind and colour

The row "untuned" is told the subject's main colour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from dreambooth3d import CONTEXTS, SUBJECTS, Subject, drift, pictures, save_photo, seen, sides_of, subject_of
from torch import Tensor

import dreamlift
from dreamlift.export.video import contact_sheet
from dreamlift.priors.choice import PriorChoice
from dreamlift.system.startup import tune_process
from dreamlift.tuning.photos import TOY_BACKDROPS

WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, one size": {"sizes": False},
    "LoRA, text encoder": {"text_encoder": True},
    "all weights": {"all_weights": True},
    "all weights, text encoder": {"all_weights": True, "text_encoder": True},
    "all weights, text encoder, one size": {"all_weights": True, "text_encoder": True, "sizes": False},
}


def tuned(subject: Subject, photos: list[Any], way: dict[str, Any], steps: int | None, folder: Path) -> PriorChoice:
    """The prior of a way of tuning."""
    given = {"steps": steps, **way} if steps else way
    return dreamlift.dreambooth(photos, class_name=subject.kind, word="zwx", out=folder, samples=0, **given).prior


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="duck", choices=[kind for kind, _ in SUBJECTS])
    parser.add_argument("--steps", type=int, help="of each tuning; default: the verb's")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="some of the rows")
    parser.add_argument("--sheet", type=Path, help="PNG: the truths, and below each what every way draws")
    arguments = parser.parse_args()
    tune_process()
    subject = subject_of([kind for kind, _ in SUBJECTS].index(arguments.kind))
    backdrop = TOY_BACKDROPS[0].color
    print("| way | context | PSNR | cosine | azimuth | kind | drift | seconds |" + "\n|" + "---|" * 8)
    with tempfile.TemporaryDirectory() as place:
        photos = [save_photo(subject, number, Path(place)) for number in range(5)]
        sheets: dict[str, list[Tensor]] = {}
        for way in ["untuned", *arguments.ways]:
            begun, word = time.perf_counter(), "zwx" if way != "untuned" else subject.main_color
            folder = Path(place) / way.replace(" ", "-")
            prior = PriorChoice() if way == "untuned" else tuned(subject, photos, WAYS[way], arguments.steps, folder)
            spent, kept = time.perf_counter() - begun, drift(prior, subject.kind)
            for context in ("", *CONTEXTS):
                try:
                    truth = subject.thing(context)
                except ValueError:  # no head for a hat
                    continue
                views, cameras = sides_of(prior, f"a {word} {subject.kind} {context}".strip())
                found = pictures(views, cameras, truth, subject.kind, backdrop)
                sheets.setdefault(context, [seen(truth, cameras, backdrop)]).append(views)
                print(f"| {way} | {context or '-'} | {found['psnr']:.1f} | {found['cosine']:.3f} | {found['azimuth']:.0f} "
                      f"| {found['kind']:.2f} | {kept:.2f} | {spent:.0f} |", flush=True)  # fmt: skip
    if arguments.sheet:
        arguments.sheet.write_bytes(contact_sheet(torch.cat([each for rows in sheets.values() for each in rows]), columns=8))


if __name__ == "__main__":
    main()
