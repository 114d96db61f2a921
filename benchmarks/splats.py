"""What rendering Gaussians costs on this CPU, forward and backward: the torch twin against the compiled tile kernels.

    python benchmarks/splats.py [--threads 1] [--runs 5]

One view, 4 channels, Gaussians in a ball as a scene begins with. Prints milliseconds of CPU time (the smallest and the
median of the runs) and the ratio to the first row. The rows are measured in turn, round after round, so that a busy
machine slows all of them alike.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tuned = tune_process()  # before torch

import argparse  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402

from dreamlift.cameras import turntable  # noqa: E402
from dreamlift.scenes.background import Solid  # noqa: E402
from dreamlift.scenes.gaussians.scene import Gaussians  # noqa: E402

SIZES = ((2000, 64), (10_000, 128))


def scene_step(count: int, side: int, kernels: bool) -> Callable[[], None]:
    """Project, sort, composite, and go back to all parameters."""
    rng = torch.Generator().manual_seed(0)
    scene = Gaussians(count=count, capacity=count, background=Solid()).build(rng)
    cameras = turntable(1, distance=2.6, fov_deg=40.0, size=side)

    def step() -> None:
        os.environ["DREAMLIFT_KERNELS"] = "1" if kernels else "0"
        scene.render(cameras, rng).rgb.square().mean().backward()
        scene.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {
        f"{count} at {side}, {name}": scene_step(count, side, name == "tile kernels")
        for count, side in SIZES
        for name in ("tile kernels", "torch pairs")
    }
    for step in rows.values():
        step()
    print(f"threads {args.threads}, malloc tuned: {tuned}")
    cpu: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.runs):
        for name, step in rows.items():
            start = time.process_time()
            step()
            cpu[name].append(1e3 * (time.process_time() - start))
    base = min(next(iter(cpu.values())))
    print(f"{'':28s}{'CPU ms':>8s}{'median':>8s}{'ratio':>7s}")
    for name, times in cpu.items():
        print(f"{name:28s}{min(times):8.1f}{sorted(times)[args.runs // 2]:8.1f}{min(times) / base:7.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
