"""What benchmarks/kills.py kills: small runs of every kind of stage, exports, and the words of their commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kills_studio
import numpy as np
import torch
from PIL import Image

from dreamlift.apps.presets import find_preset
from dreamlift.config.build import save_yaml
from dreamlift.config.short import override
from dreamlift.toybox.training.network import make_networks, save_folder

WORDS = ["a", "an", "red", "mug", "front", "back", "left", "right", "view", "from", "above", "below", "dark", "background"]
FIELD = {
    "steps": 6, "scene.field.resolutions": [9, 17], "scene.field.switch_on": [0, 0.5], "scene.samples_per_ray": 12,
    "cameras.resolution": [12],
}  # fmt: skip
# Of every run. All checkpoints are kept, so that each can be compared with that of the run that nobody killed.
SMALL = {
    "mesh.resolution": 16, "mesh.texture_size": 32, "mesh.faces": 120, "checkpoint_every": 2, "keep_checkpoints": 1000,
    "engine": "torch", "device": "cpu",
}  # fmt: skip
EXPORT = ("--format", "glb,obj,stl,3mf,ply", "--faces", "60", "--lod", "2")


@dataclass(frozen=True)
class Case:
    """One row of the table: what is started, and what goes on with it."""

    name: str
    start: Callable[[Path], list[str]]  # the words of the command that begins in a folder
    again: Callable[[Path], list[str]]  # those after a kill, where the folder holds a run
    base: str = ""  # the case whose finished run is there before the start
    apart: bool = False  # runs are in the folder, made by processes that the command starts; the same command goes on


def make_cases(work: Path) -> tuple[Case, ...]:
    """All cases; their configs, prior and photos are written to ``work``."""
    configs = {name: str(path) for name, path in write_configs(work).items()}
    settings = {**SMALL, **FIELD, "prior": str(work / "prior")}
    settings["stages.1"] = None
    tiny = [word for key, value in settings.items() for word in (f"--{key}", "null" if value is None else f"{value}")]

    def generate(name: str) -> Case:
        def start(folder: Path) -> list[str]:
            prompt = "a zwx mug" if name == SUBJECT else "a red mug"
            return ["generate", prompt, "--config", configs[name], "--out", str(folder)]

        return Case(name, start, resume)

    return (
        *(generate(name) for name in configs),
        Case("export", export, export, base=MESH),
        _apart("batch, two assets", lambda folder: ["batch", str(save_list(work)), "--out", str(folder), *tiny]),
        _apart("studio", lambda folder: [kills_studio.VERB, str(folder), *tiny]),
    )


def _apart(name: str, start: Callable[[Path], list[str]]) -> Case:
    return Case(name, start, start, apart=True)


def save_list(work: Path) -> Path:
    """A list of two assets for a batch."""
    path = work / "list.csv"
    path.write_text("prompt,seed\na red mug,0\na red mug,1\n", encoding="utf-8")
    return path


def resume(folder: Path) -> list[str]:
    return ["resume", str(folder)]


def export(folder: Path) -> list[str]:
    return ["export", str(folder), *EXPORT]


MESH, SUBJECT = "lift: field, mesh", "finetune, lift, repaint"


def write_configs(work: Path) -> dict[str, Path]:
    """The config of each run by its name: the scenes, a loss that learns, and all three kinds of stages."""
    prior = str(save_prior(work / "prior"))
    surface = {"steps": 4, "cameras.resolution": [16], "teachers.0.prior.name": prior}
    first = {**FIELD, "teachers.0.prior.name": prior}
    runs = {
        "lift: field": ("toybox-field", [first]),
        MESH: ("magic3d-toy", [first, {**surface, "scene.resolution": 12}]),
        "lift: gaussians, texture": (
            "dreamgaussian-toy",
            [
                {"steps": 6, "scene.count": 200, "scene.capacity": 300, "cameras.resolution": [16],
                 "teachers.0.prior.name": prior},
                {**surface, "teachers.0.guidance.steps": 3},
            ],
        ),
        "lift: VSD, two particles": ("vsd-toy", [{**first, "steps": 4}]),
    }  # fmt: skip
    found = {}
    for name, (preset, stages) in runs.items():
        changes = {**SMALL, **{f"stages.{n}.{key}": value for n, stage in enumerate(stages) for key, value in stage.items()}}
        changes = changes | ({"particles": 2} if "particles" in name else {})
        # Stages beyond those named are left out.
        config = override(find_preset(preset), changes, text=False)
        config = override(config, {f"stages.{n}": None for n in range(len(stages), len(config.stages))}, text=False)
        found[name] = work / f"{len(found)}.yaml"
        found[name].write_text(save_yaml(config), encoding="utf-8")
    found[SUBJECT] = work / "subject.yaml"
    found[SUBJECT].write_text(save_yaml(subject_config(work, prior)), encoding="utf-8")
    return found


def subject_config(work: Path, prior: str) -> object:
    """DreamBooth3D's first five stages on two photos, with two steps each."""
    config = find_preset("dreambooth3d-toy")
    photos = [{"path": str(path), "azimuth_deg": 40.0 * n, "elevation_deg": 10.0} for n, path in enumerate(save_photos(work))]
    changes = {**SMALL, "photos": photos, "subject": {"class_name": "mug", "word": "zwx"}, "checkpoint_every": 1}
    for n, kind in enumerate(("finetune", "lift", "finetune", "repaint", "finetune", "lift")):
        own = {
            "finetune": {"steps": 2, "class_count": 2, "tuning.batch": 1},
            "lift": {**FIELD, "steps": 3},
            "repaint": {"views": 2, "teachers.0.guidance.steps": 3},
        }[kind]
        changes |= {f"stages.{n}.{key}": value for key, value in own.items()}
    changes |= {"stages.0.prior.name": prior, "stages.5.photometric.resolution": [12]}
    return override(override(config, {"stages.6": None}, text=False), changes, text=False)


def save_prior(folder: Path) -> Path:
    """A prior with random weights: its pictures mean nothing, but it is loaded and asked as any other."""
    shutil.rmtree(folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_folder(make_networks(WORDS, size=32, channels=(8, 16)), folder)
    (folder / "nouns.json").unlink()
    return folder


def save_photos(work: Path) -> list[Path]:
    """Two pictures of a coloured box on a plain background."""
    rng, paths = np.random.default_rng(0), [work / "photo-0.png", work / "photo-1.png"]
    for path in paths:
        picture = np.full((64, 64, 3), 210, np.uint8)
        picture[14:50, 18:46] = rng.integers(0, 180, 3)
        picture[20:30, 24:30] = rng.integers(0, 180, 3)
        Image.fromarray(picture).save(path)
    return paths
