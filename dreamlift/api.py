"""The Python interface: :func:`generate`, :func:`views`, :func:`dreambooth`, :func:`invert` and :func:`evaluate`."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.apps.cutout import default_preset, with_cameras, with_image
from dreamlift.apps.evaluate import Item, find_items
from dreamlift.apps.evaluate import evaluate as evaluate_items
from dreamlift.apps.presets import find_preset, twin_named
from dreamlift.apps.views import ViewOrder, Views, draw_views
from dreamlift.asset import Asset
from dreamlift.config.schema import Config
from dreamlift.config.short import override
from dreamlift.config.subject import with_subject
from dreamlift.lifting import finish, lift, load, resolve
from dreamlift.plugins import load_plugins
from dreamlift.priors.choice import as_choice
from dreamlift.priors.kinds import Priors
from dreamlift.reading.photos import Photo
from dreamlift.runs.progress import Reporter, Silent, warnings_to
from dreamlift.runs.reporters import choose

if TYPE_CHECKING:
    from dreamlift.apps.dreambooth import Tuned
    from dreamlift.tuning.photos import Taught


def generate(
    prompt: str = "", config: Config | None = None, *, image: str | os.PathLike[str] | Photo | None = None,
    preset: str | None = None, class_name: str | None = None, word: str | None = None, progress: bool | Reporter = True,
    pool: Priors | None = None, anyway: bool = False, **settings: Any,
) -> Asset:  # fmt: skip
    """Make a textured mesh from ``prompt``, from a picture, or from both; no file is written.

    Args:
        prompt: description of the object, such as "a red mug"; may be empty with ``image``.
        image: a picture's file, or a :class:`~dreamlift.reading.photos.Photo`, which also states its camera and mask.
        config: settings that replace the preset.
        preset: a name in ``dreamlift.presets.PRESETS``; by default "toybox", with another prior "magic3d-toy", with
            ``image`` "zero123-toy", with ``class_name`` "dreambooth3d-toy".
        class_name: the kind of thing in ``photos``, on which a prior is tuned first; ``word``: its new word in the prompt.
        progress: True: a progress bar; False: no output; or a :class:`~dreamlift.runs.progress.Reporter`.
        pool: keeps the priors in memory for the next call, for programs that make many assets.
        anyway: start even if the prior knows none of the prompt's nouns; the result is then a blob.
        settings: changes by name, with ``__`` for a dot: ``seed=3, steps=100, guidance__guidance_scale=5``. Values are numbers,
            text, lists, or settings objects such as ``guidance=VSD()``.

    Returns:
        The asset; with ``particles`` above 1 the others are in ``asset.others``.

    Raises:
        ValueError: a prompt or a setting that is not accepted, or a prior that cannot be found.
        DivergedError: the optimization failed repeatedly.
        EmptySceneError: the scene is empty.
    """
    if config is not None and preset is not None:
        raise ValueError("config and preset are two starting points: give one of them")
    if os.environ.get("DREAMLIFT_PLUGINS"):
        load_plugins()
    given = {name.replace("__", "."): as_setting(value) for name, value in settings.items()}
    default = default_preset(image is not None, class_name is not None, given)
    begun = (preset or default) if config is None else ""
    config = dataclasses.replace(find_preset(begun) if config is None else config, prompt=prompt)
    if image is not None:
        config = with_image(config, image, "photos" in settings)
    config = override(with_subject(config, class_name, word), given, text=False)
    reporter = _reporter(progress)
    try:
        with warnings_to(reporter):
            with twin_named(begun):
                config = with_cameras(config, reporter, known=not anyway)
                resolved = resolve(config, anyway=anyway)
            for text in resolved.notes:
                reporter.note(text)
            job = load(resolved, pool=pool)
            reporter.attach(job)
            for event in lift(job):
                reporter.event(event, config.total_steps)
            asset = finish(job, reporter.stage)
    finally:
        reporter.close()
    reporter.done({"asset": repr(asset)})
    return asset


def views(
    photo: Any, prior: Any = "toybox-view", *, progress: bool | Reporter = False, pool: Priors | None = None, **settings: Any
) -> Views:  # fmt: skip
    """The object in a picture from other sides, as ``dreamlift views`` draws it; no file is written.

    Args:
        photo: a file, or a :class:`~dreamlift.reading.photos.Photo` with its camera.
        prior: a view-conditioned prior, as in :func:`dreamlift.apps.views.draw_views`.
        pool: keeps the prior in memory for the next call.
        settings: fields of :class:`~dreamlift.apps.views.ViewOrder`: ``azimuths_deg=(0, 90), elevation_deg=20, samples=2``.

    Returns:
        The pictures ``(N, V, S, S, 3)`` of N samples of V views, with their cameras;
        :func:`~dreamlift.apps.views.save_views` writes them.

    Raises:
        ValueError: a photo, a prior or a setting that cannot be used.
        TypeError: an unknown setting.
    """
    reporter = _reporter(progress)
    with warnings_to(reporter):
        photo = photo if isinstance(photo, Photo) else os.fspath(photo)
        return draw_views(photo, prior, ViewOrder(**settings), reporter.note, pool)


def dreambooth(
    photos: Sequence[str | os.PathLike[str] | Photo], *, class_name: str, word: str = "zwx",
    out: str | os.PathLike[str] | None = None, prior: Any = "toybox", progress: bool | Reporter = False,
    device: str = "auto", checkpoint_every: int = 100, samples: int = 4, **settings: Any,
) -> Tuned:  # fmt: skip
    """Teach a prior the thing in a few photos, as ``dreamlift dreambooth`` does; the result is a folder.

    ``generate("a zwx duck", prior=tuned.prior)`` uses it.

    Args:
        photos: files, or :class:`~dreamlift.reading.photos.Photo` objects with their cameras.
        class_name: the kind of thing, such as "duck". word: the new word for this one.
        out: a new folder, or that of an earlier call, which is continued; None: a new one in outputs/.
        prior: a value of ``--prior``, or a :class:`~dreamlift.priors.choice.PriorChoice`.
        samples: pictures that the tuned prior draws for ``samples.png``.
        settings: fields of :class:`~dreamlift.tuning.settings.Tuning` and of :class:`~dreamlift.tuning.dreambooth.Subject`:
            ``steps=300, rank=8, all_weights=True, cameras=False, class_pictures="ducks"``.

    Raises:
        ValueError: a photo, a prior or a setting that cannot be used.
        RunError: the folder is in use or cannot be written, or memory is exhausted.
        TypeError: an unknown setting.
    """
    # Imported here, so that other calls need not wait for it.
    from dreamlift.tuning.dreambooth import Subject

    return _teach(Subject, photos, prior, progress, out, settings | {"class_name": class_name, "word": word},
                  device=device, checkpoint_every=checkpoint_every, samples=samples)  # fmt: skip


def invert(
    photos: Sequence[str | os.PathLike[str] | Photo], *, init: str, word: str = "zwx",
    out: str | os.PathLike[str] | None = None, prior: Any = "toybox", progress: bool | Reporter = False,
    device: str = "auto", checkpoint_every: int = 100, samples: int = 4, **settings: Any,
) -> Tuned:  # fmt: skip
    """Learn a new word from photos by textual inversion, as ``dreamlift invert`` does; the result is a folder.

    ``generate("a zwx", prior=tuned.prior)`` uses it.

    Args:
        init: what the photos show, in words that the prior knows. word: the new word.
        photos, out, prior, samples: see :func:`dreambooth`.
        settings: fields of :class:`~dreamlift.tuning.settings.Tuning` and of :class:`~dreamlift.tuning.inversion.Inversion`:
            ``steps=500, word_lr=1e-2, cameras=False``.

    Raises:
        ValueError: a photo, a word, a prior or a setting that cannot be used.
        RunError: the folder is in use or cannot be written, or memory is exhausted.
        TypeError: an unknown setting.
    """
    from dreamlift.tuning.inversion import Inversion

    return _teach(Inversion, photos, prior, progress, out, settings | {"init": init, "word": word},
                  device=device, checkpoint_every=checkpoint_every, samples=samples)  # fmt: skip


def _teach(
    kind: type[Taught], photos: Sequence[str | os.PathLike[str] | Photo], prior: Any, progress: bool | Reporter,
    out: str | os.PathLike[str] | None, settings: dict[str, Any], **more: Any,
) -> Tuned:  # fmt: skip
    """Tune on a subject of ``kind``; ``settings``: its fields, and those of a tuning."""
    from dreamlift.apps.dreambooth import dreambooth as tune_photos
    from dreamlift.tuning.settings import Tuning

    reporter = _reporter(progress)
    shown = tuple(each if isinstance(each, Photo) else Photo(os.fspath(each)) for each in photos)
    own = {field.name for field in dataclasses.fields(kind)}
    words = {name: value for name, value in settings.items() if name in own}
    subject = kind(photos=shown, prior=as_choice(prior), **words)
    tuning = Tuning(**{name: value for name, value in settings.items() if name not in own})
    try:
        with warnings_to(reporter):
            return tune_photos(subject, tuning, None if out is None else Path(out), reporter, **more)
    finally:
        reporter.close()


def evaluate(
    *runs: str | Path | Asset, prompt: str | None = None, reference: str | Path | None = None, clip: str | None = None,
    shape: bool = False, progress: bool | Reporter = False,
) -> dict[str, Any]:  # fmt: skip
    """The figures of ``dreamlift evaluate`` for each asset, run folder or GLB file, and their means.

    Args:
        runs: assets, run folders, or GLB files.
        prompt: the prompt of the GLB files.
        reference: a picture of the object, with which the front views are compared.
        clip: a CLIP model's folder or hub name.
        shape: also compare the shape, the surface and the colours' detail with a true thing of the kind (about 5 s an asset).

    Raises:
        ValueError: a path that is neither a run folder nor a GLB file, a file without a mesh, or a picture that cannot be used.
    """
    reporter = _reporter(progress)
    items: list[Item] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            if isinstance(run, Asset):
                for asset in (run, *run.others):
                    # Figures are computed from the exported file, as for run folders.
                    glb = asset.save(Path(folder) / f"{len(items)}.glb")
                    name, photos = f"asset {len(items) + 1}", asset.config.photos
                    items.append(Item(name, glb, asset.config.prompt, math.nan, math.nan, photos=photos))
            else:
                items += find_items([Path(run)], prompt, reporter.note)
        return evaluate_items(items, reporter, clip, None if reference is None else Path(reference), shape)[0]


def _reporter(progress: bool | Reporter) -> Reporter:
    """True: a progress bar; False: no output."""
    return progress if isinstance(progress, Reporter) else choose(False) if progress else Silent()


def as_setting(value: Any) -> Any:
    """A Python value in the form that settings have: paths as text, numpy's numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_setting, value)) if type(value) in (list, tuple) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
