"""The options of the verbs dreambooth and invert; imports no large packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamlift.tuning.photos import Taught
    from dreamlift.tuning.settings import Tuning

NUMBERS = ("steps", "batch", "rank", "seed")
RATES = ("lr", "text_lr", "word_lr", "class_weight")
FLAGS = ("all_weights", "text_encoder", "gradient_checkpointing")


def add_dreambooth(make: Any) -> None:
    """Add the options to the verb's parser."""
    what = make.add_argument_group("what")
    what.add_argument("photos", nargs="+", metavar="PHOTO", help="pictures of one thing, three to six are usual")
    what.add_argument("--class", dest="class_name", required=True, metavar="NOUN", help="the kind of thing, such as duck")
    what.add_argument("--word", default="zwx", help="the new word for this one: a zwx duck (default: zwx)")
    _add_photos(what, "the class")
    how = make.add_argument_group("how")
    _add_prior(how)
    how.add_argument("--steps", type=int, metavar="N", help="default: 150; IF 1200; Stable Diffusion 500, with all weights 800")
    how.add_argument("--lr", type=float, metavar="RATE", help="learning rate; the default depends on the prior")
    how.add_argument("--batch", type=int, metavar="N", help="photos per step (default: 4 for pixel priors, 1 for others)")
    how.add_argument("--rank", type=int, metavar="R", help="of the LoRA (default: 16 for the embedded priors, 4 for others)")
    how.add_argument(
        "--targets", choices=("attention", "all"), help="weights that get a LoRA (default: all; large priors: attention)"
    )
    how.add_argument("--all-weights", action="store_true", help="train all weights of the U-Net; --out is then a whole prior")
    how.add_argument("--text-encoder", action="store_true", help="tune the text encoder too")
    how.add_argument("--text-lr", type=float, metavar="RATE", help="learning rate of the text encoder (default: that of --lr)")
    how.add_argument(
        "--learn-word", action="store_true", default=None,
        help="learn a new vector for the word (default: if the prior's tokenizer does not know it)",
    )  # fmt: skip
    how.add_argument("--word-lr", type=float, metavar="RATE", help="learning rate of that vector")
    how.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    kept = make.add_argument_group("the class, which is to stay as it was")
    kept.add_argument("--class-weight", type=float, default=1.0, metavar="W", help="weight of its loss; 0: none (default: 1)")
    kept.add_argument("--class-count", type=int, metavar="N", help="pictures that the prior draws of it (default: 32 or 200)")
    kept.add_argument("--class-pictures", default="", metavar="FOLDER", help="pictures of the class, instead of drawn ones")
    _add_files(make, "who draws the class pictures: auto (default), torch or onnx")


def add_invert(make: Any) -> None:
    """Add the options of textual inversion to the verb's parser."""
    what = make.add_argument_group("what")
    what.add_argument("photos", nargs="+", metavar="PHOTO", help="one or several pictures of one thing")
    what.add_argument(
        "--init", required=True, metavar="WORDS",
        help="what the photos show, in words that the prior knows, such as duck or \"red duck\": the new word begins with "
        "their meaning, and gets a vector for each",
    )  # fmt: skip
    what.add_argument("--word", default="zwx", help="the new word: a zwx (default: zwx)")
    _add_photos(what, "the initial words")
    how = make.add_argument_group("how")
    _add_prior(how)
    how.add_argument("--steps", type=int, metavar="N", help="default: 300 with the embedded priors, 3000 with others")
    how.add_argument(
        "--lr", dest="word_lr", type=float, metavar="RATE", help="learning rate (default: 2e-2; large priors: 1e-4)"
    )
    how.add_argument("--batch", type=int, metavar="N", help="photos per step (default: 4; large priors: 16)")
    how.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    _add_files(make, "who draws the samples: auto (default), torch or onnx")


