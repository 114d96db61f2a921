"""Time and memory of a step with the big models' own architectures, at full size, on a GPU.

    python benchmarks/full_size.py [--models sd-2.1-base sdxl sd3-medium] [--losses sds vsd] [--size 512] [--chunk-rays 8192]

The weights are random and go by way of a diffusers folder, as real ones would; what a step costs does not depend on them.
The floor is what the frozen networks have to do in a step, and in VSD's the LoRA's passes: the encoder forward and backward,
the U-Net with guidance, and with VSD eps_phi once without a gradient and once with one. Steps and floors take turns.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from dreamlift.config.schema import Config  # noqa: E402
from dreamlift.guidance.rfds import RFDS  # noqa: E402
from dreamlift.guidance.sds import SDS  # noqa: E402
from dreamlift.guidance.vsd import VSD  # noqa: E402
from dreamlift.lifting import Job, load, resolve  # noqa: E402
from dreamlift.presets import PRESETS  # noqa: E402
from dreamlift.priors.choice import PriorChoice  # noqa: E402
from dreamlift.stages.lift import Lift  # noqa: E402
from dreamlift.stages.settings import Weights  # noqa: E402
from dreamlift.toybox.training.network import make_tokenizer  # noqa: E402

WORDS = ["a", "the", "of", "red", "mug", "view", "front", "back", "side", "overhead", ","]
HIFA = PRESETS["hifa"]
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--losses", nargs="+", choices=("sds", "vsd"), default=["sds", "vsd"])
    parser.add_argument("--size", type=int, default=512, help="pixels a side of the renders")
    parser.add_argument("--chunk-rays", type=int, default=HIFA.stages[0].scene.chunk_rays, help="0: all")
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured")
    parser.add_argument("--folder", type=Path, help="where the random models are kept (2 to 7 GB each); default: nowhere")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a CUDA GPU; benchmarks/step.py measures the embedded prior on a CPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; renders of {arguments.size}x{arguments.size}, "
          f"medians of {arguments.steps}")  # fmt: skip
    print(f"{'model':14s}{'loss':6s}{'load s':>8s}{'floor ms':>10s}{'step ms':>9s}{'ratio':>7s}{'GB':>7s}{'said GB':>9s}")
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models:
            folder = (arguments.folder or Path(temporary)) / name
            if not folder.is_dir():
                MODELS[name](folder)
            for loss in arguments.losses:
                if loss == "sds" or name != "sd3-medium":  # its transformer takes no LoRA of VSD's
                    measure(name, folder, loss, arguments)


def measure(name: str, folder: Path, loss: str, arguments: Any) -> None:
    """One line of the table."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config, begun = config_of(folder, loss, arguments), time.perf_counter()
    job = load(resolve(config))
    torch.cuda.synchronize()
    loaded, stage = time.perf_counter() - begun, job.work.stage
    small = replace(stage, cameras=replace(stage.cameras, resolution=(64,)))
    for _ in range(stage.scene.occupancy.warmup + 3):  # until empty space is skipped
        step(job, small)
    floor = make_floor(job, arguments.size)
    times: dict[str, list[float]] = {"floor": [], "step": []}
    for i in range(arguments.steps + 3):
        for kind, work in (("floor", floor), ("step", lambda: step(job, stage))):
            took = timed(work)
            if i >= 3:
                times[kind].append(took)
    if arguments.profile:
        profile(lambda: step(job, stage))
    middle = {kind: statistics.median(each) for kind, each in times.items()}
    ratio = statistics.median(s / f for s, f in zip(times["step"], times["floor"], strict=True))
    need = job.resolved.need
    peak, said = torch.cuda.max_memory_allocated() / 1e9, need.device / 1e9 if need else float("nan")
    print(f"{name:14s}{loss:6s}{loaded:8.1f}{middle['floor']:10.1f}{middle['step']:9.1f}{ratio:7.2f}{peak:7.1f}{said:9.1f}",
          flush=True)  # fmt: skip


def config_of(folder: Path, loss: str, arguments: Any) -> Config:
    """A step as ProlificDreamer's first stage and HiFA have it: one picture, of a hash grid with 512 samples a ray."""
    sds = RFDS(guidance_scale=50.0) if (folder / "transformer").is_dir() else SDS(guidance_scale=100.0)
    (stage,) = HIFA.stages
    (teacher,) = stage.teachers
    guidance = VSD(lora_target="v") if loss == "vsd" else sds
    stage = replace(
        stage, cameras=replace(stage.cameras, resolution=(arguments.size,)),
        scene=replace(stage.scene, chunk_rays=arguments.chunk_rays), weights=Weights(sparsity=1.0),
        teachers=(replace(teacher, prior=PriorChoice(str(folder)), guidance=guidance),),
    )  # fmt: skip
    return replace(
        HIFA, prompt="a red mug", device="cuda", stages=(stage,),
        memory=replace(HIFA.memory, check=False),  # what it would refuse is measured too
    )  # fmt: skip


