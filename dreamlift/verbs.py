"""The verbs that print what there is: settings, presets, priors, doctor, warmup, completion; and those of batches.

Each is given the command line's options and its settings (``--guidance.guidance_scale 5``), and returns the exit code.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamlift.apps.options import Parser

Overrides = dict[str, str]


def settings(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """Every setting with its type, value and meaning."""
    from dreamlift.config.table import rows_of

    refuse(overrides, "settings")
    rows = rows_of(arguments.preset)
    if rows is None:  # a plugin's, or an unknown one
        from dreamlift.apps.presets import find_preset
        from dreamlift.config.short import describe

        rows = describe(find_preset(arguments.preset))
    for name, kind, default, comment in rows:
        if name != "prompt":  # it is given without an option
            print(f"--{name} {default}  ({kind}){'  ' + comment if comment else ''}")
    return 0


def presets(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """The named settings."""
    from dreamlift.apps.presets import list_presets

    refuse(overrides, "presets")
    print(list_presets())
    return 0


def priors(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """The known diffusion models."""
    from dreamlift.apps.doctor import list_priors

    refuse(overrides, "priors")
    print(list_priors())
    return 0


def doctor(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """What works on this machine; 1 if something is wrong."""
    from dreamlift.apps.doctor import diagnose

    refuse(overrides, "doctor")
    report, healthy = diagnose()
    print(report)
    return 0 if healthy else 1


def warmup(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """Compile the CPU kernels of a preset."""
    from dataclasses import replace

    from dreamlift.apps.presets import find_preset
    from dreamlift.config.short import override
    from dreamlift.runs.warmup import is_warm, warm
    from dreamlift.system.jit import fast_kernels_available

    config = replace(override(find_preset(arguments.preset), overrides), device="cpu")
    if not fast_kernels_available():
        raise ValueError(
            'numba is not installed, or DREAMLIFT_KERNELS is 0: there is nothing to compile; pip install "dreamlift[fast]"'
        )
    if is_warm(config):
        print("the kernels are compiled already: nothing to do")
        return 0
    warm(config)
    print(f"the kernels of --preset {arguments.preset} are compiled, in {os.environ['NUMBA_CACHE_DIR']}")
    return 0


def batch(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """Many assets from one list."""
    from dreamlift.batch.verbs import batch

    return batch(arguments, overrides)


def status(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """How far a batch is."""
    from dreamlift.batch.verbs import status

    refuse(overrides, "status")
    return status(arguments)


def completion(arguments: argparse.Namespace, overrides: Overrides) -> int:
    """A completion script for a shell."""
    import shtab

    refuse(overrides, "completion")
    print(shtab.complete(build_parser(), shell=arguments.shell))
    return 0


def build_parser() -> Parser:
    """The command line's parser, with the verbs of all packages."""
    from dreamlift.apps import options
    from dreamlift.batch.options import add_batch, add_status
    from dreamlift.studio.serve import add_studio

    return options.build_parser(add_batch, add_status, add_studio)


def refuse(overrides: Overrides, verb: str) -> None:
    """Raise ValueError if settings are given to a verb that takes none."""
    if overrides:
        raise ValueError(f"{verb} takes no settings, but --{next(iter(overrides))} was given")
