"""What one training render costs on this CPU: 64x64 rays x 64 samples = 262,144 points, forward and backward.

    python benchmarks/render.py [--threads 1] [--runs 9]

Prints milliseconds of CPU time (all threads; the smallest and the median of the runs) and of wall time, and the ratio
to a bare field: one ``F.grid_sample`` of a 4-channel 64^3 grid at the same points, activated and composited densely.
The rows are measured in turn, round after round, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tuned = tune_process()  # before torch

import argparse  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

started = time.process_time()

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from dreamlift.cameras import rays_of, turntable  # noqa: E402
from dreamlift.scenes.nerf import hashgrid  # noqa: E402
from dreamlift.scenes.nerf.hashgrid import Hashgrid  # noqa: E402
from dreamlift.scenes.nerf.occupancy import Occupancy  # noqa: E402
from dreamlift.scenes.nerf.scene import Nerf, NerfScene  # noqa: E402
from dreamlift.scenes.nerf.volume import sample_points, sample_rays  # noqa: E402
from dreamlift.scenes.nerf.voxel import Voxel  # noqa: E402
from dreamlift.types import RenderOutput, Shading  # noqa: E402

CAMERAS = turntable(1, distance=2.6, fov_deg=40.0, size=64)  # every ray meets the cube
VOXEL = Voxel(switch_on=(0.0, 0.0, 0.0))
SMALL_HASH = Hashgrid(levels=8, log2_rows=15, hidden=32)
LIGHT = Shading(torch.ones(1), torch.zeros(1), torch.tensor([[0.0, 2.0, 3.0]]))

NOTHING = torch.zeros(1, 1, 1, 3)
UNUSED = (RenderOutput(NOTHING, NOTHING, NOTHING, None), torch.optim.SGD([NOTHING]))  # a nerf looks at neither


def points() -> torch.Tensor:
    """The 262,144 sample points."""
    rays = rays_of(CAMERAS)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    jitter = torch.rand(origins.shape[0], generator=torch.Generator().manual_seed(0))
    return sample_points(origins, directions, sample_rays(origins, directions, 1.0, 64, jitter))


def bare_field() -> Callable[[], None]:
    """The yardstick: F.grid_sample, activations and a dense composite."""
    grid, where = torch.zeros(1, 4, 64, 64, 64, requires_grad=True), points().view(1, 64, 64, 64, 3)

    def step() -> None:
        raw = functional.grid_sample(grid, where, align_corners=True, padding_mode="border")[0].view(4, 4096, 64)
        tau, color = functional.softplus(raw[0]) * 0.03, raw[1:].sigmoid()
        weights = torch.exp(tau - tau.cumsum(1)) * (1 - torch.exp(-tau))
        (weights * color).sum(-1).square().mean().backward()
        grid.grad = None

    return step


def scene_step(scene: NerfScene, shading: Shading | None = None) -> Callable[[], None]:
    rng = torch.Generator().manual_seed(0)

    def step() -> None:
        scene.render(CAMERAS, rng, shading).rgb.square().mean().backward()
        scene.zero_grad(set_to_none=True)

    return step


def dense(field: Voxel | Hashgrid) -> NerfScene:
    """Every sample is evaluated: no occupancy grid, no early termination."""
    scene = Nerf(field, occupancy=Occupancy(resolution=0), early_stop_eps=0.0).build(torch.Generator().manual_seed(0))
    scene.after_step(0, 1.0, torch.Generator(), *UNUSED)
    return scene


def skipping(field: Voxel | Hashgrid) -> NerfScene:
    """The default: the occupancy grid of the initial blob (a radius of 0.5 and its soft edge), early termination."""
    scene = Nerf(field).build(torch.Generator().manual_seed(0))
    for index in range(128):
        scene.after_step(index, 1.0, torch.Generator().manual_seed(index), *UNUSED)
    return scene


def encoding() -> Callable[[], None]:
    """The hash encoding alone: 8 levels x 2 features, 2^15 rows."""
    field = SMALL_HASH.build(1.0, torch.Generator().manual_seed(0))
    unit = (points() + 1) / 2
    probe = torch.rand(16, unit.shape[0], generator=torch.Generator().manual_seed(0))

    def step() -> None:
        hashgrid.encode(field.table, unit, field.layout, 8).backward(probe)
        field.table.grad = None

    return step


def without_kernels(step: Callable[[], None]) -> Callable[[], None]:
    def slow() -> None:
        os.environ["DREAMLIFT_KERNELS"] = "0"
        step()
        os.environ["DREAMLIFT_KERNELS"] = "1"

    return slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {
        "bare F.grid_sample field, 4 x 64^3": bare_field(),
        "voxel 65^3, every sample": scene_step(dense(VOXEL)),
        "voxel 65^3, occupancy grid": scene_step(skipping(VOXEL)),
        "voxel 65^3, occupancy grid, lit": scene_step(skipping(VOXEL), LIGHT),
        "voxel 65^3, every sample, torch twins": without_kernels(scene_step(dense(VOXEL))),
        "hash encoding 8 x 2, 2^15, alone": encoding(),
        "hash grid + MLP 32, every sample": scene_step(dense(SMALL_HASH)),
        "hash grid + MLP 32, occupancy grid": scene_step(skipping(SMALL_HASH)),
    }
    for step in rows.values():
        step()
    print(f"threads {args.threads}, malloc tuned: {tuned}, cold start {time.process_time() - started:.1f} s of CPU time")
    cpu: dict[str, list[float]] = {name: [] for name in rows}
    wall: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.runs):
        for name, step in rows.items():
            c, w = time.process_time(), time.perf_counter()
            step()
            cpu[name].append(1e3 * (time.process_time() - c))
            wall[name].append(1e3 * (time.perf_counter() - w))
    bare = min(cpu["bare F.grid_sample field, 4 x 64^3"])
    print(f"{'':40s}{'CPU ms':>8s}{'median':>8s}{'wall ms':>8s}{'ratio':>7s}")
    for name in rows:
        middle = sorted(cpu[name])[args.runs // 2]
        print(f"{name:40s}{min(cpu[name]):8.1f}{middle:8.1f}{min(wall[name]):8.1f}{min(cpu[name]) / bare:7.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
