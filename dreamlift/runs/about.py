"""What run.json says of the machine: versions of packages, and the memory that was used."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dreamlift

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "trimesh", "xatlas", "numba")


def versions() -> dict[str, Any]:
    """What the run was made with."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"dreamlift": dreamlift.__version__, "python": platform.python_version(), "packages": found}


def peak_memory() -> dict[str, float]:
    """The largest resident memory of this process so far (GB), and of the GPU's where one was used."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "peak_memory_gb": round(_peak_host_bytes() / 1e9, 3),
        **({"peak_gpu_memory_gb": round(gpu / 1e9, 3)} if gpu else {}),
    }


def _peak_host_bytes() -> int:
    """The largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:  # Linux: ru_maxrss begins with the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
