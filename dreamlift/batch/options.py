"""The options of ``dreamlift batch`` and ``dreamlift status``; imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamlift.apps.options import FILE_FLAGS, FILES, SETTINGS, Parser, add_settings

ATTEMPTS, TIMEOUT = 3, "24h"
EXAMPLES = """examples:
  dreamlift batch prompts.txt --out runs                      # one prompt a line
  dreamlift batch prompts.csv --out runs --jobs 2 --steps 300 # columns are settings; options are for all assets
  dreamlift batch --out runs                                  # goes on with the list that runs has
  dreamlift batch prompts.txt --out runs --shard 3/16         # the third of 16 machines, on a shared folder
  dreamlift batch prompts.txt --out runs --ray auto           # on a Ray cluster
  dreamlift status runs

A list is a .txt file (one prompt a line; empty lines and lines that begin with # are skipped), a .csv file with a line of
column names, or a .jsonl file with an object a line. Columns are prompt, seed, image, name (the asset's folder) and any other
option of `dreamlift generate` or setting, such as guidance.guidance_scale. docs/scale.md has more.

Exit codes: 0 all assets are made; 3 some were given up, the others are made; 1 the batch cannot go on, or a limit is reached;
2 invalid input; 130 stopped by a signal, and the same command goes on.
"""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def add_batch(verb: Callable[..., Parser]) -> None:
    """Add the verb batch."""
    make = verb("batch", "make many assets from a list, one a line; the same command goes on", epilog=EXAMPLES)
    what = make.add_argument_group("what")
    what.add_argument(
        "list",
        nargs="?",
        type=Path,
        metavar="LIST",
        help="a .txt, .csv or .jsonl file with one asset a line; may be left out where --out has a batch already",
    )
    what.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the batch's folder, with one folder an asset")
    for name, told in (
        ("seed", "seed of assets that state none (default: 0)"),
        ("negative", "negative prompt"),
        ("particles", "scenes that are optimized together, for each asset (default: 1)"),
    ):
        what.add_argument(f"--{name}", metavar="VALUE", help=told)
    what.add_argument("--anyway", action="store_true", help="also start prompts of whose nouns the prior knows none")
    work = make.add_argument_group("work")
    _add_limits(work)
    _add_places(work)
    add_settings(make)
    make.add_argument("--json", action="store_true", help="print events as JSON, one per line")
    make.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="import a plugin (docs/extend.md), here and in all processes; may be repeated",
    )


def _add_limits(work: Any) -> None:
    """Add the options of what a batch may use."""
    work.add_argument(
        "--jobs", type=int, metavar="N", help="assets at a time (default: one a GPU, on a CPU 1, with Ray as many as fit)"
    )
    work.add_argument(
        "--attempts",
        type=int,
        default=ATTEMPTS,
        metavar="N",
        help=f"attempts at an asset whose process crashes or hangs, before it is given up (default: {ATTEMPTS})",
    )
    work.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="TIME",
        help=f"longest time of one attempt, such as 90s, 30m or 8h (default: {TIMEOUT})",
    )
    work.add_argument(
        "--max-memory",
        type=size,
        metavar="SIZE",
        help="memory of one process, such as 12GB; it is killed beyond (default: 90 %% of what is free at the start, "
        "divided by --jobs)",
    )
    work.add_argument(
        "--max-disk",
        type=size,
        metavar="SIZE",
        help="stop at a checkpoint when the batch's folder, measured every 3 minutes and after each attempt, is larger than "
        "this, such as 200GB",
    )
    work.add_argument("--max-time", type=seconds, metavar="TIME", help="stop at a checkpoint after this time, such as 8h")


def _add_places(work: Any) -> None:
    """Add the options of what is made, by whom, and where to."""
    work.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where the folder has a batch already (default); --no-resume refuses such a folder",
    )
    work.add_argument("--retry-failed", action="store_true", help="also make the assets that were given up")
    work.add_argument("--shard", type=shard, metavar="I/N", help="make only the I-th of N parts of the list, counted from 1")
    work.add_argument(
        "--ray",
        metavar="ADDRESS",
        help='make them on a Ray cluster: auto, local, or an address; needs pip install "dreamlift[cluster]"',
    )
    work.add_argument(
        "--upload",
        metavar="ADDRESS",
        help="copy finished assets to a folder of fsspec, such as s3://bucket/runs or file:///mnt/assets",
    )
    work.add_argument(
        "--drop-checkpoints",
        action="store_true",
        help="delete an asset's checkpoints when it is finished; it can then not be exported again",
    )


def add_status(verb: Callable[..., Parser]) -> None:
    """Add the verb status."""
    make = verb("status", "how far a batch is: done, running, given up, assets an hour, time left")
    make.add_argument("batch", type=Path, metavar="FOLDER", help="the batch's folder")
    make.add_argument("--json", action="store_true", help="print it as JSON")


def as_generate(arguments: argparse.Namespace) -> argparse.Namespace:
    """The options of generate that are given for all assets, with its others as if they were not given."""
    known = [*SETTINGS, *FILES, "prompt", "image", "photos", "class_name", "word", "context", "config", "lora", "embedding"]
    found = {name: getattr(arguments, name, None) for name in known}
    found |= {name: getattr(arguments, name, False) for name in (*FILE_FLAGS, "anyway")}
    return argparse.Namespace(**found)


def size(text: str) -> int:
    """Bytes of a size such as 12GB, 500MB or 2e9."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) *([kmgt]?)i?b?", text.strip().lower())
    try:
        found = float(match[1]) * UNITS[match[2]] if match else math.nan
    except ValueError:
        found = math.nan
    if not 0 < found < 1e18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no size; accepted: a number with MB, GB or TB, such as 12GB")
    return int(found)


def seconds(text: str) -> float:
    """Seconds of a time such as 90s, 30m, 8h or 2d."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([smhd]?)", text.strip().lower())
    found = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time; accepted: a number with s, m, h or d, such as 90s or 8h")
    return found


def shard(text: str) -> tuple[int, int]:
    """(number counted from 0, count) of a shard such as 3/16."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no part; accepted: I/N from 1/N to N/N, such as 3/16")
    return int(match[1]) - 1, int(match[2])


def check_work(arguments: argparse.Namespace) -> None:
    """Refuse numbers that make no sense. Raises ValueError."""
    for name, least in (("jobs", 1), ("attempts", 1)):
        value: Any = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; accepted: at least {least}")
