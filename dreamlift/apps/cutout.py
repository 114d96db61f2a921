"""What a run will see of a picture: the object cut out, and a sheet of it; and the config of a run from a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.config.schema import Config, check_stages
from dreamlift.config.subject import PRESET as SUBJECT_PRESET
from dreamlift.export.glb import png_bytes
from dreamlift.images.edges import grown
from dreamlift.images.fit import box_of, fitted
from dreamlift.images.matting import Cutout
from dreamlift.images.photos import REFERENCE_SIDE, read_cutout
from dreamlift.images.read import explained, picture_bytes, read_picture
from dreamlift.priors.kinds import find
from dreamlift.prompts import check_prompt
from dreamlift.reading.photos import RATIO, Photo
from dreamlift.runs.progress import Reporter
from dreamlift.stages.base import with_priors
from dreamlift.stages.finetune import Finetune
from dreamlift.stages.located import locate_priors
from dreamlift.stages.tuned import base_of, base_priors
from dreamlift.system.files import atomic_write_bytes

COLORED_PRESET = "magic3d-toy"
IMAGE_PRESET = "zero123-toy"  # the default preset of runs that start from a picture
OUTLINE = (255, 0, 128)  # sRGB
TILE = 320  # pixels a side of the sheet's parts


def default_preset(has_image: bool, has_subject: bool, settings: Iterable[str] = (), has_additions: bool = False) -> str:
    """The preset of a run for which none is named.

    Args:
        settings: names of the settings that are given. One of a prior, or of what it is shown, is meant for the first stage.
            That of the default is taught places, which other priors do not draw; so both stages are taught colours then.
        has_additions: whether LoRAs or embeddings are given, of which the same is true.
    """
    if has_subject or has_image:
        return SUBJECT_PRESET if has_subject else IMAGE_PRESET
    own = has_additions or any({"prior", "show"} & set(name.split(".")) for name in settings)
    return COLORED_PRESET if own else "toybox"


def with_image(config: Config, image: str | os.PathLike[str] | Photo, has_photos: bool = False) -> Config:
    """The config of a run from one picture, whose camera is that of the preset. Raises ValueError if photos are given too."""
    if has_photos:
        raise ValueError("--image is short for --photos with one entry: give one of them")
    if isinstance(image, Photo):
        return replace(config, photos=(image,))
    stated = next((photo for photo in config.photos if not photo.path), Photo(""))
    return replace(config, photos=(replace(stated, path=os.fspath(image)),))


def with_cameras(config: Config, reporter: Reporter, known: bool = False) -> Config:
    """The config with the cameras of its photos estimated, as far as they are not given, and the photos placed.

    See :func:`dreamlift.images.camera.prepared`. Runs whose stages do not use photos are left as they are. Of photos that a
    prior is tuned on, only the cameras are estimated, as ``dreamlift dreambooth`` does.

    Args:
        known: refuse a prompt of whose nouns a prior knows none, as :func:`dreamlift.lifting.resolve` does, before anything is
            estimated.

    Raises:
        ValueError: a picture or a prior that cannot be used, or an empty prompt that a prior needs.
    """
    stages = with_priors(config.stages)
    if config.tunes:
        return _of_subject(config, reporter, known)
    if not config.photos or not any(stage.uses_photos for stage in stages):
        return config
    check_stages(config)
    for photo in config.photos:
        with explained(photo.path):
            picture_bytes(photo.path)
    _check_priors(config, known)
    reporter.stage("looking at the photo")
    for photo in config.photos:  # what cannot be used is said before cameras are estimated
        read_cutout(photo)
    from dreamlift.images.camera import prepared_photos

    priors = [teacher.prior for stage in stages for teacher in stage.teachers if teacher.prior is not None]
    return replace(config, photos=prepared_photos(config.photos, config.prompt, priors, reporter.note, config.engine))


def _check_priors(config: Config, known: bool) -> None:
    """Refuse priors, and words for them, before cameras are estimated, which takes far longer. Raises ValueError."""
    prompt, stages = check_prompt(config.prompt, may_be_empty=True), with_priors(config.stages)
    locate_priors(stages, prompt, not config.tunes or any(stage.uses_photos for stage in stages), known)


def _of_subject(config: Config, reporter: Reporter, known: bool) -> Config:
    """The config with the cameras of its subject's photos, where the prior that is tuned takes cameras."""
    from dreamlift.tuning.dreambooth import with_cameras as estimated

    config = replace(config, photos=tuple(photo for photo in config.photos if photo.path))
    check_stages(config)
    _check_priors(config, known)
    bases = base_priors(config.stages)
    place, stage = next((place, stage) for place, stage in zip(config.places(), config.stages, strict=True)
                        if isinstance(stage, Finetune))  # fmt: skip
    plan = stage.plan(place, config.photos, find(base_of(stage.prior, bases, "prior")))
    if plan.tells_cameras and any(None in (photo.azimuth_deg, photo.elevation_deg) for photo in config.photos):
        reporter.stage("looking at the photos")
    return replace(config, photos=estimated(plan, None, reporter.note, config.engine).subject.photos)


