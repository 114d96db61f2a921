"""Train ``toybox-view``, the embedded view-conditioned prior: ``python -m dreamlift.toybox.training.view``.

The network draws an object, shown in a reference picture, from another side, as Zero-1-to-3 does (Liu et al. 2023,
https://arxiv.org/abs/2303.11328): the reference is concatenated to the noisy picture and also read by an image encoder, whose
65 tokens the U-Net attends to. The relative pose (:func:`~dreamlift.priors.network.pose_features`) is added to the time
embedding. The loss is that of :mod:`dreamlift.toybox.training.prior`. One number beside the pose asks for the places
(canonical coordinates) of the other side's surface, in the frame whose azimuth 0 is the reference's camera, in place of its
colours (as Wonder3D's domain switcher, Long et al. 2023, https://arxiv.org/abs/2310.15008, section 3.2, asks for normals).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.network import POSE_FEATURES, pose_features, unguided_pose
from dreamlift.system.files import atomic_write_text
from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.learning import (
    Optimizers,
    drawn,
    learning_rate,
    make_pair,
    make_workers,
    set_gradients,
    set_rates,
)
from dreamlift.toybox.training.network import PACKING, TIME_WIDTH, TRANSFORMER_LAYERS
from dreamlift.toybox.training.pairs import Pairs, load_shards, make_shard
from dreamlift.toybox.training.prior import load_state, loss_weight, save_grid, save_state

LOGGER = logging.getLogger(__name__)
WIDTH = 128  # of the image encoder's tokens
DROPPED = 0.05  # share of the samples without tokens, without the concatenated reference, and without both
UNTOLD = 0.2  # share of the samples whose reference elevation is not told
PLACES = 1 / 3  # share of the samples whose target shows places


@dataclass(frozen=True)
class Training:
    """Settings of a training run. docs/toybox.md lists the runs behind the shipped weights."""

    steps: int = 100_000
    batch: int = 32  # pairs per step
    size: int = 64  # pixels per side
    lr: float = 1e-3  # highest learning rate
    warmup: int = 200  # steps of linear warm-up
    hold: float = 0.6  # share of the steps after which the learning rate decays
    ema: float = 0.999  # decay of the weights' moving average
    seed: int = 0
    seconds: float = 0.0  # time limit of one call, apart from the last save; the learning rate decays towards it; 0: none

    def spent(self, begun: float) -> float:
        """Share of the time limit since ``begun``, a value of ``time.time``; 0 without a limit."""
        return (time.time() - begun) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class ViewNetworks:
    """The networks that are trained jointly and saved as one folder."""

    unet: Any  # diffusers.UNet2DConditionModel
    image_encoder: Any  # transformers.CLIPVisionModel
    scheduler: Any  # diffusers.DDPMScheduler

    def parameters(self) -> list[torch.nn.Parameter]:
        """All weights that the loss depends on."""
        unused = ("post_layernorm",)  # of the pooled output, which the U-Net does not use
        image = [p for name, p in self.image_encoder.named_parameters() if not any(part in name for part in unused)]
        return [*self.unet.parameters(), *image]

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
        return state | {f"image.{k}": v for k, v in self.image_encoder.state_dict().items() if v.is_floating_point()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
        self.image_encoder.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("image.")}, strict=False)

    def move(self, device: str) -> None:
        self.unet.to(device, memory_format=torch.channels_last)
        self.image_encoder.to(device)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Tokens ``(B, 65, D)`` of pictures ``rgb (B, 3, S, S)`` in [-1, 1]."""
        return self.image_encoder(pixel_values=rgb).last_hidden_state

    def predict_x0(self, x_t: Tensor, t: Tensor, reference: Tensor, tokens: Tensor, pose: Tensor) -> Tensor:
        """x0_hat ``(B, C, h, w)`` from ``x_t`` and ``reference (B, C, h, w)``, tokens ``(B, 65, D)`` and pose features."""
        out = self.unet(torch.cat([x_t, reference], dim=1), t, tokens, timestep_cond=pose).sample
        return out[:, : x_t.shape[1]]


