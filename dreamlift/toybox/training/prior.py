"""Train an embedded prior: ``python -m dreamlift.toybox.training.prior``.

The loss is w(t) ||x0_hat - x0||^2, on pictures or, with ``--vae``, on latents. On pixels the network predicts x0 itself: at low
noise v, like eps, is nearly equal to the noise, and a small network on pixel-unshuffled pictures uses most of its width to pass
it through (measured in docs/toybox.md; Li & He 2025, https://arxiv.org/abs/2511.13720, find the same for large patches). The
exponential moving average of the weights is saved.

View words change the loss by a few percent only, so its variance must be small. Two measures reduce it. The weights are those
of weighted least squares, the inverse of the remaining error at each noise level (Karras et al. 2024,
https://arxiv.org/abs/2312.02696, section 2.2, learn theirs). And most pictures have one of two plain backgrounds, named in the
caption, because a random background cannot be predicted at high noise.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.network import camera_features
from dreamlift.prompts import DIRECTIONS, article
from dreamlift.system.startup import tune_process
from dreamlift.toybox.training import dataset, geometry
from dreamlift.toybox.training.dataset import SHARD, Pictures, vocabulary
from dreamlift.toybox.training.distill import Guide, guided_x0
from dreamlift.toybox.training.geometry import MAPS, Geometry
from dreamlift.toybox.training.latent import load_vae, make_latent_networks
from dreamlift.toybox.training.network import MAP_WORDS, Networks, begin_with, load_folder, make_networks, save_folder
from dreamlift.toybox.training.reader import ViewReader
from dreamlift.toybox.training.steps.learning import Optimizers
from dreamlift.toybox.training.steps.loop import Lessons, Training, add_arguments, fit_lessons, save_settings
from dreamlift.toybox.training.steps.muon import Muon, takes
from dreamlift.toybox.world.things import CATEGORIES, COLORS

TAUGHT, TAUGHT_FROM = (3, 8), 0.95  # with a teacher: 3 of 8 pictures have its predictions as target, at t >= 0.95

PLAIN_SHARE = 0.75  # share of the pictures with a plain background
UNCAPTIONED = ("", *MAP_WORDS.values())  # the negative prompts, which are told no camera when they are used
READING = 0.05  # weight of the reader's loss relative to that of the pictures
FAST = 20.0  # learning-rate factor of parameters that begin near zero and must grow large (position biases, the reader)


class Batch(NamedTuple):
    """The data of one training step."""

    rgb: Tensor  # (B, 3, S, S) in [-1, 1]
    captions: list[str]
    camera: Tensor  # (B, 8) camera features; zeros: no camera given
    t: Tensor  # (B,) training timesteps
    eps: Tensor  # (B, C, h, w) noise
    told: Tensor  # (B, 2) indices of the thing's and of its hat's colour in the caption; UNTOLD if not stated
    taught: Tensor  # (B,) bool: the target is the teacher's prediction instead of the picture

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        rgb, captions, camera, t, eps, told, taught = self
        own = slice(index, None, count)
        return Batch(rgb[own], captions[own], camera[own], t[own], eps[own], told[own], taught[own])


def draw_batch(
    pictures: Pictures | Geometry,
    settings: Training,
    step: int,
    shape: tuple[int, int, int],
    horizon: int = 1000,
    taught: bool = False,
) -> Batch:
    """The batch of one step, with noise of ``shape`` (C, h, w), determined by the seed and the step.

    With ``taught``, a part of the batch has a teacher's predictions as target, at high noise (``TAUGHT``, ``TAUGHT_FROM``).

    Captioned pictures have their camera with probability 0.75. The density of t is proportional to t^2, because the text
    determines the picture at high noise, whereas little remains to be learnt at low noise.
    """
    rng = np.random.default_rng([settings.seed, step])
    drawn = pictures.draw(rng, settings.batch, PLAIN_SHARE)
    rgb = torch.from_numpy(drawn.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    captions = [pictures.caption(int(i), rng, flip, backdrop) for i, flip, backdrop in zip(*drawn[:3], strict=True)]
    given = torch.tensor([caption not in UNCAPTIONED and rng.random() < 0.75 for caption in captions])
    azimuth, elevation = torch.from_numpy(drawn.azimuth).float(), torch.from_numpy(pictures.elevations(drawn.rows)).float()
    camera = camera_features(azimuth, elevation) * given[:, None]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    t = stratified_times(generator, len(rgb), 2.0, horizon)
    told, eps = pictures.told(drawn.rows, captions), torch.randn((len(rgb), *shape), generator=generator)
    answered = torch.zeros(len(rgb), dtype=torch.bool)
    if taught:
        answered = torch.arange(len(rgb)) % TAUGHT[1] < TAUGHT[0]
        late = TAUGHT_FROM + (1.0 - TAUGHT_FROM) * torch.rand(len(rgb), generator=generator)
        t = torch.where(answered, (late * horizon).long().clamp_max(horizon - 1), t)  # a draw near 1 rounds up to `horizon`
    return Batch(rgb, captions, camera, t, eps, told, answered)


def stratified_times(generator: torch.Generator, count: int, density: float, horizon: int) -> Tensor:
    """Timesteps ``(count,)`` with a density proportional to t^density, one in each of ``count`` equally likely ranges."""
    even = (torch.rand((), generator=generator) + torch.arange(count) / count) % 1.0
    return (even ** (1 / (1 + density)) * horizon).long().clamp_max(horizon - 1)  # a draw near 1 rounds up to `horizon`


def loss_weight(abar: Tensor, latent: bool = False, power: float | None = None) -> Tensor:
    """w at cumulative alphas ``abar``: about 1 at a signal-to-noise ratio of 1, and about 0.1 at pure noise.

    A power law fitted to the inverse errors of trained priors: on pixels 0.012, 0.019, 0.032, 0.055, 0.16 at t = 0.5, 0.7,
    0.85, 0.95, 1; on latents 0.032, 0.058, 0.091, 0.125, 0.169, 0.18 at t = 0.4, 0.6, 0.75, 0.85, 0.96, 1.

    ``power``: another exponent.
    """
    floor, usual = (1e-2, 0.4) if latent else (2e-4, 0.3)
    return (abar / (1.0 - abar).clamp_min(1e-4) + floor).clamp_max(100.0) ** (usual if power is None else power)


@torch.no_grad()
def taught_pictures(teacher: Networks, captions: list[str], eps: Tensor) -> Tensor:
    """A trained pixel prior's x0_hat ``(B, 3, S, S)`` at pure noise ``eps (B, C, h, w)``: the mean picture of each caption."""
    text = teacher.encode_text({k: v.to(eps.device) for k, v in teacher.tokenize(captions).items()})
    last = len(teacher.scheduler.alphas_cumprod) - 1
    x0 = teacher.predict_x0(eps, torch.full((len(eps),), last, device=eps.device), text)
    return teacher.decode(x0).permute(0, 3, 1, 2) * 2.0 - 1.0


