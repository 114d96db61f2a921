"""Train the autoencoder of ``toybox-latent``: ``python -m dreamlift.toybox.training.vae``.

The loss is the L1 error of the pixels and of their finite differences (which weight edges more), plus a small KL term toward
N(0, 1). The ``scaling_factor`` is one over the standard deviation of the latents, as in Stable Diffusion.

Brightness and one colour axis account for nearly all of the pixels' variance, and an autoencoder with these losses alone learns
only them: after 1,700 steps red things were reconstructed orange and green ones black. Two terms are therefore added: the error
in hue, and that of a linear map which predicts the mean colours of blocks from the latents and is discarded afterwards.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.dataset import Pictures, load_shards
from dreamlift.toybox.training.latent import load_vae, make_vae
from dreamlift.toybox.training.prior import PLAIN_SHARE
from dreamlift.toybox.training.steps.learning import fit, make_pair

KL = 1e-4  # weight of the KL divergence of the latents from N(0, 1)
HUE = 1.0  # weight of the error along the two hue axes
READ = 0.3  # weight of the block colours predicted by a linear map
# Brightness, red - blue, green - (red and blue): the principal axes of pixels, each divided by its standard deviation.
AXES = ((0.95, 0.95, 0.95), (2.7, 0.0, -2.7), (-2.6, 5.1, -2.6))


@dataclass(frozen=True)
class Training:
    """Settings of the autoencoder's training."""

    steps: int = 4000
    batch: int = 8
    lr: float = 2e-3
    warmup: int = 100
    seed: int = 0
    size: int = 128
    crop: int = 64  # pixels per side of the training crops: many small crops train better than a few whole pictures


class Batch(NamedTuple):
    """The data of one training step."""

    rgb: Tensor  # (B, 3, S, S) in [-1, 1]
    eps: Tensor  # (B, C, h, w) noise of the posterior

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        return Batch(self.rgb[index::count], self.eps[index::count])


def draw_batch(pictures: Pictures, vae: Any, settings: Training, step: int) -> Batch:
    """The batch of one step, determined by the seed and the step."""
    rng = np.random.default_rng([settings.seed, step])
    whole = pictures.draw(rng, settings.batch, PLAIN_SHARE).rgb
    side = min(settings.crop, whole.shape[1])
    corners = rng.integers(0, whole.shape[1] - side + 1, (len(whole), 2))
    rgb = np.stack([picture[y : y + side, x : x + side] for picture, (y, x) in zip(whole, corners, strict=True)])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    config = vae.config
    side //= 2 ** (len(config.block_out_channels) - 1)
    eps = torch.randn(len(rgb), config.latent_channels, side, side, generator=generator)
    return Batch(torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 127.5 - 1.0, eps)


def vae_loss(vae: Any, reader: nn.Module, batch: Batch) -> Tensor:
    """The loss () of the reconstruction, of the latents, and of the block colours that ``reader`` predicts from them."""
    posterior = vae.encode(batch.rgb).latent_dist
    error = vae.decode(posterior.mean + posterior.std * batch.eps).sample - batch.rgb
    steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    axes = torch.tensor(AXES, device=error.device)
    hue = torch.einsum("bchw,ac->bahw", error, axes[1:] / axes[1:].norm(dim=1).amin()).abs().mean()
    blocks = functional.adaptive_avg_pool2d(batch.rgb, batch.eps.shape[-1])
    read = (reader(posterior.mean) - torch.einsum("bchw,ac->bahw", blocks, axes)).abs().mean()
    return error.abs().mean() + steps + HUE * hue + READ * read + KL * posterior.kl().mean() / batch.eps[0].numel()


@torch.no_grad()
def measure(vae: Any, pictures: Pictures, count: int = 200) -> dict[str, float]:
    """The standard deviation of the latents and the reconstruction's PSNR (dB), over ``count`` pictures."""
    parts = [torch.from_numpy(pictures.rgb[i : i + 20]).permute(0, 3, 1, 2).to(vae.device).float() / 127.5 - 1.0
             for i in range(0, min(count, len(pictures)), 20)]  # fmt: skip
    latents = [vae.encode(rgb).latent_dist.mean for rgb in parts]
    errors = torch.cat([((vae.decode(z).sample.clamp(-1, 1) - rgb) / 2).square().mean((1, 2, 3))
                        for z, rgb in zip(latents, parts, strict=True)])  # fmt: skip
    return {"std": float(torch.cat(latents).std()), "psnr_db": float((-10 * errors.log10()).mean())}


def train(
    settings: Training, pictures: Pictures, channels: tuple[int, ...] = (16, 32, 64, 64), init: Path | None = None,
    device: str = "cpu",
) -> Any:  # fmt: skip
    """An autoencoder trained on ``pictures``, from random weights or those in ``init``, with its ``scaling_factor`` set."""
    torch.manual_seed(settings.seed)
    vae = make_vae(channels) if init is None else load_vae(init).train().requires_grad_(True)
    vae.to(device, memory_format=torch.channels_last)
    reader = nn.Conv2d(vae.config.latent_channels, 3, 1).to(device)
    ends = {id(p) for part in (vae.encoder.conv_in, vae.decoder.conv_out) for p in part.parameters()}
    inner = [p for p in vae.parameters() if id(p) not in ends]
    parameters = [*vae.parameters(), *reader.parameters()]
    optimizers = make_pair(parameters, inner, settings.lr, weight_decay=1e-4)
    fit(parameters, optimizers, settings, lambda step: draw_batch(pictures, vae, settings, step),
        lambda batch: vae_loss(vae, reader, batch), clip=1.0, report=50, device=device)  # fmt: skip
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=round(1.0 / measure(vae, pictures)["std"], 5))
    return vae


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Train the latent prior's autoencoder.")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-vae"), help="folder of the autoencoder")
    parser.add_argument("--data", type=Path, default=Path("data/toybox"), help="folder of the rendered pictures")
    parser.add_argument("--init", type=Path, help="folder of an autoencoder to continue from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in vars(Training()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    told = vars(parser.parse_args())
    out, data, init, device = (told.pop(name) for name in ("out", "data", "init", "device"))
    tune_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Training(**told)
    pictures = load_shards(data, settings.size)
    vae = train(settings, pictures, init=init, device=device)
    print(json.dumps(measure(vae, pictures)))
    vae.save_pretrained(out, safe_serialization=True)


if __name__ == "__main__":
    main()