def step(job: Job, stage: Lift) -> None:
    """One step with the settings of ``stage``, which may differ from those that the work began with."""
    job.work.stage = stage
    note = job.work.step().note
    if note:
        raise SystemExit(f"a step went wrong, its time says nothing: {note}")


def make_floor(job: Job, size: int) -> Callable[[], object]:
    """The networks' own passes of a step."""
    stage, (prior,), (learned,) = job.work.stage, job.work.ready.priors, job.work.learned
    guidance, views, device = stage.teachers[0].guidance, stage.cameras.views, prior.device
    cameras = stage.cameras(0.0, torch.Generator().manual_seed(0)).to(device)
    cond = job.work.ready.embeds[0].at(cameras)
    pictures = torch.rand(views, size, size, 3, device=device, requires_grad=True)
    t, rng = torch.full((views,), 0.5), torch.Generator().manual_seed(0)

    def passes() -> None:
        latents = prior.encode(pictures)
        with torch.no_grad():
            prior.predict_noise(latents, t, cond, 7.5)
            if learned is not None:
                learned.predict_noise(latents, t, cond)
        if isinstance(guidance, VSD):
            guidance.lora_loss(prior, latents.detach(), cond, rng, learned).backward()
        latents.sum().backward()
        pictures.grad = None

    return passes


def timed(work: Callable[[], object]) -> float:
    """Milliseconds, the GPU's work included."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def profile(work: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    with recording(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        timed(work)
    for order in ("self_cuda_time_total", "self_cpu_time_total"):
        print(found.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    four = {"down_block_types": (CROSS_DOWN,) * 3 + ("DownBlock2D",), "up_block_types": ("UpBlock2D",) + (CROSS_UP,) * 3}
    return UNet2DConditionModel(**{"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), **four, **more})


def autoencoder(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, **more,
    )  # fmt: skip


def clip(width: int, layers: int, heads: int, projection: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=77, pad_token_id=0, bos_token_id=1, eos_token_id=1, projection_dim=projection or 512,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def save(folder: Path, scheduler: Any, networks: dict[str, Any], tokenizers: int = 1) -> None:
    """A diffusers folder of what ``networks`` make, one after the other."""
    parts = ["scheduler", *networks]
    for name, make in networks.items():
        with torch.device("cuda"):
            network = make()
        network.half().save_pretrained(folder / name, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2")[:tokenizers]:
        make_tokenizer(WORDS).save_pretrained(folder / name)
        parts.append(name)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({part: ["", ""] for part in parts}))


def stable_diffusion(folder: Path, text: Callable[[], Any], prediction: str = "epsilon", **more: Any) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction, clip_sample=False
    )
    save(
        folder, scheduler, {"unet": lambda: unet(**more), "vae": lambda: autoencoder(force_upcast=False), "text_encoder": text}
    )


def sd_1(folder: Path) -> None:
    stable_diffusion(folder, lambda: clip(768, 12, 12), cross_attention_dim=768, attention_head_dim=8)


def sd_2(folder: Path) -> None:
    stable_diffusion(
        folder, lambda: clip(1024, 23, 16), cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )  # fmt: skip


def sdxl(folder: Path) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    networks = {
        "unet": lambda: unet(
            sample_size=128, block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
            up_block_types=(CROSS_UP, CROSS_UP, "UpBlock2D"), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
        "vae": lambda: autoencoder(scaling_factor=0.13025),
        "text_encoder": lambda: clip(768, 12, 12),
        "text_encoder_2": lambda: clip(1280, 32, 20, projection=1280),
    }  # fmt: skip
    save(folder, scheduler, networks, tokenizers=2)


def sd3(folder: Path) -> None:
    """Without its third text encoder, T5-XXL, which stock pipelines may leave out too."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    networks = {
        "transformer": lambda: SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=192,
        ),
        "vae": lambda: autoencoder(
            latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        ),
        "text_encoder": lambda: clip(768, 12, 12, projection=768),
        "text_encoder_2": lambda: clip(1280, 32, 20, projection=1280),
    }  # fmt: skip
    save(folder, FlowMatchEulerDiscreteScheduler(shift=3.0), networks, tokenizers=2)


MODELS: dict[str, Callable[[Path], None]] = {"sd-1.5": sd_1, "sd-2.1-base": sd_2, "sdxl": sdxl, "sd3-medium": sd3}


if __name__ == "__main__":
    main()
