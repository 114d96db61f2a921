"""MVDream (Shi et al. 2023, https://arxiv.org/abs/2308.16512): four views of one object, denoised together.

Its U-Net is Stable Diffusion 2.1's with two changes (section 3.1): self-attention runs over the tokens of all views of an
object at once, and an MLP of the camera's matrix is added to the time embedding. Stock diffusers can say both: the first is an
attention processor, the second a class embedding of the kind "projection" (Linear, SiLU, Linear).

The public weights in safetensors (ashawkey/mvdream-sd2.1-diffusers) are a diffusers folder whose ``unet`` has the names of the
original Stable Diffusion code, and a class of its own. Here they get the stock names; that class is never run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.base import Adapted, combine, stack_text
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.latent import AutoencodedPrior, Autoencoder
from dreamlift.priors.lora.lora import Targets
from dreamlift.priors.lora.lora_files import merge_loras
from dreamlift.priors.lora.original_names import stock_keys
from dreamlift.priors.network import DenoisingNetwork
from dreamlift.priors.parts import FolderParts, Parts, weight_files
from dreamlift.priors.saving import Memory, in_turn, save_memory
from dreamlift.types import Cameras, Conditioning

VIEWS = 4  # of one object, that the network was trained to see together
CAMERA = 16  # entries of a camera's matrix
ARCHITECTURE = "MultiViewUNetModel"  # the network's class, as model_index.json names it


def camera_matrices(cameras: Cameras) -> Tensor:
    """What the network is told of B cameras, ``(B, 16)``: camera-to-world matrices row by row, positions on the unit sphere.

    The camera's axes are OpenGL's (+x right, +y up, +z backward). The world is Blender's (+z up), with the front at +x, where
    MVDream's sampling script takes its first picture.
    """
    c2w = cameras.c2w.clone()
    c2w[:, :3, 1:3] *= -1.0  # from OpenCV's axes
    c2w[:, :3, 3] = torch.nn.functional.normalize(c2w[:, :3, 3], dim=-1)
    return c2w[:, [2, 0, 1, 3]].flatten(1)


class JointViews:
    """An attention processor: self-attention over the tokens of ``views`` neighbouring pictures at once, by ``single``."""

    def __init__(self, single: Any, views: int) -> None:
        self.single, self.views = single, views

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Tensor:
        """``hidden_states (B, L, C)`` to the same shape, B a multiple of the views."""
        objects = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)  # (B / F, F * L, C)
        return self.single(attn, objects).unflatten(1, (self.views, -1)).flatten(0, 1)


def join_views(unet: Any, views: int) -> None:
    """Let all self-attention of a stock U-Net run over ``views`` pictures together; cross-attention stays each one's own."""
    joined = {name: JointViews(single, views) if ".attn1." in name else single for name, single in unet.attn_processors.items()}
    unet.set_attn_processor(joined)


class MVDreamPrior(AutoencodedPrior):
    """A diffusers folder with MVDream's ``unet`` (and ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``).

    The pictures of a batch are told apart by their place: each ``VIEWS`` neighbours are one object's, from cameras at equal
    steps of azimuth and of the same elevation, with the same t.
    """

    views = VIEWS

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, choice: PriorChoice = NO_OPTIONS) -> None:
        assert isinstance(parts, FolderParts)
        self.check(parts, choice)
        self.parts, self.device, self.dtype, self.choice = parts, device, dtype, choice
        unet = merge_loras(load_network(parts.folder / "unet", dtype), parts, "unet", choice.loras)
        join_views(unet, VIEWS)
        self.network = DenoisingNetwork(parts, device, dtype, unet=unet)
        self.autoencoder = Autoencoder(parts, device, dtype, self.network.sample_size, choice.linear_encoder)
        self.resolution = self.autoencoder.resolution

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return isinstance(parts, FolderParts) and ARCHITECTURE in parts.config("").get("unet", ())

    @classmethod
    def check(cls, parts: Parts, choice: PriorChoice) -> None:
        if not choice.camera_conditioning:
            raise ValueError("this prior's views are told apart by their cameras alone; leave camera_conditioning on")

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.schedule(t)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        """See :meth:`Prior.predict_noise`. The camera is told beside the negative prompt too, as in MVDream's own code.

        Raises:
            ValueError: no cameras, or a batch that is no whole number of objects.
        """
        if cond.cameras is None or x_t.shape[0] % VIEWS:
            told = "no cameras" if cond.cameras is None else "their cameras"
            raise ValueError(
                f"this prior takes {VIEWS} views of an object together, or a multiple, with their cameras; "
                f"it was given {x_t.shape[0]} pictures with {told}"
            )
        network, text = self.network, stack_text(cond, guidance_scale)
        copies = text.states.shape[0] // x_t.shape[0]
        many, steps = x_t.repeat(copies, 1, 1, 1), network.timestep(t).repeat(copies)
        cameras = camera_matrices(cond.cameras).to(self.device, self.dtype).repeat(copies, 1)

        def ask(x: Tensor, at: Tensor, told: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
            return network.unet(x, at, class_labels=told, **network.text_arguments(states, pooled)).sample.float()

        size = max(VIEWS, network.micro_batch // VIEWS * VIEWS) if network.micro_batch else None  # whole objects
        out = in_turn(ask, (many.to(self.dtype), steps, cameras, *text), size)
        return combine(network.to_noise(out, many, steps), cond, guidance_scale)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator) -> Adapted:
        raise ValueError("VSD's LoRA looks at one view at a time; with this prior use --guidance.type reconstruction or sds")

    def save_memory(self, memory: Memory) -> None:
        """See :meth:`Prior.save_memory`; with ``micro_batch`` the views of an object stay together.

        Raises:
            ValueError: attention in slices, which would part the views.
        """
        if memory.attention_slices:
            raise ValueError("this prior's views share their attention; leave memory.attention_slices off")
        self.network.save_memory(memory)
        save_memory(self.autoencoder.vae, memory)


def load_network(folder: Path, dtype: torch.dtype) -> Any:
    """The U-Net of the port's ``unet`` folder as a stock ``UNet2DConditionModel``, on the CPU, its views not joined yet.

    Raises:
        ValueError: other settings, names or shapes than the port's, or weights that are not whole or not safetensors.
    """
    from diffusers import UNet2DConditionModel
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        with torch.device("meta"):  # random weights of this size take longer to draw than the real ones to read
            unet: Any = UNet2DConditionModel(**stock_settings(config))
        names = stock_keys(unet)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not MVDream's as it was published: {error}") from error
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, dtype):
        try:
            weights |= {names.get(name, name): value.to(dtype) for name, value in load_file(file).items()}
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read; fetch it again: {error}") from error
    wanted = {name: value.shape for name, value in unet.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"the weights in {folder} are not MVDream's as they were published: {len(wrong)} of them are missing, unknown "
            f"or of another shape, such as {wrong[0]}"
        )
    unet.load_state_dict(weights, assign=True)
    return unet


def stock_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a ``UNet2DConditionModel`` for the port's ``config``. A missing entry is a KeyError."""
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    kinds = ["CrossAttn" if attends(config, level) else "" for level in range(len(widths))]
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": tuple(widths),
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "attention_head_dim": tuple(width // config["num_head_channels"] for width in widths),  # stock's word for their number
        "transformer_layers_per_block": config["transformer_depth"],
        "cross_attention_dim": config["context_dim"],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA,
    }


def attends(config: dict[str, Any], level: int) -> bool:
    """Whether a level of the network has attention."""
    return 2**level in config["attention_resolutions"]
