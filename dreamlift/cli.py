"""The command line: ``dreamlift generate "a red mug"``. Large packages are imported only by the verbs that need them.

Exit codes: 0 success, 1 the run failed, 2 invalid input, 3 a batch in which some assets were given up, 130 stopped by a signal.
Every error is one line with the problem and the fix, of at most 300 printable characters; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlift import verbs
from dreamlift.system.failures import explained, is_out_of_memory
from dreamlift.system.text import one_line
from dreamlift.verbs import Overrides, refuse

if TYPE_CHECKING:
    from dreamlift.config.schema import Config
    from dreamlift.runs.progress import Reporter
    from dreamlift.showing.sheet import Ranked

OVERRIDE = re.compile(r"--([a-z_]+(?:\.[a-z0-9_]+)+)(?:=(.*))?", re.DOTALL)
NEGATIVE_LIST = re.compile(r"-[\d.]+[,:].*")
MORE = "; the same command with --debug shows where it comes from"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    from dreamlift.system.startup import tune_process

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            tune_process()
            return _run(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that a broken pipe is caught below
    except KeyboardInterrupt as stopped:  # with a message: it has been said
        if not stopped.args and (told := INTERRUPTED.get(next((word for word in words if word in VERBS), ""))):
            print(f"dreamlift: {told}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has ended, as in `dreamlift settings | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python's flush of standard output at exit would fail otherwise
        return 1
    except SystemExit:  # argparse has said why
        raise
    except BaseException as error:  # libraries in Rust raise errors that are no Exception
        if "--debug" in (words[: words.index("--")] if "--" in words else words):
            raise
        print(f"dreamlift: error: {one_line(explained(error, MORE))}", file=sys.stderr)
        return exit_code(error)


def _run(words: list[str]) -> int:
    parser = verbs.build_parser()
    if not words:
        parser.print_help()
        return 0
    rest, overrides = split_overrides(with_watch(with_negative_lists(words)))
    parser.words = rest
    arguments = parser.parse_args(rest)
    if arguments.verb is None:
        parser.error("a verb is missing, such as generate")
    if getattr(arguments, "plugin", []) or os.environ.get("DREAMLIFT_PLUGINS") or arguments.verb in PLUGIN_VERBS:
        from dreamlift.plugins import load_plugins

        load_plugins(getattr(arguments, "plugin", []), lambda text: print(f"note: {one_line(text)}", file=sys.stderr))
    return VERBS[arguments.verb](arguments, overrides)


def exit_code(error: BaseException) -> int:
    """2 for invalid input, 1 for a run that failed and for defects."""
    names = {kind.__name__ for kind in type(error).__mro__}
    failed = is_out_of_memory(error) or names & {"RunError", "DivergedError", "EmptySceneError", "FullSceneError", "OSError"}
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG  # a path that the user gave
    return 2 if too_long or ("ValueError" in names and not failed) else 1


def with_negative_lists(words: list[str]) -> list[str]:
    """The words with ``--azimuth -30,45`` as one, which argparse would take for two options."""
    found: list[str] = []
    for word in words:
        after_option = bool(found) and found[-1].startswith("--") and found[-1] != "--" and "=" not in found[-1]
        if after_option and NEGATIVE_LIST.fullmatch(word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def with_watch(words: list[str]) -> list[str]:
    """The words with ``--watch=0`` for a ``--watch`` without a port: argparse would take a prompt behind it for the port."""
    i = words.index("--watch") if "--watch" in words else len(words)
    alone = i < len(words) and "--" not in words[:i] and not "".join(words[i + 1 : i + 2]).isdecimal()
    return [*words[:i], "--watch=0", *words[i + 1 :]] if alone else words


def split_overrides(words: list[str]) -> tuple[list[str], Overrides]:
    """Separate ``--guidance.guidance_scale 7.5`` (or with ``=``) from the other words. Words after ``--`` are not settings."""
    rest: list[str] = []
    overrides: Overrides = {}
    i = 0
    while i < len(words):
        match = OVERRIDE.fullmatch(words[i])
        if words[i] == "--":
            return rest + words[i:], overrides
        if match is None:
            rest.append(words[i])
        elif match[2] is not None:
            overrides[match[1]] = match[2]
        elif i + 1 < len(words):
            i += 1
            overrides[match[1]] = words[i]
        else:
            raise ValueError(f"{words[i]} needs a value")
        i += 1
    return rest, overrides


def _generate(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.cutout import with_cameras
    from dreamlift.apps.presets import twin_named
    from dreamlift.apps.start import config_of, preset_of
    from dreamlift.runs.carry_out import Order, carry_out
    from dreamlift.runs.progress import warnings_to
    from dreamlift.runs.run import check_out
    from dreamlift.showing.seeds import carry_out_seeds, save_particles

    config, preset = config_of(arguments, overrides), preset_of(arguments, overrides)
    reporter = _reporter(arguments, config)
    if arguments.seeds is None:
        check_out(arguments.out)
    with _page(arguments, reporter) as show, twin_named(preset):
        own = show(reporter) if arguments.seeds is None else reporter
        with warnings_to(own):
            config = with_cameras(config, own, known=not arguments.anyway)
        order = Order(config, arguments.out, anyway=arguments.anyway, preset=preset)
        if arguments.seeds is not None:
            found = carry_out_seeds(order, arguments.seeds, lambda: show(_reporter(arguments)), reporter, arguments.out)
            return _chosen(arguments, found.folder, found.ranked) if found.finished else 130
        outcome = carry_out(order, own)
        if outcome.asset is not None and outcome.asset.others:
            return _chosen(arguments, outcome.folder, save_particles(outcome.folder, reporter))
    return 0 if outcome.finished else 130


def _chosen(arguments: argparse.Namespace, folder: Path, ranked: Sequence[Ranked]) -> int:
    """Tell the order of several variations, and the sheet that shows them."""
    from dreamlift.runs.reporters import choose
    from dreamlift.showing.sheet import SHEET, choices, listed

    if arguments.json:
        choose(True).done({"sheet": str(folder / SHEET), "ranking": listed(ranked, folder)})
    elif ranked:
        print(f"{choices(ranked)}\n{folder / SHEET}")
    return 0


def _cutout(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.cutout import save_cutout
    from dreamlift.runs.run import check_out

    refuse(overrides, "cutout")
    check_out(arguments.out)
    reporter = _reporter(arguments)
    files, told = save_cutout(
        arguments.image, arguments.mask, lambda: _report_folder(arguments.out, arguments.image.stem), reporter.note
    )
    return _written(arguments, reporter, files, told)


def _resume(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.runs.carry_out import Order, carry_out
    from dreamlift.showing.seeds import lacks_sheet, save_particles

    refuse(overrides, "resume")
    reporter = _reporter(arguments)
    with _page(arguments, reporter) as show:
        outcome = carry_out(Order(resume=arguments.run, steps=arguments.steps), show(reporter))
        if outcome.finished and (lacks_sheet(outcome.folder) if outcome.asset is None else outcome.asset.others):
            return _chosen(arguments, outcome.folder, save_particles(outcome.folder, reporter))
    return 0 if outcome.finished else 130


def _export(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.options import file_settings, option_names
    from dreamlift.config.build import apply_overrides
    from dreamlift.config.named import named
    from dreamlift.runs.export import export_run
    from dreamlift.runs.settings import read_config

    given = file_settings(arguments) | overrides
    other = [name for name in given if not name.startswith(("mesh.", "asset."))]
    if other:
        raise ValueError(f"export takes settings of the mesh and its files only (--mesh.faces, --asset.lod), not --{other[0]}")
    with named(option_names(arguments)):
        config = apply_overrides(read_config(arguments.run), given)
    reporter = _reporter(arguments, config)
    return _written(arguments, reporter, export_run(arguments.run, config, reporter))


def _evaluate(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.evaluate import describe, evaluate, find_items, plain, save_report
    from dreamlift.runs.run import check_out

    refuse(overrides, "evaluate")
    check_out(arguments.out)
    reporter = _reporter(arguments)
    items = find_items(arguments.runs, arguments.prompt, reporter.note)
    report, found = evaluate(items, reporter, arguments.clip, arguments.reference, arguments.shape)
    folder = _report_folder(arguments.out, "evaluation")
    save_report(report, found, folder)
    if arguments.json:
        reporter.done({"report": str(folder / "evaluation.json"), **report["mean"], "runs": plain(report["runs"])})
    else:
        print(f"{describe(report)}\n{folder / 'index.html'}")
    return 0


def _views(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.options import view_settings
    from dreamlift.apps.views import ViewOrder, draw_views, save_views
    from dreamlift.config.named import named
    from dreamlift.reading.photos import Photo
    from dreamlift.runs.progress import warnings_to
    from dreamlift.runs.run import check_out

    refuse(overrides, "views")
    check_out(arguments.out)
    with named({**_own_options(arguments), "elevation_deg": "--photo-elevation"}):
        order, path = ViewOrder(**view_settings(arguments)), Path(arguments.photo)
        photo = Photo(str(path), elevation_deg=arguments.photo_elevation)
    reporter = _reporter(arguments)
    with warnings_to(reporter):
        views = draw_views(photo, arguments.prior, order, reporter.note)
    folder = _report_folder(arguments.out, f"views-{path.stem}")
    return _written(arguments, reporter, save_views(views, folder))


def _dreambooth(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.dreambooth_options import run_dreambooth
    from dreamlift.config.named import named

    refuse(overrides, "dreambooth")
    with named(_own_options(arguments)):
        run_dreambooth(arguments, _reporter(arguments))
    return 0


def _invert(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.dreambooth_options import run_invert
    from dreamlift.config.named import named

    refuse(overrides, "invert")
    with named({**_own_options(arguments), "word_lr": "--lr"}):
        run_invert(arguments, _reporter(arguments))
    return 0


def _own_options(arguments: argparse.Namespace) -> dict[str, str]:
    """The options whose settings have their names, of verbs without a config."""
    return {**{name: f"--{name.replace('_', '-')}" for name in vars(arguments)}, "class_name": "--class"}


def _gallery(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.evaluate import evaluate, find_items
    from dreamlift.apps.gallery import check_turning, save_gallery
    from dreamlift.runs.run import check_out

    refuse(overrides, "gallery")
    check_out(arguments.out)
    reporter = _reporter(arguments)
    items = find_items(arguments.runs, note=reporter.note)
    check_turning(items)
    judged = evaluate(items, reporter)[0]["runs"] if arguments.judge else None
    print(save_gallery(items, _report_folder(arguments.out, "gallery"), judged))
    return 0


def _render(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.showing.options import run_render

    refuse(overrides, "render")
    reporter = _reporter(arguments)
    return _written(arguments, reporter, run_render(arguments, reporter))


def _studio(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from dreamlift.apps.options import option_names, run_settings
    from dreamlift.config.named import named
    from dreamlift.studio.serve import Place, run_studio

    place = Place(arguments.host, arguments.port, arguments.token, tuple(arguments.allow_host))
    with named(option_names(arguments)):
        run_studio(arguments.out, place, {**run_settings(arguments), **overrides}, lambda text: print(text, flush=True))
    return 0


def _written(
    arguments: argparse.Namespace, reporter: Reporter, files: Iterable[Path], figures: Mapping[str, object] | None = None
) -> int:  # fmt: skip
    """Tell which files a verb has written, with ``figures`` in JSON; returns the exit code of success."""
    names = [str(file) for file in files]
    if arguments.json:
        reporter.done({**(figures or {}), "files": names})
    else:
        print("\n".join(names))
    return 0


def _report_folder(out: Path | None, kind: str) -> Path:
    """The empty folder ``out``, or a new folder in outputs/."""
    from dreamlift.runs.run import empty_folder, new_folder
    from dreamlift.system.files import expanded

    return new_folder(Path("outputs") / kind) if out is None else empty_folder(expanded(out))


VERBS = {
    "generate": _generate, "batch": verbs.batch, "status": verbs.status, "views": _views, "cutout": _cutout,
    "resume": _resume, "export": _export, "evaluate": _evaluate,
    "gallery": _gallery, "render": _render, "studio": _studio, "dreambooth": _dreambooth, "invert": _invert,
    "presets": verbs.presets, "settings": verbs.settings, "priors": verbs.priors, "doctor": verbs.doctor,
    "warmup": verbs.warmup, "completion": verbs.completion,
}  # fmt: skip
# Those that import the plugins of installed packages; starting the others stays fast.
PLUGIN_VERBS = ("generate", "batch", "resume", "export", "evaluate", "views", "gallery", "presets", "warmup", "dreambooth",
                "invert")  # fmt: skip


# What is said of a signal before a run takes signals itself.
INTERRUPTED = {
    "generate": "stopped before the run began; nothing was written",
    "resume": "stopped before the run went on; nothing is lost",
    "batch": "stopped; the same command goes on, and what is finished stays",
    "dreambooth": "stopped; the same command with the same --out goes on",
    "invert": "stopped; the same command with the same --out goes on",
    "export": "stopped; the same command again writes all files",
}


def _reporter(arguments: argparse.Namespace, config: Config | None = None) -> Reporter:
    """The reporter: the terminal or JSON, and the logs of --log. It is told which options change no file of ``config``."""
    from dreamlift.apps.options import without_effect
    from dreamlift.runs.reporters import choose

    reporter = choose(getattr(arguments, "json", False), getattr(arguments, "log", []))
    for text in without_effect(arguments, config) if config is not None else ():
        reporter.note(text)
    return reporter


@contextlib.contextmanager
def _page(arguments: argparse.Namespace, beside: Reporter) -> Iterator[Callable[[Reporter], Reporter]]:
    """What adds the page of --watch, where it is asked for, to the reporter of a run; ``beside`` is told its address."""
    if arguments.watch is None:
        yield lambda reporter: reporter
        return
    from dreamlift.studio.watch import watching

    with watching(beside, arguments.watch) as page:
        yield page.show


def _preset(name: str) -> Config:
    from dreamlift.apps.presets import find_preset

    return find_preset(name)


if __name__ == "__main__":
    sys.exit(main())
