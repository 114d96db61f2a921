"""How well does ``toybox-view`` draw an object from another side?

    python benchmarks/view.py [--count 32] [--prior toybox-view] [--sheet docs/pictures/view.png]
    python benchmarks/view.py --count 2      # about a minute

Objects that it was not trained on: toys, things of the held-out kinds (which ``toybox``, from whose weights it began, has
seen), and composites. Each is photographed once, and drawn from three other sides, one for each range of the angle between the
two views. Compared at 64 pixels over white, and inside the union of both masks, in the frame of the photo: a photo that is
cropped to its object does not tell how large that is.

    sample    one sample by DDIM at the guidance of inference (none)
    mean      one step from pure noise, without guidance
    copy      the photo itself, not turned, as large as things are in the answers
    text      ``toybox``, told kind, colour and camera, at guidance scale 2; over its own backdrop, as is its truth
    truth     the true picture by the same measures: what they can be at best

The mask of a picture is what differs from the backdrop, with its holes filled. The azimuth is the judge's of the picture
against the one that was asked for, of kinds with a front. "place" is the mean distance between the coordinates that the prior
draws (one step) and the true ones, inside the true mask, in the photo's frame, where an object's radius is 0.9 on average.

Rows are kept in benchmarks/results/view.json, by the weights' revision, and made again only where it has changed.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Iterable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import fmean, median  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from held_out import GROUPS, Held, held_object, photo_camera, photograph  # noqa: E402
from processes import keep  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import Tensor  # noqa: E402

from dreamlift.apps.ssim import ssim  # noqa: E402
from dreamlift.cameras import spherical_to_cartesian  # noqa: E402
from dreamlift.export.psnr import psnr  # noqa: E402
from dreamlift.export.video import contact_sheet  # noqa: E402
from dreamlift.images.camera import lifted_ratio  # noqa: E402
from dreamlift.images.placement import placed  # noqa: E402
from dreamlift.priors.base import Prior  # noqa: E402
from dreamlift.priors.choice import PriorChoice  # noqa: E402
from dreamlift.priors.kinds import Located, find  # noqa: E402
from dreamlift.priors.zero123.sampling import sample_cameras, sampling_times  # noqa: E402
from dreamlift.prompts import Compass, Embeds, NoViews, embed_prompt  # noqa: E402
from dreamlift.system.files import atomic_write_bytes  # noqa: E402
from dreamlift.toybox.judging.judge import Judge, azimuth_error_deg, load_judge  # noqa: E402
from dreamlift.toybox.training.pairs import frames_of, own_cameras, own_positions, places_of, view_cameras  # noqa: E402
from dreamlift.toybox.world.render import Lighting, sample_lighting  # noqa: E402
from dreamlift.toybox.world.truth import is_asymmetric  # noqa: E402
from dreamlift.types import Cameras, Pictures, Task  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "view.json"
BINS = ((0.0, 45.0), (45.0, 90.0), (90.0, 180.0))  # degrees between the two views
METHODS = ("sample", "mean", "copy", "text", "truth")
FIGURES = ("psnr", "inside", "ssim", "iou", "azimuth", "place")
SIZE = 64
TEXT_SCALE = 2.0  # guidance scale of the text prior
PALE = (0.70, 0.75, 0.80)  # the backdrop of the text prior's pictures
DIFFERENT = 0.1  # from the backdrop, in one channel


class Own(NamedTuple):
    """The frame of a photo, in which the view-conditioned prior answers (dreamlift.toybox.training.pairs.reframed)."""

    frame: np.ndarray  # (1, 3)
    view: np.ndarray  # (1, 2) azimuth and elevation

    def camera(self) -> Cameras:
        """The photo's, in its frame."""
        return view_cameras(torch.from_numpy(self.view[:, 0]), torch.from_numpy(self.view[:, 1]), SIZE)

    def seen(self, held: Held, views: Tensor, light: Lighting) -> tuple[Tensor, Tensor]:
        """What ``views (B, 2)`` show in this frame: pictures ``(B, S, S, 4)`` and premultiplied places ``(B, S, S, 3)``."""
        frames, own = self.frame.repeat(len(views), 0), self.view.repeat(len(views), 0)
        cameras = own_cameras(frames, own, views.numpy(), SIZE)
        truth = photograph(held.thing, cameras, light)
        alpha = truth[..., 3:]
        return truth, (own_positions(places_of(held.thing, cameras), alpha, frames, own) + alpha) / 2


