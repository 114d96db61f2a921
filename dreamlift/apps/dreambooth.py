"""A prior that knows the thing in a few photos: ``dreamlift dreambooth a.png b.png --class duck --out my-duck``.

``dreamlift invert`` is the same with a subject of textual inversion, which leaves no LoRA and no ``class/``.

::

    my-duck/
        pytorch_lora_weights.safetensors   the U-Net's LoRA, and the text encoder's, as diffusers reads them
        learned_embeds.safetensors         the new word's vectors, where they are learnt
        unet/, tokenizer/, ...             with --all-weights instead: a whole prior in diffusers' layout
        README.md, training.json           model card; all settings
        samples.png                        the photos; below them, what the tuned prior draws
        class/                             pictures of the class, drawn by the prior
        checkpoint/                        to continue: the same command again, or with more --steps
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreamlift.apps.views import enlarged
from dreamlift.config.named import named
from dreamlift.export.video import contact_sheet
from dreamlift.lifting import find_device
from dreamlift.memory import tuning_need
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine, available
from dreamlift.priors.kinds import load_prior
from dreamlift.reading.photos import Photo
from dreamlift.runs import lock as locks
from dreamlift.runs.checkpoints import RunError
from dreamlift.runs.progress import Reporter
from dreamlift.runs.run import new_folder
from dreamlift.system.failures import is_out_of_memory
from dreamlift.system.files import atomic_write_bytes, expanded
from dreamlift.system.signals import Stop, stop_signals
from dreamlift.system.streams import random_stream
from dreamlift.tuning.card import check_same, read_record, write_card, write_record
from dreamlift.tuning.class_pictures import ClassPicture, draw, split
from dreamlift.tuning.dreambooth import Plan, planned, prepared, result_of, with_cameras
from dreamlift.tuning.files import load_state, save_addition, save_state, save_whole
from dreamlift.tuning.photos import Taught, taken
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.tuner import Tuner, tune
from dreamlift.types import LoraFile

OPTIONS = "--batch 1, --gradient-checkpointing"
LORA_OPTIONS = f"{OPTIONS}, a smaller --rank, --targets attention"
SAMPLES, MOST_SAMPLES, PALE = "samples.png", 64, 0.8


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tuning."""

    folder: Path
    files: tuple[str, ...]  # in the folder: a LoRA, an embedding, or the parts of a whole prior
    prompt: str  # such as "a zwx duck", "a zwx"
    steps: int
    loss: float | None  # mean over the last steps; None: nothing was left to do
    whole: bool  # whether the folder is a prior itself

    base: PriorChoice  # the prior that was tuned

    @property
    def prior(self) -> PriorChoice:
        """The tuned prior: the folder itself, or the base with the folder's LoRA and word."""
        if self.whole:
            return PriorChoice(str(self.folder), camera_conditioning=self.base.camera_conditioning)
        return replace(self.base, loras=(*self.base.loras, LoraFile(str(self.folder))))


