"""The networks of ``toybox-latent``, with Stable Diffusion's structure: autoencoder, U-Net on its latents, CLIP text encoder.

https://github.com/CompVis/stable-diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752), at a smaller size: the
latents of a 128x128 picture have 4 channels of 16x16. The U-Net predicts v, like Stable Diffusion 2, on a cosine schedule with
zero terminal SNR; its only view conditioning is the caption. The folder loads as a stock ``StableDiffusionPipeline``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamlift.priors.network import CAMERA_FEATURES
from dreamlift.toybox.training.network import TEXT_LENGTH, TIME_WIDTH, Networks, make_tokenizer
from dreamlift.toybox.training.reader import ViewReader

LATENT_CHANNELS = 4


def make_vae(channels: tuple[int, ...] = (16, 32, 64, 64)) -> Any:
    """A randomly initialised AutoencoderKL with a downsampling factor of 2^(len(channels) - 1)."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    settings: dict[str, Any] = {  # a dict, because diffusers annotates these as tuples of length 1
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    return AutoencoderKL(latent_channels=LATENT_CHANNELS, layers_per_block=1, norm_num_groups=8, force_upcast=False, **settings)


def load_vae(folder: Path) -> Any:
    """The autoencoder in ``folder``, frozen, in fp32."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    vae.register_to_config(_name_or_path="")  # diffusers would save the path that it was read from
    return vae.eval().requires_grad_(False)


def make_latent_networks(words: list[str], vae: Any, size: int = 128, channels: tuple[int, ...] = (64, 128, 192)) -> Networks:
    """Randomly initialised networks on the latents of ``vae``, for ``size`` pixels a side; uses torch's global random state."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = make_tokenizer(words)
    width, levels = 128, len(channels)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=size // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=width,
        attention_head_dim=4,  # diffusers' name for the NUMBER of heads
        norm_num_groups=8,
        # The pooled text is added to the time embedding, as in DeepFloyd IF: with cross-attention only, the view words, which
        # change the loss by one percent, were not learnt. Stock pipelines run unchanged.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_embedding_dim=TIME_WIDTH,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, steps_offset=1,
    )  # fmt: skip
    return Networks(unet, CLIPTextModel(text_config), tokenizer, scheduler, vae, ViewReader(TIME_WIDTH, CAMERA_FEATURES))
