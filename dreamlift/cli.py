"""The command line: ``dreamlift generate "a red mug"``. Imports nothing heavy until a verb needs it.

Exit codes: 0 done, 1 the run failed, 2 bad input (one line says what and how to mend it), 130 stopped by a signal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from dreamlift.config.schema import Config

OVERRIDE = re.compile(r"--([a-z_]+(?:\.[a-z0-9_]+)+)(?:=(.*))?", re.DOTALL)
# Short options of generate and the setting that each one is.
SHORT = {
    **{name: name for name in ("prior", "prior_config", "see_cameras", "linear_latents", "seed", "steps", "particles", "device",
                               "negative", "checkpoint_every", "keep_checkpoints")},
    "mesh": "start", "start": "start", "up": "up", "show": "show", "then": "then", "backdrops": "backdrops",
}  # fmt: skip
# Of generate and of export: the same for what comes out, and flags with the values that they stand for.
ASSET_SHORT = {
    "faces": "mesh.faces", "texture_size": "mesh.texture_size", "format": "asset.formats", "scale": "asset.scale",
    "pivot": "asset.pivot", "lod": "asset.lod",
}  # fmt: skip
ASSET_FLAGS = {
    "watertight": ("mesh.watertight", "true"), "no_texture": ("mesh.texture", "false"),
    "normal_map": ("mesh.normal_map", "true"),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """argparse with one line an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"dreamlift: error: {' '.join(message.split())} (see: {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    from dreamlift.system.startup import tune_process

    tune_process()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            rest, overrides = split_overrides(words)
            arguments = build_parser().parse_args(rest)
            return VERBS[arguments.verb](arguments, overrides)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that went away can still be dealt with
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `dreamlift settings | head -1`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its last flush of standard output
        return 1
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"dreamlift: error: {' '.join(str(error).split())}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int | None:
    """1 for a run that failed, 2 for bad input, None for a defect of dreamlift (its traceback is wanted)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"RunError", "DivergedError", "EmptySceneError", "OSError", "OutOfMemoryError", "MemoryError"}:
        return 1
    return 2 if "ValueError" in names else None


def split_overrides(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--guidance.guidance_scale 7.5`` (or with ``=``) out of the command line. After ``--`` nothing is taken."""
    rest: list[str] = []
    overrides: dict[str, str] = {}
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


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    parser = _Parser(prog="dreamlift", description="Text to a textured 3D asset, taught by a 2D diffusion model.")
    parser.add_argument("--version", action="version", version=f"dreamlift {_version()}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    make = verbs.add_parser("generate", help="lift a prompt to a textured GLB", epilog=(
        "Every setting can be given as --section.name value (for example --guidance.guidance_scale 5); "
        "`dreamlift settings` lists them. A prompt that begins with a dash goes after `--`."))  # fmt: skip
    make.add_argument("prompt", nargs="?", help='what to make, for example "a red mug"')
    make.add_argument("--preset", default=None, help="named settings (default: toybox)")
    make.add_argument("--config", type=Path, default=None, help="a run's config.yaml, to make it again")
    make.add_argument("--out", type=Path, default=None, help="the run's folder (default: outputs/<prompt>-<time>)")
    for name, target in SHORT.items():
        spellings = {f"--{name.replace('_', '-')}", f"--{name}"}  # the second is the setting's own name
        make.add_argument(*sorted(spellings), default=None, help=f"the setting {target}")
    _add_asset_options(make)
    make.add_argument(
        "--lora", action="append", default=None, metavar="FILE[@SCALE]", help="a LoRA (.safetensors); may be repeated"
    )
    make.add_argument(
        "--embedding",
        action="append",
        default=None,
        metavar="FILE",
        help=("a textual inversion (.safetensors), written in the prompt by its file's name; may be repeated"),
    )
    make.add_argument("--json", action="store_true", help="print events as JSON, one a line")

    again = verbs.add_parser("resume", help="go on with a run that was stopped")
    again.add_argument("run", type=Path)
    again.add_argument("--json", action="store_true")

    export = verbs.add_parser("export", help="mesh a run's last checkpoint anew, in one or several formats")
    export.add_argument("run", type=Path)
    _add_asset_options(export)
    export.add_argument("--json", action="store_true")

    judge = verbs.add_parser("evaluate", help="figures for finished runs: is it what was asked for, from every side?")
    judge.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or GLB files with --prompt")
    judge.add_argument("--prompt", default=None, help="what the GLB files were meant to be")
    judge.add_argument("--out", type=Path, default=None, help="the report's folder (default: outputs/evaluation-<time>)")
    judge.add_argument("--clip", default=None, help="a CLIP model (folder or hub name), for words that the judge does not know")
    judge.add_argument("--json", action="store_true", help="print the figures as JSON")

    shown = verbs.add_parser("gallery", help="one page that shows finished runs, turning; it needs no other file")
    shown.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    shown.add_argument("--out", type=Path, default=None, help="the page's folder (default: outputs/gallery-<time>)")

    listing = verbs.add_parser("settings", help="every setting with its type, default and meaning")
    listing.add_argument("--preset", default="toybox")
    verbs.add_parser("priors", help="the 2D models that are known: where they live, licence, memory")
    verbs.add_parser("doctor", help="device, memory, versions; what is missing and how to get it")
    return parser


