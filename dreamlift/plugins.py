"""Plugins: losses, scenes, priors, exporters, presets, stages and wordings from outside the package.

A plugin is a Python file or an importable module that calls :func:`register`. It is imported if ``--plugin`` or the
environment variable ``DREAMLIFT_PLUGINS`` names it, or if an installed package declares it (entry points of the group
``dreamlift.plugins``). A config file alone never imports code. ``docs/extend.md`` explains an example.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
GROUP = "dreamlift.plugins"
_loaded: list[str] = []  # names of plugins that the user gave: absolute paths or modules
_added: set[tuple[str, str]] = set()  # (kind, name) of the parts that plugins registered


def kinds() -> dict[str, dict[str, Any]]:
    """The tables in which parts are registered, by kind."""
    from dreamlift.export import EXPORTERS
    from dreamlift.guidance import GUIDANCE
    from dreamlift.presets import PRESETS
    from dreamlift.priors.kinds import PRIORS
    from dreamlift.prompts import WORDINGS
    from dreamlift.scenes import SCENES
    from dreamlift.scenes.background import BACKGROUNDS
    from dreamlift.scenes.nerf.scene import FIELDS
    from dreamlift.stages import STAGES

    return {
        "guidance": GUIDANCE, "scene": SCENES, "field": FIELDS, "background": BACKGROUNDS, "prior": PRIORS,
        "exporter": EXPORTERS, "preset": PRESETS, "stage": STAGES, "wording": WORDINGS,
    }  # fmt: skip


def register(kind: str, name: str, part: Any = None) -> Any:
    """Register a part under a name that configs and the command line accept.

    ``register("guidance", "min-snr", MinSNR)``, or as a decorator: ``@register("guidance", "min-snr")``.

    Args:
        kind: "guidance" (a loss), "scene", "field", "background", "prior", "exporter", "preset", "stage" or "wording".
        name: any name that the package does not use. A part that a plugin registered under it before is replaced, so a
            notebook's cell can be run again.
        part: the class, function or Config; None makes a decorator.

    Raises:
        ValueError: an unknown kind, or the name of a part of the package.
    """
    tables = kinds()
    if kind not in tables:
        raise ValueError(f"unknown kind of part {kind!r}; accepted: {', '.join(tables)}")

    def add(found: T) -> T:
        known = tables[kind].get(name)
        if name in tables[kind] and (kind, name) not in _added:
            raise ValueError(f"the name {name!r} is that of a {kind} of the package: choose another one")
        if known is not None and getattr(known, "__module__", "") != getattr(found, "__module__", ""):
            raise ValueError(
                f"the name {name!r} is that of a {kind} of another plugin ({known.__module__}): choose another one"
            )
        _check(kind, name, found)
        tables[kind][name] = found
        _added.add((kind, name))
        return found

    return add if part is None else add(part)


def _check(kind: str, name: str, part: Any) -> None:
    """Refuse a part that is not of this kind. Raises ValueError."""
    from dreamlift.config.schema import Config

    if kind == "preset":
        fits = isinstance(part, Config)
    elif kind in ("exporter", "prior"):
        fits = callable(part)
    else:
        fits = isinstance(part, type) and dataclasses.is_dataclass(part)
    if not fits:
        wanted = {"preset": "a Config", "exporter": "a function", "prior": "a class"}.get(kind, "a dataclass")
        raise ValueError(f"the {kind} {name!r} must be {wanted}; it is a {type(part).__name__}")


def load_plugins(named: Iterable[str] = (), note: Callable[[str], None] = lambda text: None) -> None:
    """Import the plugins of installed packages, those of ``DREAMLIFT_PLUGINS`` (separated by commas), and those ``named``.

    Args:
        named: paths of Python files, or names of importable modules.
        note: called with a message for each plugin of an installed package whose import fails.

    Raises:
        ValueError: one of the other plugins is missing, or its import fails.
    """
    for point in metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # a broken package must not stop runs that do not use it
            note(f"the plugin {point.name!r} of an installed package cannot be imported: {type(error).__name__}: {error}")
    for name in [*filter(None, os.environ.get("DREAMLIFT_PLUGINS", "").split(",")), *named]:
        load_plugin(name.strip())


def load_plugin(name: str) -> None:
    """Import a plugin, given the path of a Python file or the name of a module; repeated calls have no effect.

    Raises:
        ValueError: the plugin is missing, or its import fails; the message has the reason.
    """
    path = Path(name).expanduser()
    told = str(path.resolve()) if path.suffix == ".py" else name
    if told in _loaded:
        return
    try:
        if path.suffix == ".py":
            _import_file(path.resolve())
        else:
            importlib.import_module(name)
    except FileNotFoundError:
        raise ValueError(f"there is no plugin file {name!r}") from None
    except ModuleNotFoundError as error:
        missing = name if error.name == name else f"{name}, which needs {error.name}"
        raise ValueError(
            f"there is no module {missing}: give --plugin a file (./my_losses.py) or an installed module"
        ) from error
    except Exception as error:
        raise ValueError(f"the plugin {name} fails while it is imported: {type(error).__name__}: {error}") from error
    _loaded.append(told)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"dreamlift_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def plugin_names() -> list[str]:
    """The plugins that the user named and that were imported, for run.json."""
    return list(_loaded)