def dreambooth(
    subject: Taught, settings: Tuning, out: Path | None, reporter: Reporter, *, device: str = "auto",
    engine: Engine = "auto", checkpoint_every: int = 100, samples: int = 4,
) -> Tuned:  # fmt: skip
    """Tune a prior on the photos of ``subject``, or continue a tuning, in the folder ``out``.

    Args:
        subject: DreamBooth's :class:`~dreamlift.tuning.dreambooth.Subject`, or textual inversion's
            :class:`~dreamlift.tuning.inversion.Inversion`.
        out: a new or empty folder, or that of an earlier call; None: a new one in outputs/.
        engine: who runs the prior's network where no gradient is needed.
        checkpoint_every: steps between two checkpoints; the end is one too.
        samples: pictures of the thing that the tuned prior draws at the end, from all sides if it takes cameras; 0: none.

    Raises:
        ValueError: something that cannot be used; one line with the fix.
        RunError: the folder is in use or cannot be written, or memory is exhausted.
        TuningDivergedError: the loss is no number.
        KeyboardInterrupt: SIGINT or SIGTERM. A step is finished first; the message, which ``reporter`` got, says how to go on.
    """
    if not 1 <= checkpoint_every <= 1_000_000:
        raise ValueError(f"checkpoint_every is {checkpoint_every}; accepted: 1 to 1000000")
    if not 0 <= samples <= MOST_SAMPLES:
        raise ValueError(f"samples is {samples}; accepted: 0 to {MOST_SAMPLES}")
    used = find_device(device)
    available(engine, used)
    before = None if out is None else _checked_folder(expanded(out))
    plan = planned(subject, settings, reporter.note)
    check_memory(plan, used, reporter.note)
    known = [photo.azimuth_deg is not None and photo.elevation_deg is not None for photo in subject.photos]
    if plan.tells_cameras and before is None and not all(known):
        reporter.stage("looking at the photos")
    plan = with_cameras(plan, before, reporter.note, engine)
    record = plan.record()
    folder = new_folder(Path("outputs") / f"{subject.word}-{subject.noun.replace(' ', '-')}") if out is None else expanded(out)
    if before is not None:
        check_same(folder, before, record)
    folder.mkdir(parents=True, exist_ok=True)
    lock, stop = locks.acquire(folder), Stop()
    count = len(subject.photos)
    shown = f"{count} photo{'s' * (count > 1)} of {subject.prompt!r}"
    reporter.stage(f"tuning {plan.located.choice.name} on {shown}, into {folder}")
    try:
        with _explained(folder, plan.settings), stop_signals(at_once=True) as stop:
            tuned = _carry_out(plan, record, before, folder, reporter, used, engine, checkpoint_every)
            gc.collect()
            if samples and (tuned.loss is not None or not (folder / SAMPLES).is_file()):
                reporter.stage("drawing what it has learnt")
                save_samples(plan, tuned, used, engine, samples)
            return tuned
    except KeyboardInterrupt as found:
        done = next(iter(found.args), f"stopped by {stop.name or 'SIGINT'}; what is finished is saved")
        told = f"{done}: go on with the same command and --out {folder}"
        reporter.note(told)
        raise KeyboardInterrupt(told) from None
    finally:
        locks.release(lock)


def _carry_out(
    plan: Plan, record: dict[str, Any], before: dict[str, Any] | None, folder: Path, reporter: Reporter,
    device: torch.device, engine: Engine, checkpoint_every: int,
) -> Tuned:  # fmt: skip
    record = {**record, "finished_steps": (before or {}).get("finished_steps", 0), "files": (before or {}).get("files", [])}
    write_record(folder, record)
    steps, whole = plan.settings.steps or 0, plan.settings.all_weights
    if record["finished_steps"] >= steps and record["files"]:
        reporter.note(f"{folder} has its {record['finished_steps']} steps already: give more --steps to go on")
        return Tuned(
            folder, tuple(record["files"]), plan.subject.prompt, record["finished_steps"], None, whole, plan.subject.prior
        )
    reporter.stage("preparing the pictures")
    tuner = result_of(prepared(plan, folder, device, engine, reporter.note), lambda event: reporter.event(event, steps))
    gc.collect()  # the prior's own networks
    if load_state(tuner, folder):
        reporter.note(f"continued after step {tuner.index}")
    reporter.stage(f"tuning {_count(tuner):,} values")
    losses: list[float] = []
    with stop_signals() as stop:  # the first one ends a step
        for loss in tune(tuner):
            losses = [*losses, loss][-50:]
            reporter.counted("tuning", tuner.index - 1, steps, {"loss": sum(losses) / len(losses)})
            if stop.requested or (tuner.index % checkpoint_every == 0 and tuner.index < steps):
                save_state(tuner, folder)
            if stop.requested:
                raise KeyboardInterrupt(f"stopped by {stop.name} after step {tuner.index}, whose state is saved")
    save_state(tuner, folder)
    subject = plan.subject
    files = save_whole(tuner, plan.parts, subject.word, subject.noun, folder) if whole \
        else save_addition(tuner, subject.word, folder)  # fmt: skip
    mean = sum(losses) / len(losses) if losses else None
    record = {**record, "finished_steps": tuner.index, "files": files, "loss": mean}
    write_record(folder, record)
    write_card(folder, record, plan.learned_variance)
    return Tuned(folder, tuple(files), subject.prompt, tuner.index, mean, whole, subject.prior)