def save_cutout(
    path: Path, mask: str, folder: Callable[[], Path], note: Callable[[str], None]
) -> tuple[list[Path], dict[str, Any]]:  # fmt: skip
    """Write ``cutout.png`` (colour and alpha), ``reference.png`` (framed) and ``sheet.png``; returns them, and figures.

    Args:
        folder: makes the files' folder, once the picture has been read and cut.
        note: gets what the user should know.

    Raises:
        ValueError: the picture cannot be used.
    """
    cutout = read_cutout(Photo(str(path), mask), note)
    left, top, right, bottom = cutout.window
    picture = read_picture(path)[top:bottom, left:right]
    reference = fitted(cutout, REFERENCE_SIDE)
    straight = np.concatenate([cutout.rgb, cutout.alpha[..., None]], axis=-1)
    made = {
        "cutout.png": as_bytes(straight),
        "reference.png": as_bytes(reference),
        "sheet.png": sheet(cutout, picture, reference),
    }
    where, files = folder(), []
    for name, values in made.items():
        atomic_write_bytes(where / name, png_bytes(values))
        files.append(where / name)
    scale = (right - left) / cutout.alpha.shape[1]
    x, y, x_end, y_end = (scale * value for value in box_of(cutout.alpha))
    box = [round(value) for value in (x + left, y + top, x_end + left, y_end + top)]
    told = {"way": cutout.way, "picture": list(cutout.frame), "object": box, "ratio": RATIO, "notes": list(cutout.notes)}
    return files, told


def sheet(cutout: Cutout, picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The picture's part with the mask's outline, the mask, and the reference on white and on a checkerboard, side by side.

    Args:
        picture: ``(h, w, 4)`` uint8, the part of the file's picture that ``cutout`` shows.
        reference: ``(S, S, 4)`` in [0, 1].
    """
    from PIL import Image

    tiles = [_outlined(cutout, picture), _inside(Image.fromarray((cutout.alpha * 255 + 0.5).astype(np.uint8)).convert("RGB"))]
    for backdrop in (np.ones((1, 1, 3)), checkerboard(REFERENCE_SIDE)):
        shown = reference[..., :3] * reference[..., 3:] + (1 - reference[..., 3:]) * backdrop
        tiles.append(_inside(Image.fromarray(as_bytes(shown))))
    return np.concatenate(tiles, axis=1)


def checkerboard(side: int, cell: int = 16) -> np.ndarray:
    """``(side, side, 3)`` in [0, 1], light grey and grey."""
    y, x = np.indices((side, side)) // cell
    return np.where((x + y) % 2, 0.8, 0.6)[..., None].repeat(3, axis=-1)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint8."""
    return (np.clip(values, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _outlined(cutout: Cutout, picture: np.ndarray) -> np.ndarray:
    """The picture with the outline of the mask at a half, two pixels wide in the tile."""
    from PIL import Image

    shown = Image.fromarray(picture).convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    tile = _inside(Image.alpha_composite(white, shown).convert("RGB"))
    mask = _inside(Image.fromarray((cutout.alpha * 255 + 0.5).astype(np.uint8)).convert("RGB"), black=True)[..., 0] >= 128
    tile[grown(mask, 1) & ~mask] = OUTLINE
    tile[grown(~mask, 1) & mask] = OUTLINE
    return tile


def _inside(image: Any, black: bool = False) -> np.ndarray:
    """A picture in the middle of a grey (or black) tile: ``(TILE, TILE, 3)`` uint8."""
    from PIL import Image

    scale = TILE / max(image.size)
    small = image.resize(
        [max(1, round(scale * n)) for n in image.size], Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    )
    tile = Image.new("RGB", (TILE, TILE), "black" if black else (128, 128, 128))
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return np.array(tile)
