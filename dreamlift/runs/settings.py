"""The settings of a run on disk, and their change when the run is given more steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamlift.config import yaml
from dreamlift.config.build import PLUGIN_HINT, ConfigError, config_hash, load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.runs.run import Run, RunError, read_status, runs_below
from dreamlift.stages.base import SavedState
from dreamlift.system.files import atomic_write_text
from dreamlift.system.text import read_text


def read_config(folder: Path) -> Config:
    """The ``config.yaml`` of a run.

    Raises:
        ValueError: there is none, or it cannot be read; if it needs a plugin, the message has the run's ``--plugin``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml{runs_below(folder)}")
    try:
        return load_yaml(Config, read_text(path, yaml.MAX_BYTES), str(path))
    except ConfigError as error:
        try:
            plugins = read_status(folder).get("plugins") if PLUGIN_HINT in str(error) else None
        except RunError:  # the config's error comes first
            plugins = None
        if not plugins:
            raise
        named = " ".join(f"--plugin {name}" for name in plugins)
        # The fix comes first: long messages lose their middle.
        raise ConfigError(f"this run was made with {named}: give it again; {str(error).replace(PLUGIN_HINT, '')}") from None


def lengthened(config: Config, steps: int) -> Config:
    """The config with ``steps`` steps (per particle) in its last stage, whose schedules keep their length.

    Raises:
        ValueError: less than one step, or a stage without such a setting.
    """
    *before, last = config.stages
    return replace(config, stages=(*before, last.with_steps(steps)))


def nothing_to_do(folder: Path, steps: int | None) -> str:
    """A message if the run is finished and ``steps`` does not change it; otherwise "".

    Raises:
        ValueError, RunError: as :func:`read_config` and :func:`~dreamlift.runs.run.read_status`, or as :func:`lengthened`.
    """
    config = read_config(folder)
    if read_status(folder).get("status") != "finished" or (steps is not None and lengthened(config, steps) != config):
        return ""
    return (
        f"{folder} is finished, so there is nothing to resume; dreamlift resume {folder} --steps N gives it more steps, "
        f"dreamlift export {folder} writes its files again"
    )


def check_length(config: Config, saved: SavedState | None, finished: bool) -> None:
    """Check that a run can continue to the end of ``config`` from its last checkpoint.

    Raises:
        RunError: the run is finished and its checkpoints were removed.
        ValueError: its last stage has done more steps than it is to have.
    """
    if saved is None:
        if finished:
            raise RunError(
                "this run is finished and its checkpoints were removed, so it cannot be given more steps; make it again with "
                "more from its config: dreamlift generate --config and its folder"
            )
        return
    place, stage = config.places()[-1], config.stages[-1]
    if saved.stage == place.number and saved.index > place.first + stage.total_steps(config.particles):
        done = -(-(saved.index - place.first) // config.particles)
        raise ValueError(f"{done} steps of the last stage are done: give --steps at least {done}, or leave it out")


def adopt(run: Run, config: Config) -> Run:
    """Write down new settings of a run whose checkpoints stay valid.

    ``run.json`` accepts both hashes before ``config.yaml`` is replaced, so that a process killed at any point leaves a run that
    can be resumed.

    Raises:
        RunError: a file cannot be written.
    """
    new, path = config_hash(config), run.folder / "config.yaml"
    earlier = tuple(dict.fromkeys([*run.earlier, run.config_hash, new]))
    run.set_status("running", {"earlier_hashes": list(earlier)})
    try:
        atomic_write_text(path, save_yaml(config))
    except OSError as error:
        raise run.fault(path, error) from error
    changed = replace(run, config_hash=new, earlier=tuple(each for each in earlier if each != new))
    changed.set_status("running", {"earlier_hashes": list(changed.earlier)})
    changed.event("lengthened", {"steps": config.total_steps})
    return changed
