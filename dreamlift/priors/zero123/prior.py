"""Zero-1-to-3's family (Liu et al. 2023, https://arxiv.org/abs/2303.11328): the object in a picture, from other cameras.

The U-Net is given the noisy picture with the reference concatenated, one token or several of an image encoder, and the relative
pose. Two kinds of folders are read: the diffusers ports of Zero-1-to-3, its XL version and Stable-Zero123 (latents, ``vae``,
one token into which a linear layer mixes the pose), and pixel models such as the embedded ``toybox-view`` (the pose is the
``timestep_cond``, and a coarse volume of the reference, seen from the target, stands beside it:
:mod:`dreamlift.priors.zero123.lift`). They are read part by part with stock classes: no code of the ports is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.engine import Engine, UsedEngine
from dreamlift.priors.files.folder import draws_views
from dreamlift.priors.latent import Autoencoder
from dreamlift.priors.network import NO_REFERENCE, POSE_FEATURES, DenoisingNetwork, NetworkPrior
from dreamlift.priors.parts import FolderParts, Parts
from dreamlift.priors.pixel import PixelSpace
from dreamlift.priors.saving import Memory, save_memory
from dreamlift.priors.zero123.embeds import BACKDROPS, LatentViewEmbeds, PixelViewEmbeds, View, ViewEmbeds
from dreamlift.priors.zero123.encoding import (
    PACKING,
    POSE,
    encode_latent,
    encode_pixel,
    lifted,
    over,
    pose_layer,
    read_pose_layer,
)
from dreamlift.priors.zero123.lift import CHANNELS, LIFT
from dreamlift.priors.zero123.rays import RAY_FEATURES
from dreamlift.prompts import Backdrop, Wording
from dreamlift.types import Task, TextStates

PACKED = 3 * PACKING**2  # channels of a pixel model's picture
BESIDE = PACKED + CHANNELS  # of what a pixel model's network is shown beside the noisy picture
LATENT_SIZE = 32  # of the published models: 256 pixels. Some ports' settings say 64, as diffusers' pipelines rewrite it
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STABLE = re.compile(r"stable[-_. ]?zero[-_. ]?123", re.IGNORECASE)


class Zero123Prior(NetworkPrior):
    """A U-Net that is conditioned on a reference picture; ``vae`` decides between latents and pixels."""

    takes_onnx, reads_pictures = True, True

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, choice: PriorChoice = NO_OPTIONS) -> None:
        self.check(parts, choice)
        self.parts, self.device, self.choice = parts, device, choice
        beside = parts.config("unet")["in_channels"] // 2 if parts.has("vae") else BESIDE
        self.network = DenoisingNetwork(parts, device, dtype, loras=choice.loras, beside=beside)
        self.space: Autoencoder | PixelSpace
        if parts.has("vae"):
            self.network.sample_size = size = latent_size(parts)
            self.space = Autoencoder(parts, device, dtype, size, choice.linear_encoder)
        else:
            self.space, self.latent_bound = PixelSpace(self.network), 1.0
        self.resolution = self.space.resolution

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return parts.has("unet") and draws_views(parts.config(""))

    @classmethod
    def check(cls, parts: Parts, choice: PriorChoice) -> None:
        if not choice.camera_conditioning:
            raise ValueError("this prior is told the view by its camera only; leave camera_conditioning on")
        if choice.embeddings:
            raise ValueError("this prior reads a picture instead of words; leave embeddings (--embedding) to other priors")
        channels, width = (parts.config("unet").get(name) for name in ("in_channels", "time_cond_proj_dim"))
        if parts.has("vae"):
            if not isinstance(channels, int) or channels < 2 or channels % 2:
                raise ValueError(f"the unet of {parts} has in_channels {channels!r}; accepted: twice those of a picture")
            check_schedule(parts)
        elif channels != PACKED + BESIDE or not parts.has(LIFT):
            lack = "" if parts.has(LIFT) else f" and no {LIFT} folder"
            raise ValueError(f"the unet of {parts} has in_channels {channels!r}{lack}; accepted for pixels: {PACKED + BESIDE}")
        elif choice.linear_encoder:
            raise ValueError("this prior is a pixel model without an encoder; leave linear_encoder off")
        elif width != POSE_FEATURES:
            raise ValueError(f"the unet of {parts} has time_cond_proj_dim {width!r}; accepted for pixels: {POSE_FEATURES}")
        pose_layer(parts)

    @classmethod
    def check_task(cls, parts: Parts | None, show: str, wording: Wording, has_photos: bool) -> None:
        if not has_photos:
            raise ValueError(NO_REFERENCE)
        if show == "normal" or (show == "place" and (parts is None or parts.has("vae"))):
            other = "" if show == "place" else " and places"
            raise ValueError(f"show is {show}, but this prior knows no {show}s; only toybox-view draws colors{other}: {USE}")
        if wording.opposites(0.0, 0.0):
            raise ValueError(
                "wording.perp_neg weighs phrases against each other, but this prior is told the view by numbers: set it to 0"
            )

    @classmethod
    def load(cls, parts: Parts, choice: PriorChoice, device: torch.device) -> Zero123Prior:
        return cls(parts, device, cls.text_precision(parts, device), choice)

    @classmethod
    def read(
        cls, parts: Parts, choice: PriorChoice, task: Task, wording: Wording, backdrops: Sequence[Backdrop],
        device: torch.device, engine: UsedEngine = "torch",
    ) -> ViewEmbeds:  # fmt: skip
        """See :meth:`Prior.read`. The picture is encoded over white and over each backdrop; words are not read.

        Raises:
            ValueError: there is no photo, its camera is not known, or the parts do not fit each other.
        """
        if task.photos is None:
            raise ValueError(NO_REFERENCE)
        if task.photos.cameras is None:
            raise ValueError("this prior needs the camera of the photo, which is not known: state its elevation")
        photos = task.photos.references
        colors = tuple(dict.fromkeys([BACKDROPS[0], *(each.color for each in backdrops)]))
        view, dtype = View.of(task.photos.cameras).to(device), cls.text_precision(parts, device)
        pictures = torch.cat([over(photos, color) for color in colors])

        def divided(values: Tensor) -> Tensor:
            return values.unflatten(0, (len(colors), len(photos)))

        width = parts.config("unet").get("cross_attention_dim", 0)
        if parts.has("vae"):
            tokens, latents = encode_latent(parts, pictures, device, dtype, latent_size(parts))
            layer = read_pose_layer(parts, device, width, tokens.shape[-1], POSE)
            return LatentViewEmbeds(colors, view, divided(tokens), divided(latents), *layer, is_stable(parts, choice))
        size = parts.config("unet")["sample_size"] * 2
        tokens, latents = encode_pixel(parts, pictures, device, dtype, size, engine)
        layer = read_pose_layer(parts, device, width, tokens.shape[-1], RAY_FEATURES)
        volumes = lifted(parts, photos, view.elevation, device)
        return PixelViewEmbeds(colors, view, divided(tokens), divided(latents), *layer, volumes)

    def embeds(self, task: Task, wording: Wording, backdrops: Sequence[Backdrop]) -> ViewEmbeds:
        return self.read(self.parts, self.choice, task, wording, backdrops, self.device, self.engine)

    def embed_text(self, prompts: list[str]) -> TextStates:
        """Raises ValueError: there is no text encoder."""
        raise ValueError("this prior reads no words; it is conditioned on a picture (--image FILE)")

    def encode(self, rgb: Tensor) -> Tensor:
        return self.space.encode(rgb)

    def decode(self, latents: Tensor) -> Tensor:
        return self.space.decode(latents)

    def save_memory(self, memory: Memory) -> None:
        self.network.save_memory(memory)
        if isinstance(self.space, Autoencoder):
            save_memory(self.space.vae, memory)

    def use_engine(self, engine: Engine) -> None:
        self.engine = self.network.use_engine(engine)


USE = "use --show color, or toybox-view"


def latent_size(parts: Parts) -> int:
    """Latents a side."""
    size = parts.config("unet").get("sample_size")
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"the unet of {parts} has sample_size {size!r}; accepted: {LATENT_SIZE}")
    return min(size, LATENT_SIZE)


def check_schedule(parts: Parts) -> None:
    """Refuse a noise schedule that no model of the family was trained with.

    diffusers' script for these models writes .02 to .085 for every checkpoint, since it reads an attribute of a dict.

    Raises:
        ValueError: one line with the schedule and the fix.
    """
    config = parts.schedule_config()
    kind = config.get("prediction_type", "epsilon")
    found = {name: config.get(name) for name in BETAS}
    right = all(isinstance(found[name], (int, float)) and abs(found[name] - BETAS[name]) < 1e-6 for name in list(BETAS)[1:])
    if found["beta_schedule"] != BETAS["beta_schedule"] or not right or kind != "epsilon" or config.get("trained_betas"):
        raise ValueError(
            f"the scheduler of {parts} has {found['beta_schedule']} betas from {found['beta_start']} to {found['beta_end']} "
            f"({kind}), a known fault of conversions: Zero-1-to-3 has scaled_linear 0.00085 to 0.012 (epsilon); correct its "
            "scheduler_config.json"
        )


def is_stable(parts: Parts, choice: PriorChoice) -> bool:
    """Whether the fourth number of the pose is Stable-Zero123's: ``choice.pose``, or the name of the prior or of its folder.

    The weights do not tell: the layers have the same names and shapes.
    """
    if choice.pose != "auto":
        return choice.pose == "stable-zero123"
    names = [choice.name.partition("@")[0].rpartition("/")[2]]
    if isinstance(parts, FolderParts):
        snapshot = parts.folder.parent.name == "snapshots"  # of a hub's cache: models--owner--name/snapshots/commit
        names.append((parts.folder.parents[1] if snapshot else parts.folder).name)
    return any(map(STABLE.search, names))
