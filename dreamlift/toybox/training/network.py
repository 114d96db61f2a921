"""The networks of the embedded priors: a small text-to-image U-Net, text encoder and word tokenizer, in diffusers' classes.

``toybox`` works on pixels, ``toybox-latent`` (:mod:`dreamlift.toybox.training.latent`) on the latents of an autoencoder.

``toybox`` follows the first stage of DeepFloyd IF (https://github.com/deep-floyd/IF): pixels, a T5 encoder, its pooled text
added to the time embedding, and six output channels, of which IF uses the last three for a learned variance (here they are
untrained, and the scheduler ignores them). A stock ``IFPipeline`` therefore loads the folder and samples from it. Schedule:
cosine (Nichol & Dhariwal 2021), rescaled to zero terminal SNR (Lin et al. 2023, https://arxiv.org/abs/2305.08891); the network
predicts the clean picture, which, like v-prediction, is well defined at zero SNR.

Pictures are pixel-unshuffled by 2 (:mod:`dreamlift.priors.pixel`). Stock pipelines return them in this form with
``output_type="pt"``; ``torch.nn.functional.pixel_shuffle(images, 2)`` restores them. The camera is the optional stock argument
``timestep_cond`` (:func:`dreamlift.priors.network.camera_features`).
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from dreamlift.priors.files.nouns import NOUNS
from dreamlift.priors.network import CAMERA_FEATURES
from dreamlift.system.files import atomic_write_text
from dreamlift.toybox.training.reader import Reader, ViewReader
from dreamlift.toybox.world.things import CATEGORIES, RELATED, SYNONYMS

PACKING = 2  # factor of the pixel unshuffle: PACKING^2 times the channels at 1 / PACKING of the side, which is much cheaper
TIME_WIDTH = 512  # width of the time embedding
TRANSFORMER_LAYERS = 2  # transformer layers at the lowest resolution
MAP_WORDS = {"place": "places", "normal": "normals"}  # what a picture shows instead of colours -> the word that asks for it
TEXT_LENGTH = 77  # IFPipeline pads every prompt to 77 tokens, and so does the training


@dataclass(frozen=True)
class Networks:
    """The networks that are trained jointly and saved as one diffusers folder."""

    unet: Any  # diffusers.UNet2DConditionModel
    text_encoder: Any  # transformers.T5EncoderModel or CLIPTextModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    scheduler: Any  # diffusers.DDPMScheduler
    vae: Any = None  # diffusers.AutoencoderKL, frozen; None for pixels
    reader: Reader | ViewReader | None = None  # auxiliary head of the training; not saved with the prior

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.unet.parameters(), *self.text_encoder.parameters(), *(self.reader.parameters() if self.reader else ())]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights in one flat namespace, without entries that share memory with another one."""
        state = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
        text = {f"text.{k}": v for k, v in self.text_encoder.state_dict().items()}
        text.pop("text.encoder.embed_tokens.weight", None)  # tied to text.shared.weight
        return state | text | ({f"reader.{k}": v for k, v in self.reader.state_dict().items()} if self.reader else {})

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        text = {k[5:]: v for k, v in state.items() if k.startswith("text.")}
        if "shared.weight" in text:
            text["encoder.embed_tokens.weight"] = text["shared.weight"]
        self.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
        self.text_encoder.load_state_dict(text)
        if self.reader:
            self.reader.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("reader.")})

    def move(self, device: str) -> None:
        """Move all networks to ``device`` in place; the convolutional ones in channels-last layout."""
        for part in (self.unet, self.vae):
            if part is not None:
                part.to(device, memory_format=torch.channels_last)
        for part in (self.text_encoder, self.reader):
            if part is not None:
                part.to(device)

    def tokenize(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """Token ids ``(B, 77)``; for T5 also the attention mask (stock pipelines pass none to CLIP)."""
        out = self.tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
        names = ("input_ids", "attention_mask") if self.vae is None else ("input_ids",)
        return {name: out[name] for name in names}

    def encode_text(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Text states ``(B, 77, D)``."""
        return self.text_encoder(**tokens)[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the U-Net's input."""
        config = self.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    @torch.no_grad()
    def encode(self, rgb: torch.Tensor) -> torch.Tensor:
        """The U-Net's representation ``(B, C, h, w)`` of pictures ``rgb (B, 3, S, S)`` in [-1, 1]."""
        if self.vae is None:
            return functional.pixel_unshuffle(rgb, PACKING)
        return self.vae.encode(rgb).latent_dist.mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures ``(B, S, S, 3)`` in [0, 1] for ``x (B, C, h, w)``; the inverse of :meth:`encode`."""
        if self.vae is None:
            rgb = functional.pixel_shuffle(x, PACKING)
        else:
            rgb = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return (rgb.permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1)

    def predict_x0(
        self, x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, camera: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x0_hat ``(B, C, h, w)`` at timesteps ``t (B,)``; networks without camera input ignore ``camera (B, 8)``."""
        told = camera if self.unet.config.time_cond_proj_dim else None
        out = self.unet(x_t, t, text, timestep_cond=told).sample[:, : x_t.shape[1]]
        if self.scheduler.config.prediction_type == "sample":
            return out
        abar = self.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1).to(x_t)
        return abar.sqrt() * x_t - (1 - abar).sqrt() * out  # v-prediction


def make_tokenizer(words: list[str]) -> Any:
    """A lower-case word-level tokenizer over ``words``, with T5's special tokens (padding, end of sequence, unknown)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special + sorted(set(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    marks = pre_tokenizers.Split(Regex(r"[^\w\s,]+"), "removed")  # punctuation is no word and no part of one; the comma is one
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([marks, pre_tokenizers.Whitespace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",  # noqa: S106
        model_max_length=TEXT_LENGTH,
    )  # fmt: skip


def make_unet(size: int, channels: tuple[int, ...], width: int, camera_features: int, beside: int = 0) -> Any:
    """A randomly initialised U-Net of a pixel prior for ``size`` pixels a side, conditioned on states of ``width``.

    ``beside``: channels of what is concatenated to the noisy one. Uses torch's global random state.
    """
    from diffusers import UNet2DConditionModel

    levels = len(channels)
    return UNet2DConditionModel(
        sample_size=size // PACKING,
        in_channels=3 * PACKING**2 + beside,
        out_channels=6 * PACKING**2,
        block_out_channels=channels,
        layers_per_block=1,
        # Attention only at the lowest resolution: at the full one it costs more than all convolutions together.
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        cross_attention_dim=width,
        attention_head_dim=4,  # diffusers' name for the NUMBER of heads
        norm_num_groups=8,
        encoder_hid_dim=width,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_cond_proj_dim=camera_features,
        # Noise level, camera and pooled text are combined in the time embedding. It and the attention at the lowest resolution
        # determine the appearance from a given side, so both are larger than the defaults.
        time_embedding_dim=TIME_WIDTH,
        transformer_layers_per_block=TRANSFORMER_LAYERS,
    )


def make_scheduler() -> Any:
    """The noise schedule of the pixel priors."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=True, variance_type="fixed_small",
    )  # fmt: skip


