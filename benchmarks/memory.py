"""Estimated against measured memory: short runs of the command line on a CPU, and the peaks that a GPU showed.

    python benchmarks/memory.py [--only toybox] [--gpu]

On a CPU the peak is that of the whole process, as the operating system counts it, from the start to `asset.glb`. Few steps are
enough: nothing is skipped as empty before the 32nd. With ``--gpu`` nothing is run: the estimate for the architectures of
``benchmarks/full_size.py`` is compared with the peaks that it measured, which are in BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
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
# Millions of parameters of network, autoencoder and text encoder; channels; latents a side; autoencoder in float32.
NETWORKS = {
    "sd-1.5": (860, 84, 123, 320, 64, False),
    "sd-2.1-base": (866, 84, 340, 320, 64, False),
    "sdxl": (2567, 84, 695, 320, 128, True),
    "sd3-medium": (2028, 84, 695, 384, 128, True),  # 1536 channels of patches of 2 x 2 latents; without its T5
}
# Model, loss, pixels a side of the renders, rays per chunk, peak GB (torch.cuda.max_memory_allocated) on an H200.
MEASURED = (
    ("sd-2.1-base", "SDS", 64, 0, 4.9),
    ("sd-2.1-base", "SDS", 512, 8192, 6.8),
    ("sd-2.1-base", "VSD", 512, 8192, 6.8),
    ("sd-2.1-base", "SDS", 512, 65_536, 22.6),
    ("sd-1.5", "SDS", 512, 65_536, 22.5),
    ("sdxl", "SDS", 512, 65_536, 25.7),
    ("sd3-medium", "RFDS", 512, 65_536, 24.6),
)


def measure(preset: str, settings: tuple[str, ...], steps: int) -> tuple[float, float]:
    """(estimated, measured) GB of one run on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dreamlift.cli", "generate", "a red mug", "--preset", preset, "--device", "cpu",
                   "--steps", str(steps), "--out", str(out), *settings]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            _, _, used = os.wait4(process.pid, 0)
        estimated = json.loads((out / "run.json").read_text())["estimated_memory_gb"]
    return estimated, used.ru_maxrss * 1024 / 1e9


def estimate_gpu(model: str, loss: str, side: int, chunk: int) -> float:
    """Estimated GB on a GPU of a run of ``benchmarks/full_size.py``: first renders of 64 pixels a side, then of ``side``."""
    from dreamlift.guidance import GUIDANCE
    from dreamlift.memory import Model, needs_of
    from dreamlift.presets import PRESETS
    from dreamlift.stages.settings import Weights

    network, vae, text, width, cells, precise = NETWORKS[model]
    size = 4 if precise else 2
    sizes = Model((2 * network + size * vae) * 10**6, 2 * text * 10**6, 2 * width * cells**2, size * 128 * (8 * cells) ** 2)
    config = PRESETS["hifa"]
    (stage,) = config.stages
    stage = replace(
        stage, cameras=replace(stage.cameras, resolution=(64, side)), scene=replace(stage.scene, chunk_rays=chunk),
        weights=Weights(sparsity=1.0), teachers=(replace(stage.teachers[0], guidance=GUIDANCE[loss.lower()]()),),
    )  # fmt: skip
    ((need, _, _),) = needs_of(replace(config, stages=(stage,)), [[sizes]], "cuda")
    return need.device / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="the runs whose line contains this")
    parser.add_argument("--steps", type=int, default=4, help="of a run's first stage")
    parser.add_argument("--gpu", action="store_true", help="compare with peaks that were measured on a GPU; runs nothing")
    arguments = parser.parse_args()
    print("| run | estimated GB | measured GB | ratio |\n|---|---|---|---|")
    for model, loss, side, chunk, peak in MEASURED if arguments.gpu else ():
        said = estimate_gpu(model, loss, side, chunk)
        line = f"{model}, {loss}, renders of {side}x{side}, {f'{chunk:,} rays' if chunk else 'all rays'} at once"
        print(f"| {line} | {said:.1f} | {peak:.1f} | {said / peak:.2f} |")
    for preset, *settings in () if arguments.gpu else RUNS:
        line = " ".join([preset, *settings])
        if arguments.only in line:
            said, peak = measure(preset, tuple(settings), arguments.steps)
            print(f"| `{line}` | {said:.2f} | {peak:.2f} | {said / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
