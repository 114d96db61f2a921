"""Diffusers folders of the big models' own architectures, with random weights; or of the same structure and a tiny size.

Every part is made on the given device, where drawing the weights takes little time, and saved in half precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreamlift.toybox.training.network import make_tokenizer

WORDS = ["a", "the", "of", "red", "mug", "view", "front", "back", "side", "overhead", ","]
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
TEXT_DIVISOR = 16  # of the text encoders' widths, in the tiny size


@dataclass(frozen=True)
class Builder:
    """Makes the parts of the models: on ``device``, at full size or ``small``, with the same blocks and a few channels."""

    device: str = "cuda"
    small: bool = False

    def text(self, width: int) -> int:
        """A text width at this size."""
        return width // TEXT_DIVISOR if self.small else width

    def unet(self, **more: Any) -> Any:
        settings: dict[str, Any] = {
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": (CROSS_DOWN,) * 3 + ("DownBlock2D",), "up_block_types": ("UpBlock2D",) + (CROSS_UP,) * 3,
            **more,
        }  # fmt: skip
        settings["cross_attention_dim"] = self.text(settings["cross_attention_dim"])
        if self.small:
            settings["sample_size"] //= 8
            settings["block_out_channels"] = tuple(width // 10 for width in settings["block_out_channels"])
            settings["attention_head_dim"] = 2  # diffusers' name for the NUMBER of heads
            settings["transformer_layers_per_block"] = settings["layers_per_block"] = 1
        return UNet2DConditionModel(**settings)

    def autoencoder(self, **more: Any) -> Any:
        divisor = 4 if self.small else 1
        return AutoencoderKL(
            block_out_channels=tuple(width // divisor for width in (128, 256, 512, 512)), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **more,
        )  # fmt: skip

    def clip(self, width: int, layers: int, heads: int, projection: int = 0) -> Any:
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=self.text(width), intermediate_size=4 * self.text(width), max_position_embeddings=77,
            num_hidden_layers=min(layers, 2) if self.small else layers, num_attention_heads=heads, pad_token_id=0,
            bos_token_id=1, eos_token_id=1, projection_dim=self.text(projection or 512),
        )  # fmt: skip
        return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)

    def transformer(self) -> Any:
        heads, width, layers, cells = (2, 16, 2, 16) if self.small else (24, 64, 24, 128)
        return SD3Transformer2DModel(
            sample_size=cells, patch_size=2, in_channels=16, num_layers=layers, attention_head_dim=width,
            num_attention_heads=heads, joint_attention_dim=self.text(4096), caption_projection_dim=heads * width,
            pooled_projection_dim=self.text(768) + self.text(1280), out_channels=16, pos_embed_max_size=192,
        )  # fmt: skip

    def save(self, folder: Path, scheduler: Any, networks: dict[str, Callable[[], Any]], tokenizers: int = 1) -> None:
        """A diffusers folder of what ``networks`` make, one after the other."""
        parts = ["scheduler", *networks]
        for name, make in networks.items():
            with torch.device(self.device):
                network = make()
            network.half().save_pretrained(folder / name, safe_serialization=True)
        for name in ("tokenizer", "tokenizer_2")[:tokenizers]:
            make_tokenizer(WORDS).save_pretrained(folder / name)
            parts.append(name)
        scheduler.save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(json.dumps({part: ["", ""] for part in parts}))


def _ddpm() -> Any:
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)


def sd_1(make: Builder, folder: Path) -> None:
    networks = {
        "unet": lambda: make.unet(cross_attention_dim=768, attention_head_dim=8),
        "vae": lambda: make.autoencoder(force_upcast=False),
        "text_encoder": lambda: make.clip(768, 12, 12),
    }
    make.save(folder, _ddpm(), networks)


def sd_2(make: Builder, folder: Path) -> None:
    networks = {
        "unet": lambda: make.unet(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        ),
        "vae": lambda: make.autoencoder(force_upcast=False),
        "text_encoder": lambda: make.clip(1024, 23, 16),
    }  # fmt: skip
    make.save(folder, _ddpm(), networks)


def sdxl(make: Builder, folder: Path) -> None:
    networks = {
        "unet": lambda: make.unet(
            sample_size=128, block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
            up_block_types=(CROSS_UP, CROSS_UP, "UpBlock2D"), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=make.text(1280) + 6 * 256,
        ),
        "vae": lambda: make.autoencoder(scaling_factor=0.13025),
        "text_encoder": lambda: make.clip(768, 12, 12),
        "text_encoder_2": lambda: make.clip(1280, 32, 20, projection=1280),
    }  # fmt: skip
    make.save(folder, _ddpm(), networks, tokenizers=2)


def sd3(make: Builder, folder: Path) -> None:
    """Without its third text encoder, T5-XXL, which stock pipelines may leave out too."""
    networks = {
        "transformer": make.transformer,
        "vae": lambda: make.autoencoder(
            latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        ),
        "text_encoder": lambda: make.clip(768, 12, 12, projection=768),
        "text_encoder_2": lambda: make.clip(1280, 32, 20, projection=1280),
    }
    make.save(folder, FlowMatchEulerDiscreteScheduler(shift=3.0), networks, tokenizers=2)


MODELS: dict[str, Callable[[Builder, Path], None]] = {"sd-1.5": sd_1, "sd-2.1-base": sd_2, "sdxl": sdxl, "sd3-medium": sd3}
