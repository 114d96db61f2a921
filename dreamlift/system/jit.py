"""Compilation of CPU kernels by numba, and their parallel execution on a thread pool.

numba is optional (``pip install "dreamlift[fast]"``): without it :func:`fast_kernels_available` is false and the torch
twins run. The kernels are serial loops over a range ``[low, high)`` that release the GIL; :func:`parallel_ranges` runs
them on a thread pool. This compiles several times faster than numba's own ``parallel=True``, does not interfere with torch's
threads, and keeps every sum in a fixed order, so that results do not depend on the number of threads.

``DREAMLIFT_KERNELS=0`` in the environment disables the kernels.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dreamlift.system.files import cache_folder

# Not below the package, where an uninstallation would leave the files behind; a folder that a user chose stays.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder("numba")))
try:
    import numba
except ImportError:  # the extra "fast" is not installed
    numba = None


def compiled(function: Callable) -> Callable:
    """``function`` compiled to machine code, cached on disk if a cache folder is writable; unchanged without numba."""
    if numba is None:
        return function
    # Without "nnan": an index computed from a NaN must still be clamped into its range.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "arcp", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder to write its cache to
        return numba.njit(**options)(function)


def fast_kernels_available() -> bool:
    """Whether compiled kernels are available; :func:`usable` also checks the tensors."""
    return numba is not None and os.environ.get("DREAMLIFT_KERNELS", "1") != "0"


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels accept these tensors: float32 on a CPU."""
    return fast_kernels_available() and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


@functools.lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # Keyed by the process, since threads do not survive a fork.
    return ThreadPoolExecutor(workers, thread_name_prefix="dreamlift")


def workers() -> int:
    """The number of threads that share a kernel's work: torch's setting."""
    return max(1, torch.get_num_threads())


def parallel_ranges(task: Callable[[int, int], object], total: int, least: int) -> list:
    """Call ``task(low, high)`` on consecutive ranges that cover ``range(total)``, each of at least ``least`` items.

    Returns the results in order. Two ranges must not write to the same memory.
    """
    parts = max(1, min(workers(), total // max(least, 1)))
    if parts == 1:
        return [task(0, total)]
    edges = [total * k // parts for k in range(parts + 1)]
    pool = _pool(os.getpid(), workers())
    futures = [pool.submit(task, low, high) for low, high in itertools.pairwise(edges[1:])]
    first = task(edges[0], edges[1])  # the calling thread takes its share
    return [first, *[future.result() for future in futures]]


def array(tensor: Tensor) -> np.ndarray:
    """A CPU tensor's memory as a contiguous array; it is copied only if the tensor is not contiguous."""
    return tensor.detach().contiguous().numpy()
