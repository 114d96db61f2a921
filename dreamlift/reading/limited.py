"""Reading a mesh file in a process of its own, with bounds on its time and memory.

Whatever a file costs, and whatever a decoder of pictures does with it, ends in one line. The process is a plain
``python -c``, so that it works in notebooks and on Windows; it loads NumPy but no torch (0.2 s). It gets the file on its
standard input, and answers with the arrays of a :class:`~dreamlift.reading.part.Part` in NumPy's own format, without pickles.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.reading.parse import parse
from dreamlift.reading.part import Part

SECONDS = 60.0  # bound on the time of one file
MEMORY = 6 << 30  # bound on its address space, bytes; only where the system has the module resource (not Windows)
MAIN = "import sys; sys.path[:] = sys.argv[5:]; from dreamlift.reading.limited import answer; answer(*sys.argv[1:5])"
ARRAYS = ("vertices", "faces", "normals", "uvs", "image", "shades", "surface")
NUMBERS = tuple(field.name for field in fields(Part) if field.name not in ARRAYS)


def parse_limited(data: bytes, kind: str, folder: Path) -> tuple[Part, list[str]]:
    """:func:`~dreamlift.reading.parse.parse` within the bounds. Raises ValueError, also where they are exceeded."""
    if getattr(sys, "frozen", False) or not sys.executable:  # a packed program cannot start Python
        return parse(data, kind, folder)
    package = str(Path(__file__).parents[2])
    # -I and -S: no site-packages are searched and no start-up files run; this process's own path is used.
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        MAIN,
        kind,
        str(folder),
        str(MEMORY),
        str(int(SECONDS) + 1),
        package,
        *sys.path,
    ]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # each would take memory
    try:
        found = subprocess.run(  # noqa: S603
            command, input=data, capture_output=True, timeout=SECONDS, check=False, env={**os.environ, **threads},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(f"reading it takes more than {SECONDS:g} s: simplify it (fewer faces, materials or corners)") from None
    except OSError:  # no further process can be started
        return parse(data, kind, folder)
    if found.returncode:
        last = found.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
        raise ValueError(f"the process that read it ended with code {found.returncode} ({last[0][:160]})")
    with np.load(io.BytesIO(found.stdout), allow_pickle=False) as arrays:
        said = json.loads(bytes(arrays["said"]))
        if "error" in said:
            raise ValueError(said["error"])
        found_arrays: dict[str, Any] = {name: arrays.get(name) for name in ARRAYS}
        part = Part(**found_arrays, **said["numbers"])
    return part, said["notes"]


def answer(kind: str, folder: str, memory: str, seconds: str) -> None:
    """The process's work: read standard input, and write the part or the fault to standard output."""
    _bound(int(memory), int(seconds))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints cannot spoil the answer
    arrays: dict[str, Any] = {}
    try:
        part, notes = parse(sys.stdin.buffer.read(), kind, Path(folder))
        found = {name: getattr(part, name) for name in ARRAYS}
        arrays = {name: value for name, value in found.items() if value is not None}
        said = {"numbers": {name: getattr(part, name) for name in NUMBERS}, "notes": notes}
    except ValueError as error:
        said = {"error": str(error)}
    except MemoryError:
        said = {"error": f"reading it takes more than {int(memory) / 2**30:g} GiB of memory: simplify it"}
    np.savez(out, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
    out.close()


def _bound(memory: int, seconds: int) -> None:
    """Limit this process's address space and processor time, where the system can."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (OSError, ValueError):  # macOS does not take every limit
            continue
