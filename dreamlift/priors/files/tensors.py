"""Single ``.safetensors`` files: opened, or refused with what the file really is, and checked for NaN.

Layout (https://huggingface.co/docs/safetensors): 8 bytes with the header's size n, n bytes of JSON, then the tensors' bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
CONVERT = "convert it with torch.load(FILE, weights_only=True) and safetensors.torch.save_file (docs/priors.md, Pickled files)"
MAX_HEADER = 100_000_000  # bytes, safetensors' own bound
# First bytes -> what such a file is. Several sites answer a request for a file with one of these.
KINDS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    (rb"(?i)\s*<(!doctype|html|head|\?xml)", "is a web page, not the file itself: log in if asked, and download it again"),
    (rb"PK\x03\x04|\x80[\x02-\x05]", f"is a pickle under another name, which is never opened, as that can run code: {CONVERT}"),
    (rb"GGUF", "is a GGUF file: download the .safetensors file of the same model"),
    (rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8", "is a picture: download the .safetensors file that it stands for"),
)  # fmt: skip


class PriorFilesError(ValueError):
    """A file of a prior, or of an addition to it, is missing, unreadable, damaged or another one: no prompt is to blame."""


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """safetensors' open file, whose tensors are read when they are asked for.

    Raises:
        ValueError: the file is missing, unreadable or something else; one line says what it is.
    """
    from safetensors import SafetensorError, safe_open

    check_suffix(path)
    try:
        file = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise PriorFilesError(f"{path} {what_it_is(Path(path), error)}") from error
    with file:
        try:
            yield file
        except SafetensorError as error:
            raise PriorFilesError(f"{path} is damaged ({_line(error)}): fetch it again") from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a ``.safetensors`` file by name, and its metadata. Raises ValueError as :func:`open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def shapes_of(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors by name, from its header. Raises ValueError as :func:`open_tensors`."""
    with open_tensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def check_suffix(path: str | Path) -> None:
    """Raise ValueError for the name of a file that is not a ``.safetensors`` file; pickles are told how to be converted."""
    suffix = Path(path).suffix.lower()
    if suffix in PICKLED:
        raise PriorFilesError(f"{path} is a pickle ({suffix}), which is never opened, as that can run code: {CONVERT}")
    if suffix != ".safetensors":
        raise PriorFilesError(f"{path} is not a .safetensors file, the only kind of weights that is read")


def what_it_is(path: Path, error: Exception) -> str:
    """Why a file cannot be opened as weights, and the fix, as the rest of a sentence that begins with its name."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(4096)
            length = int.from_bytes(start[:8], "little")
            header = start[8:] + file.read(max(0, length - len(start) + 8)) if 0 < length <= min(size, MAX_HEADER) else b""
    except OSError as reason:
        return f"cannot be read: {reason.strerror or reason}"
    if not start.strip(b"\0"):
        return "is empty: fetch it again" if size == 0 else "holds nothing but zeros: fetch it again"
    if told := other_kind(start):
        return told
    if start.lstrip().startswith((b"{", b"[")):
        return "is JSON text, such as a server's error message, not a file of weights: download it again"
    wanted = _wanted_bytes(header[:length])
    if wanted is not None and size < 8 + length + wanted:
        return f"is cut off ({size:,} of {8 + length + wanted:,} bytes): fetch it again"
    return f"is not a valid .safetensors file ({_line(error)}): fetch it again"


def other_kind(start: bytes) -> str | None:
    """What a file with these first bytes is and the fix, if it is of one of the :data:`KINDS` that people get by mistake."""
    return next((said for pattern, said in KINDS if re.match(pattern, start, re.DOTALL)), None)


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a tensor of the file ``path`` holds NaN or an infinite value; the message names the first one."""
    import torch

    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor  # torch has no isfinite for float8
        # One pass without a mask: the sum of finite values is finite, unless it overflows, which the second pass decides.
        if not bool(torch.isfinite(values.sum(dtype=torch.float64))) and not bool(torch.isfinite(values).all()):
            what = "NaN" if bool(torch.isnan(values).any()) else "infinite values"
            raise PriorFilesError(
                f"{path} holds {what} in {name}: it is damaged or was saved by a failed training; use another file"
            )


def _wanted_bytes(header: bytes) -> int | None:
    """The number of bytes behind a header that its tensors take; None if it is not a header."""
    try:
        entries = json.loads(header)
        return max(int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