def _add_photos(what: Any, noun: str) -> None:
    what.add_argument("--mask", default="auto", metavar="VALUE", help="how the object is cut out, as for generate --image")
    what.add_argument(
        "--azimuth", metavar="DEGREES",
        help="sides that the photos show, such as 0,45,? (0 is the front, ? unknown); default: estimated if the prior takes "
        "cameras",
    )  # fmt: skip
    what.add_argument("--elevation", metavar="DEGREES", help="heights of the cameras above level, one for all or one per photo")
    what.add_argument("--no-cameras", action="store_true", help="do not tell the prior the photos' cameras")
    what.add_argument(
        "--background", default="auto", choices=("auto", "keep", "plain"),
        help="keep the photos as they are, or cut the object out over plain colors (auto: plain for the embedded priors)",
    )  # fmt: skip
    what.add_argument("--anyway", action="store_true", help=f"start even if the prior does not know {noun}")


def _add_prior(how: Any) -> None:
    how.add_argument(
        "--prior", default="toybox", help="toybox (default), toybox-latent, DeepFloyd IF, Stable Diffusion 1.x, 2.x, XL"
    )
    how.add_argument("--prior-config", default="", metavar="VALUE", help="for a one-file checkpoint: the prior of its family")


def _add_files(make: Any, engine: str) -> None:
    files = make.add_argument_group("files and device")
    files.add_argument("--out", type=Path, help="a new folder, or that of an earlier call, which is continued")
    files.add_argument(
        "--checkpoint-every", type=int, default=100, metavar="N", help="steps between checkpoints (default: 100)"
    )
    files.add_argument(
        "--samples",
        type=int,
        default=4,
        metavar="N",
        help="pictures that the tuned prior draws for samples.png; 0: none (default: 4)",
    )
    files.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations: less memory, slower")
    files.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    files.add_argument("--engine", default="auto", help=engine)


def run_dreambooth(arguments: argparse.Namespace, reporter: Any) -> None:
    """Carry out the verb, and say which files it leaves and how to use them."""
    from dreamlift.tuning.dreambooth import Subject
    from dreamlift.tuning.settings import Tuning

    names = (*NUMBERS, *RATES, *FLAGS, "targets", "learn_word")
    settings = Tuning(**{name: getattr(arguments, name) for name in names})
    subject = Subject(
        **_taught(arguments), class_name=arguments.class_name, class_pictures=arguments.class_pictures,
        class_count=arguments.class_count,
    )  # fmt: skip
    _run(subject, settings, arguments, reporter)


def run_invert(arguments: argparse.Namespace, reporter: Any) -> None:
    """Carry out textual inversion, and say which file it leaves and how to use it."""
    from dreamlift.tuning.inversion import Inversion
    from dreamlift.tuning.settings import Tuning

    names = ("steps", "batch", "seed", "word_lr", "gradient_checkpointing")
    settings = Tuning(**{name: getattr(arguments, name) for name in names})
    _run(Inversion(**_taught(arguments), init=arguments.init), settings, arguments, reporter)


def _taught(arguments: argparse.Namespace) -> dict[str, Any]:
    """What both methods are told of the photos."""
    from dreamlift.apps.dreambooth import photos_of
    from dreamlift.priors.choice import PriorChoice

    return {
        "photos": photos_of(arguments.photos, arguments.mask, arguments.azimuth, arguments.elevation),
        "word": arguments.word, "cameras": not arguments.no_cameras, "background": arguments.background,
        "prior": PriorChoice(arguments.prior, arguments.prior_config), "anyway": arguments.anyway,
    }  # fmt: skip


def _run(subject: Taught, settings: Tuning, arguments: argparse.Namespace, reporter: Any) -> None:
    from dreamlift.apps.dreambooth import dreambooth
    from dreamlift.runs.progress import warnings_to

    try:
        with warnings_to(reporter):
            tuned = dreambooth(
                subject, settings, arguments.out, reporter, device=arguments.device, engine=arguments.engine,
                checkpoint_every=arguments.checkpoint_every, samples=arguments.samples,
            )  # fmt: skip
    finally:
        reporter.close()
    use = f"--prior {tuned.folder}" if tuned.whole else f"--lora {tuned.folder}"
    if not tuned.whole and arguments.prior != "toybox":
        use += f" --prior {arguments.prior}"
    files, command = [str(tuned.folder / name) for name in tuned.files], f'dreamlift generate "{tuned.prompt}" {use}'
    if arguments.json:
        reporter.done({"files": files, "use": command, "steps": tuned.steps, "loss": tuned.loss})
    else:
        print("\n".join([*files, f"use it: {command}"]))