def x0_loss(networks: Networks, batch: Batch, teacher: Networks | None = None, guided: float = 0.0) -> Tensor:
    """The loss () of the predicted clean pictures (or latents).

    With ``guided`` the target is the ``teacher``'s prediction with a guidance of this scale, for every picture
    (:mod:`dreamlift.toybox.training.distill`).

    For pictures with ``batch.taught`` the target is the ``teacher``'s mean picture. At pure noise a single picture is a noisy
    estimate of that mean, in particular of its dependence on the view: a wrong view raises the error by two thirds in a trained
    prior, but by two percent only in one that has just begun to learn views.
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
    x_t = abar.sqrt() * x + (1 - abar).sqrt() * eps
    if teacher is not None and guided:
        x = guided_x0(teacher, x_t, t, batch.captions, camera, guided)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        text = networks.encode_text(tokens)
        x0 = networks.predict_x0(x_t, t, text, camera).float()
    text = text.float()
    loss = (weight * (x0 - x).square()).mean()
    if isinstance(networks.reader, ViewReader):  # for captions with view words and a given camera
        said = torch.tensor([["view" in caption] for caption in batch.captions], device=device)
        return loss + READING * networks.reader.loss(networks.unet.add_embedding(text), camera * said)
    return loss if networks.reader is None else loss + READING * networks.reader.loss(text, tokens, batch.told.to(device))


def make_optimizers(networks: Networks, lr: float) -> Optimizers:
    """Muon for the inner matrices and kernels; AdamW for the rest, including embeddings and the U-Net's end layers."""
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


