"""What differs between runs: seed, preset, and the settings that are not the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamlift.config.build import to_plain
from dreamlift.runs.run import RunError, read_status
from dreamlift.runs.settings import read_config

# Not of the result: where the run was computed, and what it writes. The prompt and the preset are told by themselves.
LEFT_OUT = (
    "prompt", "seed", "device", "engine", "checkpoint_every", "keep_checkpoints", "memory.", "asset.home",
)  # fmt: skip
MOST = 4  # settings that are named in one line
GONE = "-"  # in place of a setting that a run does not have


def settings_of(folder: Path) -> dict[str, Any]:
    """Every setting of a run by its full name, with its preset where that is known; {} if its config cannot be read."""
    try:
        config, status = read_config(folder), read_status(folder)
    except (ValueError, RunError):  # another version's, or a plugin's; the figures are those of the file
        return {}
    preset = status.get("preset")
    return {"seed": config.seed, **({"preset": preset} if isinstance(preset, str) else {}), **flat(to_plain(config))}


def flat(plain: Any, name: str = "") -> dict[str, Any]:
    """Nested plain data as one mapping from dotted names to values; lists of plain values stay values."""
    if isinstance(plain, Mapping) and plain:
        pairs = plain.items()
    elif isinstance(plain, list) and any(isinstance(each, Mapping) for each in plain):
        pairs = enumerate(plain)
    else:
        return {name: plain}
    return {key: value for part, each in pairs for key, value in flat(each, f"{name}.{part}" if name else str(part)).items()}


def differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each run (of :func:`settings_of`), the settings of it that are not the same in all runs, with its values.

    The seed comes first, then the preset. Where presets differ, settings that are the same in all runs of each preset are
    left out, since the preset's name stands for them. A run whose settings are not known has {}.
    """
    known = [run for run in runs if run]
    names = dict.fromkeys(name for run in known for name in run if not name.startswith(LEFT_OUT) or name == "seed")
    varied = [name for name in names if len({_text(run, name) for run in known}) > 1]
    if "preset" in varied:
        varied = [name for name in varied if name in ("seed", "preset") or _varies_within(known, name)]
    varied.sort(key=lambda name: (name != "seed", name != "preset"))  # which keeps the order of the others
    return [{name: run.get(name, GONE) for name in varied} if run else {} for run in runs]


def _varies_within(runs: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a setting differs between two runs of one preset."""
    groups: dict[str, set[str]] = {}
    for run in runs:
        groups.setdefault(str(run.get("preset")), set()).add(_text(run, name))
    return any(len(group) > 1 for group in groups.values())


def _text(run: Mapping[str, Any], name: str) -> str:
    return json.dumps(run[name], sort_keys=True, default=str) if name in run else ""


def in_words(different: Mapping[str, Any]) -> str:
    """``seed 3, preset vsd-toy, stages.0.steps 400``; long values are cut, and of many settings the first are named."""
    shown = []
    for name, value in list(different.items())[:MOST]:
        text = value if isinstance(value, str) else json.dumps(value)
        shown.append(f"{short(name)} {text if len(text) <= 24 else text[:21] + '...'}")
    more = f" and {len(different) - MOST} more" if len(different) > MOST else ""
    return ", ".join(shown) + more


def short(name: str) -> str:
    """A setting's name without "stages.0." and "teachers.0.", which the command line leaves out as well."""
    return name.removeprefix("stages.0.").removeprefix("teachers.0.")
