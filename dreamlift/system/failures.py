"""Kinds of failures that several layers tell apart; imports nothing heavy."""

from __future__ import annotations

import errno

# torch's allocator for CPUs, C++ libraries (ONNX Runtime, xatlas) and CUDA's driver say it in a plain RuntimeError.
FULL_MEMORY = ("defaultcpuallocator", "bad_alloc", "bad allocation", "out of memory", "not enough memory", "cannot allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is exhausted, a GPU's or the computer's."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"} or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in FULL_MEMORY)
