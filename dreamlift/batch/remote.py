"""Copies of finished assets in a folder that fsspec knows: ``s3://bucket/runs``, ``gs://...``, ``file:///mnt/assets``."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import ASSET

LEFT_OUT = frozenset({"checkpoints", ASSET})  # of a run's folder: what only this machine needs
LAST = "run.json"  # it is copied last, so that a folder with it is complete


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        ValueError: no package knows it, or it is no address.
    """
    try:
        import fsspec
    except ImportError:
        raise ValueError('--upload needs a package: pip install "dreamlift[cluster]"') from None
    if "://" not in address:
        raise ValueError(f"--upload is {address!r}; accepted: an address such as s3://bucket/runs or file:///mnt/assets")
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"--upload {address} cannot be used: {error}") from None


def check(address: str) -> None:
    """Write and delete a small file there. Raises ValueError if that is impossible."""
    system, path = file_system(address)
    probe = f"{path.rstrip('/')}/.dreamlift-{secrets.token_hex(8)}"
    try:
        system.makedirs(path, exist_ok=True)
        system.pipe_file(probe, b"")
        system.rm_file(probe)
    except Exception as error:
        raise ValueError(f"--upload {address} cannot be written: {type(error).__name__}: {error}") from error


def upload(folder: Path, address: str, copied: Callable[[], None] = lambda: None) -> int:
    """Copy the files of a finished run to ``address``/<its name>; returns the bytes. Files of an earlier copy are replaced.

    Args:
        copied: called after each file.

    Raises:
        FileNotFoundError: there is no finished run.
        Exception: of the file system's package.
    """
    if not (folder / LAST).is_file():
        raise FileNotFoundError(f"{folder} has no {LAST}: it was deleted")
    system, path = file_system(address)
    target = f"{path.rstrip('/')}/{folder.name}"
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _wanted(file.relative_to(folder))]
    files.sort(key=lambda file: file.name == LAST)
    total = 0
    for file in files:
        place = f"{target}/{file.relative_to(folder).as_posix()}"
        system.makedirs(place.rpartition("/")[0], exist_ok=True)
        system.put_file(str(file), place)
        total += file.stat().st_size
        copied()
    return total


def _wanted(path: Path) -> bool:
    return path.parts[0] not in LEFT_OUT and not path.name.startswith((".lock", ".tmp-"))