def make_view_networks(size: int = 64, channels: tuple[int, ...] = (32, 64, 128), attend: int = 2) -> ViewNetworks:
    """Randomly initialised networks; ``attend``: resolutions with attention, the lowest ones; uses torch's random state."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModel

    levels = len(channels)
    unet = UNet2DConditionModel(
        sample_size=size // PACKING,
        in_channels=2 * 3 * PACKING**2,
        out_channels=6 * PACKING**2,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * (levels - attend) + ("CrossAttnDownBlock2D",) * attend,
        up_block_types=("CrossAttnUpBlock2D",) * attend + ("UpBlock2D",) * (levels - attend),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the NUMBER of heads
        norm_num_groups=8,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_cond_proj_dim=POSE_FEATURES,
        time_embedding_dim=TIME_WIDTH,
        transformer_layers_per_block=[1] * (levels - 1) + [TRANSFORMER_LAYERS],
    )
    image_config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, projection_dim=WIDTH, num_hidden_layers=4, num_attention_heads=4,
        image_size=size, patch_size=size // 8, hidden_act="gelu",
    )  # fmt: skip
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=True, variance_type="fixed_small",
    )  # fmt: skip
    return ViewNetworks(unet, CLIPVisionModel(image_config), scheduler)


def begin_with(networks: ViewNetworks, folder: Path) -> None:
    """Copy the weights of a saved prior: ``toybox-view``, or the U-Net of ``toybox``.

    Inputs and attention that the saved U-Net lacks begin at zero, so that the first predictions are those of the saved one.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionModel

    old: Any = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    state, fresh = old.state_dict(), networks.unet.state_dict()
    for key, value in fresh.items():
        if key == "time_embedding.cond_proj.weight" and state[key].shape != value.shape:
            value.mul_(0.5)  # the cameras of `toybox` are other numbers
        elif key in state:
            value.zero_()
            value[tuple(map(slice, state[key].shape))] = state[key]
        elif any(part in key for part in ("to_out.0.", "ff.net.2.", "proj_out.")):  # ends of residual branches
            value.zero_()
    networks.unet.load_state_dict(fresh)
    if (folder / "image_encoder").is_dir():
        image: Any = CLIPVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32)
        networks.image_encoder.load_state_dict(image.state_dict())


class Batch(NamedTuple):
    """The data of one training step."""

    reference: Tensor  # (B, 3, S, S) in [-1, 1]
    target: Tensor  # (B, 3, S, S) in [-1, 1]
    pose: Tensor  # (B, 11)
    tokens: Tensor  # (B,) 0 where the tokens are dropped, else 1
    concat: Tensor  # (B,) 0 where the concatenated reference is dropped, else 1
    t: Tensor  # (B,) training timesteps
    eps: Tensor  # (B, C, h, w) noise

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        return Batch(*(values[index::count] for values in self))


def draw_batch(pairs: Pairs, settings: Training, step: int, horizon: int = 1000) -> Batch:
    """The batch of one step, determined by the seed and the step. The density of t is proportional to t^2."""
    rng = np.random.default_rng([settings.seed, step])
    drawn = pairs.draw(rng, settings.batch, PLACES)
    reference, target = (torch.from_numpy(v).permute(0, 3, 1, 2) * 2 - 1 for v in (drawn.reference, drawn.target))
    azimuth, elevation = torch.from_numpy(drawn.azimuth).float(), torch.from_numpy(drawn.elevation).float()
    draw = torch.from_numpy(rng.random(settings.batch)).float()
    tokens = ~((draw < DROPPED) | (draw >= 1 - DROPPED))
    concat = ~((draw >= DROPPED) & (draw < 2 * DROPPED) | (draw >= 1 - DROPPED))
    told, place = torch.from_numpy(rng.random(settings.batch) >= UNTOLD), torch.from_numpy(drawn.place)
    pose = pose_features(azimuth, elevation[:, 0], elevation[:, 1], told, place)
    pose[:, :-1] *= (tokens | concat)[:, None]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    even = (torch.rand((), generator=generator) + torch.arange(settings.batch) / settings.batch) % 1.0  # stratified
    t = (even ** (1 / 3) * horizon).long().clamp_max(horizon - 1)
    side = settings.size // PACKING
    eps = torch.randn((settings.batch, 3 * PACKING**2, side, side), generator=generator)
    return Batch(reference.float(), target.float(), pose, tokens.float(), concat.float(), t, eps)


