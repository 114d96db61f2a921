"""The versions of packages and the peak memory of a run, for run.json."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dreamlift

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "trimesh", "xatlas", "numba", "onnxruntime")


def versions() -> dict[str, Any]:
    """The versions of dreamlift, Python and the main packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"dreamlift": dreamlift.__version__, "python": platform.python_version(), "packages": found}


def peak_memory() -> dict[str, float]:
    """The peak resident memory of this process in GB, and the peak GPU memory if a GPU was used."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "peak_memory_gb": round(_peak_host_bytes() / 1e9, 3),
        **({"peak_gpu_memory_gb": round(gpu / 1e9, 3)} if gpu else {}),
    }


def _peak_host_bytes() -> int:
    """The peak resident memory of this process; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:  # Linux: ru_maxrss includes the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
