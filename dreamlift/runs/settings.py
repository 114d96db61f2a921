"""The settings of a run on disk."""

from __future__ import annotations

from pathlib import Path

from dreamlift.config import yaml
from dreamlift.config.build import PLUGIN_HINT, ConfigError, load_yaml
from dreamlift.config.schema import Config
from dreamlift.runs.run import RunError, read_status
from dreamlift.system.text import read_text


def read_config(folder: Path) -> Config:
    """The ``config.yaml`` of a run.

    Raises:
        ValueError: there is none, or it cannot be read; if it needs a plugin, the message has the run's ``--plugin``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    try:
        return load_yaml(Config, read_text(path, yaml.MAX_BYTES), str(path))
    except ConfigError as error:
        try:
            plugins = read_status(folder).get("plugins") if PLUGIN_HINT in str(error) else None
        except RunError:  # the config's error comes first
            plugins = None
        if not plugins:
            raise
        named = " ".join(f"--plugin {name}" for name in plugins)
        raise ConfigError(f"{str(error).replace(PLUGIN_HINT, '')}; this run was made with {named}: give it again") from None
