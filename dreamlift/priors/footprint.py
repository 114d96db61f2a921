"""How much memory a prior takes, worked out from its folder without loading it: headers of weights and ``config.json``.

Parameters are counted in the headers of the safetensors files (8 bytes of length, then JSON). Activations follow a plain
model of diffusers' blocks. A picture of s^2 places and c channels that goes through

* a residual block from c' to c channels keeps 3 c' + 3 c values a place for the way back (the inputs of its two norms,
  activations and convolutions), and holds no more at once where nothing is kept;
* a transformer block (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) keeps 24 c (norms, queries, keys, values and
  outputs of two attentions, the gated layer of 8 c and its parts), and holds as much at once.

Attention's own matrix is never whole in memory: torch's fused attention works through it in tiles. tests/test_memory.py counts
the same in real networks.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESIDUAL = 3  # values a place, of each input and output channel
BLOCK_KEPT, BLOCK_HELD = 24, 24  # values a place and channel, of a transformer block
TEXT_TOKENS = 512  # at most, beside the patches of a transformer
FULL = ".DenseReluDense.wo.weight"  # of a T5
FLUX_SIZE = 128  # latents a side that FLUX's own pipeline makes; the settings of its network name no size


@dataclass(frozen=True)
class Footprint:
    """Counts of parameters and of values; times the bytes of one they are memory."""

    network: int  # parameters of the U-Net or transformer
    autoencoder: int  # parameters of the VAE; 0 for a pixel prior
    text: int  # parameters of the largest text encoder: they are loaded one after another
    resolution: int  # side of the pictures that it was made for, in pixels
    asked: int  # values that one picture takes on its way through the network
    kept: int  # the same with what a gradient through the network needs
    kept_low: int  # the same where only the blocks' inputs are kept, and one block at a time is computed again
    encoded: int  # values that one picture's way through the VAE's encoder keeps for its gradient
    encoded_low: int  # as ``kept_low``
    decoded: int  # of the decoder
    decoded_low: int
    together: int  # pictures that the network looks at together
    upcast: bool  # whether the VAE runs in full precision on a GPU too
    text_full: int = 0  # of the text encoder's parameters, those that stay in full precision too (T5's, as transformers has it)


def footprint(folder: Path) -> Footprint:
    """Of a diffusers ``folder`` with a ``unet`` or ``transformer``, and perhaps a ``vae``.

    Raises:
        ValueError: a file of it is not what it should be.
    """
    try:
        return _footprint(folder)
    except (KeyError, TypeError, IndexError, struct.error) as error:
        raise ValueError(f"{folder} is not of a known network: {type(error).__name__}: {error}") from None


def _footprint(folder: Path) -> Footprint:
    flow = (folder / "transformer").is_dir()
    config, together = _read(folder / ("transformer" if flow else "unet")), 1
    if "model_channels" in config:  # MVDream's network, by the words of the original code
        from dreamlift.priors.mvdream import VIEWS, stock_settings

        config, together = stock_settings(config), VIEWS
    passed = transformer_values(config) if flow else unet_values(config)
    text, full = max(((parameters(part), parameters(part, FULL)) for part in folder.glob("text_encoder*") if part.is_dir()),
                     default=(0, 0))  # fmt: skip
    network = parameters(folder / ("transformer" if flow else "unet"))
    size = int(config.get("sample_size", FLUX_SIZE) if flow else config["sample_size"])
    if not (folder / "vae").is_dir():
        packing = math.isqrt(int(config["in_channels"]) // 3)
        return Footprint(network, 0, text, size * packing, *passed, 0, 0, 0, 0, together, False, full)
    vae = _read(folder / "vae")
    resolution = size * 2 ** (len(vae["block_out_channels"]) - 1)
    coded = (*coder_values(vae, resolution), *coder_values(vae, resolution, decoder=True))
    upcast = bool(vae.get("force_upcast", False))
    return Footprint(network, parameters(folder / "vae"), text, resolution, *passed, *coded, together, upcast, full)


def parameters(folder: Path, only: str = "") -> int:
    """How many numbers the safetensors files of one network hold; a half-precision copy beside them does not count.

    ``only``: of tensors whose names end so.
    """
    files = [file for file in folder.glob("*.safetensors") if "non_ema" not in file.name]
    full = [file for file in files if ".fp16" not in file.name]
    return sum(_numbers(file, only) for file in full or files)


def _numbers(file: Path, only: str) -> int:
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > 100 << 20:  # the format's own limit
            raise ValueError(f"{file} is not a safetensors file: its header would be {length} bytes long")
        header = json.loads(stream.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__" and name.endswith(only))


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error}") from None


def _each(value: Any, count: int) -> list[int]:
    """A setting that is one number for all levels, or one for each."""
    return [int(entry) for entry in value] if isinstance(value, (list, tuple)) else [int(value)] * count


def unet_values(config: dict[str, Any]) -> tuple[int, int, int]:
    """Values of one picture through a ``UNet2DConditionModel``: held at once; kept for a gradient, and with checkpoints."""
    widths, size = config["block_out_channels"], int(config["sample_size"])
    levels = len(widths)
    layers, depth = (
        _each(config.get("layers_per_block", 2), levels),
        _each(config.get("transformer_layers_per_block", 1), levels),
    )
    attends = ["Attn" in name for name in config["down_block_types"]]
    places = [(size >> level) ** 2 for level in range(levels)]
    skips, before, skipped = [widths[0]], widths[0], places[0] * widths[0]
    held, kept, inputs = [0], [skipped], skipped

    def pass_block(level: int, wide: int) -> None:
        nonlocal inputs
        width = widths[level]
        kept.append(places[level] * RESIDUAL * (wide + width))
        held.append(places[level] * RESIDUAL * (wide + width))
        inputs += places[level] * 2 * (wide + width)
        if attends[level]:
            kept.append(places[level] * width * (6 + BLOCK_KEPT * depth[level]))
            held.append(places[level] * width * BLOCK_HELD)
            inputs += places[level] * width * (2 + depth[level])

    for level, width in enumerate(widths):
        for _ in range(layers[level]):
            pass_block(level, before)
            before = width
            skips.append(width)
            skipped += places[level] * width
        if level + 1 < levels:
            skips.append(width)
            skipped += places[level + 1] * width
    for _ in range(2):
        pass_block(levels - 1, widths[-1])
    for level in reversed(range(levels)):
        for _ in range(layers[level] + 1):
            pass_block(level, before + skips.pop())
            before = widths[level]
    return skipped + max(held), sum(kept), inputs + max(kept)


def transformer_values(config: dict[str, Any]) -> tuple[int, int, int]:
    """As :func:`unet_values`, of an ``SD3Transformer2DModel`` or a ``FluxTransformer2DModel``: both in patches of 2 x 2."""
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    tokens = (int(config.get("sample_size", FLUX_SIZE)) // 2) ** 2 + TEXT_TOKENS
    layers = int(config["num_layers"]) + int(config.get("num_single_layers", 0))
    held, kept, inputs = (tokens * width * count for count in (BLOCK_HELD, BLOCK_KEPT * layers, 2 * layers + BLOCK_KEPT))
    return held, kept, inputs


def coder_values(config: dict[str, Any], size: int, decoder: bool = False) -> tuple[int, int]:
    """Values that one half of an ``AutoencoderKL`` keeps for its gradient; and the same with checkpoints."""
    layers = int(config.get("layers_per_block", 1)) + decoder
    widths = config["block_out_channels"]
    blocks, inputs, before = [], 0, widths[0]
    for level, width in enumerate(widths):
        # The first residual block comes from another width: in a decoder, which goes up, from the next one's.
        other = widths[min(level + 1, len(widths) - 1)] if decoder else before
        # Beside the residual blocks there is their output, and what the change of size between two levels takes in.
        values = RESIDUAL * (other + width + (layers - 1) * 2 * width) + other + width
        places = (size >> level) ** 2
        blocks.append(places * values)
        inputs += places * before
        before = width
    middle = (size >> (len(blocks) - 1)) ** 2 * before * (4 * RESIDUAL + 6)
    ends = 3 * size**2 * widths[0]  # the convolution at the picture's side, and in a decoder a norm and an activation
    return sum(blocks) + middle + ends, inputs + max(*blocks, middle) + ends
