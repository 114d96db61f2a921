"""The command line's verbs and options, with their help; imports no large packages."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dreamlift
from dreamlift.apps.dreambooth_options import add_dreambooth, add_invert
from dreamlift.config.table import rows_of
from dreamlift.showing.options import RENDER_EXAMPLES, add_evaluate, add_gallery, add_render, add_seeds, add_watch
from dreamlift.system.text import MAX_MESSAGE, one_line

if TYPE_CHECKING:
    from dreamlift.config.schema import Config

# Options of generate, and the setting (short or full name) that each one sets.
SETTINGS = {
    "negative": "negative", "preset": "", "prior": "prior.name", "prior_config": "prior.settings",
    "camera_conditioning": "prior.camera_conditioning", "linear_encoder": "prior.linear_encoder", "mesh": "initial_mesh",
    "up": "up", "photos": "photos", "subject": "subject", "mask": "photos.0.mask", "elevation": "photos.0.elevation_deg",
    "azimuth": "photos.0.azimuth_deg", "fov": "photos.0.fov_deg", "distance": "photos.0.distance",
    "seed": "seed", "particles": "particles", "steps": "steps", "schedule_steps": "schedule_steps", "show": "show",
    "weight": "weight", "angle_weight": "angle_weight", "photometric": "photometric", "depth_model": "depth_model",
    "backdrops": "backdrops",
    "device": "device", "engine": "engine", "checkpoint_every": "checkpoint_every", "keep_checkpoints": "keep_checkpoints",
}  # fmt: skip
# Options of generate and export for the output files, and flags with the values that they set.
FILES = {
    "faces": "mesh.faces", "texture_size": "mesh.texture_size", "format": "asset.formats", "scale": "asset.scale",
    "print_size": "asset.print_size", "pivot": "asset.pivot", "splats_axes": "asset.splats_axes", "lod": "asset.lod",
}  # fmt: skip
FILE_FLAGS = {
    "watertight": ("mesh.watertight", "true"), "no_texture": ("mesh.texture", "false"),
    "normal_map": ("mesh.normal_map", "true"),
}  # fmt: skip
UNITS = {"mm": 1.0, "cm": 10.0, "in": 25.4}  # millimetres of each
EXAMPLES = """examples:
  dreamlift generate "a red mug"
  dreamlift generate "a blue chair" --seed 3 --steps 600 --out chair
  dreamlift generate "a green teapot" --seeds 4
  dreamlift generate "an owl" --preset vsd-toy --particles 2
  dreamlift generate "a teapot" --prior sd-1.5 --preset dreamfusion-sd --lora clay.safetensors@0.8
  dreamlift generate "a red mug" --guidance.guidance_scale 5 --stages.1.steps 200
  dreamlift generate "a yellow duck" --preset texture-toy --mesh duck.glb
  dreamlift generate --image photo.jpg
  dreamlift generate --image photo.jpg "a red car" --elevation 20
  dreamlift generate "a zwx duck" --photos a.jpg b.jpg c.jpg --class duck
  dreamlift generate --config outputs/a-red-mug-20260101-120000 --seed 4

Any setting can be given as --name value; `dreamlift settings` lists them. Names without "stages.N" mean the first stage.
Write a prompt that begins with a dash after `--`.
"""

MASK = (
    "how the object is cut out of the picture: auto (default; its alpha channel, a plain background, or its colours), alpha, "
    "border, grabcut, or an ONNX matting model: u2netp, silueta, u2net, isnet-general-use, birefnet-general-lite, or an .onnx "
    "file"
)
DEBUG = "show the traceback of an error"


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that suggest the nearest known option."""

    words: Sequence[str] = ()  # of the command line, for suggestions

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.split())
        if "unrecognized arguments:" in text:
            words = text.split(":", 1)[1].split()
            unknown = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
            prompted = not unknown and self._given()[0] == ["generate"]
            text += "; a prompt of several words goes in quotes" if prompted else suggestion(unknown, self._options())
        see = f" (see: {' '.join([self.prog, *self._given()[0]])} --help)"
        self.exit(2, f"dreamlift: error: {one_line(text, MAX_MESSAGE - len(see))}{see}\n")

    def _given(self) -> tuple[list[str], list[Parser]]:
        """The verb that was given, and its parser; the parsers of all verbs where none was."""
        verbs = next((action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)), {})
        words = [word for word in self.words if word in verbs][:1]
        return words, [verbs[word] for word in words] or list(verbs.values())

    def _options(self) -> list[str]:
        """The options of the verb that was given; of all verbs where none was."""
        given = self._given()[1]
        return [name for parser in (self, *given) for name in parser._option_string_actions]