def _add_asset_options(parser: argparse.ArgumentParser) -> None:
    """What generate and export take about the files that come out."""
    told = {
        "faces": "at most so many triangles", "texture_size": "texels a side", "format": "some of glb,obj,ply,stl,usdz",
        "scale": "metres of the longest side", "pivot": "at the origin: center or base (mesh: as --mesh stood)",
        "lod": "levels of detail", "watertight": "close every hole", "no_texture": "a colour a vertex, and no UVs",
        "normal_map": "bake the fine mesh's shading",
    }  # fmt: skip
    for name, target in ASSET_SHORT.items():
        spellings = {f"--{name.replace('_', '-')}", f"--{name}"}
        parser.add_argument(*sorted(spellings), default=None, help=f"{told[name]} (the setting {target})")
    for name, (target, value) in ASSET_FLAGS.items():
        spelling = f"--{name.replace('_', '-')}"
        parser.add_argument(spelling, action="store_true", help=f"{told[name]} (the setting {target} {value})")


def _asset_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings that the options of :func:`_add_asset_options` stand for, where they were given."""
    given = {target: getattr(arguments, name) for name, target in ASSET_SHORT.items() if getattr(arguments, name) is not None}
    if "asset.formats" in given:
        names = [name.strip().lower() for name in given["asset.formats"].split(",")]
        given["asset.formats"] = json.dumps([name for name in names if name])
    return given | {target: value for name, (target, value) in ASSET_FLAGS.items() if getattr(arguments, name)}


def _generate(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dataclasses import replace

    from dreamlift.config.build import apply_overrides, load_yaml
    from dreamlift.config.schema import Config
    from dreamlift.priors.lora.additions import parse_lora
    from dreamlift.runs.carry_out import start_run
    from dreamlift.runs.progress import choose

    if arguments.config is not None and arguments.preset is not None:
        raise ValueError("--config and --preset are two starting points: give one of them")
    if arguments.config is not None:
        config = load_yaml(Config, _read_text(arguments.config), str(arguments.config))
    else:
        config = _preset(arguments.preset or "toybox")
    if arguments.prompt is not None:
        config = replace(config, prompt=arguments.prompt)
    given = {SHORT[name]: getattr(arguments, name) for name in SHORT if getattr(arguments, name) is not None}
    config = apply_overrides(config, {**given, **_asset_settings(arguments), **overrides})
    additions = config.additions
    if arguments.lora is not None:
        additions = replace(additions, loras=tuple(map(parse_lora, arguments.lora)))
    if arguments.embedding is not None:
        additions = replace(additions, embeddings=tuple(arguments.embedding))
    config = replace(config, additions=additions)
    outcome = start_run(config, arguments.out, choose(arguments.json))
    return 0 if outcome.finished else 130


def _resume(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.runs.carry_out import resume_run
    from dreamlift.runs.progress import choose

    _refuse(overrides, "resume")
    return 0 if resume_run(arguments.run, choose(arguments.json)).finished else 130


def _export(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.config.build import apply_overrides
    from dreamlift.runs.carry_out import export_run, read_config
    from dreamlift.runs.progress import choose

    given = _asset_settings(arguments) | overrides
    other = [name for name in given if not name.startswith(("mesh.", "asset."))]
    if other:
        raise ValueError(f"export takes settings of the mesh and its files only (--mesh.faces, --asset.lod), not --{other[0]}")
    config = apply_overrides(read_config(arguments.run), given)
    reporter = choose(arguments.json)
    paths = [str(path) for path in export_run(arguments.run, config, reporter)]
    if arguments.json:
        reporter.done({"files": paths})
    else:
        print("\n".join(paths))
    return 0


def _evaluate(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.apps.evaluate import describe, evaluate, find_items, save_report
    from dreamlift.runs.carry_out import check_out
    from dreamlift.runs.progress import choose

    _refuse(overrides, "evaluate")
    check_out(arguments.out)
    reporter = choose(arguments.json)
    report, scored = evaluate(find_items(arguments.runs, arguments.prompt, reporter.note), reporter, arguments.clip)
    folder = _report_folder(arguments.out, "evaluation")
    save_report(report, scored, folder)
    if arguments.json:
        reporter.done({"report": str(folder / "evaluation.json"), **report["mean"]})
    else:
        print(f"{describe(report)}\n{folder / 'index.html'}")
    return 0


def _gallery(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.apps.evaluate import find_items
    from dreamlift.apps.gallery import gallery
    from dreamlift.runs.carry_out import check_out
    from dreamlift.runs.progress import choose
    from dreamlift.system.files import atomic_write_text

    _refuse(overrides, "gallery")
    check_out(arguments.out)
    page = gallery(find_items(arguments.runs, note=choose(False).note))
    folder = _report_folder(arguments.out, "gallery")
    atomic_write_text(folder / "index.html", page)
    print(folder / "index.html")
    return 0


def _report_folder(out: Path | None, kind: str) -> Path:
    """The empty folder that the user named, or a new one below outputs/."""
    from dreamlift.runs.run import empty_folder, new_folder
    from dreamlift.system.files import expanded

    return new_folder(Path("outputs") / kind) if out is None else empty_folder(expanded(out))


def _settings(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.config.build import describe_fields

    _refuse(overrides, "settings")
    for name, kind, default, comment in describe_fields(_preset(arguments.preset)):
        print(f"--{name} {default}  ({kind}){'  ' + comment if comment else ''}")
    return 0


def _priors(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.apps.doctor import list_priors

    _refuse(overrides, "priors")
    print(list_priors())
    return 0


def _doctor(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from dreamlift.apps.doctor import diagnose

    _refuse(overrides, "doctor")
    report, healthy = diagnose()
    print(report)
    return 0 if healthy else 1


VERBS = {
    "generate": _generate, "resume": _resume, "export": _export, "evaluate": _evaluate,
    "gallery": _gallery, "settings": _settings, "priors": _priors, "doctor": _doctor,
}  # fmt: skip


def _preset(name: str) -> Config:
    import difflib

    from dreamlift.presets import PRESETS

    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown preset {name!r}{hint}; accepted: {', '.join(PRESETS)}")
    return PRESETS[name]


def _refuse(overrides: dict[str, str], verb: str) -> None:
    if overrides:
        raise ValueError(f"{verb} takes no settings, but --{next(iter(overrides))} was given")


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"there is no config file {str(path)!r}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not UTF-8 text") from None


def _version() -> str:
    from dreamlift import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())
