"""Settings of the process that must be made before torch is imported; this file imports nothing heavy.

Two defaults cost a CPU run more than half its time: OpenMP threads that spin while they wait (on a busy machine they
steal the time of the threads that work), and glibc's malloc, which returns every large tensor to the system when it is
freed, so that each step pays for thousands of page faults.
"""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def tune_process(top_pad: int = 64 << 20) -> bool:
    """Let idle OpenMP threads sleep, and let malloc keep what it has; call it before torch is imported.

    A variable ``OMP_WAIT_POLICY`` that is already set stays as it is. Returns whether malloc was tuned: on systems
    without glibc that part is skipped.

    Args:
        top_pad: bytes that malloc asks for beyond what it needs, each time it grows.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
    # Large blocks from the heap instead of mmap, and a heap that is not cut back: freed memory is used again.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, top_pad))