def suggestion(unknown: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?": a setting whose last part was given, or the nearest option; or nothing."""
    last = unknown.lstrip("-").replace("-", "_")
    rows = rows_of("toybox") or []
    near = [f"--{name}" for name, *_ in rows if name.rpartition(".")[2] == last and not name.startswith("stages.")]
    near = [name for name in near if name != unknown]
    others = {name.lstrip("-"): name for name in known if name != unknown}  # the dashes are alike in all of them
    near = near or [others[name] for name in difflib.get_close_matches(unknown.lstrip("-"), others, n=1, cutoff=0.6)]
    return f"; did you mean {near[0]}?" if near else ""


def build_parser(*more: Callable[[Callable[..., Parser]], None]) -> Parser:
    """The verbs and their options; ``more`` add the verbs of packages above this one."""
    style: Any = _formatter()
    parser = Parser(prog="dreamlift", allow_abbrev=False, formatter_class=style, description=(
        "Textured 3D assets from text, by score distillation of 2D diffusion models."))  # fmt: skip
    parser.add_argument("--version", action="version", version=f"dreamlift {dreamlift.__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)

    def verb(name: str, told: str, **more: Any) -> Parser:
        made = verbs.add_parser(name, allow_abbrev=False, help=told, description=told, formatter_class=style, **more)
        made.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)
        return made

    _add_generate(verb("generate", "make a textured GLB from a prompt, a picture, or both", epilog=EXAMPLES))
    for add in more:
        add(verb)
    cut = verb("cutout", "show what a run will see of a picture: the object cut out and framed; writes PNG files")
    cut.add_argument("image", type=Path, metavar="PICTURE", help="a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF file")
    cut.add_argument("--mask", default="auto", metavar="VALUE", help=MASK)
    cut.add_argument("--out", type=Path, help="the files' folder (default: outputs/<picture>-<time>)")
    again = verb("resume", "continue a run that was stopped, or give a run more steps")
    again.add_argument("run", type=Path, help="the run's folder")
    again.add_argument("--steps", type=int, metavar="N", help="steps of the last stage; its schedules keep their length")
    export = verb("export", "mesh a run's last checkpoint again, in one or several formats")
    export.add_argument("run", type=Path, help="the run's folder")
    _add_files(export)
    add_evaluate(verb("evaluate", "quality figures of finished runs: category, color and shape, from all sides"))
    _add_views(verb("views", "draw the object in a picture from other sides"))
    add_dreambooth(verb("dreambooth", "teach a prior the thing in a few photos: a new word for it"))
    add_invert(verb("invert", "learn a new word from photos, and nothing else: textual inversion"))
    add_gallery(verb("gallery", "a page with turntables of finished runs, which open in the viewer"))
    verb("presets", "the named settings: paper, prior, resolution, steps, memory, purpose")
    add_render(verb("render", "render a finished asset along a camera path: MP4, WebP or PNG", epilog=RENDER_EXAMPLES))
    listing = verb("settings", "every setting with its type, default and meaning")
    listing.add_argument("--preset", default="toybox", help="the preset whose values are shown (default: toybox)")
    verb("priors", "the known 2D diffusion models: source, license, memory")
    verb("warmup", "compile the CPU kernels of a preset beforehand, for example in a Dockerfile (20 s)").add_argument(
        "--preset", default="toybox", help="the preset whose kernels are compiled, one that needs no --mesh (default: toybox)"
    )
    verb("doctor", "check this machine: devices, memory, versions, missing packages")
    shell = verb("completion", "print a completion script for a shell")
    shell.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="as in: dreamlift completion bash > ~/.dreamlift.bash")
    _add_shared(verbs.choices)
    return parser