class Case(NamedTuple):
    """An object, its photo, and the true pictures from one camera in each bin."""

    held: Held
    photo: Tensor  # (S, S, 4)
    own: Own
    light: Lighting
    views: Tensor  # (3, 2) azimuth and elevation
    truth: Tensor  # (3, S, S, 4), in the photo's own frame
    plain: Tensor  # (3, S, S, 4), in that of the toybox's world, in which the text prior answers
    places: Tensor  # (3, S, S, 3) in the photo's own frame, premultiplied

    @property
    def cameras(self) -> Cameras:
        """Those that the priors are told."""
        return view_cameras(self.views[:, 0], self.views[:, 1], SIZE)


def make_case(held: Held) -> Case:
    """The case of an object; it depends on the object only. Photos are taken from -10 to 60 degrees, as in training."""
    rng = np.random.default_rng([held.seed, 0x11])
    azimuth, elevation = float(rng.uniform(-math.pi, math.pi)), math.radians(rng.uniform(-10.0, 60.0))
    taken = photo_camera(held.thing, azimuth, elevation, float(rng.uniform(20.0, 55.0)), SIZE)
    light = sample_lighting(rng, azimuth)
    asked = torch.tensor([draw_view(rng, azimuth, elevation, *bounds) for bounds in BINS], dtype=torch.float32)
    own = Own(frames_of(taken).numpy(), np.array([[azimuth, elevation]], dtype=np.float32))
    with torch.inference_mode():
        photo, (truth, places) = photograph(held.thing, taken, light)[0], own.seen(held, asked, light)
        plain = photograph(held.thing, view_cameras(asked[:, 0], asked[:, 1], SIZE), light)
    return Case(held, photo, own, light, asked, truth, plain, places)


def draw_view(rng: np.random.Generator, azimuth: float, elevation: float, low: float, high: float) -> tuple[float, float]:
    """Azimuth and elevation of a view between ``low`` and ``high`` degrees from another one, of -20 to 80 degrees."""
    while True:
        found = float(rng.uniform(-math.pi, math.pi)), math.radians(rng.uniform(-20.0, 80.0))
        pair = torch.tensor([found, (azimuth, elevation)])
        a, b = spherical_to_cartesian(pair[:, 0], pair[:, 1], torch.ones(2))
        if low <= math.degrees(math.acos(float((a @ b).clamp(-1, 1)))) < high:
            return found


def over(picture: Tensor, color: tuple[float, float, float]) -> Tensor:
    """``(..., 4)`` over a colour."""
    return picture[..., :3] * picture[..., 3:] + (1 - picture[..., 3:]) * torch.tensor(color)


class Draws(NamedTuple):
    """The priors that are asked."""

    view: Prior
    located: Located
    text: Prior
    judge: Judge
    guidance_scale: float
    steps: int

    def embeds(self, case: Case) -> Embeds:
        photo = case.photo[None]
        pictures = Pictures(photo[..., :3], photo[..., 3:], case.own.camera(), reference=photo)
        return self.located.read(Task("", photos=pictures), NoViews(), (), torch.device("cpu"), self.view.engine)

    def pictures(self, method: str, case: Case) -> Tensor:
        """What a method draws for the case's cameras, ``(3, S, S, 3)``."""
        if method == "sample":
            return sample_cameras(self.view, self.embeds(case), case.cameras, self.guidance_scale, self.steps, case.held.seed)
        if method == "mean":
            return one_step(self.view, self.embeds(case), case.cameras, "color")
        if method == "copy":
            return placed(case.photo, torch.ones(3), lifted_ratio(), (0.0, 0.0)).expand(len(BINS), -1, -1, -1)
        if method == "text":
            embeds = embed_prompt(case.held.caption, "", Compass(), self.text.embed_text)
            return sample_cameras(self.text, embeds, case.cameras, TEXT_SCALE, self.steps, case.held.seed)
        return over(case.truth, (1.0, 1.0, 1.0))


