"""Reports on this machine (packages, devices, memory of each preset) and on the known priors."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from dreamlift.priors.loading.sources import EMBEDDED, KNOWN

REQUIRED = ("torch", "numpy", "diffusers", "transformers", "safetensors", "pillow", "trimesh", "xatlas",
            "fast-simplification", "pyyaml", "rich", "rich-argparse", "shtab", "filelock",
            "sentencepiece", "protobuf")  # fmt: skip
# Per module: its pip package, and its purpose.
OPTIONAL = {
    "numba": ("numba", "compiled CPU kernels: a step is several times faster"),
    "onnxruntime": ("onnxruntime", "runs a prior's network on a CPU, about twice as fast as torch"),
    "onnx": ("onnx", "traces the network of a prior that is not embedded, for onnxruntime"),
    "triton": ("triton", "the hash grid's kernels on a GPU"),
    "accelerate": ("accelerate", "one-file checkpoints (.safetensors)"),
    "pxr": ("usd-core", "USDZ export"),
    "tensorboard": ("tensorboard", "--log tensorboard"),
    "wandb": ("wandb", "--log wandb"),
}


def _kernels() -> str:
    """Where compiled kernels are kept, and whether they are there."""
    from dreamlift.presets import PRESETS
    from dreamlift.runs.warmup import is_warm
    from dreamlift.system import jit
    from dreamlift.system.files import can_be_written

    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    if not jit.fast_kernels_available():
        return "none: numba is not installed or switched off"
    if not can_be_written(folder):
        return f"{folder} CANNOT BE WRITTEN: every run compiles anew, 17 s; set XDG_CACHE_HOME"
    warm = is_warm(replace(PRESETS["toybox"], device="cpu"))
    return f"{folder} ({'warm' if warm else 'the first run compiles, or: dreamlift warmup'})"


def diagnose() -> tuple[str, bool]:
    """The report, and whether the default preset can run."""
    lines = [f"python        {platform.python_version()} on {platform.system()} {platform.machine()}"]
    healthy = True
    for package in REQUIRED:
        try:
            lines.append(f"{package:20s}{metadata.version(package)}")
        except metadata.PackageNotFoundError:
            healthy = False
            lines.append(f"{package:20s}MISSING: pip install {package}")
    for module, (package, use) in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        state = "present" if found else f"not installed: pip install {package}"
        lines.append(f"{package:20s}{state}  ({use})")
    lines += _devices()
    lines.append(f"kernels' cache      {_kernels()}")
    lines.append(f"free disk           {shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB here")
    embedded = (EMBEDDED / "toybox" / "model_index.json").is_file()
    healthy &= embedded
    lines.append(f"embedded prior      {'present' if embedded else 'MISSING: install dreamlift again'}")
    if healthy:
        memory, healthy = _memory()
        lines += memory
    lines.append('ready: dreamlift generate "a red mug"' if healthy else "not ready: see the lines above")
    return "\n".join(lines), healthy


def list_priors() -> str:
    """The known priors: source, resolution, memory, license."""
    lines = []
    for name, source in KNOWN.items():
        pictures = "one picture" if name != "mvdream" else "four pictures"
        place = ", ".join(source.addresses) if source.addresses else "embedded"
        lines.append(
            f"{name}\n  where       {place}\n  pictures    {source.resolution}x{source.resolution} {source.space}\n"
            f"  memory      about {source.memory_gb:g} GB on a GPU, with {pictures} per step (computed, not measured)\n"
            f"  license     {source.licence}\n"
            f"  note        {source.note}"
        )
    lines.append("Larger pictures need more: each run prints an estimate first; `dreamlift doctor` lists those of all presets.")
    lines.append("--prior also accepts a diffusers folder, a checkpoint file (.safetensors), or a hub name owner/model.")
    return "\n".join(lines)


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    lines = [f"cpu                 {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"]
    if not torch.cuda.is_available():
        return [*lines, "cuda                none found: the CPU is used, with the embedded prior"]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        lines.append(f"cuda:{i}              {torch.cuda.get_device_name(i)}, {memory}")
    return lines


def _memory() -> tuple[list[str], bool]:
    """The free memory, and whether the default preset fits; `dreamlift presets` lists the memory of all."""
    from dreamlift.lifting import find_device
    from dreamlift.memory import available_device, available_host, expected
    from dreamlift.presets import TOYBOX

    device = find_device("auto")
    free = available_device(device) if device.type == "cuda" else available_host()
    need = expected(TOYBOX, device.type)
    fits = free is None or need <= free
    lines = [] if free is None else [f"free memory         {free / 1e9:.1f} GB"]
    too_much = "" if fits else ": more than is free"
    lines.append(f"memory of a run     {need / 1e9:.1f} GB with the default preset on {device.type}{too_much}")
    return [*lines, "                    (`dreamlift presets` lists the estimates of all presets)"], fits
