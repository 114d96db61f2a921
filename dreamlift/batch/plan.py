"""From the rows of a list to checked assets. All rows are checked before anything is started.

Rows with equal settings, which differ in prompt, seed, pictures and name only, share one config and one look at its priors, so
that 10,000 rows are checked in seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from dreamlift.apps.options import FILE_FLAGS
from dreamlift.apps.start import PICTURES, config_of, preset_of
from dreamlift.batch.ledger import Entry
from dreamlift.batch.rows import Row, refuse_faults
from dreamlift.config.build import config_hash, from_plain, to_plain
from dreamlift.config.schema import Config
from dreamlift.images.read import explained, picture_bytes
from dreamlift.lifting import resolve
from dreamlift.priors.kinds import Located
from dreamlift.priors.lora.additions import file_hash
from dreamlift.prompts import check_prompt
from dreamlift.reading.photos import Photo
from dreamlift.runs.run import slugify
from dreamlift.system.files import address_of

OWN = frozenset({"prompt", "seed", "name", "image"})  # columns that do not matter for the settings
LISTED = frozenset({"lora", "embedding"})


@dataclass(frozen=True)
class Plan:
    """The assets of a list."""

    entries: list[Entry]
    settings: dict[str, Any]  # plain configs by name
    notes: list[str]


@dataclass(frozen=True)
class Shared:
    """What rows with equal settings share."""

    config: Config  # of the first such row
    priors: tuple[Located, ...]
    name: str  # of the settings
    plain: dict[str, Any]
    about: str  # hash of all settings but those of a row, and of the priors' revisions
    preset: str  # from which the settings came; "": from a config


class Planner:
    """Checks rows, and remembers what they share."""

    def __init__(self, arguments: argparse.Namespace, overrides: dict[str, str], folder: Path, device: str = "auto") -> None:
        self.arguments, self.overrides, self.folder, self.device = arguments, overrides, folder, device
        self.known: dict[Any, Shared | str] = {}
        self.notes: dict[str, None] = {}

    def entry(self, row: Row) -> Entry:
        """The checked asset of a row. Raises ValueError or OSError."""
        seed, anyway = self._seed(row), self.arguments.anyway or _is_true(row.cells.get("anyway", ""))
        prompt = row.cells.get("prompt", "")
        prompt = check_prompt(prompt) if prompt else ""
        shared = self._shared(row, prompt)
        config = shared.config
        photos = tuple(photo for photo in config.photos if photo.path)
        if "image" in row.cells:
            photos = (replace(photos[0], path=self._path(row.cells["image"])),)
        config = replace(config, prompt=prompt or config.prompt, seed=config.seed if seed is None else seed, photos=photos)
        check_prompt(config.prompt, may_be_empty=bool(photos))
        for located in shared.priors if config.prompt and not anyway else ():
            located.check_prompt(config.prompt)
        for photo in photos:
            _checked_picture(photo.path)
        found = _identified(config, shared)
        name = row.cells.get("name", "")
        if name and (slugify(name) != name or name == "report"):
            raise ValueError(
                f"the name {name[:60]!r} is not accepted: small letters, digits and dashes, such as {slugify(name)[:60]}-1"
            )
        folder = name or f"{slugify(config.prompt or Path(photos[0].path).stem)[:40].rstrip('-')}-{found.id}"
        return replace(found, folder=folder, anyway=anyway, preset=shared.preset, line=row.line)

    def _seed(self, row: Row) -> int | None:
        text = row.cells.get("seed")
        if text is None:
            return None
        try:
            seed = int(text)
        except ValueError:
            raise ValueError(f"seed: got {text[:40]!r}, accepted: int") from None
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {str(seed)[:40]}; accepted: 0 to 2^63 - 1")
        return seed

    def _shared(self, row: Row, prompt: str) -> Shared:
        """What the row shares with those of equal settings, remembered; also an error of the settings."""
        cells = row.cells
        # Whatever depends on the prompt or the pictures in another way has a look-up of its own.
        single = {"class", "context", "photos"} & cells.keys() or prompt.lower().endswith(PICTURES) or address_of(prompt)
        key = (tuple(sorted((name, value) for name, value in cells.items() if single or name not in OWN)),
               *(name in cells for name in ("image", "prompt", "seed")))  # fmt: skip
        found = self.known.get(key)
        if found is None:
            try:
                found = self._looked_up(row)
            except ValueError as error:
                if "image" not in cells:
                    self.known[key] = str(error)
                raise
            self.known[key] = found
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _path(self, text: str) -> str:
        """The whole path of a picture, from the current folder or else from the list's."""
        path, beside = Path(text).expanduser(), self.folder / text
        return str((beside if not path.exists() and beside.exists() else path).absolute()) if not address_of(text) else text

    def _looked_up(self, row: Row) -> Shared:
        """The settings of a row, checked with its priors."""
        config, preset = self._config(row)
        photos = tuple(replace(photo, path=self._path(photo.path)) for photo in config.photos if photo.path)
        config = replace(config, photos=photos or config.photos)
        memory = replace(config.memory, check=config.memory.check and self.device != "cpu")
        resolved = resolve(
            replace(config, device=self.device, memory=memory), anyway=True
        )  # the nouns are checked for each row
        if not photos:  # notes on a photo concern one row
            self.notes |= dict.fromkeys(resolved.notes)
        # The device, and when checkpoints are written, change nothing of an asset.
        neutral = replace(config, prompt="", seed=0, photos=(), device="auto", checkpoint_every=50, keep_checkpoints=2)
        kept = replace(config, prompt="", seed=0, photos=())
        priors = tuple({id(each): each for stage in resolved.priors for each in stage}.values())
        revisions = " ".join(dict.fromkeys(each.revision for each in priors))
        about = hashlib.sha256(f"{config_hash(neutral)} {revisions}".encode()).hexdigest()
        return Shared(config, priors, config_hash(kept)[:16], to_plain(kept), about, preset)

    def _config(self, row: Row) -> tuple[Config, str]:
        """What `dreamlift generate` makes of the row's options, and the preset that it begins with."""
        words = argparse.Namespace(**vars(self.arguments))
        overrides = dict(self.overrides)
        for name, value in row.cells.items():
            if "." in name or (not hasattr(words, name) and name not in ("class", "name")):
                overrides[name] = value
            elif name in FILE_FLAGS or name == "anyway":
                setattr(words, name, _is_true(value))
            elif name in LISTED:
                setattr(words, name, [value])
            elif name == "photos":
                words.photos = [value]
            elif name in ("config", "image"):
                setattr(words, name, Path(value) if name == "config" else self._path(value))
            elif name != "name":
                setattr(words, "class_name" if name == "class" else name, value)
        return config_of(words, overrides), preset_of(words, overrides)


