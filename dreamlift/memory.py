"""The memory that a run needs, estimated before anything is loaded, and the memory that is free.

    GPU:   context + max(text encoder, weights + trained + step)
    CPU:   packages + max(text encoder, weights + trained + gaps step + mesh)
    step = max(scene, 0.4 scene + activations of the largest teacher)    (0.4: what its backward pass keeps)

Weights are counted in the headers of safetensors files. Activations are proportional to the first level's channels times the
latent cells of a network, or the pixels of an autoencoder. BENCHMARKS.md compares the estimates with measured peaks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dreamlift.config.schema import Config
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.folder import draws_views, weight_files
from dreamlift.priors.files.tensors import shapes_of
from dreamlift.priors.kinds import Located
from dreamlift.priors.loading.sources import EMBEDDED, KNOWN
from dreamlift.priors.parts import FolderParts
from dreamlift.scenes.base import SceneSettings
from dreamlift.stages.base import with_priors
from dreamlift.stages.settings import OF_NORMALS
from dreamlift.stages.tuned import base_of, base_priors
from dreamlift.system.failures import SAVING

if TYPE_CHECKING:
    from dreamlift.tuning.dreambooth import Plan

PACKAGES, CUDA_HOST, CONTEXT = 1_000_000_000, 3_000_000_000, 600_000_000  # bytes: Python's packages; CUDA, host and GPU
TRAINED = 40  # bytes per trained value: itself, its gradient, Adam's moments, two copies of the last good state
ADAM = 16  # bytes per value that a fine-tuning trains: itself, its gradient, two moments
MESH, GRID_POINT, TEXEL = 300_000_000, 90, 80  # bytes of meshing and texturing: fixed, per grid point, per texel
GAPS, DETAIL = 2, 2.3  # factors: malloc's gaps in a step on a CPU; a scene with normals or with regularisers along rays
# Values per cell and channel: a network without and with a gradient, an encoder, a decoder; shares of these with checkpoints.
NETWORK, GRADIENT, ENCODER, DECODER, FEWER, FEWER_CODED = 26, 300, 24, 50, 0.25, 0.65
ONNX = 3.5  # factor on the weights: ONNX Runtime's rearranged copies and its buffers
HUGE = 1 << 60  # bytes: not limited, or not known


class NotEnoughMemoryError(ValueError):
    """The weights alone do not fit into the free memory."""


@dataclass(frozen=True)
class Need:
    """Estimated peak memory, in bytes."""

    host: int  # of main memory
    device: int  # of a GPU's own memory; 0 without one

    def __str__(self) -> str:
        return f"memory: about {self.host / 1e9:.1f} GB" + f", and {self.device / 1e9:.1f} GB of the GPU's" * (self.device > 0)


class Model(NamedTuple):
    """Bytes of a prior in the precision of a device."""

    weights: int  # of the network and the autoencoder
    text: int  # of the largest encoder of words or pictures; they are read one at a time, before the network
    cells: int  # of one value per latent cell of a picture and channel of the network's first level
    pixels: int  # of one value per pixel and channel of the autoencoder's first level; 0 without one


def check_memory(
    config: Config, priors: tuple[tuple[Located, ...], ...], device: torch.device
) -> tuple[Need | None, tuple[str, ...]]:
    """The largest need of all stages, None where weights cannot be counted, and a note where it exceeds the free memory.

    Raises:
        NotEnoughMemoryError: the weights alone do not fit, and ``config.memory.check`` is on.
    """
    try:
        models = [[model_of(each.parts, each.choice, device.type) for each in stage] for stage in priors]
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError):
        return None, ()
    free = Need(available_host() or HUGE, available_device(device) or HUGE)
    have = free.device if device.type == "cuda" else free.host
    alone = max(max(sum(each.weights for each in set(own)), *(each.text for each in own), 0) for own in models)
    if config.memory.check and alone > have:
        raise NotEnoughMemoryError(
            f"the weights alone take {alone / 1e9:.1f} of {have / 1e9:.1f} GB free; use a smaller prior or --memory.check false"
        )
    if not (needs := needs_of(config, models, device.type)):
        return None, ()
    need = Need(max(each.host for each, _, _ in needs), max(each.device for each, _, _ in needs))
    pairs = ((need.host, free.host, "of main memory"), (need.device, free.device, "of the GPU's memory"))
    short = [f"{want / 1e9:.1f} GB {where}, and {have / 1e9:.1f} GB are free" for want, have, where in pairs if want > have]
    _, number, stage = max(needs, key=lambda each: (each[0].device, each[0].host))
    own = f"--stages.{number}." if number else "--"
    chunks = f", {own}scene.chunk_rays 4096" if hasattr(stage.scene, "chunk_rays") else ""
    options = f"{SAVING}{chunks}, {own}cameras.resolution [{max(stage.cameras.resolution) // 2}]"
    return need, (f"the run may need about {' and '.join(short)}; options that need less: {options}",) if short else ()


def tuning_need(plan: Plan, device: torch.device, options: str) -> tuple[int | None, str]:
    """The estimated peak bytes of a fine-tuning, None where weights cannot be counted, and a note where they are not free.

    weights + 16 x trained values + activations of one step, proportional to the pictures of a step.

    Args:
        options: those that need less, for the note.
    """
    settings, parts = plan.settings, plan.parts
    try:
        model = model_of(parts, plan.located.choice, device.type)
        kept = settings.text_encoder or settings.learn_word
        text = sum(parameters(parts.folder / each) for each in parts.text_encoders()) if kept else 0
        trained = parameters(parts.folder / "unet") if settings.all_weights else 0
        size = 4 if device.type != "cuda" or settings.all_weights else 2
        network = size * parameters(parts.folder / "unet")
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError):
        return None, ""
    trained += text if settings.text_encoder and settings.all_weights else 0
    pictures = (settings.batch or 1) * (2 if settings.class_weight else 1)
    step = GRADIENT * (FEWER if settings.gradient_checkpointing else 1.0) * pictures * model.cells
    need = max(model.weights + model.text, network + size * text + (ADAM - 4) * trained + step)
    need = int(need + (CONTEXT if device.type == "cuda" else PACKAGES))
    free = available_device(device) or available_host() or HUGE
    if need <= free:
        return need, ""
    return (
        need,
        f"the tuning may need about {need / 1e9:.1f} GB, and {free / 1e9:.1f} are free; options that need less: {options}",
    )


def expected(config: Config, device: str = "cpu") -> int:
    """Estimated peak bytes on a ``device`` of type "cpu", "cuda" or "mps", also with known priors that are not here."""
    stages = with_priors(config.stages)
    bases = base_priors(stages)
    models = [[known(base_of(each or PriorChoice(), bases, "prior"), device) for each in stage.choices] for stage in stages]
    return max((each.device or each.host for each, _, _ in needs_of(config, models, device)), default=0)


def needs_of(config: Config, models: list[list[Model]], device: str) -> list[tuple[Need, int, Any]]:
    """(need, number, stage) of each stage that has a scene; ``models`` are those of its teachers, equal ones shared."""
    mesh = MESH + GRID_POINT * config.mesh.resolution**3 + TEXEL * config.mesh.texture_size**2
    share, share_coded = (FEWER, FEWER_CODED) if config.memory.gradient_checkpointing else (1, 1)
    needs = []
    for number, (stage, own) in enumerate(zip(tuple[Any, ...](config.stages), models, strict=True)):
        if not hasattr(stage, "scene"):
            continue
        views, sides, scene = stage.cameras.views, stage.cameras.resolution, stage.scene
        step = scene_bytes(scene, views, sides)
        if (compared := stage.photometric) is not None:  # a second render, kept beside the first where both are in one step
            second = scene_bytes(scene, compared.views, compared.resolution)
            step = max(step, second) if compared.alone else step + second
        terms = stage.weights.ever() & (OF_NORMALS | {"distortion", "depth_variance"})
        if terms or stage.lighting.lambertian > 0 or any(teacher.show == "normal" for teacher in stage.teachers):
            step *= DETAIL
        passes = [0.0]
        for model, guidance in zip(own, (teacher.guidance for teacher in stage.teachers), strict=True):
            network = NETWORK * min(config.memory.micro_batch or 2 * views, 2 * views)  # guidance needs two predictions
            network += GRADIENT * share * views * guidance.differentiates_network
            passes.append(network * model.cells + (ENCODER + DECODER * guidance.decodes) * share_coded * views * model.pixels)
        step = int(max(step, 0.4 * step + max(passes)))
        kept = sum(each.weights for each in set(own)) + TRAINED * scene.parameter_count() * config.particles
        if config.engine == "onnx" and device == "cpu":  # "auto" uses it for small networks only
            kept += int(ONNX * sum(each.weights for each in set(own)))
        largest = max((max(each.weights, each.text) for each in own), default=0)
        gpu = device == "cuda"  # while a model is loaded, its file and its weights are in main memory together
        host = CUDA_HOST + max(2 * largest, mesh) if gpu else max(largest, kept + int(GAPS * step) + mesh)
        needs.append((Need(PACKAGES + host, (CONTEXT + max(largest, kept + step)) * gpu), number, stage))
    return needs


def scene_bytes(scene: SceneSettings, views: int, sides: tuple[int, ...]) -> float:
    """Peak bytes of the renders of one step: before space is known to be empty, or at the largest of the sizes ``sides``."""
    return max(scene.step_bytes(views, sides[0]), scene.occupied * scene.step_bytes(views, max(sides)))


def model_of(parts: Any, choice: PriorChoice, device: str) -> Model:
    """The model in a folder. Raises ValueError, KeyError or others where its files are not as they should be."""
    part, size, pixels = "transformer" if parts.has("transformer") else "unet", 2 if device == "cuda" else 4, 0
    network = parts.config(part)
    side = network.get("sample_size", network.get("image_size", 128))  # MVDream's name; FLUX.1 states none
    first = network.get("block_out_channels", [network.get("model_channels")])[0]
    width = first or network["num_attention_heads"] * network["attention_head_dim"] // 4  # a transformer's patches: 2 x 2 cells
    weights = size * parameters(parts.folder / part)
    if parts.has("vae"):
        vae = parts.config("vae")
        precise, widths = 4 if vae.get("force_upcast", False) else size, vae["block_out_channels"]
        weights += precise * parameters(parts.folder / "vae")
        pixels = 0 if choice.linear_encoder else precise * widths[0] * (side << (len(widths) - 1)) ** 2
    encoders = ["image_encoder"] if draws_views(parts.config("")) else parts.text_encoders()
    text = size * max((parameters(parts.folder / each) for each in encoders), default=0)
    return Model(weights, text * 5 // 4 if size == 2 else text, size * width * side**2, pixels)  # T5 keeps a fifth in float32


def known(choice: PriorChoice, device: str) -> Model:
    """The model of a choice; of one that is not here, from the table's figure (if unknown, Stable Diffusion 2.1's)."""
    if (EMBEDDED / choice.name).is_dir():  # an absolute path stays as it is
        return model_of(FolderParts(EMBEDDED / choice.name), choice, device)
    source, size = KNOWN.get(choice.name, KNOWN["sd-2.1-base"]), 2 if device == "cuda" else 4
    cells = size * 320 * (source.resolution // 8) ** 2  # Stable Diffusion's widths
    pixels = size * 128 * source.resolution**2 * (source.space != "pixel")
    weights = size / 2 * (source.memory_gb * 1e9 - CONTEXT) - 2 * NETWORK * cells - ENCODER * pixels
    return Model(int(weights), 0, cells, pixels * (not choice.linear_encoder))


def parameters(folder: Path) -> int:
    """How many numbers the safetensors files of one network hold; copies in half precision count once."""
    shapes = [shape for file in weight_files(folder, torch.float32) for shape in shapes_of(file).values()]
    return sum(map(math.prod, shapes))


def available_device(device: torch.device) -> int | None:
    """Free bytes of a CUDA device; None for others, which share the main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def available_host(root: Path = Path("/")) -> int | None:
    """Bytes that this process can use in all without swapping, within the limits of its control groups; None: unknown."""
    left = 1024 * _numbers(root / "proc/meminfo").get("MemAvailable:", HUGE)
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        number, controllers, path = line.split(":", 2)
        place, names = root / "sys/fs/cgroup" / path.lstrip("/"), ("memory.max", "memory.current", "inactive_file")
        if number != "0" and "memory" in controllers.split(","):
            place = root / "sys/fs/cgroup/memory" / path.lstrip("/")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in (place, *place.parents):  # a limit may stand at any group on the way up; unused file caches are free
            limit, used = (_numbers(group / name).get("", HUGE) for name in names[:2])
            if max(limit, used) < HUGE:
                left = min(left, max(0, limit - used + _numbers(group / "memory.stat").get(names[2], 0)))
    return left + 1024 * _numbers(root / "proc/self/status").get("VmRSS:", 0) if left < HUGE else None


def _numbers(file: Path) -> dict[str, int]:
    """The lines ``name number ...`` of a file of the kernel (a number alone: ""); {} where it cannot be read."""
    try:
        return {name: int(value) for name, value in re.findall(r"^(?:(\S+)[ \t]+)?(\d+)\b", file.read_text(), re.MULTILINE)}
    except OSError:
        return {}