def x0_loss(networks: ViewNetworks, batch: Batch) -> Tensor:
    """The loss () of the predicted clean pictures."""
    device = networks.unet.device
    reference, target, pose, tokens, concat, t, eps = (values.to(device) for values in batch)
    abar = networks.scheduler.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
    x, beside = (functional.pixel_unshuffle(values, PACKING) for values in (target, reference))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        image = networks.encode_image(reference) * tokens[:, None, None]
        noisy = abar.sqrt() * x + (1 - abar).sqrt() * eps
        x0 = networks.predict_x0(noisy, t, beside * concat[:, None, None, None], image, pose).float()
    return (loss_weight(abar) * (x0 - x).square()).mean()


def make_optimizers(networks: ViewNetworks, lr: float) -> Optimizers:
    """Muon for the inner matrices and kernels; AdamW for the rest, including the embeddings and the U-Net's end layers."""
    parameters = networks.parameters()
    ends = [*networks.unet.conv_in.parameters(), *networks.unet.conv_out.parameters()]
    ends += [p for name, p in networks.image_encoder.named_parameters() if "embeddings" in name]
    apart = {id(p) for p in ends}
    return make_pair(parameters, [p for p in parameters if id(p) not in apart], lr, 1e-2)


@torch.no_grad()
def sample_views(
    networks: ViewNetworks, reference: Tensor, pose: Tensor, guidance_scale: float = 2.0, steps: int = 20, seed: int = 0
) -> Tensor:
    """Pictures ``(B, S, S, 3)`` in [0, 1] by DDIM for references ``(B, 3, S, S)`` in [-1, 1] and pose features ``(B, 11)``."""
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler.from_config(networks.scheduler.config, clip_sample=True)
    scheduler.set_timesteps(steps)
    tokens, beside = networks.encode_image(reference), functional.pixel_unshuffle(reference, PACKING)
    given = [torch.cat([torch.zeros_like(v), v]) for v in (beside, tokens)]
    x = torch.randn(beside.shape, generator=torch.Generator().manual_seed(seed)).to(beside)
    for t in scheduler.timesteps:
        many = t.expand(2 * len(x)).to(x.device)
        uncond, cond = networks.predict_x0(torch.cat([x, x]), many, *given, torch.cat([unguided_pose(pose), pose])).chunk(2)
        x = scheduler.step(uncond + guidance_scale * (cond - uncond), t, x).prev_sample
    return (functional.pixel_shuffle(x, PACKING).permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1).cpu()


