"""MVDream's network in plain torch, with the original layers' names and attention by hand; and a folder as the port has it."""

import json
import math

import torch
from big_helpers import autoencoder, clip, tokenizer
from safetensors.torch import save_file
from torch import nn

TINY = {
    "_class_name": "MultiViewUNetModel", "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "attention_resolutions": [2, 1], "num_res_blocks": 2, "channel_mult": [1, 1, 2], "num_head_channels": 16,
    "transformer_depth": 1, "context_dim": 16, "camera_dim": 16, "use_checkpoint": False,
}  # fmt: skip
PUBLISHED = TINY | {
    "image_size": 32, "model_channels": 320, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64, "context_dim": 1024,
}  # fmt: skip


class Residual(nn.Module):
    def __init__(self, before, after, embedding):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, after))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(after, after, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x, embedding, text, views):
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, one, other):
        """What the tokens ``one (L, C)`` of a single sequence take from ``other (M, D)``, head by head."""
        parts = [f(x).chunk(self.heads, dim=-1) for f, x in ((self.to_q, one), (self.to_k, other), (self.to_v, other))]
        heads = [(q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
        return self.to_out(torch.cat(heads, dim=-1))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * nn.functional.gelu(gate)


class Feed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(Gated(width), nn.Dropout(0.0), nn.Linear(4 * width, width))


class Layer(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = Feed(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens, text, views):
        """``tokens (B, L, C)``: the views of an object see each other in the first attention, and in that alone."""
        rows = list(tokens)
        for first in range(0, len(rows), views):
            joint = torch.cat(rows[first : first + views])
            joint = joint + self.attn1(self.norm1(joint), self.norm1(joint))
            rows[first : first + views] = joint.chunk(views)
        rows = [row + self.attn2(self.norm2(row), words) for row, words in zip(rows, text, strict=True)]
        return torch.stack([row + self.ff.net(self.norm3(row)) for row in rows])


class Spatial(nn.Module):
    def __init__(self, width, config):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        heads = width // config["num_head_channels"]
        self.transformer_blocks = nn.ModuleList([Layer(width, config["context_dim"], heads)])

    def forward(self, x, embedding, text, views):
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        return x + self.proj_out(self.transformer_blocks[0](tokens, text, views)).transpose(1, 2).view_as(x)


class Halve(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, *_):
        return self.op(x)


class Double(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, *_):
        return self.conv(nn.functional.interpolate(x, scale_factor=2))


class Original(nn.Module):
    """The network as MVDream's paper and settings describe it."""

    def __init__(self, config):
        super().__init__()
        self.width = width = config["model_channels"]
        wide, blocks = 4 * width, config["num_res_blocks"]
        self.time_embed = nn.Sequential(nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.camera_embed = nn.Sequential(nn.Linear(config["camera_dim"], wide), nn.SiLU(), nn.Linear(wide, wide))

        def stage(before, after, level):
            attention = [Spatial(after, config)] if 2**level in config["attention_resolutions"] else []
            return [Residual(before, after, wide), *attention]

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, width, 3, padding=1)])])
        now, kept, levels = width, [width], [width * factor for factor in config["channel_mult"]]
        for level, after in enumerate(levels):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList(stage(now, after, level)))
                now = after
                kept.append(now)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Halve(now)]))
                kept.append(now)
        middle = [Residual(now, now, wide), Spatial(now, config), Residual(now, now, wide)]
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(levels))):
            for index in range(blocks + 1):
                layers = stage(now + kept.pop(), levels[level], level)
                now = levels[level]
                self.output_blocks.append(nn.ModuleList(layers + ([Double(now)] if level and index == blocks else [])))
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, 4, 3, padding=1))

    def forward(self, x, steps, text, cameras, views):
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(self.width // 2) / (self.width // 2))
        waves = steps[:, None] * frequencies
        embedding = self.time_embed(torch.cat([waves.cos(), waves.sin()], -1)) + self.camera_embed(cameras)
        x = self.input_blocks[0][0](x)
        kept = [x]
        for layers in self.input_blocks[1:]:
            for layer in layers:
                x = layer(x, embedding, text, views)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, embedding, text, views)
        for layers in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for layer in layers:
                x = layer(x, embedding, text, views)
        return self.out(x)


def save_port(folder):
    """A folder as the public port's, with random weights; returns the network behind it."""
    from diffusers import DDIMScheduler

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Original(TINY).eval().requires_grad_(False)
        parts = {"vae": autoencoder(4), "text_encoder": clip(16, 2), "tokenizer": tokenizer()}
    parts["scheduler"] = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(TINY))
    save_file(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    index |= {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return network
