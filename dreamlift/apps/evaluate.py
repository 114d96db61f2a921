"""Quality figures of finished runs: the judge's classification, and the distance to the toy world's true shapes.

They are computed from renders of the exported file. The report consists of ``evaluation.json``, ``sheet.png`` and
``index.html``, which contains both.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreamlift.apps.clip_score import Clip, clip_r_precision, load_clip
from dreamlift.apps.front_view import HEADS as FRONT_HEADS
from dreamlift.apps.front_view import Front, compare_front, photos_of, read_reference
from dreamlift.export.glb import load_glb
from dreamlift.export.video import contact_sheet
from dreamlift.reading.photos import Photo
from dreamlift.runs.progress import Reporter
from dreamlift.runs.run import LEDGER, particle_folders, read_status, runs_below
from dreamlift.showing.differences import differences, in_words, settings_of
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.system.text import one_line, printable
from dreamlift.toybox.judging.judge import Judge, load_judge, understand
from dreamlift.toybox.judging.references import HEADS as SHAPE_HEADS
from dreamlift.toybox.judging.references import true_figures
from dreamlift.toybox.judging.score import Scored, diversity, score_mesh
from dreamlift.toybox.judging.shape import described, shape_of
from dreamlift.types import Mesh

MAX_GLB = 1_000_000_000  # bytes; the largest asset of a run, 5 million faces and 8192 texels a side, has fewer
HEADS = {
    "category": "cat", "color": "color", "both": "both", "category_textureless": "shape", "azimuth_error_deg": "azim",
    "front_from_behind": "behind", "janus": "janus", "saturation": "satur", "silhouette_iou": "IoU", "chamfer": "chamf",
    "seconds": "s", "peak_memory_gb": "GB",
}  # fmt: skip
"""Columns of the printed table."""


@dataclass(frozen=True)
class Item:
    """One asset to evaluate."""

    name: str
    glb: Path
    prompt: str
    seconds: float  # NaN if unknown
    peak_memory_gb: float
    run: Path | None = None  # the run's folder
    photos: tuple[Photo, ...] = ()  # of an asset in memory; those of a run are in its settings


def find_items(paths: list[Path], prompt: str | None = None, note: Callable[[str], None] = lambda text: None) -> list[Item]:
    """The assets of run folders, of folders of runs (those of ``--seeds``, a batch or a studio), or GLB files with ``prompt``.

    Folders of earlier evaluations and galleries are skipped, and so are runs without an asset, with a ``note``.

    Raises:
        ValueError: a path that is neither, or no run has an asset; one line with the fix.
    """
    items, unfinished = [], []
    paths = [run for path in paths for run in (_runs_in(path) or [path])]
    runs = [path for path in paths if (path / "run.json").is_file() or not (path / "index.html").is_file()]
    for path in runs or paths:  # `outputs/*` includes evaluations and galleries
        if path.is_dir():
            if not (path / "run.json").is_file():
                if (path / LEDGER).is_dir():
                    unfinished.append(f"{path} is an asset of a batch whose run has not begun")
                    continue
                why = runs_below(path) or ", and has none in it: there is no run.json"
                raise ValueError(f"{path} is not a run folder{why}")
            status = read_status(path)
            if not (path / "asset.glb").is_file():
                unfinished.append(f"{path} has no asset.glb yet: resume the run with `dreamlift resume {path}`")
                continue
            known = [float(status.get(name, math.nan)) for name in ("seconds", "peak_memory_gb")]
            for folder in particle_folders(path, len(status.get("particles", [None]))):
                name = folder.relative_to(path.parent).as_posix()
                items.append(Item(name, folder / "asset.glb", str(status["prompt"]), *known, run=path))
        elif path.suffix.lower() == ".glb" and path.is_file():
            if prompt is None:
                raise ValueError(f"{path} is a GLB file, whose prompt is not known: give --prompt")
            items.append(Item(path.name, path, prompt, math.nan, math.nan))
        elif path.is_file():  # `folder/*` includes the sheet of several variations
            unfinished.append(f"{path} is neither a run folder nor a GLB file")
        else:
            raise ValueError(f"{path} is neither a run folder nor a GLB file: there is nothing of this name")
    if unfinished and not items:
        raise ValueError(unfinished[0])
    for text in unfinished:
        note(f"{text} (left out)")
    return items


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder that is none itself, by name; [] where there are none."""
    return [] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))


