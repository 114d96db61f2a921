"""Checkpoints on disk: bit-exact, written atomically, and verified before use.

A checkpoint is a folder ``step-000100`` with ``state.json`` (the structure, numbers and text), ``tensors.safetensors``
and ``arrays.safetensors`` (torch and numpy values, in their types), and ``MANIFEST.json`` with the SHA-256 of each file.
It is written under a temporary name in the same folder, each file is synced, and the folder is renamed last, so that a
folder with a final name is always complete. If a hash differs, the checkpoint before is used. There is no pickle: loading
a checkpoint executes no code. torch is imported only if a state has tensors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.system.files import atomic_write_bytes, sync_folder

SCHEMA = 1
MANIFEST = "MANIFEST.json"
_PREFIX = ".tmp-"
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")


class RunError(RuntimeError):
    """A failed operation on a run's folder; the message has one line with the path and the fix."""


class _DamagedError(Exception):
    """This checkpoint cannot be used; an older one may be usable."""


def explain(action: str, path: Path, error: OSError, run: Path | None = None, verb: str = "resume") -> RunError:
    """The RunError for a failed ``action`` on ``path``, with the usual fix for its cause.

    Args:
        run: the folder of a run that has begun; None: it has not, so that another --out helps.
        verb: the command that goes on with that run when the cause is mended.
    """
    code = errno.ENOSPC if error.errno == errno.EDQUOT else errno.EACCES if error.errno == errno.EPERM else error.errno
    again = f"then `dreamlift {verb} {run}` goes on (nothing is lost)"
    fixes = {
        errno.ENOSPC: ("free some space or choose another --out", f"free some space, {again}"),
        errno.EFBIG: (
            "raise the file size limit (ulimit -f) or choose another --out",
            f"raise the file size limit (ulimit -f), {again}",
        ),
        errno.EROFS: (
            "choose an --out on a filesystem that can be written",
            f"copy {run} to a filesystem that can be written, and use the copy",
        ),
        errno.EACCES: (
            "choose an --out that you may write to",
            f"get access to {run} and all in it, or copy it to a folder of yours and use the copy",
        ),
        errno.ENOENT: (
            "no folder can be made there; choose another --out",
            "the run's folder was deleted; do not delete it during a run, and start the run again",
        ),
        errno.ENOTDIR: (
            "a part of that path is a file; choose another --out",
            f"a file has taken the place of a folder in {run}: move it away",
        ),
    }
    fix = fixes[code][run is not None] if code in fixes else ""
    return RunError(f"cannot {action} {path}: {error.strerror or error}" + (f"; {fix}" if fix else ""))


