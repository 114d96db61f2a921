"""Depth of a picture by a depth-estimation model of transformers, such as Depth-Anything-V2-Small (Apache-2.0, 99 MB).

MiDaS, DPT and Depth Anything (Yang et al. 2024, https://arxiv.org/abs/2406.09414) estimate *inverse* depth up to a scale and a
shift: larger is nearer. Its negative orders the pixels as depth does, which is what a correlation needs; the true depth would
need the shift, which they do not know. Metric models (ZoeDepth, Depth Pro, GLPN, Depth Anything's metric ones) estimate depth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.text import no_bars
from dreamlift.system.files import expanded
from dreamlift.types import Pictures

METRIC = ("zoedepth", "depth_pro", "glpn")  # kinds of models whose output is depth itself


@dataclass(frozen=True)
class Preparation:
    """How a model's input is made; the defaults are those of Depth Anything."""

    side: int = 518  # pixels
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)


@torch.no_grad()
def estimate_depth(pictures: Pictures, model: str, device: torch.device | str = "cpu") -> Tensor:
    """Depth ``(B, H, W, 1)`` of ``pictures`` over white, of unknown scale and shift; grows away from the camera.

    On the object it is in [0, 1], from its nearest to its farthest point; elsewhere it is 0.

    Args:
        model: a folder or hub name.

    Raises:
        ValueError: the model cannot be loaded; one line with the fix.
    """
    network, preparation = load_depth_model(model)
    network.to(device)
    rgb = pictures.rgb * pictures.alpha + (1 - pictures.alpha)
    height, width = rgb.shape[1:3]
    found = []
    for picture in rgb:  # one by one: a large model needs its memory
        x = picture.movedim(-1, 0)[None].to(device)
        side = preparation.side
        x = functional.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (preparation.mean, preparation.deviation))
        answer = network(pixel_values=((x - mean) / deviation).to(network.dtype)).predicted_depth.float()
        answer = functional.interpolate(answer[:, None], (height, width), mode="bilinear", align_corners=False)
        found.append(answer.movedim(1, -1).cpu())
    depth = torch.cat(found)
    return _scaled(depth if is_metric(network.config) else -depth, pictures.alpha)


def is_metric(config: Any) -> bool:
    """Whether a model of this config estimates depth, and not its inverse."""
    return config.model_type in METRIC or getattr(config, "depth_estimation_type", "relative") == "metric"


def _scaled(depth: Tensor, alpha: Tensor) -> Tensor:
    """Depth scaled to [0, 1] on each object, 0 elsewhere; all shapes are ``(B, H, W, 1)``."""
    inside = alpha > 0.5
    low = torch.where(inside, depth, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = torch.where(inside, depth, -torch.inf).amax(dim=(1, 2), keepdim=True)
    return torch.where(alpha > 0, ((depth - low) / (high - low).clamp_min(1e-6)).clamp(0, 1), 0.0)


def load_depth_model(model: str) -> tuple[Any, Preparation]:
    """The network of a folder or hub name, and how its input is made.

    Raises:
        ValueError: it cannot be loaded; one line with the fix.
    """
    from transformers import AutoModelForDepthEstimation

    folder = expanded(model)
    name = str(folder) if folder.is_dir() else model
    try:
        # Weights of other formats are pickles, which can run code.
        with no_bars():
            network = AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True).eval()
    except Exception as error:  # of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:90]
        raise ValueError(
            f"the depth model {model!r} cannot be loaded ({reason}); give the folder or hub name of one with .safetensors "
            "weights, such as depth-anything/Depth-Anything-V2-Small-hf"
        ) from error
    return network.requires_grad_(False), _preparation(name, network.config)


def _preparation(name: str, config: Any) -> Preparation:
    """From the model's ``preprocessor_config.json``; without one, Depth Anything's, at a size that its patches divide."""
    known = {}
    path = Path(name) / "preprocessor_config.json"
    if not path.is_file():
        from transformers.utils.hub import cached_file

        found = cached_file(name, path.name, _raise_exceptions_for_missing_entries=False) if not Path(name).is_dir() else None
        path = Path(found) if found else path
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
    size = known.get("size", 518)
    side = int(size if isinstance(size, (int, float)) else size.get("height", size.get("shortest_edge", 518)))
    patch = getattr(config, "patch_size", 14)
    step = int(known.get("ensure_multiple_of") or (patch if isinstance(patch, int) else 32))
    side = max(step, side // step * step)
    usual = Preparation()
    return Preparation(side, tuple(known.get("image_mean", usual.mean)), tuple(known.get("image_std", usual.deviation)))
