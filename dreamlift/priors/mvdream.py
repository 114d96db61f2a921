"""MVDream (Shi et al. 2023, https://arxiv.org/abs/2308.16512): four views of one object, denoised jointly.

Its U-Net is Stable Diffusion 2.1's with two changes (section 3.1): self-attention runs over the tokens of all views of an
object, and an MLP of the camera's matrix is added to the time embedding. Stock diffusers supports both: the first as an
attention processor, the second as a class embedding of type "projection" (Linear, SiLU, Linear).

The public safetensors weights (ashawkey/mvdream-sd2.1-diffusers) are a diffusers folder whose ``unet`` has the layer names of
the original Stable Diffusion code and a custom class. The layers are renamed to the stock names; that class is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.base import Adapted, combine, stack_text
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.engine import call_network
from dreamlift.priors.files.folder import read_json, read_weights
from dreamlift.priors.latent import AutoencodedPrior, Autoencoder
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.priors.lora.lora_files import merge_loras
from dreamlift.priors.lora.original_names import stock_keys
from dreamlift.priors.network import DenoisingNetwork, NetworkPrior
from dreamlift.priors.parts import FolderParts, Parts
from dreamlift.priors.saving import Memory, in_turn, save_memory
from dreamlift.types import Cameras, Conditioning

VIEWS = 4  # views of one object that the network was trained to denoise jointly
CAMERA = 16  # entries of a camera's matrix
ARCHITECTURE = "MultiViewUNetModel"  # the network's class, as model_index.json names it


def camera_matrices(cameras: Cameras) -> Tensor:
    """The network's camera input, ``(B, 16)``: camera-to-world matrices in row-major order, positions on the unit sphere.

    The camera's axes are OpenGL's (+x right, +y up, +z backward). The world is Blender's (+z up) with the front at +x, the
    position of the first camera in MVDream's sampling script.
    """
    c2w = cameras.c2w.clone()
    c2w[:, :3, 1:3] *= -1.0  # from OpenCV's axes
    c2w[:, :3, 3] = torch.nn.functional.normalize(c2w[:, :3, 3], dim=-1)
    return c2w[:, [2, 0, 1, 3]].flatten(1)


class JointViews:
    """An attention processor: self-attention over the tokens of ``views`` consecutive pictures, computed by ``single``."""

    def __init__(self, single: Any, views: int) -> None:
        self.single, self.views = single, views

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Tensor:
        """``hidden_states (B, L, C)`` to the same shape; B is a multiple of the views."""
        objects = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)  # (B / F, F * L, C)
        return self.single(attn, objects).unflatten(1, (self.views, -1)).flatten(0, 1)


def join_views(unet: Any, views: int) -> None:
    """Make all self-attention of a stock U-Net run over ``views`` pictures; cross-attention stays separate per picture."""
    joined = {name: JointViews(single, views) if ".attn1." in name else single for name, single in unet.attn_processors.items()}
    unet.set_attn_processor(joined)


class MVDreamPrior(NetworkPrior, AutoencodedPrior):
    """A diffusers folder with MVDream's ``unet`` (and ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``).

    Each ``VIEWS`` consecutive pictures of a batch show one object, from cameras at equal steps of azimuth and the same
    elevation, and have the same t.
    """

    views = VIEWS

    adapts = False

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
    def check_memory(cls, memory: Memory) -> None:
        if memory.attention_slices:
            raise ValueError("this prior's attention spans all views and cannot be sliced; leave memory.attention_slices off")

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return isinstance(parts, FolderParts) and ARCHITECTURE in parts.config("").get("unet", ())

    @classmethod
    def check(cls, parts: Parts, choice: PriorChoice) -> None:
        if not choice.camera_conditioning:
            raise ValueError("this prior distinguishes views by their cameras only; leave camera_conditioning on")

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        """See :meth:`Prior.predict_noise`. The negative prompt receives the camera too, as in MVDream's code.

        Raises:
            ValueError: no cameras, or a batch that is not a multiple of ``VIEWS``.
        """
        if cond.cameras is None or x_t.shape[0] % VIEWS:
            told = "no cameras" if cond.cameras is None else "their cameras"
            raise ValueError(
                f"this prior requires {VIEWS} views of an object together, or a multiple of that, with their cameras; "
                f"it was given {x_t.shape[0]} pictures with {told}"
            )
        network, memory, text = self.network, self.network.memory, stack_text(cond, guidance_scale)
        copies = text.states.shape[0] // x_t.shape[0]
        many, steps = x_t.repeat(copies, 1, 1, 1), network.timestep(t).repeat(copies)
        cameras = camera_matrices(cond.cameras).to(self.device, self.dtype).repeat(copies, 1)

        def ask(x: Tensor, at: Tensor, told: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
            return call_network(network.unet, x, at, labels=told, **network.text_inputs(states, pooled)).float()

        size = max(VIEWS, memory.micro_batch // VIEWS * VIEWS) if memory.micro_batch else None  # whole objects
        out = in_turn(ask, (many.to(self.dtype), steps, cameras, *text), size)
        return combine(network.to_noise(out, many, steps), cond, guidance_scale)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        raise ValueError("VSD's LoRA processes one view at a time; with this prior use --guidance.type reconstruction or sds")

    def save_memory(self, memory: Memory) -> None:
        """See :meth:`Prior.save_memory`; ``micro_batch`` is rounded to whole objects.

        Raises:
            ValueError: sliced attention is on; it would replace the joint attention.
        """
        self.check_memory(memory)
        self.network.save_memory(memory)
        save_memory(self.autoencoder.vae, memory)


def load_network(folder: Path, dtype: torch.dtype) -> Any:
    """The U-Net of the port's ``unet`` folder as a stock ``UNet2DConditionModel`` on the CPU, before :func:`join_views`.

    Raises:
        ValueError: config, names or shapes differ from the port's, or weights are incomplete or not safetensors.
    """
    from diffusers import UNet2DConditionModel

    config = read_json(folder / "config.json")
    try:
        with torch.device("meta"):  # drawing random initial weights takes longer than reading the real ones
            unet: Any = UNet2DConditionModel(**stock_settings(config))
        names = stock_keys(unet)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} differs from MVDream's published config: {error}") from error
    weights = {names.get(name, name): value.to(dtype) for name, value in read_weights(folder, dtype).items()}
    wanted = {name: value.shape for name, value in unet.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"the weights in {folder} differ from MVDream's published ones: {len(wrong)} of them are missing, unknown "
            f"or of another shape, such as {wrong[0]}"
        )
    unet.load_state_dict(weights, assign=True)
    return unet


def stock_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a ``UNet2DConditionModel`` for the port's ``config``. Raises KeyError for a missing entry."""
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
        "attention_head_dim": tuple(width // config["num_head_channels"] for width in widths),  # diffusers: number of heads
        "transformer_layers_per_block": config["transformer_depth"],
        "cross_attention_dim": config["context_dim"],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA,
    }


def attends(config: dict[str, Any], level: int) -> bool:
    """Whether a level of the network has attention."""
    return 2**level in config["attention_resolutions"]
