"""Tiny random models of Zero-1-to-3's family, saved as each public port has them, and pictures of an object."""

import json
import math
from pathlib import Path

import torch
from big_helpers import autoencoder
from safetensors.torch import save_file

from dreamlift.cameras import orbit_cameras
from dreamlift.toybox.training.view import make_view_networks, save_folder
from dreamlift.types import Pictures, Task

EMBEDDING = 16  # of the image encoder; 768 in the published models
SCHEDULE = {
    "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": False,
    "steps_offset": 1,
}  # fmt: skip
# layout: (pipeline's class, folder of the pose layer, prefix of its keys, suffixes of the unet's files, of the others' files)
PORTS = {
    "kxic": ("Zero1to3StableDiffusionPipeline", "cc_projection", "projection", ("",), ""),
    "bennyguo": ("Zero123Pipeline", "clip_camera_projection", "proj", (".fp16", ".fp16_ema"), ".fp16"),
    "ashawkey": ("Zero123Pipeline", "clip_camera_projection", "proj", ("",), ""),
}
HALF = ("bennyguo", "ashawkey")  # their weights are in half precision


def parts_of_a_port(size=8):
    """unet, image_encoder, vae and pose layer of a latent model whose pictures have ``2 size`` pixels a side."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=size, in_channels=8, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            attention_head_dim=2, cross_attention_dim=EMBEDDING,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        image = CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                             patch_size=14, projection_dim=EMBEDDING)
        )  # fmt: skip
        # Weights as large as those of trained models: new ones let the picture hardly matter.
        for weight in (*image.parameters(), *unet.parameters()):
            weight.data += 0.1 * torch.randn(weight.shape)
        layer = torch.nn.Linear(EMBEDDING + 4, EMBEDDING)
        return unet.eval(), image.eval(), autoencoder(4).eval(), layer


def save_port(folder: Path, layout: str, size=8) -> Path:
    """A model as the public ports named ``layout`` have it. The unet's weights that are not averaged are 1 larger."""
    kind, layer_name, key, unet_suffixes, suffix = PORTS[layout]
    unet, image, vae, layer = parts_of_a_port(size)
    dtype = torch.float16 if layout in HALF else torch.float32
    for name, part, stem in (("unet", unet, "diffusion_pytorch_model"), ("image_encoder", image, "model"),
                             ("vae", vae, "diffusion_pytorch_model")):  # fmt: skip
        part.save_pretrained(folder / name, safe_serialization=True)
        for file in (folder / name).glob("*.safetensors"):
            file.unlink()
        weights = {name: value.detach().to(dtype).contiguous() for name, value in part.state_dict().items()}
        suffixes = unet_suffixes if name == "unet" else (suffix,)
        for each in suffixes:
            other = len(suffixes) > 1 and "ema" not in each
            save_file({n: v + 1 if other else v for n, v in weights.items()}, folder / name / f"{stem}{each}.safetensors")
    (folder / layer_name).mkdir()
    save_file({f"{key}.{n}": v.detach().to(dtype) for n, v in layer.state_dict().items()},
              folder / layer_name / f"diffusion_pytorch_model{suffix}.safetensors")  # fmt: skip
    (folder / layer_name / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULE))
    index = {"_class_name": kind, "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
             "image_encoder": ["transformers", "CLIPVisionModelWithProjection"], "scheduler": ["diffusers", "DDIMScheduler"],
             layer_name: ["pipeline_of_the_port", "ItsOwnClass"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_view(folder: Path, size=16, half=False) -> Path:
    """An untrained pixel model in ``toybox-view``'s format, with weights that let everything matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = make_view_networks(size, channels=(8, 16))
        for weight in networks.parameters():
            weight.data += 0.05 * torch.randn(weight.shape)
    save_folder(networks, folder, half)
    return folder


def photo(azimuths=(0.0,), elevations=(20.0,), size=24, distance=2.9, fov_deg=42.0) -> Task:
    """A task with random pictures of N cameras (degrees), and no words."""
    count, rng = len(azimuths), torch.Generator().manual_seed(5)
    around = [torch.tensor(values) * math.pi / 180 for values in (azimuths, elevations)]
    ones = torch.ones(count)
    cameras = orbit_cameras(*around, ones * distance, ones * math.radians(fov_deg), size)
    rgba = torch.rand(count, size, size, 4, generator=rng)
    return Task("a thing", photos=Pictures(rgba[..., :3], rgba[..., 3:], cameras, reference=rgba.flip(2)))


def targets(azimuths, elevations, distance=2.9, fov_deg=42.0, size=16):
    """Cameras (degrees)."""
    around = [torch.tensor(values, dtype=torch.float32) * math.pi / 180 for values in (azimuths, elevations)]
    ones = torch.ones(len(azimuths))
    return orbit_cameras(*around, ones * distance, ones * math.radians(fov_deg), size)
