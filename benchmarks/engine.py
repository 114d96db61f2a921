"""One call of a frozen U-Net by torch and by ONNX Runtime, in turn.

    python benchmarks/engine.py [--sd] [--pictures 4] [--calls 15]

--sd adds a U-Net with the architecture of Stable Diffusion 1.5, random weights (3.4 GB), one and two pictures, each engine in
a process of its own, whose peak memory is printed. "77 tokens over 4" is what the keys and values of 73 further tokens cost: at
most what could be saved by computing them once per prompt.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from functools import partial  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dreamlift.priors.engine import OnnxNetwork, call_network, trace, unpack, weights_of  # noqa: E402
from dreamlift.priors.kinds import load_prior  # noqa: E402
from dreamlift.runs.about import peak_memory  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd", action="store_true")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--alone", choices=("torch", "onnx"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        full_size(arguments.alone)
        return
    for name in ("toybox", "toybox-latent"):
        embedded(name, arguments.pictures, arguments.calls)
    for engine in ("torch", "onnx") if arguments.sd else ():
        subprocess.run([sys.executable, __file__, "--alone", engine], check=True)


def taking_turns(calls: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median milliseconds of each call, after two that are left out."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count + 2):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values[2:]) for name, values in taken.items()}


@torch.no_grad()
def embedded(name: str, pictures: int, count: int) -> None:
    """The row of an embedded prior."""
    network = load_prior(name).network  # pyright: ignore[reportAttributeAccessIssue]
    fast = load_prior(name, engine="onnx").network.onnx  # pyright: ignore[reportAttributeAccessIssue]
    inputs = {key: value.repeat(pictures, *[1] * (value.dim() - 1))[:pictures] for key, value in network.example().items()}
    inputs["sample"] = torch.randn(inputs["sample"].shape, generator=torch.Generator().manual_seed(0))
    width = inputs["states"].shape[-1]
    inputs["states"] = torch.randn(pictures, 77, width, generator=torch.Generator().manual_seed(1))
    few = {**inputs, "states": inputs["states"][:, :4].contiguous()}
    times = taking_turns({
        "torch": lambda: call_network(network.unet, **inputs), "onnx": lambda: fast(inputs), "few": lambda: fast(few),
    }, count)  # fmt: skip
    want, got = call_network(network.unet, **inputs), fast(inputs)
    print(f"{name}, {pictures} pictures: torch {times['torch']:.1f} ms, ONNX Runtime {times['onnx']:.1f} ms; "
          f"77 tokens over 4: {times['onnx'] / times['few']:.2f}; largest difference "
          f"{float((want - got).abs().max() / want.abs().max()):.1e}")  # fmt: skip


@torch.no_grad()
def full_size(engine: str) -> None:
    """The rows of a U-Net of Stable Diffusion 1.5's size."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    for name, weight in unet.named_parameters():
        if weight.dim() > 1:
            weight.uniform_(-1, 1).mul_(weight[0].numel() ** -0.5)
        else:
            weight.fill_(float("norm" in name and name.endswith("weight")))

    def inputs(pictures: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(pictures)
        return {"sample": torch.randn(pictures, 4, 64, 64, generator=rng), "timestep": torch.full((pictures,), 500),
                "states": torch.randn(pictures, 77, 768, generator=rng)}  # fmt: skip

    ready, session = "", None
    if engine == "onnx":
        begun = time.perf_counter()
        graph = unpack(trace(unet, call_network, inputs(2)))
        traced = time.perf_counter()
        session = OnnxNetwork(graph, weights_of(unet), inputs(2))
        ready = f", traced in {traced - begun:.0f} s, session in {time.perf_counter() - traced:.0f} s"
    for pictures in (1, 2):
        call = partial(session, inputs(pictures)) if session else partial(call_network, unet, **inputs(pictures))
        times = taking_turns({engine: call}, 3)
        print(f"Stable Diffusion 1.5's size, {pictures} pictures: {engine} {times[engine] / 1e3:.1f} s, "
              f"peak {peak_memory()['peak_memory_gb']:.1f} GB{ready}")  # fmt: skip


if __name__ == "__main__":
    main()
