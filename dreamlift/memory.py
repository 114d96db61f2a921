"""What a run needs of memory, worked out before anything is loaded, and what this machine has.

The need is an upper estimate, of the largest pictures of the run (``cameras.resolution`` may be a ladder), with no empty space
left out. On a CPU, with the constants below (measured on short runs: ``benchmarks/memory.py``, BENCHMARKS.md),

    need = packages + max(text encoder, networks + scene + step) + mesh and texture
    step = slack x (views x pixels x samples x bytes a sample + values of the networks x bytes)

and on a GPU the same is split between its own memory and the machine's. On one it was 1.8 to 4 times the peak (BENCHMARKS.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.guidance.diffusion_loss import DiffusionLoss
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.vsd import VSD
from dreamlift.priors.footprint import Footprint, footprint
from dreamlift.priors.sources import EMBEDDED, KNOWN
from dreamlift.scenes.base import StepShape

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from dreamlift.config.schema import Config

PACKAGES = 1000 << 20  # Python with torch, diffusers, transformers and numba with its kernels: 650 to 950 MiB were seen
CUDA_HOST, CUDA_DEVICE = 3 << 30, 600 << 20  # what CUDA adds to a process, and keeps of a GPU; not measured here
CPU_SLACK, GPU_SLACK = 2.0, 1.25  # over the live values: gaps that malloc (tuned not to give back) and torch's allocator leave
COPIES = 10  # of every trained value: itself, gradient, Adam's two, and two good copies of all but the gradient
# Mesh and texture: fixed, a grid point, a texel.
MESH, GRID_POINT, TEXEL = 220 << 20, 100, 80
NOTHING = Footprint(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, False)


class NotEnoughMemoryError(ValueError):
    """The run cannot fit; the message says what would."""


@dataclass(frozen=True)
class Need:
    """The most that a run needs, in bytes."""

    host: int  # of the machine's main memory
    device: int  # of the GPU's own; 0 without one
    pictures: str  # the largest pictures that it is for, in words

    @property
    def amount(self) -> str:
        """In words: "2.3 GB", or "4.8 GB and 25.2 GB of the GPU's"."""
        gpu = f" and {self.device / 1e9:.1f} GB of the GPU's" if self.device else ""
        return f"{self.host / 1e9:.1f} GB{gpu}"

    def __str__(self) -> str:
        return f"memory: at most {self.amount}, for {self.pictures}"


def check_memory(config: Config, folder: Path, device: torch.device, stage: int = 0) -> Need | None:
    """The need of a run with the prior in ``folder``; None where its settings cannot be read (loading it says why).

    Args:
        config: of the run's only stage, or of stage ``stage`` (counted from 0), whose options are told by their whole names.

    Raises:
        NotEnoughMemoryError: less is free, as far as the system tells, and ``config.memory.check`` is on.
    """
    try:
        prior = footprint(folder)
    except (ValueError, OSError):
        return None
    need = estimate(config, prior, device.type)
    free = (available_host(), available_device(device))
    if config.memory.check and not fits(need, free):
        raise NotEnoughMemoryError(refusal(config, prior, device, need, free, stage))
    return need


def largest(needs: tuple[Need | None, ...]) -> Need | None:
    """The need of a run of several stages, which come one after the other."""
    known = [need for need in needs if need is not None]
    if len(known) < 2:
        return known[0] if known else None
    dearest = max(known, key=lambda need: (need.device, need.host))
    return replace(
        dearest, host=max(need.host for need in known), pictures=f"{dearest.pictures} (the dearest of {len(needs)} stages)"
    )


def fits(need: Need, free: tuple[int | None, int | None]) -> bool:
    """Whether what is free (None: unknown) is enough."""
    return all(have is None or wanted <= have for wanted, have in zip((need.host, need.device), free, strict=True))


def refusal(
    config: Config, prior: Footprint, device: torch.device, need: Need, free: tuple[int | None, int | None], stage: int = 0
) -> str:
    """One line: what is needed, what is there, and the changes that would fit."""
    found: dict[str, str] = {}
    for words, changed, teacher in changes(config, prior, stage):
        less = estimate(changed, teacher, device.type)
        if fits(less, free) and words.split()[0] not in found:
            found[words.split()[0]] = f"{words} ({less.amount})"
    there = " and ".join(
        f"{have / 1e9:.1f} GB {where}" for have, where in zip(free, ("here", f"on {device}"), strict=True) if have is not None
    )
    lead = f"stage {stage + 1} may need" if stage else "this run may need"
    unchecked = "--memory.check false to run all the same (what is worked out is an upper estimate)"
    advice = f"Try {' or '.join(found.values())}; or {unchecked}" if found else f"No single option is enough; {unchecked}"
    return f"{lead} more memory than is free: {need.amount} for {need.pictures}, but there are {there}. {advice}"


def changes(config: Config, prior: Footprint, stage: int = 0) -> Iterator[tuple[str, Config, Footprint]]:
    """What may make a run smaller, the dearest first: options, the config with them, and its prior."""
    own = f"--then.{stage - 1}." if stage else "--"  # of a later stage's own settings
    options = "--memory.one_by_one true --memory.checkpointing true"
    low = replace(config, memory=replace(config.memory, one_by_one=True, checkpointing=True))
    if (scene := config.scene.thrifty()) is not None:
        changed = [f" {own}scene.{name} {value}" for name, value in vars(scene).items() if value != getattr(config.scene, name)]
        low, options = replace(low, scene=scene), options + "".join(changed)
    yield options, low, prior
    for size in sorted({min(side, top) for side in config.cameras.resolution for top in (512, 256, 128, 64, 32)}, reverse=True):
        smaller = tuple(min(side, size) for side in config.cameras.resolution)
        if smaller != config.cameras.resolution:
            changed = replace(config, cameras=replace(config.cameras, resolution=smaller))
            yield f"{own}cameras.resolution {list(smaller)}".replace(", ", ","), changed, prior
    for size, texture in ((128, 1024), (64, 512)):
        if config.mesh.resolution > size or config.mesh.texture_size > texture:
            least = (min(config.mesh.resolution, size), min(config.mesh.texture_size, texture))
            changed = replace(config, mesh=replace(config.mesh, resolution=least[0], texture_size=least[1]))
            yield "--mesh.resolution {} --mesh.texture_size {}".format(*least), changed, prior
    yield f"{own}prior toybox", config, footprint(EMBEDDED / "toybox")


def estimate(config: Config, prior: Footprint, device: str = "cpu") -> Need:
    """The most that a run needs on a ``device`` of type "cpu", "cuda" or "mps"."""
    gpu = device == "cuda"
    views, side = config.cameras.views, max(config.cameras.resolution)
    pictures = f"{views} picture{'s' if views > 1 else ''} a step of {side}x{side}"
    width, slack = (2, GPU_SLACK) if gpu else (4, CPU_SLACK)
    vae = 4 if prior.upcast else width
    weights = prior.network * width + prior.autoencoder * vae
    learned = _of_lora(config, prior)
    step = int(slack * (config.scene.step_bytes(step_shape(config, device)) + _of_prior(config, prior, width, vae))) + learned
    step += 4 * COPIES * config.scene.values() * config.particles
    # At the end: pictures of the scene, and what meshes and textures take of the main memory.
    points = config.scene.picture_bytes(device)
    finish = MESH + GRID_POINT * config.mesh.resolution**3 + TEXEL * config.mesh.texture_size**2
    # A file that is read and the network that it fills are there together, for one network after the other.
    if not gpu:
        loading = max(prior.network, prior.autoencoder) * 4
        host = max(prior.text * 8, weights + max(loading, step))
        return Need(PACKAGES + host + points + finish, 0, pictures)
    largest = max(prior.network, prior.autoencoder, prior.text) * (2 + 4)
    device_bytes = CUDA_DEVICE + max(prior.text * width + prior.text_full * 2, weights + max(step, points))
    return Need(PACKAGES + CUDA_HOST + max(largest, finish), device_bytes, pictures)


def expected(config: Config, device: str = "cpu") -> Need:
    """As :func:`estimate`, of all stages and with known priors that need not be here yet: then with their table's figure.

    That is for one picture a step in half precision on a GPU: on a CPU it counts twice, and several views need more.
    """
    found = largest(tuple(_expected(stage, device) for stage in config.stages))
    assert found is not None
    return found


def _expected(config: Config, device: str) -> Need:
    source = KNOWN[config.prior]
    if not source.addresses:
        return estimate(config, footprint(EMBEDDED / config.prior), device)
    need, prior = estimate(config, NOTHING, device), int(source.memory_gb * 1e9)
    if need.device:
        return replace(need, device=need.device + prior)
    return replace(need, host=need.host + 2 * prior)


def step_shape(config: Config, device: str = "cpu") -> StepShape:
    """What the scene is asked to render in the dearest step of the run."""
    terms = config.weights.ever()
    normals = "orientation" in terms or config.lighting.lambertian > 0 or config.show == "normal"
    return StepShape(config.cameras.views, max(config.cameras.resolution), device, normals, terms)


def _of_prior(config: Config, prior: Footprint, width: int, vae: int) -> int:
    """Live bytes of one step's ways through the prior's networks."""
    views, memory, guidance = config.cameras.views, config.memory, config.guidance
    copies = 2 + len(config.wording.opposites(math.pi / 2, 0.0))  # negative, prompt, Perp-Neg's others
    asked = prior.asked * (prior.together if memory.one_by_one else views * copies)
    through = 0
    if isinstance(guidance, (VSD, DiffusionLoss)):
        through = views * (prior.kept_low if memory.checkpointing else prior.kept)
        through *= 1 if isinstance(guidance, VSD) else copies
    coded = prior.encoded_low if memory.checkpointing else prior.encoded
    if isinstance(guidance, HiFA):
        coded += prior.decoded_low if memory.checkpointing else prior.decoded
    pictures = 40 * views * 3 * prior.resolution**2  # resized, noised, and their gradients, in float32
    return width * (asked + through) + vae * coded * views + pictures


def _of_lora(config: Config, prior: Footprint) -> int:
    """Bytes of what VSD learns: a share r (1 / in + 1 / out) of each matrix's values; large networks are 320 wide or more."""
    if not isinstance(config.guidance, VSD):
        return 0
    share = 0.5 if config.guidance.targets == "attention" else 1.0
    return int(share * prior.network * config.guidance.rank / 160 * 4 * COPIES)


