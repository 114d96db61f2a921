"""Train ``toybox-view``, the embedded view-conditioned prior: ``python -m dreamlift.toybox.training.view``.

The network draws an object, shown in a reference picture, from another side, as Zero-1-to-3 does (Liu et al. 2023,
https://arxiv.org/abs/2303.11328): the reference is concatenated to the noisy picture and also read by an image encoder, whose
65 tokens the U-Net attends to. The relative pose (:func:`~dreamlift.priors.network.pose_features`) is added to the time
embedding. Beside the reference stands its lift, seen from the target's camera (:mod:`dreamlift.priors.zero123.lift`), which is
trained before and frozen here. The loss is that of :mod:`dreamlift.toybox.training.prior`. One number beside the pose asks for
the places (canonical coordinates) of the other side's surface, in the frame whose azimuth 0 is the reference's camera, in place
of its colours (as Wonder3D's domain switcher, Long et al. 2023, https://arxiv.org/abs/2310.15008, section 3.2, asks for
normals).

    python -m dreamlift.toybox.training.pairs --data data/view --shards 100
    python -m dreamlift.toybox.training.lift --data data/view --out outputs/lift --seconds 3600
    python -m dreamlift.toybox.training.view --data data/view --lift outputs/lift/lift --init dreamlift/weights/toybox
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.priors.network import POSE_FEATURES, pose_features, unguided_pose
from dreamlift.priors.pixel import resize
from dreamlift.priors.zero123.lift import LIFT, SIZE, Lift, coarse_picture, save_lift, shown
from dreamlift.priors.zero123.prior import BESIDE
from dreamlift.priors.zero123.rays import RAY_FEATURES, ray_features
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.lift import begin_lift
from dreamlift.toybox.training.network import PACKING, make_scheduler, make_unet, save_module
from dreamlift.toybox.training.pairs import Pairs, load_shards, make_shard, unseen_pairs, view_cameras
from dreamlift.toybox.training.prior import guided_samples, loss_weight, save_grid, stratified_times
from dreamlift.toybox.training.steps.learning import Optimizers, make_pair
from dreamlift.toybox.training.steps.loop import Lessons, Training, add_arguments, fit_lessons, save_settings

POSE_LAYER = "cc_projection"  # folder of the pose layer, as in Zero-1-to-3's ports
QUICK = 5.0  # learning-rate factor of the pose layer, as Zero-1-to-3 has 10
WIDTH = 128  # of the image encoder's tokens
DROPPED = 0.05  # share of the samples without tokens, without the concatenated reference, and without both
PLACES = 1 / 3  # share of the samples whose target shows places


@dataclass(frozen=True)
class ViewTraining(Training):
    """Settings of a training run, with the emphasis on high noise, where the reference decides what is drawn."""

    density: float = 2.0  # the density of t is proportional to t^density, at least 0
    power: float = 0.3  # exponent of the loss's weight (dreamlift.toybox.training.prior.loss_weight); 0: all t alike


@dataclass(frozen=True)
class ViewNetworks:
    """The networks that are trained jointly and saved as one folder."""

    unet: Any  # diffusers.UNet2DConditionModel
    image_encoder: Any  # transformers.CLIPVisionModel
    pose_layer: nn.Linear  # (D + R) to D, of each token and its ray
    lift: Lift  # trained before, and frozen
    scheduler: Any  # diffusers.DDPMScheduler

    def parameters(self) -> list[torch.nn.Parameter]:
        """All weights that the loss depends on."""
        unused = ("post_layernorm",)  # of the pooled output, which the U-Net does not use
        image = [p for name, p in self.image_encoder.named_parameters() if not any(part in name for part in unused)]
        return [*self.unet.parameters(), *image, *self.pose_layer.parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
        state |= {f"pose.{k}": v for k, v in self.pose_layer.state_dict().items()}
        return state | {f"image.{k}": v for k, v in self.image_encoder.state_dict().items() if v.is_floating_point()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
        self.pose_layer.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("pose.")})
        self.image_encoder.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("image.")}, strict=False)

    def move(self, device: str) -> None:
        self.unet.to(device, memory_format=torch.channels_last)
        self.image_encoder.to(device)
        self.pose_layer.to(device)
        self.lift.to(device)

    def encode_image(self, rgb: Tensor, rays: Tensor) -> Tensor:
        """States ``(B, 65, D)`` of pictures ``rgb (B, 3, S, S)`` in [-1, 1] with the rays ``(B, 65, R)`` of their tokens."""
        tokens = self.image_encoder(pixel_values=rgb).last_hidden_state
        return self.pose_layer(torch.cat([tokens, rays.to(tokens)], dim=-1))

    def predict_x0(self, x_t: Tensor, t: Tensor, reference: Tensor, tokens: Tensor, pose: Tensor) -> Tensor:
        """x0_hat ``(B, C, h, w)`` from ``x_t``, reference with lift ``(B, C + 7, h, w)``, tokens ``(B, 65, D)``, pose.

        The network sees and draws the difference to the lift's picture
        (:meth:`~dreamlift.priors.network.DenoisingNetwork.difference`); without a lift (zeros) that is the whole picture.
        """
        coarse = coarse_picture(reference[:, x_t.shape[1] :], pose[:, -1], PACKING)
        alpha = self.scheduler.alphas_cumprod.to(x_t.device)[t].sqrt().view(-1, 1, 1, 1)
        out = self.unet(torch.cat([x_t - alpha * coarse, reference], dim=1), t, tokens, timestep_cond=pose).sample
        return coarse + out[:, : x_t.shape[1]]


def make_view_networks(size: int = 64, channels: tuple[int, ...] = (32, 64, 128)) -> ViewNetworks:
    """Randomly initialised networks for ``size`` pixels a side; uses torch's global random state."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    unet = make_unet(size, channels, WIDTH, POSE_FEATURES, beside=BESIDE)
    image_config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, projection_dim=WIDTH, num_hidden_layers=4, num_attention_heads=4,
        image_size=size, patch_size=size // 8, hidden_act="gelu",
    )  # fmt: skip
    layer = nn.Linear(WIDTH + RAY_FEATURES, WIDTH)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(WIDTH, WIDTH + RAY_FEATURES))  # begins as the identity, as in Zero-1-to-3
    return ViewNetworks(unet, CLIPVisionModel(image_config), layer, Lift().requires_grad_(False), make_scheduler())