def make_networks(words: list[str], size: int = 64, channels: tuple[int, ...] = (32, 64, 128)) -> Networks:
    """Randomly initialised networks for ``size`` pixels a side; uses torch's global random state."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = make_tokenizer(words)
    width = 128
    text_config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    unet = make_unet(size, channels, width, CAMERA_FEATURES)
    return Networks(unet, T5EncoderModel(text_config), tokenizer, make_scheduler(), reader=Reader(width))


def save_module(module: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a network of diffusers or transformers in ``dtype``; its weights are rounded to it and float32 afterwards."""
    module.to(dtype).save_pretrained(folder, safe_serialization=True)
    module.to(torch.float32)
    # transformers loads in the precision that this file names, diffusers in float32: a stock pipeline has to have one.
    config = json.loads((folder / "config.json").read_text())
    if "dtype" in config:
        atomic_write_text(folder / "config.json", json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


def save_folder(networks: Networks, folder: Path, half: bool = True, guided: float = 0.0) -> None:
    """Write a standard diffusers folder (safetensors; fp16, or fp32 without ``half``).

    ``guided``: the guidance scale that was distilled into the weights; 0 for none.
    """
    dtype = torch.float16 if half else torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    save_module(networks.unet, folder / "unet", dtype)
    save_module(networks.text_encoder, folder / "text_encoder", dtype)
    networks.tokenizer.save_pretrained(folder / "tokenizer")
    networks.scheduler.save_pretrained(folder / "scheduler")
    if networks.vae is not None:
        copy.deepcopy(networks.vae).to(dtype).save_pretrained(folder / "vae", safe_serialization=True)
        own = {"image_encoder": [None, None], "vae": ["diffusers", "AutoencoderKL"]}
    else:
        own = {"watermarker": [None, None]}
    index = {
        "_class_name": "IFPipeline" if networks.vae is None else "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", type(networks.text_encoder).__name__],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        **own,
    }
    known = nouns_known(networks.tokenizer) | ({"guided": guided} if guided else {})
    atomic_write_text(folder / NOUNS, json.dumps(known, indent=1) + "\n")
    atomic_write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def begin_with(networks: Networks, folder: Path) -> None:
    """Copy the weights of a saved prior into ``networks`` of the same or a larger shape; words are matched by spelling.

    This continues a training after the vocabulary or the network has grown. In a wider layer the old weights fill the leading
    block and new inputs of old outputs are zero; an added transformer layer begins as the identity. New words keep their random
    embeddings. (Only a normalisation over a widened layer changes the outputs.)
    """
    old = load_folder(folder)
    state, fresh = old.unet.state_dict(), networks.unet.state_dict()
    for key, value in fresh.items():
        if key in state:
            value[: len(state[key])] = 0.0
            value[tuple(map(slice, state[key].shape))] = state[key]
        elif "add_embedding.norm2.weight" in key:  # a new pooled text: small, but from zero it is not learnt
            value.fill_(0.3)
        elif any(part in key for part in ("to_out.0.", "ff.net.2.")):  # the last layer of each residual branch
            value.zero_()
    networks.unet.load_state_dict(fresh)
    state, words = old.text_encoder.state_dict(), old.tokenizer.get_vocab()
    tables = {key for key in state if key.endswith(("shared.weight", "embed_tokens.weight", "token_embedding.weight"))}
    for key in tables:
        table = networks.text_encoder.state_dict()[key].clone()
        for word, row in networks.tokenizer.get_vocab().items():
            if word in words:
                table[row] = state[key][words[word]]
        state[key] = table
    networks.text_encoder.load_state_dict(state)


