"""What it costs to find the visible faces of a mesh of 10,000 faces, and a differentiable picture of it.

    python benchmarks/raster.py [--threads 1] [--runs 5] [--device cpu]

Prints milliseconds (the smallest of the runs; on a CPU of CPU time, all threads) of every backend that is there, and the ratio
to the reference in torch; then those of a whole picture with colours and antialiased silhouettes, forward and backward, by the
fastest one.
The rows are measured in turn, round after round, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

from dreamlift.startup import tune_process

tuned = tune_process()  # before torch

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402

from dreamlift.cameras import turntable  # noqa: E402
from dreamlift.meshing.softraster import antialias, edges_of, surface_of  # noqa: E402
from dreamlift.meshing.tets import TetGrid, crossing_of, edge_vertices  # noqa: E402
from dreamlift.meshing.visibility import available_backends, visible_faces  # noqa: E402

SIZES = (64, 256, 512)


def ball(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A bumpy ball of some 10,000 faces."""
    grid = TetGrid(27, 1.0)
    points = grid.positions()
    values = points.norm(dim=1) - 0.6 - 0.05 * (9 * points).sin().prod(dim=1)
    crossing = crossing_of(grid, values)
    return edge_vertices(points[crossing.ends], values[crossing.ends]).to(device), crossing.faces.to(device)


def picture(vertices: torch.Tensor, faces: torch.Tensor, size: int) -> Callable[[], None]:
    """One view with colours, forward and backward to vertices and colours."""
    colors = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(0)).to(vertices).requires_grad_()
    moving, cameras = vertices.clone().requires_grad_(), turntable(1, distance=2.6, fov_deg=40.0, size=size).to(vertices.device)

    def step() -> None:
        seen = surface_of(moving, faces, cameras)
        values = torch.cat([seen.interpolate(colors), torch.ones_like(seen.depth)], dim=1)
        antialias(seen.picture(values), seen, moving, faces, edges_of(faces), cameras).square().mean().backward()

    return step


def visibility(vertices: torch.Tensor, faces: torch.Tensor, size: int, backend: str) -> Callable[[], None]:
    cameras = turntable(1, distance=2.6, fov_deg=40.0, size=size).to(vertices.device)
    return lambda: visible_faces(vertices, faces, cameras, backend) is None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vertices, faces = ball(args.device)
    names = available_backends(args.device)
    rows = {(name, size): visibility(vertices, faces, size, name) for name in names for size in SIZES}
    rows |= {("picture, forward and backward", size): picture(vertices, faces, size) for size in SIZES}
    times = {key: [] for key in rows}
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    for run in range(args.runs + 1):  # the first one compiles
        for key, call in rows.items():
            began = clock()
            call()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if run:
                times[key].append(1000 * (clock() - began))
    print(f"{len(faces):,} faces, one view, {args.device}, {args.threads} thread(s), smallest of {args.runs} runs\n")
    print("| " + " | ".join(["ms (ratio to torch)", *(f"{size} px" for size in SIZES)]) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    for name in [*names, "picture, forward and backward"]:
        cells = [f"{min(times[name, size]):.1f} ({min(times[name, size]) / min(times['torch', size]):.3f})" for size in SIZES]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
