"""What can a learnt word hold? A toy is photographed, its word is learnt, and the thing is drawn from eight sides.

    python benchmarks/words.py                                          # one photo, one vector
    python benchmarks/words.py --photos 5 --init "red duck" --steps 600

Two ducks of the toybox's world: one is of a named color, the other has the colors of its parts permuted, which no words
describe. The photos' cameras are told. Eight views (guidance scale 3, 20 sampling steps) are compared with the truth over the
first of the toybox's backgrounds:

    PSNR      of the pictures
    color     distance of the mean colors inside the true silhouette, sRGB in [0, 1]
    cosine    of the judge's embeddings
    azimuth   error in degrees, by the judge

for the noun, for the noun with its main color, and for the learnt word.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import dreamlift
from dreamlift.cameras import orbit_cameras
from dreamlift.priors.choice import PriorChoice
from dreamlift.reading.photos import Photo
from dreamlift.system.startup import tune_process
from dreamlift.toybox.judging.judge import azimuth_error_deg, load_judge
from dreamlift.toybox.world.parts import Thing
from dreamlift.toybox.world.render import Background, Rendered, render
from dreamlift.toybox.world.things import make_thing
from dreamlift.tuning.class_pictures import DISTANCE, FOV_DEG, ClassPicture, draw, save_picture, split
from dreamlift.tuning.photos import TOY_BACKDROPS

KIND, COLOR, SEED, SIZE = "duck", "purple", 11, 64
ELEVATION_DEG, VIEWS = 15.0, 8


def permuted(thing: Thing) -> Thing:
    """The thing with the color of each part given to the next one of another color."""
    colors = list(dict.fromkeys(part.rgb for part in thing.parts))
    after = dict(zip(colors, [*colors[1:], colors[0]], strict=True))
    return replace(thing, parts=tuple(replace(part, rgb=after[part.rgb]) for part in thing.parts))


def taken(thing: Thing, azimuths_deg: list[float], size: int = SIZE) -> Rendered:
    """Pictures of the thing over the toybox's first background."""
    turns = torch.deg2rad(torch.tensor(azimuths_deg))
    ones = torch.ones_like(turns)
    cameras = orbit_cameras(turns, ones * math.radians(ELEVATION_DEG), ones * DISTANCE, ones * math.radians(FOV_DEG), size)
    color = TOY_BACKDROPS[0].color
    return render(thing, cameras, background=Background(color, color), supersample=4)


def drawn(choice: PriorChoice, prompt: str, azimuths_deg: list[float]) -> Tensor:
    """What a prior draws of ``prompt`` from these sides, ``(V, S, S, 3)``; all from the same noise."""
    prior = dreamlift.load_prior(choice)
    text = dict(zip((prompt, ""), split(prior.embed_text([prompt, ""])), strict=True))
    found = [draw(prior, [ClassPicture("", prompt, turn, ELEVATION_DEG)], text, [torch.Generator().manual_seed(1)], True)
             for turn in azimuths_deg]  # fmt: skip
    return torch.cat(found)


def figures(pictures: Tensor, truth: Rendered, azimuths_deg: list[float]) -> str:
    """The row of a table."""
    judge = load_judge()[0]
    psnr = fmean(-10.0 * math.log10(float(wrong)) for wrong in (pictures - truth.rgb).square().mean((1, 2, 3)))
    inside = truth.opacity / truth.opacity.sum((1, 2), keepdim=True)
    color = ((pictures - truth.rgb) * inside).sum((1, 2)).norm(dim=-1).mean()
    with torch.no_grad():
        verdict, wanted = judge.judge(pictures), judge.judge(truth.rgb)
    cosine = (verdict.embedding * wanted.embedding).sum(1).mean()
    turn = azimuth_error_deg(verdict.azimuth, torch.deg2rad(torch.tensor(azimuths_deg))).mean()
    return f"| {psnr:.1f} | {float(color):.2f} | {float(cosine):.2f} | {float(turn):.0f} |"


def measured(name: str, thing: Thing, arguments: argparse.Namespace) -> None:
    """Print the rows of one thing."""
    sides = [45.0 * number - 180.0 for number in range(VIEWS)]
    truth, count = taken(thing, sides), arguments.photos
    turns = [25.0] if count == 1 else [-60.0 + 120.0 * number / (count - 1) for number in range(count)]
    for prompt in (f"a {KIND}", f"a {COLOR} {KIND}"):
        print(f"| {name} | {prompt} {figures(drawn(PriorChoice(), prompt, sides), truth, sides)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder, shots = Path(place), taken(thing, turns, 256)
        photos = []
        for number, turn in enumerate(turns):
            file = folder / f"{number}.png"
            save_picture(torch.cat([shots.rgb[number], shots.opacity[number]], dim=-1), file)
            photos.append(Photo(str(file), azimuth_deg=turn, elevation_deg=ELEVATION_DEG))
        begin = time.perf_counter()
        settings = {"steps": arguments.steps, "word_lr": arguments.lr, "seed": arguments.seed}
        tuned = dreamlift.invert(photos, init=arguments.init, out=folder / "word", samples=0, **settings)
        seconds = time.perf_counter() - begin
        found = drawn(tuned.prior, tuned.prompt, sides)
    print(f"| {name} | {tuned.prompt} {figures(found, truth, sides)} ({seconds:.0f} s, loss {tuned.loss:.4f})", flush=True)
    if arguments.sheet:
        save_picture(
            torch.cat([torch.cat(list(row), dim=1) for row in (truth.rgb, found)]), Path(f"{arguments.sheet}-{name}.png")
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--init", default=KIND)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", default="", help="begin of the names of pictures: the truth, and what is drawn of the word")
    arguments = parser.parse_args()
    tune_process()
    named = make_thing(KIND, COLOR, SEED)
    print("| thing | prompt | PSNR | color | cosine | azimuth |\n|---|---|---|---|---|---|")
    measured("named", named, arguments)
    measured("permuted", permuted(named), arguments)


if __name__ == "__main__":
    main()