@dataclass(frozen=True)
class Compared:
    """An asset's score, and its front view beside the reference if there is one."""

    scored: Scored
    front: Front | None = None
    shape: dict[str, Any] = field(default_factory=dict)  # figures of the shape, if they were asked for


def evaluate(
    items: list[Item], reporter: Reporter, clip: str | None = None, reference: Path | None = None, shape: bool = False
) -> tuple[dict[str, Any], list[Compared]]:  # fmt: skip
    """The report (figures of each asset, their means, the judge's own accuracy), and what they were computed from.

    Args:
        clip: a CLIP model's folder or hub name, for prompts beyond the judge's vocabulary, and for the similarity to the
            reference.
        reference: a picture of the object, with which the front views are compared.
        shape: also compare the shape, the surface and the colours' detail with a true thing of the kind (seconds an asset).

    Raises:
        ValueError: a file without a mesh, a picture that cannot be used, or a CLIP model that cannot be loaded.
    """
    prompts = [item.prompt for item in items]
    # What can be refused comes before the judging, which takes minutes.
    known = [read_reference(reference, item.photos or photos_of(item.run)) for item in items] if reference else []
    ranking = None if clip is None else load_clip(clip, prompts, ranks=reference is None)
    judge, accuracy = load_judge()
    found = []
    for index, item in enumerate(items):
        reporter.stage(f"judging {item.name}")
        wanted = understand(item.prompt)
        if wanted.category not in judge.categories:
            reporter.note(f"the judge has no category for {item.prompt!r}: there are no figures of its category and shape")
        if (size := item.glb.stat().st_size) > MAX_GLB:
            raise ValueError(f"{item.glb} has {size:,} bytes; accepted: at most {MAX_GLB:,}")
        try:
            mesh = load_glb(item.glb)
            scored = score_mesh(mesh, wanted, judge)
            shaped = shape_figures(mesh, item.prompt, judge) if shape else {}
        except ValueError as error:
            place = "" if str(error).startswith(str(item.glb)) else f"{item.glb}: "
            raise ValueError(f"{place}{error}") from error
        found.append(Compared(scored, compare_front(mesh, *known[index], ranking) if known else None, shaped))
    return _report(items, found, accuracy, ranking, reference), found


def shape_figures(mesh: Mesh, prompt: str, judge: Judge) -> dict[str, Any]:
    """The figures of docs/evaluate-shape.md; ``member`` is the seed of the true thing, ``true`` what a true thing has.

    All figures are NaN where the prompt names none of the toybox's kinds.
    """
    wanted = described(prompt)
    if wanted is None:
        return dict.fromkeys(SHAPE_HEADS, math.nan) | {"member": None, "true": {}}
    found = shape_of(mesh, wanted, judge)
    return {**asdict(found.shape), "member": found.member, "true": true_figures(wanted, judge)}


def _report(
    items: list[Item], found: list[Compared], accuracy: dict[str, float], ranking: Clip | None, reference: Path | None
) -> dict[str, Any]:  # fmt: skip
    different = differences([settings_of(item.run) if item.run else {} for item in items])
    rows = [
        {"name": item.name, "prompt": item.prompt, "differs": own, **asdict(each.scored.score), "seconds": item.seconds,
         "peak_memory_gb": item.peak_memory_gb, "seen_as": list(each.scored.seen_as),
         **(each.front.figures if each.front else {}), **each.shape}
        for item, each, own in zip(items, found, different, strict=True)
    ]  # fmt: skip
    scored = [each.scored for each in found]
    report: dict[str, Any] = {"judge": accuracy, "runs": rows, "mean": means(rows), "diversity": _by_prompt(items, scored)}
    if reference is not None:
        report["reference"] = str(reference)
    if ranking is not None and len(ranking.texts) > 1:
        prompts = [item.prompt for item in items]
        report["clip_r_precision"] = clip_r_precision([each.pictures for each in scored], prompts, ranking)
    return report


