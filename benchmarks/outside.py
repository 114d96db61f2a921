"""Photos as users take them, of models whose truth is known: a textured table and wall, a shadow, JPEG noise.

    python benchmarks/outside.py models/*.glb [--toys 4] --out outputs/outside

For each model NAME-photo.jpg, NAME-plain.jpg (the same before a plain grey wall) and NAME-mask.png (the true colours and mask).
With --toys also things of the toybox. Kenney's models (CC0) are at github.com/KenneyNL: Starter-Kit-3D-Platformer and
Starter-Kit-City-Builder.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from held_out import held_object
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dreamlift.cameras import orbit_cameras, rays_of
from dreamlift.reading.mesh import load_mesh
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.score import fitted
from dreamlift.toybox.world.truth import mesh_of
from dreamlift.types import Cameras, Mesh, Shading

SIZE = 768  # pixels a side
QUALITY = 70  # of the JPEG
SHADE = 0.55  # darkness of the shadow
WOOD, CLOTH = ((0.62, 0.43, 0.27), (0.42, 0.27, 0.16)), ((0.55, 0.60, 0.70), (0.36, 0.42, 0.55))  # sRGB, light and dark


class Scene(NamedTuple):
    """A table, a wall behind it, and where the light is."""

    table: tuple[tuple[float, float, float], tuple[float, float, float]]
    wall: tuple[tuple[float, float, float], tuple[float, float, float]]
    light: tuple[float, float, float]  # world units; its shadow falls away from it


def take(mesh: Mesh, scene: Scene, azimuth: float, elevation: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The photo, the same before plain grey, and the true colours with the mask: ``(S, S, 3)`` twice, and ``(S, S, 4)``."""
    values = (math.radians(azimuth), math.radians(elevation), 2.9, math.radians(45.0))
    cameras = orbit_cameras(*(torch.tensor([value]) for value in values), SIZE)
    floor = float(mesh.vertices[:, 1].min())
    light = torch.tensor([scene.light])
    seen = render_mesh(mesh, cameras, 0.0, Shading(torch.ones(1), torch.zeros(1), light, ambient=0.45))
    alpha, rgb = seen.opacity[0], seen.rgb[0]
    around, hits = surroundings(cameras, scene, floor, rng)
    soft = ndimage.gaussian_filter(shadow(mesh, scene, cameras, floor)[..., 0].numpy(), SIZE / 150)
    dark = 1.0 - SHADE * torch.from_numpy(soft).float()[..., None] * hits
    photo, plain = (rgb + (1.0 - alpha) * back * dark for back in (around, torch.full_like(around, 0.75)))
    truth = torch.cat([rgb / alpha.clamp_min(1e-6), alpha], dim=-1)
    grain = torch.from_numpy(rng.normal(0.0, 0.015, (SIZE, SIZE, 1))).float()
    return (photo + grain).clamp(0, 1), (plain + grain).clamp(0, 1), truth.clamp(0, 1)


def surroundings(cameras: Cameras, scene: Scene, floor: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Colours ``(S, S, 3)`` of the table (streaks, in perspective) and the wall, and where the table is ``(S, S, 1)``."""
    rays = rays_of(cameras)
    origins, directions = rays.origins[0], rays.directions[0]
    away = (floor - origins[..., 1]) / directions[..., 1]
    points = origins + away[..., None] * directions
    table = (away > 0) & (points[..., [0, 2]].norm(dim=-1) < 3.5)
    streaks = noise(rng, points[..., 0].numpy() * 1.5, points[..., 2].numpy() * 9.0)
    smooth = noise(rng, directions[..., 0].numpy() * 6.0, directions[..., 1].numpy() * 6.0)
    layers = [torch.tensor(light) * value + torch.tensor(dark) * (1 - value) for (light, dark), value in
              ((scene.table, torch.from_numpy(streaks).float()[..., None]),
               (scene.wall, torch.from_numpy(smooth).float()[..., None]))]  # fmt: skip
    return torch.where(table[..., None], *layers), table[..., None].float()


def noise(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth random values in [0, 1] at places ``x, y (S, S)``: three octaves of a random lattice."""
    total = np.zeros_like(x)
    for octave in range(3):
        lattice, scale = rng.random((64, 64)), 2.0**octave
        total += ndimage.map_coordinates(lattice, [x * scale % 64, y * scale % 64], order=1, mode="grid-wrap") / scale
    return np.clip(total / 1.75, 0.0, 1.0)


def shadow(mesh: Mesh, scene: Scene, cameras: Cameras, floor: float) -> Tensor:
    """The mask ``(S, S, 1)`` of the mesh's shadow on the table: its vertices, moved along the rays of the light."""
    light = np.array(scene.light)
    reach = (light[1] - floor) / np.maximum(light[1] - mesh.vertices[:, 1:2], 1e-3)
    flat = light + (mesh.vertices - light) * reach
    flat[:, 1] = floor
    return render_mesh(Mesh(flat.astype(np.float32), mesh.faces), cameras, 0.0).opacity[0]


def save(values: Tensor, path: Path) -> None:
    picture = Image.fromarray((values.numpy() * 255).round().astype(np.uint8))
    picture.save(path, **({"quality": QUALITY} if path.suffix == ".jpg" else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="mesh files")
    parser.add_argument("--toys", type=int, default=0, help="things of the toybox beside them")
    parser.add_argument("--elevation", type=float, default=25.0, help="degrees")
    parser.add_argument("--azimuth", type=float, default=-30.0, help="degrees; 0 is the model's front")
    parser.add_argument("--out", type=Path, default=Path("outputs/outside"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [(path.stem, load_mesh(str(path), "y", print)[0]) for path in arguments.models]
    found += [(f"toy-{index}", mesh_of(held_object("toy", index).thing, 128, 12_000, 512)) for index in range(arguments.toys)]
    for index, (name, mesh) in enumerate(found):
        rng = np.random.default_rng(index)
        table, wall = (WOOD, CLOTH) if index % 2 else (CLOTH, WOOD)
        scene = Scene(table, wall, (float(rng.uniform(-3, 3)), 4.0, float(rng.uniform(1.0, 3.0))))
        mesh = fitted(replace(mesh, metallic_roughness=None, normal_map=None))
        photo, plain, truth = take(mesh, scene, arguments.azimuth, arguments.elevation, rng)
        for values, kind in ((photo, "photo.jpg"), (plain, "plain.jpg"), (truth, "mask.png")):
            save(values, arguments.out / f"{name}-{kind}")
        print(arguments.out / f"{name}-photo.jpg", flush=True)


if __name__ == "__main__":
    main()
