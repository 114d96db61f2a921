"""The main job as a user starts it: a new process, no caches of compiled kernels, until `asset.glb` is there.

    python benchmarks/cold_start.py [--prompt "a red mug"] [--warm] [-- --steps 20]

Prints wall seconds, CPU seconds and the peak memory of the whole process, as the operating system counts them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--warm", action="store_true", help="use the compiled kernels that an earlier run left")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="after --, passed on to generate")
    arguments = parser.parse_args()
    extra = [word for word in arguments.settings if word != "--"]
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if not arguments.warm:
            environment["NUMBA_CACHE_DIR"] = str(Path(folder) / "kernels")
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dreamlift.cli", "generate", arguments.prompt, "--out", str(out), *extra]
        begun = time.perf_counter()
        code = subprocess.run(command, env=environment, check=False).returncode
        wall = time.perf_counter() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        made = (out / "asset.glb").is_file()
    print(f"exit code {code}, asset.glb {'made' if made else 'MISSING'}")
    print(f"wall {wall:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s, peak memory {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
