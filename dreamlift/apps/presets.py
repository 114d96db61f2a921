"""The list of presets, and the search for one by its name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from dreamlift.config.schema import Config
from dreamlift.memory import expected
from dreamlift.plugins import load_plugins
from dreamlift.presets import ABOUT, PRESETS
from dreamlift.priors.loading.sources import PriorNotFoundError, is_embedded
from dreamlift.stages.lift import Lift
from dreamlift.stages.tuned import base_of, base_priors

# Presets with an embedded prior, of papers whose preset has another name than theirs without "-toy".
TWINS = {
    "dreamfusion-if": "dreamfusion-toy", "dreamfusion-sd": "dreamfusion-toy", "latent-paint": "texture-toy",
    "sd3-flow": "rfds-toy", "stable-zero123": "zero123-toy",
}  # fmt: skip


def toy_twin(name: str) -> str:
    """The preset of the same paper that needs no download; "" if there is none."""
    twin = TWINS.get(name, f"{name}-toy")
    return twin if twin in PRESETS else ""


@contextmanager
def twin_named(preset: str) -> Iterator[None]:
    """Name the preset that needs no download where a prior of ``preset`` ("": none) is missing."""
    try:
        yield
    except PriorNotFoundError as error:
        if not error.stand_in or not (twin := toy_twin(preset)):
            raise
        said = str(error).removesuffix(error.stand_in)
        raise PriorNotFoundError(f"{said}; --preset {twin} needs no download") from None


def find_preset(name: str) -> Config:
    """The preset of this name.

    Raises:
        ValueError: there is none; the message has presets with a similar name or the same loss.
    """
    if name not in PRESETS:
        load_plugins()  # it may be that of an installed package
    if name in PRESETS:
        return PRESETS[name]
    alike = [known for known in PRESETS if name.lower() in (known, *losses(PRESETS[known]), *known.split("-"))]
    near = alike[:4] or difflib.get_close_matches(name, PRESETS, n=2)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint}; `dreamlift presets` lists all of them (a plugin's needs --plugin)")


def losses(config: Config) -> list[str]:
    """The names of the losses that a config uses."""
    return [type(teacher.guidance).__name__.lower() for stage in config.stages for teacher in stage.teachers]


def typical_memory(config: Config) -> int:
    """Estimated bytes: of the machine with embedded priors, of a GPU with large ones, which are meant for one."""
    return expected(config, "cpu" if all(map(is_embedded, names_of_priors(config))) else "cuda")


def names_of_priors(config: Config) -> list[str]:
    """The names of the priors that a config states, each once; of weights that it tunes, their base prior's."""
    bases = base_priors(config.stages)
    choices = [choice for stage in config.stages for choice in stage.choices if choice is not None]
    return list(dict.fromkeys(base_of(choice, bases, "prior").name for choice in choices))


def list_presets() -> str:
    """A table of all presets: prior, resolution, steps, memory, paper, purpose."""
    rows = [("preset", "prior", "pixels", "steps", "memory", "paper", "purpose")]
    for name, config in PRESETS.items():
        about = ABOUT.get(name)
        sizes = [size for stage in config.stages if isinstance(stage, Lift) for size in stage.cameras.resolution]
        pixels = f"{min(sizes)}-{max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
        steps = "+".join(str(stage.total_steps(1)) for stage in config.stages)
        memory = f"{typical_memory(config) / 1e9:.0f} GB"
        paper, purpose = (about.paper, about.purpose) if about else ("", "from a plugin")
        rows.append((name, ", ".join(names_of_priors(config)), pixels, steps, memory, paper, purpose))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[6] for row in rows]
    lines.append("memory: an estimate, of the GPU for large priors and of the machine for embedded ones")
    return "\n".join(lines)
