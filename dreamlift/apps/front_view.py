"""An asset against a reference picture: its front view at the picture's camera, over white.

The camera is that of the run's photo. A run without photos, or a GLB file, has none: then the asset is seen from azimuth 0 and
an elevation of 15 degrees, and both silhouettes are centred with a longest side of 0.78 of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dreamlift.apps.clip_score import Clip, clip_similarity
from dreamlift.apps.ssim import ssim
from dreamlift.cameras import centered, turntable
from dreamlift.export.psnr import psnr
from dreamlift.images.photos import read_photos
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.runs.settings import read_config
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Cameras, Mesh, Pictures

SIDE = 256  # pixels of the compared pictures
HEADS = {"front_psnr": "fPSNR", "front_ssim": "fSSIM", "front_iou": "fIoU", "front_clip": "fCLIP", "views_clip": "vCLIP"}
"""The figures, as columns of the printed table: PSNR (dB), SSIM, silhouette IoU and CLIP similarity of the front view, and the
mean CLIP similarity of eight views to the reference."""


@dataclass(frozen=True)
class Front:
    """An asset's front view beside the reference."""

    asset: Tensor  # (S, S, 3) in [0, 1]
    reference: Tensor  # (S, S, 3) in [0, 1]
    figures: dict[str, float]  # by the names of HEADS; NaN without a CLIP model


def photos_of(run: Path | None) -> tuple[Photo, ...]:
    """The photos of a run folder, with their cameras; () for a run without photos or without settings.

    Raises:
        ValueError: the settings cannot be read.
    """
    return read_config(run).photos if run is not None and (run / "config.yaml").is_file() else ()


def read_reference(path: Path, photos: tuple[Photo, ...]) -> tuple[Pictures, bool]:
    """The picture, and whether its camera is known: that of the photo in the same file, or else of the first one.

    Raises:
        ValueError: the picture cannot be used; one line with the fix.
    """
    same = [photo for photo in photos if Path(photo.path) == path.resolve()]
    camera = next(iter([*same, *photos]), Photo(str(path), elevation_deg=ELEVATION_DEG))
    return read_photos((replace(camera, path=str(path)),), side=SIDE), bool(photos)


def compare_front(mesh: Mesh, pictures: Pictures, known: bool, clip: Clip | None = None) -> Front:
    """The front view of ``mesh``, in the scene's coordinates, against the first of ``pictures``.

    ``known``: the pictures' camera is that of the mesh's coordinates.
    """
    assert pictures.cameras is not None
    cameras = pictures.cameras[:1]
    rgb, alpha = pictures.rgb[:1], pictures.alpha[:1]
    if not known:
        rgb, alpha = pictures.references[:1].split((3, 1), dim=-1)
        cameras = framed(mesh, cameras)
    seen = render_mesh(mesh, cameras, 1.0)
    wanted = rgb * alpha + (1.0 - alpha)
    both, either = (seen.opacity * alpha).sum(), torch.maximum(seen.opacity, alpha).sum()
    figures = {
        "front_psnr": psnr(seen.rgb, wanted), "front_ssim": ssim(seen.rgb, wanted),
        "front_iou": float(both / either.clamp_min(1e-6)), "front_clip": math.nan, "views_clip": math.nan,
    }  # fmt: skip
    if clip is not None:
        figures["front_clip"] = float(clip_similarity(seen.rgb, wanted[0], clip)[0])
        around = render_mesh(mesh, turntable(8, distance=2.9, fov_deg=42.0, size=256), 1.0).rgb
        figures["views_clip"] = float(clip_similarity(around, wanted[0], clip).mean())
    return Front(seen.rgb[0], wanted[0], figures)


def framed(mesh: Mesh, cameras: Cameras) -> Cameras:
    """The cameras, cropped so that the silhouette is centred and its longest side is 0.78 of the picture's.

    A mesh out of sight leaves its camera as it is.
    """
    return centered(cameras, render_mesh(mesh, cameras).opacity[..., 0] > 0.5, torch.full((len(cameras),), RATIO))
