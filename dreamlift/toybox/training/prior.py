"""Train the embedded prior from nothing: ``python -m dreamlift.toybox.training.prior``.

The loss is w(t) ||x0_hat - x0||^2, of pictures or, with ``--vae``, of latents. On pixels the network predicts x0 itself. At
low noise v, like eps, is all but the noise: a small network on packed pictures spends its width on passing that through
(docs/toybox.md has what was seen; Li & He 2025, https://arxiv.org/abs/2511.13720, find the same of large patches). The
exponential moving average of the weights is what is saved.

Two things keep the noise of the loss down, for what the words say of a view moves it by a few percent only. The weights are
those of weighted least squares, the inverse of the error that is left at each noise level (Karras et al. 2024,
https://arxiv.org/abs/2312.02696, section 2.2, learn theirs). And most pictures are shown over one of two plain
backgrounds, which at high noise nobody could guess otherwise; captions say which, or that it is another one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.network import camera_features
from dreamlift.prompts import DIRECTIONS, article
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.dataset import CLAY, SHARD, Pictures, load_shards, make_shard, vocabulary
from dreamlift.toybox.training.latent import load_vae, make_latent_networks
from dreamlift.toybox.training.learning import (
    Optimizers,
    drawn,
    learning_rate,
    make_workers,
    save_curve,
    set_gradients,
    set_rates,
)
from dreamlift.toybox.training.muon import Muon, takes
from dreamlift.toybox.training.network import Networks, begin_with, load_folder, make_networks, save_folder
from dreamlift.toybox.training.reader import UNTOLD, ViewReader
from dreamlift.toybox.world.things import CATEGORIES, COLORS

TAUGHT, TAUGHT_FROM = (3, 8), 0.95  # with a teacher, so many pictures of a batch are taught by it, at times from this one on
PLAIN_SHARE = 0.75  # of the pictures are shown over a plain background
READING = 0.05  # weight of what the text states have to tell, beside the loss of the pictures
FAST = 20.0  # times the learning rate: for tables that start near zero and have to become large (position biases, the reader)


@dataclass(frozen=True)
class Training:
    """Settings of a training run. How the shipped weights came about is told in docs/toybox.md."""

    steps: int = 20_000
    batch: int = 32
    size: int = 64
    lr: float = 2e-3
    warmup: int = 200
    hold: float = 0.6  # share of the steps after which the rate falls
    ema: float = 0.999
    seed: int = 0


class Batch(NamedTuple):
    """What one step learns from."""

    rgb: Tensor  # (B, 3, S, S) in [-1, 1]
    captions: list[str]
    camera: Tensor  # (B, 8) camera features, zeros where none is told
    t: Tensor  # (B,) training timesteps
    eps: Tensor  # (B, C, h, w) noise, of what the U-Net works on
    told: Tensor  # (B, 2) index of the thing's colour and of its hat's that the caption tells, UNTOLD where it tells none
    taught: Tensor  # (B,) bool: a teacher says what is right, not the picture

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        rgb, captions, camera, t, eps, told, taught = self
        own = slice(index, None, count)
        return Batch(rgb[own], captions[own], camera[own], t[own], eps[own], told[own], taught[own])


def draw_batch(
    pictures: Pictures, settings: Training, step: int, shape: tuple[int, int, int], horizon: int = 1000, taught: bool = False
) -> Batch:
    """The batch of one step, with noise of ``shape`` (C, h, w): a function of the seed and the step alone.

    With ``taught`` a part of it is for a teacher to answer, at times at which little but noise is seen.

    Three quarters of the captioned pictures come with their camera. The density of t is proportional to t^2: what the words
    say is decided at high noise, and the least is left to learn at low noise.
    """
    rng = np.random.default_rng([settings.seed, step])
    drawn = pictures.draw(rng, settings.batch, PLAIN_SHARE)
    rgb = torch.from_numpy(drawn.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    captions = [pictures.caption(int(i), rng, flip, backdrop) for i, flip, backdrop in zip(*drawn[:3], strict=True)]
    given = torch.tensor([bool(caption) and rng.random() < 0.75 for caption in captions])
    azimuth, elevation = torch.from_numpy(drawn.azimuth).float(), torch.from_numpy(pictures.elevation[drawn.rows]).float()
    camera = camera_features(azimuth, elevation) * given[:, None]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    even = (torch.rand((), generator=generator) + torch.arange(len(rgb)) / len(rgb)) % 1.0  # every batch sees all noise levels
    t = (even ** (1 / 3) * horizon).long()
    told, eps = told_colors(pictures, drawn.rows, captions), torch.randn((len(rgb), *shape), generator=generator)
    answered = torch.zeros(len(rgb), dtype=torch.bool)
    if taught:
        answered = torch.arange(len(rgb)) % TAUGHT[1] < TAUGHT[0]
        late = TAUGHT_FROM + (1.0 - TAUGHT_FROM) * torch.rand(len(rgb), generator=generator)
        t = torch.where(answered, (late * horizon).long().clamp_max(horizon - 1), t)  # a draw near 1 rounds to it
    return Batch(rgb, captions, camera, t, eps, told, answered)


def told_colors(pictures: Pictures, rows: np.ndarray, captions: list[str]) -> Tensor:
    """Indices ``(B, 2)`` of the thing's colour and of its hat's as the ``captions`` of pictures ``rows`` tell them.

    ``UNTOLD`` where a caption is empty, and for the colour of grey clay, which captions may leave out.
    """
    color = np.where(pictures.style[rows] == CLAY, UNTOLD, pictures.color[rows])
    hat = np.where(pictures.hat[rows] < 0, len(COLORS), pictures.hat[rows])
    found = np.stack([color, hat], axis=1).astype(np.int64)
    found[[not caption for caption in captions]] = UNTOLD
    return torch.from_numpy(found)


def loss_weight(abar: Tensor, latent: bool = False) -> Tensor:
    """w at cumulated alphas ``abar``: 1 at a signal-to-noise ratio of 1, and a tenth where nothing but noise is seen.

    A power law through the errors (0.012, 0.019, 0.032, 0.055, 0.16 at t = 0.5, 0.7, 0.85, 0.95, 1) of a trained prior; of
    one on latents they were 0.032, 0.058, 0.091, 0.125, 0.169, 0.18 at t = 0.4, 0.6, 0.75, 0.85, 0.96, 1.
    """
    floor, power = (1e-2, 0.4) if latent else (2e-4, 0.3)
    return (abar / (1.0 - abar).clamp_min(1e-4) + floor).clamp_max(100.0) ** power


@torch.no_grad()
def taught_pictures(teacher: Networks, captions: list[str], eps: Tensor) -> Tensor:
    """What a trained pixel prior sees in nothing but noise ``eps (B, C, h, w)``: the mean ``(B, 3, S, S)`` of what is told."""
    text = teacher.encode_text({k: v.to(eps.device) for k, v in teacher.tokenize(captions).items()})
    last = len(teacher.scheduler.alphas_cumprod) - 1
    x0 = teacher.predict_x0(eps, torch.full((len(eps),), last, device=eps.device), text)
    return teacher.decode(x0).permute(0, 3, 1, 2) * 2.0 - 1.0


def x0_loss(networks: Networks, batch: Batch, teacher: Networks | None = None) -> Tensor:
    """The loss () of the predicted clean pictures (or latents).

    Where a ``teacher`` answers, its mean is what is right. One picture tells little of the mean where all is noise, and less
    of the view: in a trained prior a wrong view costs two thirds more there, in one that begins to see it two percent.
    """
    device = networks.unet.device
    rgb, eps, t, camera = (each.to(device) for each in (batch.rgb, batch.eps, batch.t, batch.camera))
    abar = networks.scheduler.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
    tokens = {k: v.to(device) for k, v in networks.tokenize(batch.captions).items()}
    weight = loss_weight(abar, networks.vae is not None)
    if teacher is not None and any(taught := batch.taught.tolist()):
        asked = [caption for caption, answered in zip(batch.captions, taught, strict=True) if answered]
        own = batch.taught.to(device)
        stream, rgb = torch.Generator().manual_seed(int(batch.t.sum())), rgb.clone()
        noise = torch.randn((len(asked), *teacher.shape), generator=stream).to(device)
        rgb[own] = functional.interpolate(taught_pictures(teacher, asked, noise), rgb.shape[-2:], mode="bilinear")
        weight = torch.where(own.view(-1, 1, 1, 1), 1.0, weight)
    x = networks.encode(rgb)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        text = networks.encode_text(tokens)
        x0 = networks.predict_x0(abar.sqrt() * x + (1 - abar).sqrt() * eps, t, text, camera).float()
    text = text.float()
    loss = (weight * (x0 - x).square()).mean()
    if isinstance(networks.reader, ViewReader):  # of captions that say the view, and pictures whose camera is known
        said = torch.tensor([["view" in caption] for caption in batch.captions], device=device)
        return loss + READING * networks.reader.loss(networks.unet.add_embedding(text), camera * said)
    return loss if networks.reader is None else loss + READING * networks.reader.loss(text, tokens, batch.told.to(device))


def make_optimizers(networks: Networks, lr: float) -> Optimizers:
    """Muon for the matrices and kernels inside the networks; AdamW for the rest, the embeddings and both ends of the U-Net."""
    ends = {id(p) for part in (networks.unet.conv_in, networks.unet.conv_out) for p in part.parameters()}
    ends |= {id(p) for name, p in networks.text_encoder.named_parameters()
             if not any(part in name for part in ("block", "layers")) or "bias" in name}  # fmt: skip
    fast = [p for name, p in networks.text_encoder.named_parameters() if "relative_attention_bias" in name]
    fast += [] if networks.reader is None else networks.reader.parameters()
    quick = {id(p) for p in fast}
    inner = [p for p in networks.parameters() if takes(p) and id(p) not in ends | quick]
    chosen = {id(p) for p in inner} | quick
    groups = [{"params": [p for p in networks.parameters() if id(p) not in chosen]}, {"params": fast, "scale": FAST}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True), Muon(inner, lr=lr)


def save_state(folder: Path, step: int, networks: Networks, ema: dict[str, Tensor], optimizers: Optimizers) -> None:
    """Everything needed to go on, in one file that appears whole or not at all."""
    state = {f"net.{k}": v for k, v in networks.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for n, optimizer in enumerate(optimizers):
        for i, entry in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{n}.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    state = {k: v.detach().contiguous() for k, v in state.items()}
    atomic_write_bytes(folder / "training.safetensors", save(state, metadata={"step": str(step)}))


def load_state(folder: Path, networks: Networks, ema: dict[str, Tensor], optimizers: Optimizers) -> int:
    """Restore :func:`save_state`; returns the next step (0 where nothing was saved)."""
    path = folder / "training.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    state = load_file(path)
    networks.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    ema.update({k[4:]: v for k, v in state.items() if k.startswith("ema.")})
    entries: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, value in state.items():
        if key.startswith("optimizer."):
            n, i, name = key.split(".")[1:]
            if name != "step":  # fused AdamW wants its averages in the memory order of the parameter
                parameters = [p for group in optimizers[int(n)].param_groups for p in group["params"]]
                value = torch.empty_like(parameters[int(i)]).copy_(value)
            entries[int(n)].setdefault(int(i), {})[name] = value
    for optimizer, entry in zip(optimizers, entries, strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": entry})
    return step


@torch.no_grad()
def sample_grid(
    networks: Networks, prompts: list[str], seed: int = 0, guidance_scale: float = 3.0, camera: Tensor | None = None
) -> Tensor:
    """Pictures ``(N, S, S, 3)`` in [0, 1] by 20 DDIM steps with classifier-free guidance.

    ``camera (N, 8)`` are camera features, zeros for none (:func:`dreamlift.priors.network.camera_features`).
    """
    from diffusers import DDIMScheduler

    device = networks.unet.device
    # Of latents nothing is known that could be clipped.
    clip = networks.vae is None
    scheduler: Any = DDIMScheduler.from_config(networks.scheduler.config, prediction_type="sample", clip_sample=clip)
    scheduler.set_timesteps(20)
    tokens = {k: v.to(device) for k, v in networks.tokenize([*prompts, *[""] * len(prompts)]).items()}
    text = networks.encode_text(tokens)
    told = None if camera is None else torch.cat([camera, torch.zeros_like(camera)]).to(device)
    x = torch.randn((len(prompts), *networks.shape), generator=torch.Generator().manual_seed(seed)).to(device)
    for t in scheduler.timesteps:
        cond, uncond = networks.predict_x0(torch.cat([x, x]), t.expand(2 * len(x)).to(device), text, told).chunk(2)
        x = scheduler.step(uncond + guidance_scale * (cond - uncond), t, x).prev_sample
    return networks.decode(x).cpu()


def save_grid(path: Path, pictures: Tensor, columns: int, scale: int = 2) -> None:
    """Write pictures ``(N, S, S, 3)`` in [0, 1] as one PNG with ``columns`` columns."""
    from PIL import Image

    n, s = pictures.shape[0], pictures.shape[1]
    rows = -(-n // columns)
    sheet = np.full((rows * s, columns * s, 3), 255, dtype=np.uint8)
    for i, picture in enumerate((pictures * 255).round().to(torch.uint8).numpy()):
        sheet[i // columns * s : (i // columns + 1) * s, i % columns * s : (i % columns + 1) * s] = picture
    Image.fromarray(sheet).resize((columns * s * scale, rows * s * scale), Image.Resampling.NEAREST).save(path)


def milestone(folder: Path, networks: Networks, ema: dict[str, Tensor], kinds: Sequence[str]) -> None:
    """Save the averaged weights as a diffusers folder and a grid of samples beside it."""
    live = {k: v.clone() for k, v in networks.state_dict().items()}
    networks.load_state_dict(ema)
    try:
        colors = list(COLORS)
        nouns = [f"{colors[i % len(colors)]} {name.replace('_', ' ')}" for i, name in enumerate(kinds)]
        prompts = [f"{article(n)} {n}, {view}" for n, view in zip(nouns, DIRECTIONS * len(nouns), strict=False)]
        save_grid(folder / "samples.png", sample_grid(networks, prompts), columns=8)
        save_folder(networks, folder / "prior")
    finally:
        networks.load_state_dict(live)  # fp16 saving rounded the averaged copy, never the live weights


def train(
    settings: Training, folder: Path, data: Path, device: str, save_every: int, init: Path | None = None,
    kinds: Sequence[str] = tuple(CATEGORIES), vae: Path | None = None, teacher: Path | None = None,
) -> None:  # fmt: skip
    """Train until ``settings.steps``, going on from what ``folder`` holds; refreshes the data as shards arrive.

    ``init`` is a saved prior whose weights a new run begins with, instead of random ones; ``kinds`` are the categories that
    the data shows; with ``vae``, a folder of an autoencoder, it is a latent prior that is trained; with ``teacher``, a folder
    of a pixel prior, this one says what is right where little but noise is seen.
    """
    torch.manual_seed(settings.seed)
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
    words = vocabulary(kinds)
    networks = make_networks(words, settings.size) if vae is None else make_latent_networks(words, load_vae(vae), settings.size)
    if init is not None:
        begin_with(networks, init)
    networks.move(device)
    guide = None if teacher is None else load_folder(teacher)
    if guide is not None:
        guide.move(device)
    optimizers = make_optimizers(networks, settings.lr)
    ema = {k: v.detach().clone() for k, v in networks.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    step, begun, smooth = load_state(folder, networks, ema, optimizers), time.time(), None
    with make_workers(device, settings.batch) as (pool, workers):
        optimizers[1].each = pool.map
        while step < settings.steps:
            pictures, end = load_shards(data, settings.size), min(settings.steps, (step // save_every + 1) * save_every)
            draw = partial(draw_batch, pictures, settings, shape=networks.shape, taught=guide is not None)
            for batch in drawn(draw, range(step, end), device):
                loss = learn(settings, networks, optimizers, ema, step, batch, guide, (pool, workers))
                smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
                if step % 50 == 0:
                    seconds, known = round(time.time() - begun, 1), len(pictures)
                    row = json.dumps({"step": step, "loss": round(float(smooth), 5), "seconds": seconds, "pictures": known})
                    print(row, flush=True)
                    with (folder / "loss.jsonl").open("a") as file:
                        file.write(row + "\n")
                step += 1
            save_state(folder, step, networks, ema, optimizers)
            milestone(folder, networks, ema, kinds)
            save_curve(folder / "loss.png", folder / "loss.jsonl")


def learn(
    settings: Training, networks: Networks, optimizers: Optimizers, ema: dict[str, Tensor], step: int, batch: Batch,
    guide: Networks | None, workers: tuple[ThreadPoolExecutor, int],
) -> Tensor:  # fmt: skip
    """One step of the training; returns its loss ()."""
    parameters = networks.parameters()
    set_rates(optimizers, learning_rate(step, settings.steps, settings.lr, settings.warmup, settings.hold))
    loss = set_gradients(parameters, lambda i, n: x0_loss(networks, batch.share(i, n), guide), *workers)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    decay = min(settings.ema, (step + 1) / (step + 10))
    values = networks.state_dict()
    torch._foreach_lerp_([ema[key] for key in values], list(values.values()), 1 - decay)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded prior; run again to go on where it stopped.")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-prior"))
    parser.add_argument("--data", type=Path, default=Path("data/toybox"), help="folder of the rendered pictures")
    parser.add_argument("--pictures", type=int, default=30_000, help="rendered first, those that are missing")
    parser.add_argument("--vae", type=Path, help="train a latent prior on this autoencoder's latents (--size 128)")
    parser.add_argument("--teacher", type=Path, help="a trained pixel prior's folder, to learn from where all is noise")
    parser.add_argument("--init", type=Path, help="begin with the weights of this diffusers folder")
    known = tuple(CATEGORIES)
    parser.add_argument("--kinds", nargs="+", choices=known, default=known, metavar="KIND", help="categories; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500)
    for name, default in vars(Training()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    tune_process()  # torch is here already: its malloc is what matters in this loop
    folder, data, device, every, init, kinds, vae, teacher = (
        arguments.pop(key) for key in ("out", "data", "device", "save_every", "init", "kinds", "vae", "teacher")
    )
    for index in range(-(-arguments.pop("pictures") // SHARD)):
        make_shard(data, index, arguments["size"], kinds)
    settings = Training(**arguments)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "training.json", json.dumps(vars(settings) | {"kinds": list(kinds)}, indent=2) + "\n")
    train(settings, folder, data, device, every, init, kinds, vae, teacher)


if __name__ == "__main__":
    main()
