"""How kernels are compiled for a CPU, and spread over threads.

numba is optional (``pip install "dreamlift[fast]"``): without it :func:`fast_kernels_available` is false and the torch
twins run. The kernels are plain serial loops over a range ``[low, high)`` that release the GIL, and :func:`spread`
hands ranges to a thread pool. That compiles several times faster than numba's own ``parallel=True``, leaves torch's
threads alone, and keeps every sum in a fixed order: results do not depend on the number of threads.

``DREAMLIFT_KERNELS=0`` in the environment switches the kernels off.
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

try:
    import numba
except ImportError:  # the extra "fast" is not installed
    numba = None


def compiled(function: Callable) -> Callable:
    """``function`` as machine code, kept in a cache on disk where some cache folder is writable."""
    if numba is None:
        return function
    # No "nnan": an index computed from a nan must still be clamped into its range.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "arcp", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder to write its cache to
        return numba.njit(**options)(function)


def fast_kernels_available() -> bool:
    """Whether the compiled kernels can be used at all; :func:`usable` asks for particular tensors."""
    return numba is not None and os.environ.get("DREAMLIFT_KERNELS", "1") != "0"


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: float32 on a CPU."""
    return fast_kernels_available() and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


@functools.lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # Keyed by the process, as threads do not survive a fork.
    return ThreadPoolExecutor(workers, thread_name_prefix="dreamlift")


def workers() -> int:
    """How many threads share a kernel's work: torch's own setting."""
    return max(1, torch.get_num_threads())


def spread(task: Callable[[int, int], object], total: int, least: int) -> list:
    """Call ``task(low, high)`` on consecutive ranges that cover ``range(total)``, each of at least ``least`` items.

    Returns the results in order. The work must not write to the same place from two ranges.
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
    """A contiguous tensor's memory as an array."""
    return tensor.detach().contiguous().numpy()