def plan(rows: list[Row], planner: Planner, path: Path, say: Callable[[str], None] = lambda text: None) -> Plan:
    """The assets of ``rows``, each once.

    Raises:
        RowsError: rows that cannot be used, all together.
    """
    faults: list[tuple[int, str]] = []
    entries: dict[str, Entry] = {}
    folders: dict[str, Entry] = {}
    for row in rows:
        try:
            entry = planner.entry(row)
        except (ValueError, OSError) as error:
            faults.append((row.line, str(error)))
            continue
        if entry.id in entries:
            say(f"line {row.line} is the asset of line {entries[entry.id].line}: made once; another seed makes another")
            continue
        if entry.folder.casefold() in folders:
            faults.append((row.line, f"the name {entry.folder!r} is that of line {folders[entry.folder.casefold()].line}"))
            continue
        entries[entry.id] = folders[entry.folder.casefold()] = entry
    refuse_faults(path, faults)
    settings = {shared.name: shared.plain for shared in planner.known.values() if isinstance(shared, Shared)}
    return Plan(list(entries.values()), settings, list(planner.notes))


def config_from(entry: Entry, settings: dict[str, Any], device: str) -> Config:
    """The config of an asset in the ledger."""
    config = from_plain(Config, settings)
    photos = tuple(from_plain(Photo, photo) for photo in entry.photos)
    return replace(config, prompt=entry.prompt, seed=entry.seed, photos=photos, device=device)


def _identified(config: Config, shared: Shared) -> Entry:
    """The entry with its id. A photo counts by its content and camera, wherever it lies."""
    photos = [{**asdict(photo), "path": _hash(photo.path)} for photo in config.photos if photo.path]
    key = json.dumps([shared.about, config.prompt, config.seed, photos], sort_keys=True)
    plain = tuple(asdict(photo) for photo in config.photos if photo.path)
    return Entry(hashlib.sha256(key.encode()).hexdigest()[:12], "", config.prompt, config.seed, shared.name, plain)


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")


@lru_cache(maxsize=100_000)
def _hash(path: str) -> str:
    return file_hash(Path(path))


@lru_cache(maxsize=100_000)
def _checked_picture(path: str) -> None:
    if path:
        with explained(path):
            picture_bytes(path)