@torch.no_grad()
def one_step(prior: Prior, embeds: Embeds, cameras: Cameras, show: str) -> Tensor:
    """The prior's mean pictures ``(B, S, S, 3)``: x0_hat of pure noise, without guidance."""
    cond = embeds.at(cameras, (), show)
    shape = prior.encode(torch.zeros(1, SIZE, SIZE, 3)).shape[1:]
    noise = torch.randn((len(cameras), *shape), generator=torch.Generator().manual_seed(0))
    t = torch.full((len(cameras),), sampling_times(prior, 1)[0])
    alpha, sigma = prior.schedule(t)
    return prior.decode((noise - sigma * prior.predict_noise(noise, t, cond, 1.0)) / alpha)


def mask_of(picture: Tensor, backdrop: tuple[float, float, float]) -> np.ndarray:
    """What differs from the backdrop in ``picture (S, S, 3)``, with its holes filled."""
    return ndimage.binary_fill_holes(((picture - torch.tensor(backdrop)).abs().amax(-1) > DIFFERENT).numpy())


def rows_of(case: Case, method: str, draws: Draws, key: str) -> Iterator[dict[str, Any]]:
    """The figures of one method, one row per camera."""
    drawn, backdrop = draws.pictures(method, case), PALE if method == "text" else (1.0, 1.0, 1.0)
    truth, kind = case.plain if method == "text" else case.truth, case.held.thing.category
    wanted = over(truth, backdrop)
    sided = case.held.caption != "" and is_asymmetric(kind) and method != "copy"
    errors = azimuth_error_deg(draws.judge.judge(drawn).azimuth, case.cameras.azimuth).tolist() if sided else []
    places = one_step(draws.view, draws.embeds(case), case.cameras, "place") if method == "mean" else None
    for index, bounds in enumerate(BINS):
        true, own = (truth[index, ..., 3] > 0.5).numpy(), mask_of(drawn[index], backdrop)
        union = torch.from_numpy(true | own)
        row = {
            "key": key, "method": method, "group": case.held.group, "seed": case.held.seed, "kind": kind,
            "bin": f"{bounds[0]:.0f}-{bounds[1]:.0f}", "psnr": psnr(drawn[index], wanted[index]),
            "inside": psnr(drawn[index][union], wanted[index][union]), "ssim": ssim(drawn[index][None], wanted[index][None]),
            "iou": float((true & own).sum() / max(1, (true | own).sum())),
            "azimuth": errors[index] if errors else None, "place": None,
        }  # fmt: skip
        if places is not None:
            core = case.truth[index, ..., 3] > 0.99
            row["place"] = float(2.0 * (places[index] - case.places[index])[core].norm(dim=-1).mean())
        yield {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def measured(cases: Iterable[Held], draws: Draws, keys: dict[str, str], known: set[Any]) -> Iterator[dict[str, Any]]:
    """The rows that are not known."""
    for held in cases:
        case = None
        for method in METHODS:
            if (keys[method], held.group, held.seed) in known or (method == "text" and not held.caption):
                continue
            case = case or make_case(held)
            yield from rows_of(case, method, draws, keys[method])


def table(rows: list[dict[str, Any]]) -> str:
    """The means (of the azimuth the median) as a table in Markdown."""
    lines = ["| objects | method | " + " | ".join(f"{name} {span}" for name in ("dB", "inside dB") for span in
             (*(f"{low:.0f}-{high:.0f}" for low, high in BINS), "all")) + " | SSIM | IoU | azimuth, deg | place |",
             "|---" * (2 + 8 + 4) + "|"]  # fmt: skip
    for group in GROUPS:
        for method in METHODS:
            own = [row for row in rows if (row["group"], row["method"]) == (group, method)]
            if not own:
                continue
            bins = [f"{low:.0f}-{high:.0f}" for low, high in BINS]
            cells = [f"{fmean(row[name] for row in part):.1f}" for name in ("psnr", "inside")
                     for part in (*([row for row in own if row["bin"] == span] for span in bins), own)]  # fmt: skip
            for name, mean, digits in (("ssim", fmean, 3), ("iou", fmean, 3), ("azimuth", median, 1), ("place", fmean, 3)):
                found = [row[name] for row in own if row[name] is not None]
                cells.append(f"{mean(found):.{digits}f}" if found else "-")
            lines.append(f"| {group} ({len({row['seed'] for row in own})}) | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_sheet(path: Path, objects: list[Held], draws: Draws) -> None:
    """Two rows per object: the photo and eight drawn sides, 45 degrees apart; the photo and the true sides."""
    pictures = []
    for held in objects:
        case = make_case(held)
        azimuth, elevation = (torch.from_numpy(case.own.view[:, i]) for i in range(2))
        views = torch.stack([azimuth + torch.arange(8) * (math.pi / 4), elevation.expand(8)], dim=-1)
        cameras = view_cameras(views[:, 0], views[:, 1], SIZE)
        drawn = sample_cameras(draws.view, draws.embeds(case), cameras, draws.guidance_scale, draws.steps, held.seed)
        with torch.inference_mode():
            true, _ = case.own.seen(held, views, case.light)
        photo = over(case.photo, (1.0, 1.0, 1.0))[None]
        pictures += [photo, drawn, photo, over(true, (1.0, 1.0, 1.0))]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, contact_sheet(torch.cat(pictures), columns=9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32, help="objects of each group")
    parser.add_argument("--prior", default="toybox-view", help="a name or a folder")
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="of the samples")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("--sheet", type=Path, help="a PNG with the photo, eight drawn sides and the true ones")
    parser.add_argument("--sheet-count", type=int, default=4, help="objects of each group on the sheet")
    parser.add_argument("--threads", type=int, help="of torch and the engine's callers")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    located, told = find(PriorChoice(arguments.prior)), find(PriorChoice("toybox"))
    priors = [each.load(torch.device("cpu")) for each in (located, told)]
    for prior in priors:
        prior.use_engine("auto")
    draws = Draws(priors[0], located, priors[1], load_judge()[0], arguments.guidance_scale, arguments.steps)
    sampled = f"{arguments.guidance_scale:g}/{arguments.steps}"
    keys = {"sample": f"{located.revision[:16]} {sampled}", "mean": located.revision[:16],
            "text": f"{told.revision[:16]} {TEXT_SCALE:g}/{arguments.steps}", "copy": "3", "truth": "2"}  # fmt: skip
    rows = json.loads(arguments.results.read_text()) if arguments.results.is_file() else []
    known = {(row["key"], row["group"], row["seed"]) for row in rows}
    wanted = [held_object(group, index) for index in range(arguments.count) for group in arguments.groups]
    for row in measured(wanted, draws, keys, known):
        rows.append(row)
        if row["bin"] == "90-180":
            keep(arguments.results, rows, lambda row: (row["group"], row["seed"], row["method"], row["key"], row["bin"]))
            print(f"{row['group']} {row['seed']} {row['method']}: {row['psnr']:.1f} dB at 90-180 degrees", flush=True)
    seeds = {(held.group, held.seed) for held in wanted}
    print(table([row for row in rows if keys[row["method"]] == row["key"] and (row["group"], row["seed"]) in seeds]))
    if arguments.sheet:
        save_sheet(arguments.sheet, wanted[: len(arguments.groups) * arguments.sheet_count], draws)


if __name__ == "__main__":
    main()