def save_samples(plan: Plan, tuned: Tuned, device: torch.device, engine: Engine, count: int) -> None:
    """Write ``samples.png``: the photos as the prior was shown them, and below them ``count`` pictures of the tuned prior."""
    prior = load_prior(tuned.prior, device, engine=engine if device.type == "cpu" else "torch")
    text = split(prior.embed_text([tuned.prompt, ""]))
    quick, turned = plan.family == "words", plan.tells_cameras
    wanted = [ClassPicture("", tuned.prompt, 360.0 * n / count if turned else None, 15.0 if turned else None)
              for n in range(count)]  # fmt: skip
    drawn = []
    for n, each in enumerate(wanted):
        noise = [random_stream("samples", plan.settings.seed, 0 if turned else n)]  # one for all sides of a thing
        drawn.append(draw(prior, [each], {tuned.prompt: text[0], "": text[1]}, noise, quick))
    shots = taken(plan.subject.photos, prior.resolution, plan.plain, quick, lambda _: None)
    photos = shots.rgb if shots.alpha is None else shots.rgb * shots.alpha + PALE * (1.0 - shots.alpha)
    columns = max(count, len(photos))
    rows = [torch.cat([row, torch.ones(columns - len(row), *row.shape[1:])]) for row in (photos, torch.cat(drawn))]
    atomic_write_bytes(tuned.folder / SAMPLES, contact_sheet(enlarged(torch.cat(rows)), columns=columns))


def _count(tuner: Tuner) -> int:
    return sum(parameter.numel() for parameter in tuner.parameters.values())


def _checked_folder(folder: Path) -> dict[str, Any] | None:
    """The record of an earlier call in ``folder``; None if it is new or empty. Raises ValueError for other content."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a new or an empty folder")
    found = read_record(folder)
    if found is None and folder.is_dir() and any(path.name not in locks.NAMES for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and nothing is overwritten: give --out a new or an empty folder")
    return found


@contextmanager
def _explained(folder: Path, settings: Tuning) -> Iterator[None]:
    """Name the options that need less when memory is exhausted, and the folder when it cannot be written."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            # Without the library's own words, from which the command line would take this for a lift's failure.
            raise RunError(
                f"the memory is exhausted. Options that need less: {_less(settings)}; give another --out with them"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, RunError):
            raise RunError(
                f"{folder} cannot be written ({error.strerror or error}): free space, then the same command goes on"
            ) from error
        raise


def _less(settings: Tuning) -> str:
    """The options that need less memory."""
    return OPTIONS if settings.word_only else LORA_OPTIONS


def check_memory(plan: Plan, device: torch.device, note: Callable[[str], None]) -> int | None:
    """The estimated peak bytes, which ``note`` gets where they exceed the free memory; None where weights cannot be counted."""
    need, told = tuning_need(plan, device, _less(plan.settings))
    if told:
        note(told)
    return need


def photos_of(
    paths: Sequence[str], mask: str = "auto", azimuths: str | None = None, elevations: str | None = None
) -> tuple[Photo, ...]:  # fmt: skip
    """The photos with the angles of ``--azimuth`` and ``--elevation``: one value for all, or one per photo ("?": unknown).

    Raises:
        ValueError: no photos, a value that is no number, or another number of values.
    """
    if not paths:
        raise ValueError("no photos are given: name three to six pictures of the thing, from several sides")
    turned, raised = (_angles(name, text, len(paths)) for name, text in (("azimuth", azimuths), ("elevation", elevations)))
    with named({"mask": "--mask", "azimuth_deg": "--azimuth", "elevation_deg": "--elevation"}):
        return tuple(Photo(path, mask, azimuth, elevation)
                     for path, azimuth, elevation in zip(paths, turned, raised, strict=True))  # fmt: skip


def _angles(name: str, text: str | None, count: int) -> list[float | None]:
    values = [] if text is None else [part.strip() for part in text.split(",")]
    if not values:
        return [None] * count
    try:
        found = [None if value in ("?", "null") else float(value) for value in values]
    except ValueError:
        raise ValueError(f"--{name} is {text!r:.40}; accepted: degrees, one per photo, such as 0,45,? for three") from None
    if len(found) not in (1, count):
        raise ValueError(f"--{name} has {len(found)} values for {count} photos: give one for all, or one per photo")
    return found * count if len(found) == 1 else found
