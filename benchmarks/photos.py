"""Real photos, as the system sees them, draws them from other sides, and lifts them: one row a photo.

    python benchmarks/photos.py docs/pictures/outside/*.jpg docs/pictures/outside/*.png --sheet docs/pictures/real-photos.png

From the left: the photo; its object, cut out and framed; ``dreamlift views`` at 90, 180 and 270 degrees from the photo; the
asset of ``dreamlift generate --image`` from the photo's side, from 90, 180 and 270 degrees, and from above, and there as clay.
Nothing is told: camera and mask are found. Notes and seconds are printed.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import math  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402

from dreamlift import Photo, generate  # noqa: E402
from dreamlift.apps.views import ViewOrder, draw_views  # noqa: E402
from dreamlift.cameras import orbit_cameras  # noqa: E402
from dreamlift.export.video import contact_sheet  # noqa: E402
from dreamlift.images.photos import read_photos  # noqa: E402
from dreamlift.images.read import read_picture  # noqa: E402
from dreamlift.system.files import atomic_write_bytes  # noqa: E402
from dreamlift.texturing.draw import render_mesh  # noqa: E402
from dreamlift.types import Mesh, Shading  # noqa: E402

SIDE = 128  # pixels of a tile
TURNS = (90.0, 180.0, 270.0)  # degrees from the photo


def row(path: Path, steps: int | None) -> Tensor:
    """The tiles ``(11, SIDE, SIDE, 3)`` of one photo."""
    begun = time.perf_counter()
    notes: list[str] = []
    views = draw_views(Photo(str(path)), order=ViewOrder(azimuths_deg=TURNS), note=notes.append)
    settings: dict[str, Any] = {} if steps is None else {"steps": steps, "stages__1__steps": steps}
    asset = generate(image=Photo(str(path)), progress=False, **settings)
    photo = asset.config.photos[0]
    print(f"{path.name}: {time.perf_counter() - begun:.0f} s, from {photo.elevation_deg:g} degrees above; {'; '.join(notes)}")
    rgba = read_photos((photo,)).references[0]
    whole = read_picture(path).astype(np.float32) / 255
    whole = torch.from_numpy(whole[..., :3] * whole[..., 3:] + 1 - whole[..., 3:])
    rendered = drawn(asset.mesh, math.radians(photo.azimuth_deg or 0.0), math.radians(photo.elevation_deg or 0.0))
    return torch.cat([small(squared(whole)[None]), small((rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:])[None]),
                      small(views.pictures[0]), rendered])  # fmt: skip


def drawn(mesh: Mesh, azimuth: float, elevation: float) -> Tensor:
    """The mesh from the photo's side, from three others, from above, and there as clay: ``(6, SIDE, SIDE, 3)``."""
    turns = torch.tensor([0.0, *map(math.radians, TURNS), 0.4]) + azimuth
    heights = torch.tensor([elevation] * 4 + [math.radians(65.0)])
    ones = torch.ones(5)
    cameras = orbit_cameras(turns, heights, 2.6 * ones, math.radians(45.0) * ones, SIDE)
    clay = Shading(ones[:1], ones[:1], torch.tensor([[1.0, 2.0, 2.0]]))
    return torch.cat([render_mesh(mesh, cameras).rgb, render_mesh(mesh, cameras[4:], 1.0, clay).rgb])


def squared(picture: Tensor) -> Tensor:
    """A picture ``(H, W, 3)`` on a white square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return functional.pad(picture, (0, 0, left, side - width - left, top, side - height - top), value=1.0)


def small(pictures: Tensor) -> Tensor:
    """Pictures ``(B, S, S, 3)`` at SIDE pixels."""
    found = functional.interpolate(pictures.permute(0, 3, 1, 2), (SIDE, SIDE), mode="bicubic", antialias=True)
    return found.permute(0, 2, 3, 1).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--sheet", type=Path, default=Path("outputs/photos.png"))
    parser.add_argument("--steps", type=int, help="of both stages, for a quick look")
    arguments = parser.parse_args()
    rows = [row(path, arguments.steps) for path in arguments.photos]
    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(arguments.sheet, contact_sheet(torch.cat(rows), columns=len(rows[0])))


if __name__ == "__main__":
    main()