def begin_with(networks: ViewNetworks, folder: Path) -> None:
    """Copy the weights of a saved prior: ``toybox-view``, or the U-Net of ``toybox``.

    Inputs and attention that the saved U-Net lacks begin at zero, so that the first predictions without a lift are
    those of the saved one.
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
    if (folder / LIFT).is_dir():
        begin_lift(networks.lift, folder / LIFT)
    if (folder / "image_encoder").is_dir():
        image: Any = CLIPVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32)
        networks.image_encoder.load_state_dict(image.state_dict())
    if (layer := folder / POSE_LAYER / "diffusion_pytorch_model.safetensors").exists():
        networks.pose_layer.load_state_dict({k.partition(".")[2]: v.float() for k, v in load_file(layer).items()})


class Batch(NamedTuple):
    """The data of one training step."""

    cutout: Tensor  # (B, 4, S, S) the reference in [0, 1], premultiplied, and its opacity
    backdrop: Tensor  # (B, 3) in [0, 1]
    reference: Tensor  # (B, 3, S, S) in [-1, 1]
    target: Tensor  # (B, 3, S, S) in [-1, 1]
    view: Tensor  # (B, 3) radians: the target's azimuth relative to the reference, and both elevations
    pose: Tensor  # (B, 11)
    rays: Tensor  # (B, 65, 54) of the reference's patches
    tokens: Tensor  # (B,) 0 where the tokens are dropped, else 1
    concat: Tensor  # (B,) 0 where the concatenated reference is dropped, else 1
    t: Tensor  # (B,) training timesteps
    eps: Tensor  # (B, C, h, w) noise

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        return Batch(*(values[index::count] for values in self))


def draw_batch(pairs: Pairs, settings: ViewTraining, step: int, horizon: int = 1000) -> Batch:
    """The batch of one step, determined by the seed and the step."""
    rng = np.random.default_rng([settings.seed, step])
    drawn = pairs.draw(rng, settings.batch, PLACES)
    reference, target = (torch.from_numpy(v).permute(0, 3, 1, 2) * 2 - 1 for v in (drawn.reference, drawn.target))
    azimuth, elevation = torch.from_numpy(drawn.azimuth).float(), torch.from_numpy(drawn.elevation).float()
    draw = torch.from_numpy(rng.random(settings.batch)).float()
    tokens = ~((draw < DROPPED) | (draw >= 1 - DROPPED))
    concat = ~((draw >= DROPPED) & (draw < 2 * DROPPED) | (draw >= 1 - DROPPED))
    place = torch.from_numpy(drawn.place)
    pose = pose_features(azimuth, elevation[:, 0], elevation[:, 1], torch.ones_like(place), place)
    pose[:, :-1] *= (tokens | concat)[:, None]
    rays = ray_features(azimuth, elevation[:, 0], elevation[:, 1])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    t = stratified_times(generator, settings.batch, settings.density, horizon)
    side = settings.size // PACKING
    eps = torch.randn((settings.batch, 3 * PACKING**2, side, side), generator=generator)
    cutout, backdrop = torch.from_numpy(drawn.cutout).permute(0, 3, 1, 2), torch.from_numpy(drawn.backdrop)
    view = torch.cat([azimuth[:, None], elevation], dim=1)
    return Batch(cutout, backdrop, reference.float(), target.float(), view, pose, rays, tokens.float(), concat.float(), t, eps)


@torch.no_grad()
def seen_beside(lift: Lift, batch: Batch) -> Tensor:
    """What stands beside the noisy pictures, ``(B, 19, S / 2, S / 2)``: the references, and their lifts from the targets."""
    azimuth, own, other = batch.view.unbind(1)
    volume = lift(resize(batch.cutout, SIZE), own, torch.ones_like(own))
    cameras = view_cameras(azimuth, other, batch.target.shape[-1]).to(own.device)
    lifted = shown(volume, cameras, torch.zeros_like(azimuth), batch.backdrop, batch.reference.shape[-1] // PACKING)
    return torch.cat([functional.pixel_unshuffle(batch.reference, PACKING), lifted], dim=1)


def x0_loss(networks: ViewNetworks, batch: Batch, power: float = 0.3) -> Tensor:
    """The loss () of the predicted clean pictures; ``power`` as in :class:`ViewTraining`."""
    device = networks.unet.device
    # On CPUs without units for bfloat16 it is slower than float32.
    half = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    batch = Batch(*(values.to(device) for values in batch))
    _, _, reference, target, _, pose, rays, tokens, concat, t, eps = batch
    abar = networks.scheduler.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
    x = functional.pixel_unshuffle(target, PACKING)
    beside = seen_beside(networks.lift, batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        image = networks.encode_image(reference, rays) * tokens[:, None, None]
        noisy = abar.sqrt() * x + (1 - abar).sqrt() * eps
        x0 = networks.predict_x0(noisy, t, beside * concat[:, None, None, None], image, pose).float()
    return (loss_weight(abar, power=power) * (x0 - x).square()).mean()


def make_optimizers(networks: ViewNetworks, lr: float) -> Optimizers:
    """Muon for the inner matrices and kernels; AdamW for the rest, including the embeddings and the U-Net's end layers."""
    parameters = networks.parameters()
    ends = [*networks.unet.conv_in.parameters(), *networks.unet.conv_out.parameters()]
    ends += [p for name, p in networks.image_encoder.named_parameters() if "embeddings" in name]
    apart = {id(p) for p in (*ends, *networks.pose_layer.parameters())}
    adam, muon = make_pair(parameters, [p for p in parameters if id(p) not in apart], lr, 1e-2)
    first = adam.param_groups[0]
    quick = {id(p) for p in networks.pose_layer.parameters()}
    first["params"] = [p for p in first["params"] if id(p) not in quick]
    adam.add_param_group({"params": list(networks.pose_layer.parameters()), "scale": QUICK})
    return adam, muon