def _add_shared(verbs: Any) -> None:
    """Options that several verbs have."""
    for name in ("generate", "cutout", "resume", "export", "evaluate", "views", "dreambooth", "invert", "render"):
        verbs[name].add_argument("--json", action="store_true", help="print events as JSON, one per line")
    for name in ("generate", "resume", "export", "evaluate", "gallery", "settings", "presets", "warmup", "views", "dreambooth",
                 "invert"):  # fmt: skip
        verbs[name].add_argument(
            "--plugin", action="append", default=[], metavar="FILE_OR_MODULE",
            help="import a plugin (docs/extend.md); may be repeated",
        )  # fmt: skip
    for name in ("generate", "resume"):
        add_watch(verbs[name])
        verbs[name].add_argument(
            "--log", action="append", default=[], choices=("tensorboard", "wandb"),
            help="also log to TensorBoard or Weights & Biases; may be repeated",
        )  # fmt: skip


def _formatter() -> type[argparse.HelpFormatter]:
    """rich-argparse's formatter if it is installed (colours), otherwise argparse's; both keep the examples' line breaks."""
    try:
        from rich_argparse import RawDescriptionRichHelpFormatter
    except ImportError:
        return argparse.RawDescriptionHelpFormatter
    RawDescriptionRichHelpFormatter.group_name_formatter = str
    return RawDescriptionRichHelpFormatter


def _add_generate(make: Parser) -> None:
    what = make.add_argument_group("what")
    what.add_argument(
        "prompt", nargs="?", help='description of the object, for example "a red mug"; may be left out with --image'
    )
    _add_image(what)
    add_setting(what, "negative", "negative prompt: what the object should not look like")
    add_setting(what, "mesh", "initial mesh (.glb, .gltf, .obj, .ply, .stl), for presets such as texture-toy")
    add_setting(what, "up", "up axis of the initial mesh's file: y (default) or z")
    add_setting(what, "seed", "seed of all random numbers (default: 0)")
    add_seeds(what)
    add_setting(what, "particles", "number of scenes that are optimized together (default: 1)")
    what.add_argument(
        "--anyway", action="store_true", help="start even if the prior knows none of the prompt's nouns (the result is a blob)"
    )
    _add_subject(make.add_argument_group("several photos"))
    add_settings(make).add_argument("--out", type=Path, help="the run's folder (default: outputs/<prompt>-<time>)")


def add_settings(make: Parser) -> Any:
    """Add the options of generate that are no inputs; returns the group of those for files."""
    how = make.add_argument_group("how")
    how.add_argument("--preset", help=(
        "named settings, of `dreamlift presets` (default: toybox; with another prior or --lora magic3d-toy; with --image "
        "zero123-toy; with --class dreambooth3d-toy)"
    ))  # fmt: skip
    how.add_argument(
        "--config", type=Path, metavar="FILE_OR_RUN",
        help="a config.yaml (without stages: the default preset's), or the folder of a run to repeat",
    )  # fmt: skip
    how.add_argument(
        "--lora", action="append", metavar="FILE[@SCALE]", help="a LoRA, or a folder of dreambooth or invert; may be repeated"
    )
    how.add_argument(
        "--embedding", action="append", metavar="FILE",
        help="a textual inversion (.safetensors); its word in the prompt is the one that the file "
        "states, or the file's stem; may be repeated",
    )  # fmt: skip
    return add_values(make, how)


def add_values(make: Parser, how: Any) -> Any:
    """Add the options of generate that are no inputs and set one value each; returns the group of those for files."""
    add_setting(how, "prior", "2D diffusion model: a name of `dreamlift priors`, a folder, a hub name or a .safetensors file")
    add_setting(how, "prior_config", "for a one-file checkpoint: the prior whose configs and tokenizers are used")
    add_setting(how, "camera_conditioning", "true or false: pass the cameras to a prior that was trained with cameras")
    add_setting(how, "linear_encoder", "true or false: replace a latent prior's encoder by a linear map of colors")
    add_setting(how, "steps", "optimization steps of the first stage")
    add_setting(how, "schedule_steps", "steps of it after which all schedules keep their last values (default: all its steps)")
    add_setting(how, "show", "what the prior is given: color, normal, or place (coordinates of the surface)")
    add_setting(how, "weight", "factor on the loss of the first teacher")
    add_setting(how, "angle_weight", "0 to 1: how far that loss is weighted by the angle between a view and the photo's")
    add_setting(how, "depth_model", "depth-estimation model for photometric.depth (a folder or hub name)")
    add_setting(how, "photometric", "compare renders with the photos: its settings as a mapping; {} for the defaults")
    add_setting(how, "backdrops", "background colors that the prompt names, as a list; [] for none")
    memory = make.add_argument_group("memory and device")
    add_setting(memory, "device", "auto (default), cpu, cuda, cuda:1 or mps")
    add_setting(memory, "engine", "who runs the prior's network: torch, onnx (ONNX Runtime, CPU only) or auto (default)")
    for name, told in (
        ("memory.micro_batch", "pictures per call of the prior; 0 (default): all at once; 1 needs the least memory"),
        ("memory.gradient_checkpointing", "true: recompute activations in the backward pass instead of storing them"),
        ("memory.attention_slices", "true: compute half of the attention heads at a time, if torch has no fused attention"),
        ("memory.check", "false: start even if the weights alone may not fit"),
    ):
        memory.add_argument(f"--{name}", metavar="VALUE", help=told)  # for the help only: split_overrides reads --a.b
    files = make.add_argument_group("files")
    _add_files(files)
    add_setting(files, "checkpoint_every", "steps between two checkpoints (default: 50)")
    add_setting(files, "keep_checkpoints", "number of newest checkpoints to keep (default: 2)")
    return files


