"""Matting by an ONNX model through ONNX Runtime: U^2-Net, IS-Net, BiRefNet, or a user's own.

The picture is stretched to the model's input and normalised as the model was trained; the first output, stretched back, is the
opacity. Logits, as BiRefNet gives them, pass a sigmoid. Nothing is downloaded: known models are looked for in the cache, and
where rembg keeps them. Normalisations: U^2-Net (Qin et al. 2020, https://github.com/xuebinqin/U-2-Net, Apache-2.0) and BiRefNet
(Zheng et al. 2024, https://github.com/ZhengPeng7/BiRefNet, MIT) have ImageNet's; IS-Net (Qin et al. 2022,
https://github.com/xuebinqin/DIS) has mean 0.5 and deviation 1.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.system.files import cache_folder, expanded, user_file
from dreamlift.system.startup import quiet_onnxruntime

INSTALL = 'pip install "dreamlift[image]"'
RELEASES = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CERTAIN = 0.3  # an output that nowhere exceeds it shows no object


@dataclass(frozen=True)
class Known:
    """A known matting model."""

    file: str  # its name in RELEASES
    megabytes: float
    licence: str
    side: int  # pixels a side of its input
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # mean and deviation of its input


MODELS: dict[str, Known] = {
    "isnet-general-use": Known("isnet-general-use.onnx", 179, "Apache-2.0", 1024, ((0.5,) * 3, (1.0,) * 3)),
    "birefnet-general-lite": Known("BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx", 224, "MIT", 1024),
    "u2net": Known("u2net.onnx", 176, "Apache-2.0", 320),
    "silueta": Known("silueta.onnx", 44, "Apache-2.0", 320),
    "u2netp": Known("u2netp.onnx", 4.6, "Apache-2.0", 320),
}
"""Known models by name, the best first."""


def folders() -> tuple[Path, ...]:
    """Where a known model is looked for, as ``NAME.onnx``: the package's cache, then rembg's folder."""
    home = os.environ.get("U2NET_HOME") or os.path.join(os.environ.get("XDG_DATA_HOME") or str(Path.home()), ".u2net")
    return cache_folder("matting"), Path(home)


def cached_name() -> str | None:
    """The best known model whose file is there, if ONNX Runtime is installed; None: there is none."""
    if find_spec("onnxruntime") is None:
        return None
    return next((name for name in MODELS if _cached(name) is not None), None)


def _cached(name: str) -> Path | None:
    files = [folder / each for folder in folders() for each in (f"{name}.onnx", MODELS[name].file)]
    return next((file for file in files if file.is_file()), None)


def model_stamp(mask: str) -> tuple[Any, ...]:
    """What differs where ``mask`` means another model: the path of its file, and the file's size and time; () for none."""
    name = cached_name() if mask == "auto" else mask
    path = _cached(name) if name in MODELS else expanded(name) if name else None
    if path is None or not path.is_file():
        return ()
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def check_model(model: str) -> Path:
    """The file of a matting model, by its known name or its path.

    Raises:
        ValueError: there is no such model, or ONNX Runtime is not installed; one line with where to get it.
    """
    if model in MODELS:
        path, known = _cached(model), MODELS[model]
        if path is None:
            raise ValueError(
                f"the matting model {model} ({known.megabytes:g} MB, {known.licence}) is not on this machine: "
                f"save {RELEASES}{known.file} as {folders()[0] / f'{model}.onnx'}"
            )
    elif model.endswith(".onnx") or expanded(model).exists():
        path = user_file(model, "matting model", "give --mask the path of an .onnx file")
    else:
        near = difflib.get_close_matches(model, ("auto", "alpha", "border", "grabcut", *MODELS), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"unknown mask {model!r}{hint}; accepted: auto, alpha, border, grabcut, {', '.join(MODELS)}, or an .onnx file"
        )
    if find_spec("onnxruntime") is None:
        raise ValueError(f"the matting model {model} needs ONNX Runtime, which is not installed: {INSTALL}")
    return path


def open_model(model: str) -> OnnxMatter:
    """A matting model by its known name or its path. Raises ValueError as :func:`check_model`, or if it cannot be used."""
    path = check_model(model)
    quiet_onnxruntime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"the matting model {path.name!r} cannot be used ({reason}); get it again") from error
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or (shape[1] not in (3, "3") and isinstance(shape[1], int)):
        raise ValueError(f"the matting model {path.name!r} takes {shape}, not pictures (1, 3, height, width); use another one")
    known = MODELS.get(model) or next((MODELS[name] for name in MODELS if path.stem.lower().startswith(name)), None)
    side = known.side if known else 1024
    height, width = (int(n) if isinstance(n, int) and n > 0 else side for n in shape[2:])
    return OnnxMatter(session, (height, width), known.normalization if known else IMAGENET)


@dataclass(frozen=True)
class OnnxMatter:
    """A matting model that is ready: pictures ``(h, w, 3)`` uint8 to opacity ``(h, w)`` float32 in [0, 1]."""

    session: Any  # onnxruntime.InferenceSession
    size: tuple[int, int]  # height and width of its input
    normalization: tuple[tuple[float, ...], tuple[float, ...]]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image

        height, width = picture.shape[:2]
        small = Image.fromarray(picture).resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        mean, deviation = (np.array(values, dtype=np.float32) for values in self.normalization)
        x = (np.asarray(small, dtype=np.float32) / 255 - mean) / deviation
        fed = {self.session.get_inputs()[0].name: np.ascontiguousarray(x.transpose(2, 0, 1)[None])}
        try:
            found = np.asarray(self.session.run(None, fed)[0], dtype=np.float32)
        except Exception as error:  # its classes have no common base
            raise ValueError(f"the matting model failed ({' '.join(str(error).split())[:120]}); use another one") from error
        found = found.reshape(found.shape[-2:]) if found.size == np.prod(found.shape[-2:]) else found[0, 0]
        if found.ndim != 2 or not np.isfinite(found).all():
            raise ValueError(f"the matting model answers with {found.shape}, not with one opacity a pixel; use another one")
        if found.min() < -0.01 or found.max() > 1.01:  # logits
            found = 1 / (1 + np.exp(-np.clip(found, -60, 60)))
        low, high = float(found.min()), float(found.max())
        if high < CERTAIN:
            return np.zeros((height, width), dtype=np.float32)
        found = (found - low) / max(high - low, 1e-6)  # as the models' own code does
        whole = Image.fromarray(found.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        return np.clip(np.asarray(whole), 0.0, 1.0)
