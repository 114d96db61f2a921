"""A CLIP model for tests."""

import torch

from dreamlift.toybox.training.network import make_tokenizer

CLIP_WORDS = ["a", "red", "car", "blue", "mug"]


def random_clip(folder):
    """A small random CLIP, saved in ``folder``."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = make_tokenizer(CLIP_WORDS)
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 77, "eos_token_id": 1, "pad_token_id": 0}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
