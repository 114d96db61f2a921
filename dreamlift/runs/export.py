"""Export of a run's last checkpoint, with other settings of the mesh and its files."""

from __future__ import annotations

from pathlib import Path

from dreamlift.config.build import config_hash
from dreamlift.config.schema import Config
from dreamlift.lifting import asset_of
from dreamlift.runs.progress import Reporter, warnings_to
from dreamlift.runs.results import figures, save_files, show_asset
from dreamlift.runs.run import Run, RunError, particle_folders
from dreamlift.runs.settings import read_config


def export_run(folder: Path, config: Config, reporter: Reporter) -> list[Path]:
    """Write the assets of a run's last checkpoint in the formats of ``config.asset``; files of other formats are unchanged.

    With the GLB, the pictures, the page, the Gaussians and the figures in run.json are written as well.

    Raises:
        RunError: the run has no checkpoint yet.
        ValueError: a format that cannot be written, or a stage without a scene.
    """
    config.asset.check()
    original = read_config(folder)
    opened = Run.open(folder, config_hash=config_hash(original), keep=original.keep_checkpoints, verb="export")
    with opened as run, warnings_to(reporter):
        saved = run.load_latest()
        if saved is None:
            raise RunError(f"{folder} has no checkpoint yet: resume the run with `dreamlift resume {folder}`")
        if saved.index < original.total_steps:
            reporter.note(
                f"this run is unfinished: step {saved.index} of {original.total_steps}; dreamlift resume {folder} goes on"
            )
        written, metrics = [], []
        places = particle_folders(folder, original.particles)
        for scene, place in zip(config.stages[saved.stage].rebuild(saved), places, strict=True):
            asset = asset_of(config, scene, reporter.stage)
            try:
                run.check_held()
                place.mkdir(exist_ok=True)
                written += save_files(asset, place, config.asset.formats)
                if "glb" in config.asset.formats:
                    run.check_held()
                    metrics.append(show_asset(place, asset, reporter))
            except OSError as error:
                raise run.fault(Path(error.filename or place), error) from error
        if metrics:
            run.set_status(str(run.status().get("status")), figures(places, metrics, reporter))
        return written
