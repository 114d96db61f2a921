"""What runs need against what they were said to need: short runs of the command line, one after the other.

    python benchmarks/memory.py [--only toybox]

The peak is that of the whole process, as the operating system counts it, from the start to `asset.glb`. Few steps are enough:
nothing is skipped as empty before the 32nd.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = (
    ("toybox-field",),
    ("toybox", "--stages.1.steps", "4"),
    ("latent-toy",),
    ("latent-toy", "--memory.gradient_checkpointing", "true", "--memory.micro_batch", "1"),
    ("hifa-toy", "--prior", "toybox-latent"),
    ("vsd-toy",),
    ("fantasia3d-toy", "--stages.1.steps", "4"),
    ("dreamgaussian-toy", "--stages.1.steps", "4"),
    ("toybox-field", "--cameras.resolution", "[128]"),
    ("toybox-field", "--cameras.resolution", "[32,192]"),
    ("toybox-field", "--cameras.resolution", "[192]", "--scene.chunk_rays", "4096"),
    ("toybox-field", "--cameras.resolution", "[128]", "--scene.samples_per_ray", "128", "--weights.distortion", "1"),
    ("toybox-field", "--cameras.resolution", "[96]", "--lighting.lambertian", "1", "--weights.orientation", "1"),
    ("dreamfusion-if", "--prior", "toybox", "--cameras.resolution", "[32]"),
    ("dreamfusion-if", "--prior", "toybox", "--cameras.resolution", "[32]", "--scene.chunk_rays", "256"),
    ("toybox-field", "--mesh.resolution", "256", "--mesh.texture_size", "2048"),
)


def measure(preset: str, settings: tuple[str, ...], steps: int) -> tuple[float, float]:
    """(estimated, measured) GB of one run with the embedded prior."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dreamlift.cli", "generate", "a red mug", "--preset", preset,
                   "--steps", str(steps), "--out", str(out), *settings]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            _, _, used = os.wait4(process.pid, 0)
        estimated = json.loads((out / "run.json").read_text())["estimated_memory_gb"]
    return estimated, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="the runs whose line contains this")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    print("| run | said GB | measured GB | ratio |\n|---|---|---|---|")
    for preset, *settings in RUNS:
        line = " ".join([preset, *settings])
        if arguments.only in line:
            said, peak = measure(preset, tuple(settings), arguments.steps)
            print(f"| `{line}` | {said:.2f} | {peak:.2f} | {said / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
