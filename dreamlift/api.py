"""The package as a library: :func:`generate` and :func:`evaluate`."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from dreamlift.apps.evaluate import Item, find_items
from dreamlift.apps.evaluate import evaluate as evaluate_items
from dreamlift.apps.presets import find_preset
from dreamlift.asset import Asset
from dreamlift.config.schema import Config
from dreamlift.config.short import override
from dreamlift.lifting import finish, lift, load, resolve
from dreamlift.priors.kinds import Priors
from dreamlift.runs.progress import Reporter, Silent, warnings_to
from dreamlift.runs.reporters import choose


def generate(
    prompt: str, config: Config | None = None, *, preset: str = "toybox", progress: bool | Reporter = True,
    pool: Priors | None = None, **settings: Any,
) -> Asset:  # fmt: skip
    """Lift ``prompt`` to a textured mesh; nothing is written.

    Args:
        prompt: what to make, such as "a red mug".
        config: settings of one's own, in the place of a preset.
        preset: named settings; ``dreamlift.presets.PRESETS`` has them all.
        progress: a bar by default; False for silence, or a :class:`~dreamlift.runs.progress.Reporter`.
        pool: keeps the priors in memory for the next call, for programs that make many assets.
        settings: changes by name, with ``__`` for a dot: ``seed=3, steps=100, guidance__guidance_scale=5``. Values are numbers,
            text, lists, or settings objects such as ``guidance=VSD()``.

    Returns:
        The asset; with ``particles`` above 1 the others are in ``asset.others``.

    Raises:
        ValueError: a prompt or a setting that is not accepted, or a prior that cannot be found.
        DivergedError: the optimisation failed again and again.
        EmptySceneError: nothing was left in the scene.
    """
    config = dataclasses.replace(find_preset(preset) if config is None else config, prompt=prompt)
    config = override(config, {name.replace("__", "."): as_setting(value) for name, value in settings.items()})
    reporter = progress if isinstance(progress, Reporter) else choose(False) if progress else Silent()
    with warnings_to(reporter):
        resolved = resolve(config)
        for text in resolved.notes:
            reporter.note(text)
        job = load(resolved, pool=pool)
        for event in lift(job):
            reporter.event(event, config.total_steps)
        asset = finish(job, reporter.stage)
    reporter.done({"asset": repr(asset)})
    return asset


def evaluate(*runs: str | Path | Asset, prompt: str | None = None, progress: bool | Reporter = False) -> dict[str, Any]:
    """Figures for assets, run folders or GLB files, as ``dreamlift evaluate`` gives them: each one's, and their means.

    Args:
        runs: assets in memory; run folders; or GLB files, with the ``prompt`` that they were made for.

    Raises:
        ValueError: a path that is neither, or a file that is no mesh.
    """
    reporter = progress if isinstance(progress, Reporter) else choose(False) if progress else Silent()
    items: list[Item] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            if isinstance(run, Asset):
                for asset in (run, *run.others):
                    # What is judged is the exported file, as everywhere.
                    glb = asset.save(Path(folder) / f"{len(items)}.glb")
                    items.append(Item(f"asset {len(items) + 1}", glb, asset.config.prompt, math.nan, math.nan))
            else:
                items += find_items([Path(run)], prompt, reporter.note)
        return evaluate_items(items, reporter)[0]


def as_setting(value: Any) -> Any:
    """A Python value as the command line would give it; settings objects stay as they are."""
    if isinstance(value, str) or dataclasses.is_dataclass(value):
        return value
    if isinstance(value, (list, tuple)) and any(map(dataclasses.is_dataclass, value)):
        return tuple(value)
    return json.dumps(value)
