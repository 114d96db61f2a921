"""What a step costs over its floor: the frozen U-Net's own forward passes in that step, measured in the same run.

    python benchmarks/step.py [--steps 40] [--threads 2]

A step renders 2 views of 64x64, asks the embedded prior with classifier-free guidance (4 pictures through the U-Net), goes
back through the renderer and updates the scene. The first steps are left out, since nothing is skipped there yet.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402

import torch  # noqa: E402

from dreamlift.lifting import load, resolve  # noqa: E402
from dreamlift.presets import PRESETS  # noqa: E402


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(CPU ms over all threads, wall ms) of one call, a GPU's work included."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="steps that are measured")
    parser.add_argument("--skip", type=int, default=80, help="steps before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    job = load(resolve(replace(PRESETS["toybox-field"], prompt="a red mug", device=arguments.device)))
    sampler, ready = job.work.stage.cameras, job.work.ready
    (prior,), (embeds,), views = ready.priors, ready.embeds, sampler.views
    pictures, t = torch.rand(views, prior.resolution, prior.resolution, 3), torch.full((views,), 0.5)
    latents = prior.encode(pictures.to(prior.device))
    cond = embeds.at(sampler(0.0, torch.Generator().manual_seed(0)).to(prior.device))
    rows: dict[str, list[tuple[float, float]]] = {"floor": [], "step": []}

    def floor() -> None:
        with torch.no_grad():
            prior.predict_noise(latents, t, cond, 3.0)

    for i in range(arguments.skip + arguments.steps):
        result = timed(job.work.step)
        if i >= arguments.skip:
            rows["step"].append(result)
            rows["floor"].append(timed(floor))  # in turn, so that a busy machine slows both alike
    print(f"{views} views of 64x64, {arguments.threads} threads, medians of {arguments.steps}")
    for name, values in rows.items():
        cpu, wall = (statistics.median(value[i] for value in values) for i in range(2))
        print(f"{name:6s} {cpu:8.1f} CPU ms {wall:8.1f} wall ms")
    for i, kind in enumerate(("CPU", "wall")):
        ratio = statistics.median(s[i] / f[i] for s, f in zip(rows["step"], rows["floor"], strict=True))
        print(f"step over floor, {kind}: {ratio:.2f}")


if __name__ == "__main__":
    main()