@torch.no_grad()
def sample_views(
    networks: ViewNetworks,
    reference: Tensor,
    beside: Tensor,
    pose: Tensor,
    rays: Tensor,
    guidance_scale: float = 1.0,
    steps: int = 20,
    seed: int = 0,
) -> Tensor:
    """Pictures ``(B, S, S, 3)`` in [0, 1] by DDIM for references ``(B, 3, S, S)`` in [-1, 1], what is concatenated
    (:func:`seen_beside`) and pose features ``(B, 11)``."""
    tokens = networks.encode_image(reference, rays)
    beside, tokens = (torch.cat([torch.zeros_like(v), v]) for v in (beside, tokens))
    noise = torch.randn((len(reference), 3 * PACKING**2, *beside.shape[2:]), generator=torch.Generator().manual_seed(seed)).to(
        beside
    )
    poses = torch.cat([unguided_pose(pose), pose])
    x = guided_samples(
        networks.scheduler, noise, lambda many, t: networks.predict_x0(many, t, beside, tokens, poses), guidance_scale, steps
    )
    return (functional.pixel_shuffle(x, PACKING).permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1).cpu()


def save_folder(networks: ViewNetworks, folder: Path, half: bool = True) -> None:
    """Write the folder of the prior (safetensors; fp16, or fp32 without ``half``)."""
    dtype = torch.float16 if half else torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    save_module(networks.unet, folder / "unet", dtype)
    save_module(networks.image_encoder, folder / "image_encoder", dtype)
    save_lift(networks.lift, folder / LIFT, dtype)
    layer = {f"projection.{k}": v.detach().to(dtype) for k, v in networks.pose_layer.state_dict().items()}
    (folder / POSE_LAYER).mkdir(exist_ok=True)
    atomic_write_bytes(folder / POSE_LAYER / "diffusion_pytorch_model.safetensors", save(layer, {"format": "pt"}))
    settings = {"_class_name": "CCProjection", "in_channel": WIDTH + RAY_FEATURES, "out_channel": WIDTH}
    atomic_write_text(folder / POSE_LAYER / "config.json", json.dumps(settings, indent=2) + "\n")
    networks.scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "Zero1to3StableDiffusionPipeline",
        POSE_LAYER: ["pipeline_zero1to3", "CCProjection"],
        "image_encoder": ["transformers", "CLIPVisionModel"],
        LIFT: ["dreamlift.priors.zero123.lift", "Lift"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    atomic_write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def milestone(folder: Path, networks: ViewNetworks, pairs: Pairs) -> None:
    """Save the weights as a folder, and a sheet of reference, answer and truth beside it."""
    batch = draw_batch(pairs, ViewTraining(batch=16), 0)
    device = networks.unet.device
    there = Batch(*(values.to(device) for values in batch))
    answers = sample_views(networks, there.reference, seen_beside(networks.lift, there), there.pose, there.rays)
    rows = [batch.reference.permute(0, 2, 3, 1) * 0.5 + 0.5, answers, batch.target.permute(0, 2, 3, 1) * 0.5 + 0.5]
    save_grid(folder / "samples.png", torch.stack(rows, dim=1).flatten(0, 1).clamp(0, 1), columns=12)
    save_folder(networks, folder / "prior")


def train(
    settings: ViewTraining, folder: Path, data: Path, unseen: Pairs, device: str, save_every: int, init: Path | None = None,
    lift: Path | None = None,
) -> None:  # fmt: skip
    """Train until ``settings.steps`` or for ``settings.seconds``, resuming from ``folder``.

    ``data`` is read again at every checkpoint. ``unseen``: the objects that the sheet of samples shows, which are not trained
    on; ``init``: folder whose weights a new run begins with; ``lift``: folder of a lift that takes the place of its lift.
    """
    torch.manual_seed(settings.seed)
    networks = make_view_networks(settings.size)
    if init is not None:
        begin_with(networks, init)
    if lift is not None:
        begin_lift(networks.lift, lift)
    networks.move(device)
    lessons = Lessons(
        partial(load_shards, data, settings.size),
        lambda pairs, step: draw_batch(pairs, settings, step),
        lambda batch: x0_loss(networks, batch, settings.power),
        lambda: milestone(folder, networks, unseen),
    )
    fit_lessons(settings, networks, make_optimizers(networks, settings.lr), lessons, folder, device, save_every)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train toybox-view; run the command again to resume.")
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox-view"), help="folder of the run")
    parser.add_argument("--data", type=Path, default=Path("data/view"), help="folder of the rendered pairs")
    parser.add_argument("--shards", type=int, default=100, help="shards of 100 objects; missing ones are rendered")
    parser.add_argument("--lift", type=Path, help="folder of a trained lift (dreamlift.toybox.training.lift)")
    parser.add_argument("--init", type=Path, help="folder whose weights a new run begins with: toybox-view, or toybox")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    add_arguments(parser, ViewTraining())
    arguments = vars(parser.parse_args())
    tune_process()  # torch is imported already, so only the malloc settings take effect
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = ("out", "data", "device", "save_every", "lift", "init")
    folder, data, device, every, lift, init = (arguments.pop(key) for key in names)
    for index in range(arguments.pop("shards")):
        make_shard(data, index, arguments["size"])
    settings = ViewTraining(**arguments)
    save_settings(folder, settings)
    train(settings, folder, data, unseen_pairs(data, settings.size), device, every, init, lift)


if __name__ == "__main__":
    main()