def save_folder(networks: ViewNetworks, folder: Path, half: bool = True) -> None:
    """Write the folder of the prior (safetensors; fp16, or fp32 without ``half``)."""
    dtype = torch.float16 if half else torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("unet", "image_encoder"):
        module = getattr(networks, name)
        module.to(dtype).save_pretrained(folder / name, safe_serialization=True)
        module.to(torch.float32)
    config = folder / "image_encoder" / "config.json"
    atomic_write_text(config, json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
    networks.scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "Zero1to3StableDiffusionPipeline",
        "image_encoder": ["transformers", "CLIPVisionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    atomic_write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def milestone(folder: Path, networks: ViewNetworks, ema: dict[str, Tensor], pairs: Pairs) -> None:
    """Save the averaged weights as a folder, and a sheet of reference, answer and truth beside it."""
    live = {k: v.clone() for k, v in networks.state_dict().items()}
    networks.load_state_dict(ema)
    try:
        batch = draw_batch(pairs, Training(batch=16), 0)
        answers = sample_views(networks, batch.reference.to(networks.unet.device), batch.pose.to(networks.unet.device))
        rows = [batch.reference.permute(0, 2, 3, 1) * 0.5 + 0.5, answers, batch.target.permute(0, 2, 3, 1) * 0.5 + 0.5]
        save_grid(folder / "samples.png", torch.stack(rows, dim=1).flatten(0, 1).clamp(0, 1), columns=12)
        save_folder(networks, folder / "prior")
    finally:
        networks.load_state_dict(live)  # saving in fp16 rounds the averaged copy only


def train(
    settings: Training, networks: ViewNetworks, folder: Path, data: Path, device: str, save_every: int, held: Pairs
) -> None:  # fmt: skip
    """Train until ``settings.steps`` or for ``settings.seconds``, resuming from ``folder``.

    ``data`` is read again at every checkpoint. ``held``: objects of the sheet of samples, outside the training set.
    """
    begun = time.time()
    networks.move(device)
    optimizers = make_optimizers(networks, settings.lr)
    ema = {k: v.detach().clone() for k, v in networks.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    step, smooth, spent = load_state(folder, networks, ema, optimizers), None, 0.0  # pyright: ignore[reportArgumentType]
    with make_workers(device, settings.batch) as (pool, workers):
        optimizers[1].each = pool.map
        while step < settings.steps and spent < 1.0:
            pairs, end = load_shards(data, settings.size), min(settings.steps, (step // save_every + 1) * save_every)
            for batch in drawn(partial(draw_batch, pairs, settings), range(step, end), device):
                loss = learn(settings, networks, optimizers, ema, (step, spent), batch, (pool, workers))
                smooth, spent = loss if smooth is None else 0.98 * smooth + 0.02 * loss, settings.spent(begun)
                if step % 50 == 0 or spent >= 1.0:
                    row = {"step": step, "loss": round(float(smooth), 5), "seconds": round(time.time() - begun, 1)}
                    LOGGER.info(json.dumps(row | {"objects": len(pairs)}))
                    with (folder / "loss.jsonl").open("a") as file:
                        file.write(json.dumps(row) + "\n")
                step += 1
                if spent >= 1.0:
                    break
            save_state(folder, step, networks, ema, optimizers)  # pyright: ignore[reportArgumentType]
            milestone(folder, networks, ema, held)


def learn(
    settings: Training, networks: ViewNetworks, optimizers: Optimizers, ema: dict[str, Tensor], now: tuple[int, float],
    batch: Batch, workers: tuple[ThreadPoolExecutor, int],
) -> Tensor:  # fmt: skip
    """One training step; returns its loss (). ``now``: the step, and the used share of the time limit."""
    parameters, (step, spent) = networks.parameters(), now
    set_rates(optimizers, learning_rate(step, settings.steps, settings.lr, settings.warmup, settings.hold, spent))
    loss = set_gradients(parameters, lambda i, n: x0_loss(networks, batch.share(i, n)), *workers)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    decay = min(settings.ema, (step + 1) / (step + 10))
    values = networks.state_dict()
    torch._foreach_lerp_([ema[key] for key in values], list(values.values()), 1 - decay)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description="Train toybox-view; run the command again to resume.")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-view"), help="folder of the run")
    parser.add_argument("--data", type=Path, default=Path("data/view"), help="folder of the rendered pairs")
    parser.add_argument("--shards", type=int, default=80, help="shards of 100 objects; missing ones are rendered")
    parser.add_argument("--init", type=Path, help="folder whose weights a new run begins with: toybox-view, or toybox")
    parser.add_argument("--attend", type=int, default=2, help="resolutions with attention, the lowest ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    for name, default in vars(Training()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    tune_process()  # torch is imported already, so only the malloc settings take effect
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, data, device, every, init, attend = (
        arguments.pop(key) for key in ("out", "data", "device", "save_every", "init", "attend")
    )
    for index in range(arguments.pop("shards")):
        make_shard(data, index, arguments["size"])
    held = data.with_name(data.name + "-held-out")
    make_shard(held, 1_000_000, arguments["size"])
    settings = Training(**arguments)
    torch.manual_seed(settings.seed)
    networks = make_view_networks(settings.size, attend=attend)
    if init is not None:
        begin_with(networks, init)
    atomic_write_text(folder / "training.json", json.dumps(vars(settings), indent=2) + "\n")
    train(settings, networks, folder, data, device, every, load_shards(held, settings.size))


if __name__ == "__main__":
    main()