def _add_image(what: Any) -> None:
    """Add the options of one picture."""
    what.add_argument("--image", metavar="PICTURE", help="a picture of the object; `dreamlift cutout` shows what is seen of it")
    add_camera(what)


def add_camera(what: Any) -> None:
    """Add the options of how a picture is cut out, and of its camera."""
    add_setting(what, "mask", MASK)
    add_setting(what, "elevation", "height of the picture's camera above level, degrees (default: estimated, or else 15)")
    side = "side that the picture shows, degrees: 0 is the front, 90 the object's left (default: estimated, or else 0)"
    add_setting(what, "azimuth", side)
    add_setting(what, "fov", "vertical field of view of the picture's camera, degrees (default: 45)")
    add_setting(what, "distance", "of the picture's camera from the object's center, world units (default: 2.6)")


def _add_subject(what: Any) -> None:
    """Add the options of several photos, and of the thing in them."""
    what.add_argument(
        "--photos", nargs="+", metavar="PICTURE",
        help="several pictures, after the prompt; or one list that states their cameras: [{path: a.png, elevation_deg: 10}]",
    )  # fmt: skip
    what.add_argument(
        "--class", dest="class_name", metavar="NOUN",
        help="the kind of thing in the photos, such as duck, on which a prior is tuned first (--preset dreambooth3d-toy)",
    )  # fmt: skip
    what.add_argument("--word", help="its new word in the prompt: a zwx duck (default: the one before the class, or else zwx)")
    add_setting(what, "subject", "both as a mapping, as in a config: {class_name: duck, word: zwx}")
    what.add_argument(
        "--context", metavar="WORDS",
        help='with --config RUN: the thing that RUN has learnt, lifted again "on a wooden box" without tuning',
    )  # fmt: skip


def _add_views(make: Parser) -> None:
    make.add_argument("photo", help="a picture of the object, as for generate --image")
    make.add_argument(
        "--azimuths", default="0:360:45", metavar="DEGREES",
        help="cameras around the object, counted from the picture's: from:to:step or a list such as 0,90,180 (default: "
        "0:360:45); where the first is negative, --azimuths=-30,30",
    )  # fmt: skip
    make.add_argument(
        "--elevation", type=float, metavar="DEGREES", help="of the views, above the horizon (default: the picture's)"
    )
    make.add_argument(
        "--photo-elevation", type=float, metavar="DEGREES", help="of the camera that took the picture (default: estimated)"
    )
    make.add_argument("--prior", default="toybox-view", help="a view-conditioned prior of `dreamlift priors`, or a folder")
    make.add_argument(
        "--guidance-scale", type=float, metavar="S", help="uncond + S (cond - uncond) (default: 1; latent priors: 3)"
    )
    make.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: 20; latent priors: 50)")
    make.add_argument("--samples", type=int, default=1, metavar="N", help="samples of each view (default: 1)")
    make.add_argument("--seed", type=int, default=0, help="seed of the first sample (default: 0)")
    make.add_argument("--places", action="store_true", help="draw the coordinates of the surface instead of its colors")
    make.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    make.add_argument("--engine", default="auto", help="who runs the network: auto (default), torch or onnx")
    make.add_argument("--out", type=Path, help="the folder of the pictures (default: outputs/views-<photo>-<time>)")


