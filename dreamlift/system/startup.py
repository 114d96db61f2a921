"""Process settings that must be made before torch is imported; this file imports nothing heavy.

Two defaults cost a CPU run more than half its time: OpenMP threads spin while they wait, which on a busy machine takes time
from working threads; and glibc's malloc returns every large tensor's memory to the system when it is freed, so that each step
causes thousands of page faults.
"""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def quiet_onnxruntime() -> None:
    """Turn off ONNX Runtime's telemetry, before it is imported: since version 1.32 it reports to its makers by default."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def tune_process(top_pad: int = 64 << 20) -> bool:
    """Let idle OpenMP threads sleep and malloc keep freed memory; call this before torch is imported.

    An ``OMP_WAIT_POLICY`` that is already set is kept. Returns whether malloc was tuned, which needs glibc.

    Args:
        top_pad: extra bytes that malloc requests each time its heap grows.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_onnxruntime()
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        libc.gnu_get_libc_version()
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    # Large blocks come from the heap instead of mmap, and the heap does not shrink: freed memory is reused.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, top_pad))
