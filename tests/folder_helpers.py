"""Diffusers folders as people have them: a DeepFloyd IF with a real T5 tokenizer, and folders with one thing damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from pathlib import Path

import torch

SENTENCES = [
    "a red mug",
    "a yellow duck, front view",
    "a wooden chair seen from above",
    "a blue teapot",
    "background",
    "dark",
] * 40


def save_if(folder: Path) -> Path:
    """DeepFloyd/IF-I-XL-v1.0's layout with random weights; its ``spiece.model`` is trained here by sentencepiece."""
    import sentencepiece
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    (folder / "tokenizer").mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(folder / "tokenizer" / "spiece"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "tokenizer" / "spiece.vocab").unlink()
    extra = [f"<extra_id_{i}>" for i in range(100)]
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(names))
    config = {**names, "extra_ids": 100, "model_max_length": 512, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        t5 = T5EncoderModel(T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            cross_attention_dim=16, encoder_hid_dim=16, attention_head_dim=4, addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )  # fmt: skip
    t5.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "IFPipeline", "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["deepfloyd_if", "IFSafetyChecker"], "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "watermarker": ["deepfloyd_if", "IFWatermarker"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


def files_of(folder: Path) -> list[str]:
    """The names of a folder's files, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def damage(folder: Path, seed: int, name: str = "") -> tuple[str, str]:
    """Damage the file ``name`` of a prior's ``folder``, or one by ``seed``; returns its name and what was done."""
    rng = random.Random(seed)
    names = files_of(folder)
    name = name or names[seed % len(names)]
    file = folder / name
    ways = ["gone", "empty", "cut", "zeros", "web page", "pointer", "noise", "a folder", "dead link", "unreadable text"]
    if file.suffix == ".json":
        ways += ["a list", "deeply nested", "a name gone", "null", "a word", "negative", "huge", "a list inside", "latin-1"]
    if file.suffix == ".safetensors":
        ways += [
            "header size",
            "header bytes",
            "offsets",
            "dtype",
            "a weight gone",
            "another shape",
            "NaN",
            "another name",
            "pickle",
        ]
    way = ways[rng.randrange(len(ways))]
    data = file.read_bytes()
    file.unlink()
    if way == "a folder":
        file.mkdir()
    elif way == "dead link":
        os.symlink(folder / "nowhere", file)
    elif way != "gone":
        file.write_bytes(_changed(way, data, rng) if way not in WEIGHTS else _weights(way, data, rng))
    return name, way


WEIGHTS = ("a weight gone", "another shape", "NaN", "another name")


def _changed(way: str, data: bytes, rng: random.Random) -> bytes:
    plain = {
        "empty": b"", "zeros": bytes(len(data)), "web page": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "pointer": LFS, "a list": b"[1, 2]", "deeply nested": b"[" * 100_000, "unreadable text": b"\xff\xfe" + data,
        "pickle": b"\x80\x04\x95\x00\x00.", "latin-1": data.replace(b'"', b'"\xfc', 1),
    }  # fmt: skip
    if way in plain:
        return plain[way]
    if way == "cut":
        return data[: rng.randrange(1, len(data))]
    if way == "noise":
        return rng.randbytes(len(data))
    if way in ("header size", "header bytes", "offsets", "dtype"):
        return _header(way, data, rng)
    return json.dumps(_settings(way, json.loads(data), rng)).encode()


def _header(way: str, data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    if way == "header size":
        return struct.pack("<Q", rng.choice([0, 1, size - 1, size + 1, 2**40, 2**64 - 1])) + data[8:]
    if way == "header bytes":
        place = rng.randrange(8, 8 + size)
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    entries = json.loads(data[8 : 8 + size])
    entry = entries[rng.choice([name for name in entries if name != "__metadata__"])]
    if way == "offsets":
        entry["data_offsets"] = rng.choice([[0, 10**12], [-1, 4], [4, 0], [0, 0]])
    else:
        entry["dtype"] = rng.choice(["F64", "I8", "X99"])
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _settings(way: str, found: dict, rng: random.Random) -> dict:
    name = rng.choice(sorted(found))
    if way == "a name gone":
        del found[name]
    else:
        found[name] = {"null": None, "a word": "banana", "negative": -3, "huge": 10**12, "a list inside": [[1], {}]}[way]
    return found


def _weights(way: str, data: bytes, rng: random.Random) -> bytes:
    from safetensors.torch import load, save

    weights = load(data)
    name = rng.choice(sorted(weights))
    value = weights.pop(name)
    if way == "another shape":
        weights[name] = torch.cat([value, value]).contiguous()
    elif way == "NaN":
        weights[name] = torch.full_like(value, float("nan"))
    elif way == "another name":
        weights[f"{name}x"] = value
    return save(weights, {"format": "pt"})


def damaged_ends(whole: Path, work: Path, count: int, name: str = "") -> dict[str, list[str]]:
    """Damage copies of the prior folder ``whole`` in ``count`` seeded ways, and load and use each as a run does.

    With ``name`` only that file is damaged.

    Returns what became of each, by the kind of end: "used" (the damage left a usable prior), "one line" (a ValueError with one
    line of at most 300 characters that names the folder), or "wrong" with the error. A benchmark asks for several hundred.
    """
    ends: dict[str, list[str]] = {"used": [], "one line": [], "wrong": []}
    for seed in range(count):
        folder = work / f"d{seed}"
        shutil.copytree(whole, folder)
        said = "seed {}, {}, {}: ".format(seed, *damage(folder, seed, name))
        try:
            use(folder)
            ends["used"].append(said)
        except ValueError as error:
            text = str(error)
            short = text.replace(str(folder), "FOLDER")
            ours = type(error) is ValueError or type(error).__module__.startswith("dreamlift")
            good = ours and len(short) <= 300 and "\n" not in text and "FOLDER" in short
            ends["one line" if good else "wrong"].append(f"{said}{type(error).__name__}: {short}")
        except Exception as error:
            ends["wrong"].append(f"{said}{type(error).__name__}: {error}")
        shutil.rmtree(folder)
    return ends


def use(folder: Path) -> None:
    """Everything that a run asks a prior for: its folder, its words, its networks and a prediction."""
    from dreamlift.priors.choice import PriorChoice
    from dreamlift.priors.kinds import find
    from dreamlift.types import Conditioning

    located = find(PriorChoice(str(folder)))
    cpu = torch.device("cpu")
    prior = located.load(cpu)
    text = prior.embed_text(["a red mug", ""])
    latents = prior.encode(torch.rand(1, 16, 16, 3))
    cond = Conditioning(text.states[:1], text.states[1:])
    with torch.no_grad():
        noise = prior.predict_noise(latents, torch.full((1,), 0.5), cond, 2.0)
    assert noise.shape == latents.shape
