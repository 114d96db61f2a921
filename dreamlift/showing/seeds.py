"""``dreamlift generate --seeds 4``: runs with consecutive seeds in one process, and the sheet of their assets.

The folder has an ordinary run for each seed (``seed-0``, ``seed-1``, ...), ``sheet.png`` and ``ranking.json``. The same command
with the same ``--out`` goes on: finished runs stay, an unfinished one is resumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamlift.config.build import config_hash
from dreamlift.config.schema import Config
from dreamlift.lifting import resolve
from dreamlift.priors.kinds import Priors
from dreamlift.runs.carry_out import Order, carry_out
from dreamlift.runs.progress import Reporter
from dreamlift.runs.run import RunError, new_folder, particle_folders, read_status, slugify
from dreamlift.runs.settings import read_config
from dreamlift.showing.sheet import RANKING, SHEET, Ranked, Variation, save_sheet
from dreamlift.stages.recovery import DivergedError
from dreamlift.system.files import expanded
from dreamlift.system.text import one_line
from dreamlift.types import EmptySceneError, FullSceneError

MOST = 1000  # seeds of one command
SEED = re.compile(r"seed-\d+")
FAILURES = (DivergedError, EmptySceneError, FullSceneError)


@dataclass(frozen=True)
class Variations:
    """How the runs of several seeds ended."""

    folder: Path
    finished: bool  # False: a signal stopped the runs
    ranked: Sequence[Ranked] = ()


def carry_out_seeds(
    order: Order, seeds: int, reporters: Callable[[], Reporter], reporter: Reporter, out: Path | None = None
) -> Variations:  # fmt: skip
    """Carry out ``order.config`` with ``seeds`` consecutive seeds from its own on, and write the sheet.

    A run that fails by itself (diverged, empty or full) is noted and left out of the sheet.

    Args:
        order: the order of each run; its folder and seed are set here.
        reporters: makes the reporter of one run, since a run closes its own.
        reporter: of the whole: what concerns several runs, and the sheet. It is closed at the end.
        out: the folder; None: a new one in outputs/. One that an earlier such command has begun is continued.

    Raises:
        ValueError: a number of seeds or a folder that cannot be used.
        RunError: all runs failed, or a folder cannot be used.
    """
    config = order.config
    assert config is not None
    if not 2 <= seeds <= MOST:
        raise ValueError(f"--seeds is {seeds}; accepted: 2 to {MOST} (one run needs --seed only)")
    if config.seed + seeds > 2**63:
        raise ValueError(f"--seed {config.seed} with --seeds {seeds} goes beyond the largest seed, 2^63 - 1")
    check_folder(out)
    each = [replace(config, seed=config.seed + number) for number in range(seeds)]
    folder = folder_of(config) if out is None else expanded(out)
    for own in each:
        check_same(folder / f"seed-{own.seed}", own)
    pool, failed = Priors(), []
    try:
        for number, own in enumerate(each):
            place = folder / f"seed-{own.seed}"
            begun = (place / "run.json").is_file()
            if begun and read_status(place).get("status") == "finished":
                reporter.note(f"{place} is finished already")
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shown = reporters()
            shown.stage(f"seed {own.seed} ({number + 1} of {seeds})")
            try:
                new = replace(order, config=own, out=place, pool=pool)
                outcome = carry_out(Order(resume=place, pool=pool) if begun else new, shown)
            except FAILURES as error:
                failed.append(f"seed {own.seed}: {one_line(error)}")
                reporter.note(failed[-1])
                continue
            if not outcome.finished:
                reporter.note("the same command with " + f"--out {folder}" + " goes on with the other seeds")
                return Variations(folder, False)
        if len(failed) == seeds:
            raise RunError(f"no seed gave an asset; {failed[0]}")
        return Variations(folder, True, save_sheet(found_in(folder, each), config.prompt, folder, reporter))
    finally:
        reporter.close()


def check_same(place: Path, config: Config) -> None:
    """Check that a run, if there is one in ``place``, has the settings of ``config``.

    Raises:
        ValueError: it has others; one line with the fix.
    """
    if not (place / "run.json").is_file():
        return
    status, wanted = read_status(place), config_hash(resolve(config, anyway=True).config)
    if wanted not in (status["config_hash"], *status.get("earlier_hashes", ())):
        raise ValueError(f"{place} is a run with other settings: give --out another folder, or the settings of that run")


def check_folder(out: Path | None) -> None:
    """Check that a folder is new, or one of an earlier such command.

    Raises:
        ValueError: it holds anything else; one line with the fix.
    """
    folder = None if out is None else expanded(out)
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a new or an empty folder")
    others = [path.name for path in folder.iterdir() if path.name not in (SHEET, RANKING) and not SEED.fullmatch(path.name)]
    if others:
        raise ValueError(f"{folder} holds {others[0]!r}, and nothing is overwritten: give --out a new or an empty folder")


def folder_of(config: Config) -> Path:
    """A new folder in outputs/, named as that of a run."""
    named = slugify(config.prompt or (Path(config.photos[0].path).stem if config.photos else ""))
    return new_folder(Path("outputs") / f"{named}-seeds")


def found_in(folder: Path, configs: Sequence[Config]) -> list[Variation]:
    """The assets of the runs in ``folder``, particles included."""
    found = []
    for own in configs:
        run = folder / f"seed-{own.seed}"
        for number, place in enumerate(particle_folders(run, own.particles), start=1):
            name = f"seed {own.seed}" + (f", particle {number}" if own.particles > 1 else "")
            if (place / "asset.glb").is_file():
                found.append(Variation(name, place / "asset.glb"))
    return found


def lacks_sheet(folder: Path) -> bool:
    """Whether a finished run of several particles was killed before its sheet was there.

    Raises:
        ValueError, RunError: as those of ``read_config``.
    """
    lacking = not all((folder / name).is_file() for name in (SHEET, RANKING))
    return lacking and (folder / "asset.glb").is_file() and read_config(folder).particles > 1


def save_particles(folder: Path, reporter: Reporter) -> Sequence[Ranked]:
    """The sheet of one run's particles, in its folder; nothing for a run with one.

    Raises:
        ValueError, RunError, OSError: as :func:`dreamlift.showing.sheet.save_sheet` and ``read_config``.
    """
    config = read_config(folder)
    if config.particles < 2:
        return ()
    places = particle_folders(folder, config.particles)
    several = [Variation(f"particle {number}", place / "asset.glb") for number, place in enumerate(places, start=1)]
    return save_sheet(several, config.prompt, folder, reporter)