def heads(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The columns of the printed table, by the names of the figures in ``rows``."""
    return HEADS | (FRONT_HEADS if rows and "front_psnr" in rows[0] else {})


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of the figures, each over the runs that have it."""
    found = {}
    for name in [*heads(rows), *(SHAPE_HEADS if _have_shape(rows) else [])]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        found[name] = sum(values) / len(values) if values else math.nan
    return found


def _by_prompt(items: list[Item], scored: list[Scored]) -> dict[str, float]:
    """Diversity of the prompts with more than one run."""
    groups: dict[str, list[torch.Tensor]] = {}
    for item, each in zip(items, scored, strict=True):
        groups.setdefault(item.prompt, []).append(each.embedding)
    return {prompt: diversity(group) for prompt, group in groups.items() if len(group) > 1}


def describe(report: dict[str, Any]) -> str:
    """The report as a table to print."""
    columns = heads(report["runs"])
    lines = ["prompt                   " + " ".join(f"{head:>6s}" for head in columns.values())]
    for row in [*report["runs"], {"prompt": "mean", **report["mean"]}]:
        figures = (row[name] for name in columns)
        told = printable(in_words(row.get("differs", {})))
        line = f"{printable(row['prompt'])[:24]:25s}" + " ".join(f"{_short(value):>6s}" for value in figures)
        lines.append(f"{line}  {told}".rstrip())
    lines += _shape_lines(report) if _have_shape(report["runs"]) else []
    for prompt, value in report["diversity"].items():
        lines.append(f"diversity of {one_line(repr(prompt))} over its runs: {value:.3f}")
    if "clip_r_precision" in report:
        lines.append(f"CLIP R-precision: {report['clip_r_precision']:.3f}")
    own = ", ".join(f"{name} {value:g}" for name, value in report["judge"].items())
    lines.append(f"the judge's accuracy on renders of true shapes that it was not trained on: {own}")
    return "\n".join(lines)


def _have_shape(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and "volume_iou" in rows[0]


def _shape_lines(report: dict[str, Any]) -> list[str]:
    """The second table: the figures of the shape, each above what a true thing of the kind has."""
    lines = ["", f"{'shape':25s}" + " ".join(f"{head:>6s}" for head in SHAPE_HEADS.values())]
    for row in report["runs"]:
        for name, values in ((row["prompt"], row), ("  a true one", row["true"])):
            figures = (_short(values.get(key, math.nan)) for key in SHAPE_HEADS)
            lines.append(f"{printable(name)[:24]:25s}" + " ".join(f"{figure:>6s}" for figure in figures))
    return [*lines, f"{'mean':25s}" + " ".join(f"{_short(report['mean'][key]):>6s}" for key in SHAPE_HEADS), ""]


def save_report(report: dict[str, Any], found: list[Compared], folder: Path) -> None:
    """Write the figures, the renders that they were computed from, and a page with both; with a reference also ``front.png``.

    Raises:
        OSError: a file cannot be written.
    """
    atomic_write_text(folder / "evaluation.json", json.dumps(plain(report), indent=1) + "\n")
    pictures = torch.cat([torch.cat([each.scored.pictures, each.scored.textureless]) for each in found])
    sheets = {"sheet.png": contact_sheet(pictures, columns=16)}
    fronts = [picture for each in found if each.front for picture in (each.front.reference, each.front.asset)]
    if fronts:
        sheets["front.png"] = contact_sheet(torch.stack(fronts), columns=2)
    for name, sheet in sheets.items():
        atomic_write_bytes(folder / name, sheet)
    atomic_write_text(folder / "index.html", _page(report, sheets))


def _page(report: dict[str, Any], sheets: dict[str, bytes]) -> str:
    columns = heads(report["runs"]) | (SHAPE_HEADS if _have_shape(report["runs"]) else {})
    legend = "".join(f"<dt>{head}</dt><dd>{name}</dd>" for name, head in columns.items())
    pictures = {name: base64.b64encode(sheet).decode("ascii") for name, sheet in sheets.items()}
    front = ""
    if "front.png" in pictures:
        front = (
            "<p>One row per asset: the reference, and the front view of the asset.</p>"
            f'<img style="max-width:512px" alt="front views" src="data:image/png;base64,{pictures["front.png"]}">'
        )
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>dreamlift evaluation</title>'
        "<style>body{font:14px/1.5 system-ui,sans-serif;margin:2em}pre{overflow:auto}img{width:100%;max-width:1024px;"
        "image-rendering:pixelated}dt{float:left;clear:left;width:5em;font-family:monospace}</style>"
        f"<h1>Evaluated assets: {len(report['runs'])}</h1><pre>{html.escape(describe(report))}</pre><dl>{legend}</dl>"
        "<p>One row per asset, in the table's order: eight views with colors, then eight without.</p>"
        f'<img alt="contact sheet" src="data:image/png;base64,{pictures["sheet.png"]}">{front}</html>\n'
    )


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def plain(value: Any) -> Any:
    """The value with None instead of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