def kinds_known(tokenizer: Any) -> list[str]:
    """The categories whose names are in a prior's tokenizer: those that it was trained on."""
    words = tokenizer.get_vocab()
    return [kind for kind in CATEGORIES if all(word in words for word in kind.split("_"))]


def nouns_known(tokenizer: Any) -> dict[str, Any]:
    """The content of :data:`dreamlift.priors.files.nouns.NOUNS`: the nouns of those categories, related ones, and maps."""
    kinds, words = kinds_known(tokenizer), tokenizer.get_vocab()
    named = [noun for kind in kinds for noun in (kind.replace("_", " "), *SYNONYMS.get(kind, ()))]
    maps = {show: word for show, word in MAP_WORDS.items() if word in words}
    return {
        "nouns": [noun for noun in named if all(word in words for word in noun.split())],
        "near": {noun: kind.replace("_", " ") for kind in kinds for noun in RELATED.get(kind, ())},
        **({"maps": maps} if maps else {}),
    }


def load_folder(folder: Path) -> Networks:
    """Read a folder of :func:`save_folder`, in fp32 (to continue the training)."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

    latent = (folder / "vae").is_dir()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32) if latent else None
    return Networks(
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        (CLIPTextModel if latent else T5EncoderModel).from_pretrained(folder / "text_encoder", dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        DDPMScheduler.from_pretrained(folder / "scheduler"),
        vae,
    )
