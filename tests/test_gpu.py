"""What runs on a CUDA GPU gives what the CPU gives. Skipped where there is none."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace

import pytest
import torch

from dreamlift.cameras import turntable
from dreamlift.lifting import finish, lift, load, resolve
from dreamlift.presets import PRESETS
from dreamlift.raster.visibility import available_backends, visible_faces
from dreamlift.scenes.background import Learned
from dreamlift.scenes.gaussians import splat
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import mesh_of
from dreamlift.types import Step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

HASH = Hashgrid(levels=6, log2_rows=12, base_resolution=4, hidden=32)
SCENES = {
    "voxel": Nerf(Voxel((9, 17), (0.0, 0.3)), samples_per_ray=32),
    "hashgrid": Nerf(HASH, Learned(), samples_per_ray=32),
    "hashgrid, piece by piece": Nerf(HASH, Learned(), samples_per_ray=32, chunk_rays=500),
    "gaussians": Gaussians(capacity=400, count=300, opacity=0.3, background=Learned()),
    "tetmesh": TetMesh(resolution=16, color=HASH, background=Learned()),
    "surface": Surface(Image(32, 8), background=Learned()),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def mug():
    return mesh_of(make_thing("mug", "blue", 0), resolution=40, faces=600, texture_size=128)


@pytest.mark.parametrize("name", SCENES)
def test_pictures_and_gradients_are_the_cpus(name, mug):
    start = mug if name in ("tetmesh", "surface") else None
    here = SCENES[name].build(generator(), initial_mesh=start).eval()
    there, cameras, found = copy.deepcopy(here).cuda(), turntable(3, size=48), []
    weight = torch.rand(3, 48, 48, 3, generator=generator(1))
    for scene, device in ((here, "cpu"), (there, "cuda")):
        out = scene.render(cameras.to(device), generator(), background=torch.full((3,), 0.3, device=device))
        ((out.rgb * weight.to(device)).sum() + out.opacity.square().sum()).backward()
        gradients = {key: p.grad.cpu() for key, p in scene.named_parameters() if p.grad is not None}
        found.append((out.rgb.detach().cpu(), out.opacity.detach().cpu(), gradients))
    (rgb, opacity, gradients), (rgb_there, opacity_there, gradients_there) = found
    for ours, theirs in ((rgb, rgb_there), (opacity, opacity_there)):
        # A pixel on an edge may fall to the other side, by a rounding.
        off = (ours - theirs).abs().amax(-1) > 2e-3
        assert off.float().mean() < 0.003
    assert gradients.keys() == gradients_there.keys()
    for key, ours in gradients.items():
        error = (ours - gradients_there[key]).norm() / ours.norm().clamp_min(1e-6)
        assert error < 0.03, (key, float(error))


@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
def test_gsplat_draws_what_our_own_path_draws():
    cameras, rng = turntable(2, size=64), generator(2)
    means, quats = torch.rand(300, 3, generator=rng) - 0.5, torch.randn(300, 4, generator=rng)
    scales, opacities = 0.02 + 0.05 * torch.rand(300, 3, generator=rng), 0.2 + 0.7 * torch.rand(300, generator=rng)
    features = torch.rand(300, 5, generator=rng)
    found = []
    for device in ("cpu", "cuda"):
        parts = [x.clone().to(device).requires_grad_() for x in (means, quats, scales, opacities, features)]
        out = splat.render_splats(tuple(parts[:4]), parts[4].expand(2, -1, -1), cameras.to(device))
        (out.features.square().sum() + out.opacity.square().sum()).backward()
        found.append((out.features.detach().cpu(), out.opacity.detach().cpu(), out.seen.cpu(), [p.grad.cpu() for p in parts]))
    ours, theirs = found
    torch.testing.assert_close(theirs[0], ours[0], atol=5e-3, rtol=0)
    torch.testing.assert_close(theirs[1], ours[1], atol=5e-3, rtol=0)
    assert (ours[2] == theirs[2]).float().mean() > 0.98
    for name, mine, other in zip(("means", "quats", "scales", "opacities", "features"), ours[3], theirs[3], strict=True):
        error = (mine - other).norm() / mine.norm()
        assert error < 0.03, (name, float(error))


def test_every_rasteriser_of_the_gpu_sees_the_cpus_faces(mug):
    cameras = turntable(4, size=96)
    vertices, faces = torch.as_tensor(mug.vertices), torch.as_tensor(mug.faces)
    expected = visible_faces(vertices, faces, cameras)
    for backend in available_backends("cuda"):
        got = visible_faces(vertices.cuda(), faces.cuda(), cameras.to("cuda"), backend).cpu()
        assert (got == expected).float().mean() > 0.999, backend


@pytest.mark.parametrize("preset", ["toybox", "vsd-toy", "latent-toy", "dreamgaussian-toy", "fantasia3d-toy"])
def test_a_short_run_goes_from_words_to_a_mesh(preset):
    config = PRESETS[preset]
    stages = tuple(replace(stage, steps=2 if number else 4) for number, stage in enumerate(config.stages))
    few = replace(config, prompt="a red mug", device="cuda", stages=stages)
    few = replace(few, mesh=replace(few.mesh, resolution=32, texture_size=128))
    job = load(resolve(few))
    steps = [event for event in lift(job) if isinstance(event, Step)]
    assert len(steps) == few.total_steps == sum(stage.steps for stage in stages)
    assert len(finish(job).mesh.faces) > 50