def view_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of :class:`dreamlift.apps.views.ViewOrder` from the options of views."""
    from dreamlift.apps.views import parse_azimuths

    names = ("samples", "seed", "guidance_scale", "steps", "device", "engine")
    return {
        **{name: getattr(arguments, name) for name in names},
        "azimuths_deg": parse_azimuths(arguments.azimuths),
        "elevation_deg": arguments.elevation,
        "show": "place" if arguments.places else "color",
    }


def add_setting(group: Any, name: str, told: str) -> None:
    """Add an option for a setting, spelled with dashes or with underscores."""
    spellings = sorted({f"--{name.replace('_', '-')}", f"--{name}"})
    group.add_argument(*spellings, default=None, metavar="VALUE", help=told)


def _add_files(group: Any) -> None:
    """Add the options of generate and export for the output files."""
    told = {
        "faces": "largest number of triangles (default: 10000)", "texture_size": "texels per side (default: 1024)",
        "format": "formats, separated by commas: glb, obj, ply, stl, 3mf, usdz (default: glb)",
        "scale": "length of the longest side in meters (default: 1); STL and 3MF have --print-size instead",
        "print_size": "longest side in STL and 3MF, which have z up: 80mm, 8cm or 3in (default: 100mm)",
        "pivot": "origin of the file: center (default), base, or mesh (as in the file of --mesh)",
        "splats_axes": "axes of splats.ply: y-up (default), or y-down for viewers of trained scenes (docs/assets.md)",
        "lod": "levels of detail, each with half the faces of the previous one (default: 1)",
        "watertight": "close all holes in every format (default: in STL and 3MF)",
        "no_texture": "vertex colors instead of UVs and textures",
        "normal_map": "bake the normals of the mesh before decimation into a normal map",
    }  # fmt: skip
    for name in FILES:
        add_setting(group, name, told[name])
    for name in FILE_FLAGS:
        group.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=told[name])


def file_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings of the given options of :func:`_add_files`."""
    given = {target: getattr(arguments, name) for name, target in FILES.items() if getattr(arguments, name) is not None}
    if "asset.formats" in given:
        names = [name.strip().lower() for name in given["asset.formats"].split(",")]
        given["asset.formats"] = json.dumps([name for name in names if name])
    if "asset.print_size" in given:
        given["asset.print_size"] = in_millimeters(given["asset.print_size"])
    return given | {target: value for name, (target, value) in FILE_FLAGS.items() if getattr(arguments, name)}


def option_names(arguments: argparse.Namespace) -> dict[str, str]:
    """The options of generate and export that were given, by the settings that they set."""
    known = {**SETTINGS, **FILES, **{name: target for name, (target, _) in FILE_FLAGS.items()}}
    given = {name: target for name, target in known.items() if target and getattr(arguments, name, None) not in (None, False)}
    return {target: f"--{name.replace('_', '-')}" for name, target in given.items()}


def without_effect(arguments: argparse.Namespace, config: Config) -> list[str]:
    """What to say of the given options of :func:`_add_files` that change none of the run's files."""
    from dreamlift.scenes.gaussians.scene import Gaussians

    found = []
    if arguments.print_size is not None and not {"stl", "3mf"} & set(config.asset.formats):
        found.append("--print-size is that of STL and 3MF files, and none is written: add --format stl or --format 3mf")
    if arguments.splats_axes is not None and not isinstance(getattr(config.stages[-1], "scene", None), Gaussians):
        found.append("--splats-axes is for splats.ply, which is written only where the last stage has Gaussians")
    return found


def in_millimeters(length: str) -> str:
    """The number of millimetres of a length such as 80mm, 8cm, 3.2in or 80; "null" is unchanged.

    Raises:
        ValueError: another form.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(mm|cm|in)?", length.strip().lower())
    if match is None and length.strip() != "null":
        raise ValueError(f"--print-size is {length[:40]!r}; accepted: a length such as 80mm, 8cm or 3in, or null")
    return length if match is None else f"{float(match[1]) * UNITS[match[2] or 'mm']:.9g}"


def run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the given options of generate or studio; photos as a list of files, or as the text of a list."""
    given = {target: getattr(arguments, name, None) for name, target in SETTINGS.items() if target}
    photos = given["photos"]
    if photos is not None and len(photos) == 1 and photos[0].lstrip()[:1] in ("[", ""):
        given["photos"] = photos[0]
    return {name: value for name, value in given.items() if value is not None} | file_settings(arguments)
