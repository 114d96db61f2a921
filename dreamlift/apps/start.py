"""The config of ``dreamlift generate``: from a preset or a file, pictures, a subject and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamlift.apps.cutout import default_preset, with_image
from dreamlift.apps.options import SETTINGS, option_names, run_settings
from dreamlift.apps.presets import find_preset
from dreamlift.config import yaml
from dreamlift.config.build import load_stated
from dreamlift.config.schema import Config
from dreamlift.config.short import override, with_additions
from dreamlift.config.subject import in_context, with_subject
from dreamlift.priors.lora.additions import parse_lora
from dreamlift.runs.run import TUNED
from dreamlift.runs.settings import read_config
from dreamlift.system.files import address_of, expanded, user_file
from dreamlift.system.text import read_text

OF_PHOTO = {name: full.removeprefix("photos.0.") for name, full in SETTINGS.items() if full.startswith("photos.0.")}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif")


def config_of(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> Config:
    """The config that the command line asks for.

    Raises:
        ValueError: options that exclude each other, or a value that is not accepted.
    """
    if arguments.config is not None and arguments.preset is not None:
        raise ValueError("--config and --preset exclude each other: give one of them")
    settings = run_settings(arguments)
    default = _default_of(arguments, overrides)
    config = find_preset(arguments.preset or default) if arguments.config is None else config_in(arguments.config, default)
    if arguments.context is not None:
        config = _in_context(config, arguments)
    if arguments.image is not None:
        config = with_image(config, arguments.image, arguments.photos is not None)
    if arguments.prompt is not None:
        if Path(arguments.prompt).suffix.lower() in PICTURES and Path(arguments.prompt).is_file():
            raise ValueError(f"the prompt is a picture's file: give it as --image {arguments.prompt}")
        if address_of(arguments.prompt):
            raise ValueError(
                "the prompt is an address, and addresses are not fetched: download the picture first (curl -LO and the "
                "address), then give its path as --image"
            )
        config = replace(config, prompt=arguments.prompt)
    photos = settings.pop("photos", None)
    if isinstance(photos, list):
        config, settings = _with_photos(config, photos, settings)
    elif photos is not None:
        settings["photos"] = photos
    config = with_subject(config, arguments.class_name, arguments.word)
    config = override(config, {**settings, **overrides}, options=option_names(arguments))
    if arguments.lora is not None:
        config = with_additions(config, loras=tuple(map(parse_lora, arguments.lora)))
    if arguments.embedding is not None:
        config = with_additions(config, embeddings=tuple(arguments.embedding))
    return config


def preset_of(arguments: argparse.Namespace, overrides: Iterable[str]) -> str:
    """The name of the preset that the command line begins with; "": it begins with a config."""
    return (arguments.preset or _default_of(arguments, overrides)) if arguments.config is None else ""


def _default_of(arguments: argparse.Namespace, overrides: Iterable[str]) -> str:
    has_additions = arguments.lora is not None or arguments.embedding is not None
    settings = (*run_settings(arguments), *overrides)
    return default_preset(arguments.image is not None, arguments.class_name is not None, settings, has_additions)


def config_in(path: Path, preset: str = "toybox") -> Config:
    """The config in a file or in a run's folder; without ``stages``, a file has those of ``preset``, the default."""
    if path.is_dir():
        return read_config(path)
    text = read_text(user_file(str(path), "config"), yaml.MAX_BYTES)
    found, stated = load_stated(Config, text, str(path))
    # A file of a few values, such as a prompt, changes the default preset; one with stages states them whole.
    if "stages" not in stated:
        default = find_preset(preset)
        found = replace(found, stages=default.stages)
        found = found if "backdrops" in stated else replace(found, backdrops=default.backdrops)
    return found


def _in_context(config: Config, arguments: argparse.Namespace) -> Config:
    if arguments.config is None or not arguments.config.is_dir():
        own = arguments.out is not None and (expanded(str(arguments.out)) / TUNED).is_dir()
        fix = f"--config {arguments.out} without a prompt, and another --out or none" if own else "--config RUN"
        raise ValueError(f"--context is for a run that has tuned a prior: give its folder, {fix}")
    if arguments.prompt is not None:
        raise ValueError("--context follows the run's own prompt: leave the prompt out")
    return in_context(config, arguments.config, arguments.context)


def _with_photos(config: Config, files: list[str], settings: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The config with several photos, and the settings that are left: those of photos are given to all of them."""
    from dreamlift.apps.dreambooth import photos_of

    missing = next((file for file in files if not Path(file).exists() and " " in file), None)
    if missing is not None and not config.prompt:
        raise ValueError(f"there is no photo {missing!r}: write the prompt before --photos")
    given = {name: settings.pop(f"photos.0.{field}", None) for name, field in OF_PHOTO.items()}
    photos = photos_of(files, given["mask"] or "auto", given["azimuth"], given["elevation"])
    for name in ("fov", "distance"):
        if given[name] is not None:
            settings |= {f"photos.{number}.{OF_PHOTO[name]}": given[name] for number in range(len(photos))}
    return replace(config, photos=photos), settings