def available_device(device: Any) -> int | None:
    """Free bytes of a CUDA device; None for others, which share the main memory or do not tell."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.mem_get_info(device)[0]


def available_host(root: Path = Path("/")) -> int | None:
    """Bytes that this process can have in all without swapping, its own of now among them; None where nothing is known.

    The least of what Linux calls available and of what the control groups (versions 2 and 1) that it is in still allow.
    """
    found = [_free_memory(root), *_group_limits(root)]
    known = [value for value in found if value is not None]
    return min(known) + _resident(root) if known else None


def _free_memory(root: Path) -> int | None:
    rows = _table(root / "proc/meminfo")
    return rows["MemAvailable:"] * 1024 if "MemAvailable:" in rows else None


def _group_limits(root: Path) -> list[int]:
    """What is left of every limit on the way from this process's group up to the root."""
    left = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = top / path.lstrip("/")
        while True:
            limit, used = (_number(place / name) for name in names[:2])
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 has a huge number for "no limit"
                # Cached files that nobody uses are given up as soon as memory is wanted.
                left.append(max(0, limit - used + _table(place / "memory.stat").get(names[2], 0)))
            if place == top:
                break
            place = place.parent
    return left


def _resident(root: Path) -> int:
    return _table(root / "proc/self/status").get("VmRSS:", 0) * 1024


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # ValueError: "max", no limit
        return None


def _table(file: Path) -> dict[str, int]:
    """The lines ``name number ...`` of a file of the kernel; empty where it cannot be read."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
