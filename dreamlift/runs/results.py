"""The files of a finished asset: all requested formats, pictures, a page, and the figures for run.json."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.export import EXPORTERS
from dreamlift.export.glb import load_glb
from dreamlift.export.page import save_page
from dreamlift.export.psnr import psnr
from dreamlift.export.settings import MAX_LOD
from dreamlift.export.video import contact_sheet, save_turntable, to_bytes
from dreamlift.runs.progress import Reporter
from dreamlift.system.files import atomic_write_bytes
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.judge import load_judge
from dreamlift.toybox.judging.score import diversity, embed_mesh
from dreamlift.types import Mesh

TURNING, FRAMES = 384, 36  # pixels a side of the turntable, and its views
AT_ONCE = 4  # views that are drawn together: in float32, with depth and normals, all of them would take half a gigabyte
POOR_PSNR = 22.0  # dB; below it the exported file looks different from the scene


def write_results(
    folders: list[Path], asset: Asset, reporter: Reporter, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:  # fmt: skip
    """Write each particle's files to its folder; returns the figures for run.json.

    Args:
        check: is called before each group of files, which take seconds; raises if the folders are not this process's any more.
    """
    assets = [asset, *asset.others]
    metrics = []
    for folder, each in zip(folders, assets, strict=True):
        check()
        folder.mkdir(exist_ok=True)
        # The GLB is always written, since the pictures and figures are made from it.
        save_files(each, folder, dict.fromkeys(["glb", *each.config.asset.formats]))
        check()
        metrics.append(show_asset(folder, each, reporter))
    if told := older_files(folders, asset.config.asset.formats):
        reporter.note(told)
    return figures(folders, metrics, reporter)


def older_files(folders: list[Path], formats: Iterable[str]) -> str:
    """A message if exports of an earlier state of the run, in other formats than ``formats``, are still there; else ""."""
    others = [name for name in EXPORTERS if name not in ("glb", *formats)]
    found = {name: [path for folder in folders for path in sorted(folder.glob(f"asset*.{name}"))] for name in others}
    older = [path.relative_to(folders[0]).as_posix() for paths in found.values() for path in paths]
    if not older:
        return ""
    named = ", ".join(older[:3]) + (f" and {len(older) - 3} more" if len(older) > 3 else "")
    kinds = ",".join(name for name, paths in found.items() if paths)
    verb = "is" if len(older) == 1 else "are"
    return f"{named} {verb} older than the new asset.glb; dreamlift export {folders[0]} --format {kinds} writes new ones"


def save_files(asset: Asset, folder: Path, formats: Iterable[str]) -> list[Path]:
    """Write asset.FORMAT to ``folder`` for each format, and asset_lodN.FORMAT for the levels of detail N >= 1.

    With the GLB, ``splats.ply`` is written if the asset has Gaussians. Further levels of an earlier export are removed.
    """
    formats = tuple(formats)
    written = [
        path
        for name in formats
        for level in range(1 + len(asset.lods))
        for path in asset.save_all(folder / (f"asset_lod{level}.{name}" if level else f"asset.{name}"), level)
    ]
    if "glb" in formats and asset.splats is not None:
        written.append(asset.save_splats(folder / "splats.ply"))
    for name in formats:
        remove_levels(folder, name, 1 + len(asset.lods))
    return written


def remove_levels(folder: Path, kind: str, first: int) -> None:
    """Remove asset_lodN.KIND for N >= ``first``, and the materials and textures of OBJ files."""
    endings = (".obj", ".mtl", ".png", "_roughness.png", "_metallic.png", "_normal.png") if kind == "obj" else (f".{kind}",)
    for level, ending in itertools.product(range(first, MAX_LOD), endings):
        (folder / f"asset_lod{level}{ending}").unlink(missing_ok=True)


def show_asset(folder: Path, asset: Asset, reporter: Reporter) -> dict[str, float]:
    """Write preview.png, turntable.webp and view.html from asset.glb in ``folder``; returns its figures for run.json."""
    glb = folder / "asset.glb"
    reporter.stage("comparing the file with the scene")
    mesh = load_glb(glb)  # in the scene's coordinates, without the file's placement
    shown = render_mesh(mesh, asset.cameras).rgb
    metrics = {**asset.metrics, "roundtrip_psnr": psnr(shown, asset.views)}
    if metrics["roundtrip_psnr"] < POOR_PSNR:
        reporter.note(
            f"the exported file differs from the scene's renders (PSNR {metrics['roundtrip_psnr']:.1f} dB): raise "
            "steps if the scene is still translucent (preview.png), or mesh.resolution, mesh.faces or mesh.texture_size"
        )
    atomic_write_bytes(folder / "preview.png", contact_sheet(torch.cat([asset.views, shown]), columns=8))
    save_turntable(turning(mesh), folder / "turntable.webp")
    save_page(glb, folder / "view.html", asset.config.prompt)
    return metrics


def turning(mesh: Mesh) -> np.ndarray:
    """Views ``(36, 384, 384, 3)`` of a mesh from all around, uint8."""
    cameras = turntable(FRAMES, distance=2.9, fov_deg=42.0, size=TURNING)
    parts = [cameras[first : first + AT_ONCE] for first in range(0, len(cameras), AT_ONCE)]
    return np.concatenate([to_bytes(render_mesh(mesh, part, supersample=1).rgb) for part in parts])


def figures(folders: list[Path], metrics: list[dict[str, float]], reporter: Reporter) -> dict[str, Any]:
    """The figures for run.json: the first particle's and, with several particles, those of each and their diversity."""
    if len(folders) == 1:
        return {"metrics": metrics[0]}
    judge, _ = load_judge()
    spread = diversity([embed_mesh(load_glb(folder / "asset.glb"), judge) for folder in folders])
    reporter.note(f"diversity of the {len(folders)} particles: {spread:.3f} (0: identical, 2: opposite)")
    return {"metrics": metrics[0], "particles": metrics, "diversity": spread}
