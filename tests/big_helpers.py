"""Small stand-ins, with random weights, for the parts of the big diffusion models."""

from __future__ import annotations

import torch

from dreamlift.toybox.training.network import make_tokenizer
from dreamlift.types import Conditioning, TextStates

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


def first_pipeline():
    """The stock pipeline of Stable Diffusion 1.x."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
        )  # fmt: skip
        return StableDiffusionPipeline(
            autoencoder(4), clip(16, 2).eval(), tokenizer(), unet, DDIMScheduler(steps_offset=1, clip_sample=False), None, None
        )


def xl_unet(pooled: int = 40):
    """A U-Net of Stable Diffusion XL's kind, for text encoders of widths 16 and 12."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + 12, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 6 * 8,
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


def third_pipeline(with_t5: bool):
    """The stock pipeline of Stable Diffusion 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        t5 = T5EncoderModel(T5Config(vocab_size=16, d_model=40, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval()
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=48, out_channels=4, pos_embed_max_size=8,
        )  # fmt: skip
        return StableDiffusion3Pipeline(
            transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(4, shift_factor=0.06, scaling_factor=1.3),
            clip(16, 2, projection=16), tokenizer(), clip(12, 2, projection=32), tokenizer(),
            t5 if with_t5 else None, tokenizer() if with_t5 else None,
        )  # fmt: skip


def conditioned(text: TextStates, wanted: list[int], negative: list[int]) -> Conditioning:
    """The conditioning of B pictures by rows of ``text``: those of their prompts and of their negative prompts."""
    pooled = [None if text.pooled is None else text.pooled[rows] for rows in (wanted, negative)]
    return Conditioning(
        text.states[wanted], text.states[negative], pooled_prompt_embeds=pooled[0], negative_pooled_prompt_embeds=pooled[1]
    )


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
