"""Small stand-ins, with random weights, for the parts of the big diffusion models."""

from __future__ import annotations

import torch

from dreamlift.toybox.network import make_tokenizer

CPU = torch.device("cpu")
WORDS = ["a", "red", "mug"]
PROMPTS = ["a red mug", "", "a mug"]


def clip(width: int, layers: int, projection: int = 0, eos: int = 1):
    """A text encoder of CLIP's kind."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(vocab_size=16, hidden_size=width, intermediate_size=32, num_hidden_layers=layers,
                            num_attention_heads=2, max_position_embeddings=77, pad_token_id=0, eos_token_id=eos,
                            bos_token_id=2, projection_dim=projection or 512)  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def tokenizer():
    found = make_tokenizer(WORDS)
    found.model_max_length = 77
    return found


def autoencoder(channels: int, **more):
    from diffusers import AutoencoderKL

    return AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                         block_out_channels=(8, 8), norm_num_groups=4, latent_channels=channels, **more)  # fmt: skip


def xl_unet():
    """A U-Net of Stable Diffusion XL's kind, for text encoders of widths 16 and 12 and a pooled width of 40."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + 12, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=40 + 6 * 8,
    )  # fmt: skip


def xl_pipeline():
    """The stock pipeline of Stable Diffusion XL."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StableDiffusionXLPipeline(
            autoencoder(4), clip(16, 2), clip(12, 3, projection=40), tokenizer(), tokenizer(), xl_unet(),
            EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        )  # fmt: skip


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