def guided_samples(
    scheduler: Any, x: Tensor, predict: Callable[[Tensor, Tensor], Tensor], guidance_scale: float, steps: int, clip: bool = True
) -> Tensor:  # fmt: skip
    """Samples ``(B, C, h, w)`` by DDIM with classifier-free guidance, from the noise ``x`` of the same shape.

    ``predict(many, t)``: x0_hat ``(2 B, C, h, w)`` of the unguided and then of the guided pictures; ``clip``: to [-1, 1].
    """
    from diffusers import DDIMScheduler

    sampler: Any = DDIMScheduler.from_config(scheduler.config, prediction_type="sample", clip_sample=clip)
    sampler.set_timesteps(steps)
    for t in sampler.timesteps:
        uncond, cond = predict(torch.cat([x, x]), t.expand(2 * len(x)).to(x.device)).chunk(2)
        x = sampler.step(uncond + guidance_scale * (cond - uncond), t, x).prev_sample
    return x


@torch.no_grad()
def sample_grid(
    networks: Networks, prompts: list[str], seed: int = 0, guidance_scale: float = 3.0, camera: Tensor | None = None,
    negative: Sequence[str] | None = None,
) -> Tensor:  # fmt: skip
    """Pictures ``(N, S, S, 3)`` in [0, 1] by 20 DDIM steps with classifier-free guidance.

    ``negative``: N negative prompts; None: empty ones. ``camera (N, 8)`` are camera features, zeros for none
    (:func:`dreamlift.priors.network.camera_features`).
    """
    device = networks.unet.device
    tokens = {k: v.to(device) for k, v in networks.tokenize([*(negative or [""] * len(prompts)), *prompts]).items()}
    text = networks.encode_text(tokens)
    told = None if camera is None else torch.cat([torch.zeros_like(camera), camera]).to(device)
    noise = torch.randn((len(prompts), *networks.shape), generator=torch.Generator().manual_seed(seed)).to(device)
    clip = networks.vae is None  # latents have no known range to clip to
    x = guided_samples(
        networks.scheduler, noise, lambda many, t: networks.predict_x0(many, t, text, told), guidance_scale, 20, clip
    )
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


def milestone(folder: Path, networks: Networks, kinds: Sequence[str], maps: bool = False, guided: float = 0.0) -> None:
    """Save the weights as a diffusers folder and a grid of samples beside it. ``guided``: the scale
    of the guidance that was distilled into them; 0 for none."""
    colors = list(COLORS)
    nouns = [f"{colors[i % len(colors)]} {name.replace('_', ' ')}" for i, name in enumerate(kinds)]
    shown = [list(MAP_WORDS.values())[i % 2] for i in range(len(nouns))] if maps else [""] * len(nouns)
    views = [DIRECTIONS[i % len(DIRECTIONS)] for i in range(len(nouns))]
    prompts = [", ".join(filter(None, (f"{article(n)} {n}", *said))) for n, *said in zip(nouns, shown, views, strict=True)]
    save_grid(folder / "samples.png", sample_grid(networks, prompts, 0, 1.0 if guided else 3.0, negative=shown), columns=8)
    save_folder(networks, folder / "prior", guided=guided)