def save_checkpoint(root: Path, step: int, state: Mapping[str, Any], config_hash: str, keep: int = 3) -> Path:
    """Write ``root/step-<step>`` and delete all but the newest ``keep``. ``step``: the number of finished steps (>= 0).

    ``state`` consists of nested dict (keys str or int), list, tuple, None, bool, int, float, str, torch tensors and numpy
    arrays.

    Raises:
        RunError: the disk is full, read-only or missing; earlier checkpoints are intact, and no temporary file is left.
        TypeError: a value that cannot be stored exactly; the message has its path in ``state``.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must be >= 0 and keep >= 1, got {step} and {keep}")
    files = _pack(state)
    manifest = {
        "schema": SCHEMA,
        "step": step,
        "config_hash": config_hash,
        "files": {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()},
    }
    manifest["checksum"] = _checksum(manifest)
    # A second checkpoint of the same step (after a damaged one) gets a new name, so that no old one is removed first.
    attempts = [attempt for found, attempt, _ in _list(root) if found == step]
    final = root / (f"step-{step:06d}" + (f"-{max(attempts) + 1}" if attempts else ""))
    temporary = root / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        if not root.exists():
            os.mkdir(root)  # not its parents: a deleted run folder must not be created again in part
            sync_folder(root.parent)
        os.mkdir(temporary)
        for name, data in files.items():
            atomic_write_bytes(temporary / name, data)
        atomic_write_bytes(temporary / MANIFEST, json.dumps(manifest, indent=1).encode("ascii"))
        os.rename(temporary, final)
        sync_folder(root)
    except OSError as error:
        raise explain("write the checkpoint", final, error, root.parent) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):  # a failed deletion is no reason to stop a run
        _prune(root, final, step, keep)
    return final


def load_latest(root: Path, config_hash: str, earlier: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]] | None:
    """The (step, state) of the newest intact checkpoint, with tensors on the CPU; None if there are no checkpoints.

    ``earlier``: further hashes of configs whose checkpoints are accepted. A damaged checkpoint is skipped with a
    RuntimeWarning. Raises RunError if a checkpoint was written by a newer version or
    for another config, or if all are damaged.
    """
    damages = []
    for step, _, path in reversed(_list(root)):
        try:
            return step, _read(path, step, (config_hash, *earlier))
        except _DamagedError as error:
            damages.append(f"{path.name}: {error}")
            warnings.warn(f"the checkpoint {path} is not used: {error}; trying the one before it", RuntimeWarning, stacklevel=2)
    if damages:
        raise RunError(f"no usable checkpoint in {root} ({'; '.join(damages)}); start the run again in a new folder")
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove incomplete files of killed processes from a folder. Only the holder of the run's lock may call this."""
    for path in folder.glob(f"{_PREFIX}*") if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _list(root: Path) -> list[tuple[int, int, Path]]:
    """(step, attempt, folder) of all checkpoints, oldest first, by name, since modification times are unreliable."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), int(match[2] or 1), path))
    return sorted(found)


def _prune(root: Path, newest: Path, step: int, keep: int) -> None:
    """Keep the ``keep`` newest checkpoints up to ``step``.

    Later ones are damaged, and the run was resumed before them: they are renamed, and deleted when this happens again.
    """
    earlier: list[tuple[int, Path]] = []
    known = _list(root)
    if any(found > step for found, _, _ in known):
        for path in root.glob("aside-*"):
            shutil.rmtree(path, ignore_errors=True)
    for found, _, path in known:
        if found > step:
            os.rename(path, root / f"aside-{path.name}-{secrets.token_hex(4)}")
        elif path != newest:
            earlier.append((found, path))
    superseded = [path for found, path in earlier if found == step]
    older = [path for found, path in earlier if found < step]
    for path in superseded + older[: max(0, len(older) - keep + 1)]:
        doomed = root / f"{_PREFIX}{secrets.token_hex(8)}"
        os.rename(path, doomed)  # renamed first, since a partly deleted folder must not have a checkpoint's name
        shutil.rmtree(doomed, ignore_errors=True)


def _read(path: Path, step: int, hashes: tuple[str, ...]) -> dict[str, Any]:
    try:
        manifest = json.loads(_read_bytes(path / MANIFEST, limit=1_000_000))
        checksum = manifest.pop("checksum")
        if checksum != _checksum(manifest) or manifest["step"] != step:
            raise _DamagedError(f"{MANIFEST} was changed")
        if manifest["schema"] > SCHEMA:
            raise RunError(
                f"{path} was written by a newer dreamlift (schema {manifest['schema']}, this one reads {SCHEMA}):"
                " upgrade dreamlift, or start a new run"
            )
        if manifest["config_hash"] not in hashes:
            raise RunError(
                f"{path} belongs to another config (hash {manifest['config_hash'][:12]!r}, now {hashes[0][:12]!r}):"
                " resume with the config.yaml of its run, or start a new run"
            )
        files = {}
        for name in manifest["files"]:
            if Path(name).name != name:
                raise _DamagedError(f"{MANIFEST} names {name!r}, which is not a plain file name")
            files[name] = _verified(path / name, manifest["files"][name])
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise _DamagedError(f"not readable ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _DamagedError(f"{MANIFEST} was changed") from error
    try:
        return _unpack(files)
    except Exception as error:  # files that were made to fit their hashes: safetensors has errors of its own
        raise _DamagedError(f"its content cannot be read ({type(error).__name__})") from error


def _verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a file, after a check of their size and hash."""
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _DamagedError(f"{path.name} has {size} bytes instead of {entry['bytes']}")
    data = _read_bytes(path, limit=size)
    if _sha256(data) != entry["sha256"]:
        raise _DamagedError(f"{path.name} was changed (its SHA-256 differs)")
    return data


def _read_bytes(path: Path, limit: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(manifest, sort_keys=True).encode("ascii"))


# The state as files


def _pack(state: Mapping[str, Any]) -> dict[str, bytes]:
    tensors: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    tree = _encode(state, "state", tensors, arrays)
    files = {"state.json": json.dumps(tree).encode("ascii")}
    if tensors:
        from safetensors.torch import save as save_tensors

        files["tensors.safetensors"] = save_tensors(tensors)
    if arrays:
        from safetensors.numpy import save as save_arrays

        files["arrays.safetensors"] = save_arrays(arrays)
    return files


def _unpack(files: Mapping[str, bytes]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    if "tensors.safetensors" in files:
        from safetensors.torch import load as load_tensors

        tensors = load_tensors(files["tensors.safetensors"])
    if "arrays.safetensors" in files:
        from safetensors.numpy import load as load_arrays

        arrays = load_arrays(files["arrays.safetensors"])
    return _decode(json.loads(files["state.json"]), tensors, arrays)


def _encode(value: Any, where: str, tensors: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """JSON for ``value``; what JSON does not represent exactly becomes an object with one key, its kind."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"int": hex(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: the key {key!r} cannot be stored, accepted: str and int")
        pairs = [[key, _encode(item, f"{where}[{key!r}]", tensors, arrays)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{where}[{i}]", tensors, arrays) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    torch = sys.modules.get("torch")  # without an import of torch there are no tensors
    name = f"{len(tensors) + len(arrays):06d}"
    if torch is not None and isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.dtype == torch.complex128:
            raise TypeError(f"{where}: a {value.layout} tensor of {value.dtype} cannot be stored")
        # A copy, since views and tied weights share memory, which the format does not support.
        tensors[name] = value.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        arrays[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {"array": name}
    raise TypeError(
        f"{where}: {type(value).__name__} cannot be stored; accepted: dict, list, tuple, None, bool, int, float, str,"
        " torch tensors, numpy arrays of numbers"
    )


def _decode(tree: Any, tensors: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    match kind:
        case "int":
            return int(value, 16)
        case "float":
            return float.fromhex(value)
        case "tensor":
            return tensors[value]
        case "array":
            return arrays[value].copy()  # safetensors' arrays are views of the file's bytes
        case "dict":
            return {key: _decode(item, tensors, arrays) for key, item in value}
        case "list" | "tuple":
            items = [_decode(item, tensors, arrays) for item in value]
        case _:
            raise ValueError(f"{kind!r} is no kind of a value")
    return tuple(items) if kind == "tuple" else items
