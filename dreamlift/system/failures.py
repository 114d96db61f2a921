"""Kinds of failures that several layers tell apart, and what the user is told of one; imports nothing heavy."""

from __future__ import annotations

import errno

from dreamlift.system.text import MAX_MESSAGE, one_line

SAVING = "--memory.micro_batch 1, --memory.gradient_checkpointing true"
# Errors whose messages are written for users, by name: their modules are heavy, or above this one.
KNOWN = {"ValueError", "OSError", "RunError", "DivergedError", "TeacherError"}

# torch's allocator for CPUs, C++ libraries (ONNX Runtime, xatlas) and CUDA's driver say it in a plain RuntimeError.
FULL_MEMORY = ("defaultcpuallocator", "bad_alloc", "bad allocation", "out of memory", "not enough memory", "cannot allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is exhausted, a GPU's or the computer's."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"} or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in FULL_MEMORY)


def out_of_memory(error: BaseException) -> str:
    """One line for a full memory: the first sentences of the error, and the options that need less."""
    said = ". ".join(" ".join(str(error).split()).split(". ")[:3]).rstrip(".") or "out of memory"
    options = f". Options that need less: {SAVING}, --scene.chunk_rays 4096, --cameras.resolution [64]"
    return one_line(said, MAX_MESSAGE - len(options)) + options


def explained(error: BaseException, unexpected: str = "") -> str:
    """What the user is told of an error: its message; if memory is exhausted, the options that need less.

    Args:
        unexpected: is added to the kind and the message of an error that is not meant for users.
    """
    if is_out_of_memory(error):
        return out_of_memory(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r} cannot be used: {error.strerror or type(error).__name__}"
    if {kind.__name__ for kind in type(error).__mro__} & KNOWN:
        return str(error)
    return f"unexpected {type(error).__name__}: {error}{unexpected}"
