"""Priors from the model hub: what of a repository is fetched, and whether a download in the local cache is complete.

Fetched are the settings, tokenizers and one set of ``.safetensors`` weights of each network: the half-precision ones where a
repository has both, which is half the download, and what a GPU uses. A file enters huggingface_hub's cache only when it is
complete, an interrupted download goes on with the files that are missing, and ``snapshot_download`` itself says whether files
are missing that it knows of. Weights are checked here as well: it does not know that one precision is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from dreamlift.priors.files.folder import POSE_LAYERS, checked, chosen, draws_views, listed, read_json

SETTINGS = ("model_index.json", "*/*.json", "*/*.txt", "*/*.model")
UNUSED = ("safety_checker", "watermarker", "feature_extractor")  # parts that no prior asks for
PICTURE = "image_encoder"  # asked for by Zero-1-to-3's family only
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


class NotCachedError(ValueError):
    """What of a repository the local cache lacks; the message is a part of a sentence."""

    absent = False  # whether the cache has nothing of it


def cached(address: str, weights: bool) -> Path:
    """The folder of the repository ``address`` in the local cache, with all that is wanted of it.

    ``address``: owner/model, or owner/model@revision.

    Raises:
        NotCachedError: it is not there, or was fetched in part.
    """
    from huggingface_hub import snapshot_download

    name, revision = divided(address)
    try:
        folder = checked(Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(SETTINGS),
                                                ignore_patterns=_folders((*UNUSED, PICTURE)))))  # fmt: skip
    except Exception as error:  # of several types; IncompleteSnapshotError is in newer versions only
        incomplete = type(error).__name__ == "IncompleteSnapshotError" or isinstance(error, ValueError)
        state = "was fetched only in part" if incomplete else "is not in the local cache"
        found = NotCachedError(f"{address} {state}")
        found.absent = not incomplete
        raise found from error
    missing = [part for part in _networks(folder) if not _has_weights(folder / part)] if weights else []
    if not missing:
        return folder
    if len(missing) == len(_networks(folder)):
        raise NotCachedError(f"only the settings of {address} are in the local cache")
    raise NotCachedError(f"{address} was fetched only in part: weights of {', '.join(missing)} are missing")


def fetched(address: str, weights: bool) -> Path:
    """The folder of the repository ``address``, after fetching what the cache lacks; any error of the hub is passed on."""
    from huggingface_hub import HfApi, snapshot_download

    name, revision = divided(address)
    names = wanted(HfApi().list_repo_files(name, revision=revision), weights)
    folder = checked(Path(snapshot_download(name, revision=revision, allow_patterns=[_literal(each) for each in names])))
    for part in _networks(folder) if weights else []:
        if not _has_weights(folder / part):
            raise ValueError(f"it has no .safetensors weights of its {part}")
    return folder


def divided(address: str) -> tuple[str, str | None]:
    """The repository and the revision of an address ("owner/model@refs/pr/1"); None: the newest one."""
    name, _, revision = address.partition("@")
    return name, revision or None


def wanted(names: Iterable[str], weights: bool) -> list[str]:
    """Of the names of a repository's files, those to fetch."""
    found, folders, names = [], {}, list(names)
    unused = UNUSED if any(name.startswith(POSE_LAYERS) for name in names) else (*UNUSED, PICTURE)
    for name in names:
        path = PurePosixPath(name)
        if path.parts[0] in unused:
            continue
        if any(fnmatch(name, pattern) for pattern in SETTINGS) and len(path.parts) <= 2:
            found.append(name)
        elif path.suffix == ".safetensors" and len(path.parts) == 2:
            folders.setdefault(path.parts[0], []).append(path.name)
    if weights:
        found += [f"{folder}/{name}" for folder, files in folders.items() for name in chosen(files)]
    return sorted(found)


def _networks(folder: Path) -> list[str]:
    """The names of the folder's parts that have weights."""
    parts = read_json(folder / "model_index.json")
    names = (*NETWORKS, PICTURE, *POSE_LAYERS) if draws_views(parts) else NETWORKS
    return [name for name in names if name in parts and parts[name] != [None, None]]


def _has_weights(part: Path) -> bool:
    """Whether one set of weights is complete: all files of an index, or a file that belongs to none."""
    names = {path.name for path in part.glob("*.safetensors") if path.is_file()}
    indices = [set(listed(index)) for index in part.glob("*.safetensors.index*.json")]
    return any(index <= names for index in indices) or bool(names - set().union(*indices))


def _folders(parts: Iterable[str]) -> list[str]:
    return [f"{part}/*" for part in parts]


def _literal(name: str) -> str:
    """A pattern that matches only this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