def train(
    settings: Training, folder: Path, data: Path, device: str, save_every: int, init: Path | None = None,
    kinds: Sequence[str] = tuple(CATEGORIES), vae: Path | None = None, teacher: Guide | None = None, maps: bool = False,
) -> None:  # fmt: skip
    """Train until ``settings.steps`` or for ``settings.seconds``, resuming from ``folder``.

    ``data`` is read again at every checkpoint. The end, by steps or by time, is a checkpoint too.

    ``init``: folder of a prior whose weights a new run begins with; ``kinds``: the categories of the data; ``vae``: folder of
    an autoencoder, to train a latent prior; ``teacher``: a pixel prior whose predictions are targets at high noise, or, with a
    scale, everywhere; ``maps``: the data are places and normals instead of colours.
    """
    torch.manual_seed(settings.seed)
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
    words = vocabulary(kinds, tuple(MAPS.values()) if maps else ())
    networks = make_networks(words, settings.size) if vae is None else make_latent_networks(words, load_vae(vae), settings.size)
    if init is not None:
        begin_with(networks, init)
    networks.move(device)
    guide, guided = (None, 0.0) if teacher is None else (load_folder(teacher.folder), teacher.scale)
    if guide is not None:
        guide.move(device)
    lessons = Lessons(
        partial((geometry if maps else dataset).load_shards, data, settings.size),
        lambda pictures, step: draw_batch(pictures, settings, step, networks.shape, taught=guide is not None and not guided),
        lambda batch: x0_loss(networks, batch, guide, guided),
        lambda: milestone(folder, networks, kinds, maps, guided),
    )
    fit_lessons(settings, networks, make_optimizers(networks, settings.lr), lessons, folder, device, save_every)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an embedded prior; run the command again to resume.")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-prior"), help="folder of the run")
    parser.add_argument("--data", type=Path, default=Path("data/toybox"), help="folder of the rendered pictures")
    parser.add_argument("--pictures", type=int, default=30_000, help="size of the training set; missing pictures are rendered")
    parser.add_argument("--maps", action="store_true", help="learn places and normals (toybox-geometry) instead of colors")
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder, to train a latent prior (with --size 128)")
    parser.add_argument("--teacher", type=Path, help="folder of a pixel prior whose predictions are the target at high noise")
    told = "with --teacher: its predictions with this guidance scale are the target everywhere, so that one pass is enough"
    parser.add_argument("--guided", type=float, default=0.0, metavar="SCALE", help=told)
    parser.add_argument("--init", type=Path, help="diffusers folder whose weights a new run begins with")
    known = tuple(CATEGORIES)
    parser.add_argument("--kinds", nargs="+", choices=known, default=known, metavar="KIND", help="categories; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    add_arguments(parser, Training())
    arguments = vars(parser.parse_args())
    tune_process()  # torch is imported already, so only the malloc settings take effect
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = "out", "data", "device", "save_every", "init", "kinds", "vae", "teacher", "maps", "guided"
    folder, data, device, every, init, kinds, vae, teacher, maps, guided = (arguments.pop(name) for name in names)
    if guided < 0:
        parser.error(f"--guided is {guided:g}; accepted: a guidance scale above 0")
    if guided and teacher is None:
        parser.error("--guided learns from a prior: add --teacher FOLDER")
    for index in range(-(-arguments.pop("pictures") // SHARD)):
        (geometry if maps else dataset).make_shard(data, index, arguments["size"], kinds)
    guide = None if teacher is None else Guide(teacher, guided)
    settings = Training(**arguments)
    save_settings(folder, settings, kinds=list(kinds), maps=maps)
    train(settings, folder, data, device, every, init, kinds, vae, guide, maps)


if __name__ == "__main__":
    main()
