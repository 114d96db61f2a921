"""The scene that paints a fixed mesh: against the exact renderer, finite differences, and a fit to pictures of the truth."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from dreamlift.cameras import turntable
from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.export.glb import save_glb
from dreamlift.export.psnr import psnr
from dreamlift.reading.mesh import load_mesh
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Learned, Solid
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image, joined_odds, total_variation
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract
from dreamlift.texturing.unwrap import unwrap
from dreamlift.texturing.uvs import uv_density, uv_faults
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import mesh_of
from dreamlift.types import Mesh, Shading

SMALL = Image(32, 8)
VOXEL = Voxel((9, 17), (0.0, 0.3))
HASH = Hashgrid(levels=4, log2_rows=10, base_resolution=4, hidden=16)
SETTINGS = {
    "image": Surface(SMALL),
    "voxel": Surface(VOXEL),
    "hashgrid": Surface(HASH, Learned()),
    "pbr": Surface(SMALL, material="pbr"),
    "pbr voxel": Surface(VOXEL, material="pbr"),
}
SHADING = Shading(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([[2.0, 2, 2], [0.0, 3, 1]]))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def truth() -> Mesh:
    return mesh_of(make_thing("mug", "blue", 0), resolution=40, faces=600, texture_size=128)


@pytest.fixture(scope="module")
def bare(truth) -> Mesh:
    return dataclasses.replace(truth, base_color=None)


@pytest.mark.parametrize("shading", [None, SHADING], ids=["unlit", "lit"])
def test_a_mesh_that_nobody_changed_looks_as_the_exact_renderer_shows_it(truth, shading):
    """Own texture kept, nothing trained: rgb, opacity, depth and normals of render_mesh, which shares only rasterize."""
    scene = Surface(SMALL).build(generator(), initial_mesh=truth).eval()
    cameras = turntable(2, size=32)
    with torch.no_grad():
        got = scene.render(cameras, generator(), shading, background=torch.tensor([0.2, 0.4, 0.9]), normals=True)
    want = render_mesh(truth, cameras, torch.tensor([0.2, 0.4, 0.9]), shading)
    torch.testing.assert_close(got.rgb, want.rgb, rtol=0, atol=0.011)  # own colours keep 0.01 from 0 and 1
    for name in ("opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_of_everything_by_finite_differences(name, bare):
    """d(lit picture, every regulariser) / d(all parameters) in float64, along one random direction."""
    scene = SETTINGS[name].build(generator(), initial_mesh=bare).eval()
    scene.double()
    cameras = turntable(2, size=8)
    scene.after_step(0, 1.0, generator(), None, None)
    parameters = list(scene.parameters())
    for parameter in parameters:
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)

    def value():
        out = scene.render(cameras, generator(), SHADING, background=torch.ones(3))
        shown = (out.rgb * torch.linspace(0.5, 1.5, out.rgb.numel()).view_as(out.rgb)).mean()
        return shown + sum(scene.regularize(out, 0.0).values())

    grads = torch.autograd.grad(value(), parameters, allow_unused=True)
    moves = [torch.randn(p.shape, generator=generator(5), dtype=torch.float64) for p in parameters]
    ends = []
    for step in (1e-6, -2e-6):
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.data += step * move
        ends.append(float(value().detach()))
    want = sum(float((g * m).sum()) for g, m in zip(grads, moves, strict=True) if g is not None)
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(want, rel=1e-3)


def train(scene, target, cameras, rng, first, last, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(scene.param_groups(), betas=(0.9, 0.99), eps=1e-15)
    for index in range(first, last):
        view = slice(2 * index % len(cameras), 2 * index % len(cameras) + 2)
        out = scene.render(cameras[view], rng)
        loss = (out.rgb - target[view]).square().mean() + 1e-3 * sum(scene.regularize(out, 0.5).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, (index + 1) / 40, rng, out, optimizer)
    return optimizer


@pytest.mark.parametrize(("name", "reached"), [("image", 27.0), ("voxel", 27.0)])
def test_a_grey_mesh_takes_the_colours_of_eight_pictures(name, reached, truth, bare):
    """From mid grey to the truth's pictures within 40 steps, in views that were fitted; the exported file shows the same."""
    cameras, white = turntable(8, size=32), (1.0, 1.0, 1.0)
    target = render_mesh(truth, cameras).rgb
    texture = Image(64, 16, lr=0.1) if name == "image" else Voxel((9, 17, 33), (0.0, 0.0, 0.0), lr=0.2)
    scene = Surface(texture, Solid(white)).build(generator(), initial_mesh=bare).train()
    with torch.no_grad():
        before = psnr(scene.render(cameras, generator()).rgb, target)
    train(scene, target, cameras, generator(1), 0, 40)
    with torch.no_grad():
        after = scene.eval().render(cameras, generator()).rgb
    assert before < 20 < reached < psnr(after, target)
    mesh = scene.to_mesh(Extract(texture_size=256))
    assert psnr(render_mesh(mesh, cameras).rgb, after) > 30


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stopped_run_goes_on_bit_for_bit(name, bare):
    rng, cameras, target = generator(1), turntable(2, size=16), torch.rand(2, 16, 16, 3, generator=generator(7))
    scene = SETTINGS[name].build(generator(), initial_mesh=bare).train()
    optimizer = train(scene, target, cameras, rng, 0, 3)
    kept = {key: value.clone() for key, value in scene.state_dict().items()}
    moments, noise = copy.deepcopy(optimizer.state_dict()), rng.get_state()
    other = SETTINGS[name].build(generator(99), initial_mesh=bare).train()
    other.load_state_dict(kept)
    results = []
    for one in (other, scene):
        again = torch.optim.Adam(one.param_groups(), betas=(0.9, 0.99), eps=1e-15)
        again.load_state_dict(copy.deepcopy(moments))
        rng.set_state(noise)
        train(one, target, cameras, rng, 3, 5, again)
        results.append(one.state_dict())
    assert results[0].keys() == kept.keys()
    assert any(not torch.equal(kept[key], results[0][key]) for key in kept)
    assert all(torch.equal(results[0][key], results[1][key]) for key in kept)


def test_geometry_and_good_uvs_are_kept(truth):
    scene = Surface(SMALL).build(generator(), initial_mesh=truth)
    mesh = scene.to_mesh(Extract(texture_size=64))
    for name in ("vertices", "faces", "uvs"):
        assert np.array_equal(getattr(mesh, name), getattr(truth, name))
    assert mesh.base_color.shape == (64, 64, 3)
    assert mesh.metallic_roughness is None


def test_colours_survive_a_new_unwrapping(truth):
    """The faces' own UVs still say where each point's colour is, though the mesh gets others; repeated images too."""
    cameras = turntable(3, size=32)
    want = render_mesh(truth, cameras).rgb
    tiled = dataclasses.replace(truth, uvs=truth.uvs + np.array([2.0, -1.0], np.float32))  # whole images further
    for start, choice in ((truth, "unwrap"), (tiled, "auto")):
        scene = Surface(SMALL, uvs=choice).build(generator(), initial_mesh=start).eval()
        assert float(scene.uvs.min()) >= 0
        assert float(scene.uvs.max()) <= 1
        with torch.no_grad():
            shown = scene.render(cameras, generator(), background=torch.ones(3)).rgb
        assert psnr(shown, want) > 38
        assert psnr(render_mesh(scene.to_mesh(Extract(texture_size=256)), cameras).rgb, want) > 28


def test_which_uvs_are_good(truth):
    assert uv_faults(truth) == ""
    assert "no UVs" in uv_faults(dataclasses.replace(truth, uvs=None, base_color=None))
    assert "outside 0..1" in uv_faults(dataclasses.replace(truth, uvs=truth.uvs * 3))
    assert "no area" in uv_faults(dataclasses.replace(truth, uvs=np.full_like(truth.uvs, 0.5)))
    twice = Mesh(
        np.concatenate([truth.vertices, truth.vertices + 2]), np.concatenate([truth.faces, truth.faces + len(truth.vertices)]),
        np.concatenate([truth.uvs, truth.uvs]),
    )  # fmt: skip
    assert "50% of its UV faces lie over others" in uv_faults(twice)


def test_uv_density_of_a_square_by_hand():
    """A unit square that fills a quarter of the image's width and height: one world unit is 0.25 of the image."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    square = Mesh(np.pad(corners, ((0, 0), (0, 1))), np.array([[0, 1, 2], [0, 2, 3]], np.int32), corners * 0.25)
    torch.testing.assert_close(uv_density(square), torch.full((2,), 0.25))


def test_detail_that_a_picture_cannot_show_gets_no_gradient(bare):
    """Levels of 16 to 256 texels, pictures of 24 pixels: the finest stays as it was, the coarsest learns."""
    scene = Surface(Image(256, 16)).build(generator(), initial_mesh=bare).train()
    scene.render(turntable(2, size=24), generator()).rgb.mean().backward()
    coarse, *_, fine = scene.base_color.levels
    assert float(coarse.grad.abs().sum()) > 0
    assert float(fine.grad.abs().sum()) == 0
    scene.zero_grad(set_to_none=True)
    scene.render(turntable(2, size=400), generator()).rgb.mean().backward()
    assert float(fine.grad.abs().sum()) > 0


def test_odds_and_total_variation_by_hand():
    base, change = torch.tensor([0.2, 0.7, 0.01, 0.5]), torch.tensor([0.5, 0.1, 0.99, 0.3])
    torch.testing.assert_close(joined_odds(base, change), (base.logit() + change.logit()).sigmoid())
    assert float(joined_odds(torch.tensor(0.01), torch.tensor(0.0))) == 0.0
    image = torch.tensor([[0.0, 1.0], [0.0, 3.0]])[..., None]
    # Down: (0, 2), mean square 2. Right: (1, 3), mean square 5.
    assert float(total_variation(image)) == pytest.approx(7.0)


def test_a_material_is_baked_within_its_ranges(truth, tmp_path):
    """Roughness in green and metallic in blue with factors 1; set by hand to known values, read back from the image."""
    settings = Surface(SMALL, material="pbr", keep_colors=False, roughness=(0.2, 0.6), metallic=(0.0, 0.5))
    scene = settings.build(generator(), initial_mesh=truth)
    for level in scene.finish.levels:
        level.data[:, 1], level.data[:, 2] = 100.0, -100.0  # the ends of the ranges: roughness 0.6, metallic 0
    mesh = scene.to_mesh(Extract(texture_size=64))
    assert (mesh.metallic, mesh.roughness) == (1.0, 1.0)
    assert set(np.unique(mesh.metallic_roughness[..., 1])) == {153}  # 0.6 * 255
    assert set(np.unique(mesh.metallic_roughness[..., 2])) == {0}
    again = Surface(SMALL, material="pbr").build(generator(), initial_mesh=mesh)
    rough, metal = again.initial_appearance.finish(torch.tensor([0, 5]), torch.full((2, 3), 1 / 3)).unbind(dim=1)
    torch.testing.assert_close(rough, torch.full((2,), 0.6))
    assert float(metal.abs().max()) == 0.0


def test_a_material_without_gloss_in_flat_light_shows_its_base_colour(truth):
    """A panorama of one grey 0.75: a rough dielectric shows 0.75 times its base colour in linear light, give or take F."""
    settings = Surface(SMALL, material="pbr", roughness=(0.89, 0.9), metallic=(0.0, 0.001), turn=False)
    scene = settings.build(generator(), initial_mesh=truth).eval()
    scene.environment.irradiance.zero_()
    scene.environment.irradiance[0] = 0.75 * 3.14159 / 0.282095
    scene.environment.lobes.fill_(0.75)
    plain = Surface(SMALL).build(generator(), initial_mesh=truth).eval()
    cameras, black = turntable(2, size=24), torch.zeros(3)
    with torch.no_grad():
        lit = scene.render(cameras, generator(), background=black)
        flat = plain.render(cameras, generator(), background=black)
    whole = lit.opacity[..., 0] == 1
    gap = ((lit.rgb[whole] + 0.055) / 1.055) ** 2.4 - 0.75 * ((flat.rgb[whole] + 0.055) / 1.055) ** 2.4
    assert gap.abs().mean() < 0.04  # the gloss adds up to 0.04 * 0.75 of white, and takes as much of the colour


def test_the_light_turns_in_training_only_and_by_the_given_generator(bare):
    scene = Surface(SMALL, Solid(), material="pbr").build(generator(), initial_mesh=bare)
    cameras = turntable(1, size=16)

    def shown(seed):
        with torch.no_grad():
            return scene.render(cameras, generator(seed)).rgb

    assert torch.equal(shown(1), shown(1))
    assert not torch.equal(shown(1), shown(2))
    scene.eval()
    assert torch.equal(shown(1), shown(2))


def test_the_back_of_an_open_sheet_is_lit_as_its_front():
    sheet = Mesh(np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0]], np.float32) * 0.5, np.array([[0, 1, 2]], np.int32))
    scene = Surface(SMALL, Solid()).build(generator(), initial_mesh=unwrap(sheet, 32)).eval()
    cameras = turntable(2, elevation_deg=0.0, size=16)  # from the front and from behind
    light = Shading(torch.ones(2), torch.zeros(2), cameras.c2w[:, :3, 3])
    out = scene.render(cameras, generator(), light, normals=True)
    front, back = out.rgb[0, 8, 8], out.rgb[1, 8, 8]
    torch.testing.assert_close(front, back, rtol=0, atol=0.02)
    assert float(front.detach().mean()) > 0.45
    assert float(out.normal[1, 8, 8, 2].detach()) == pytest.approx(-1.0)


def test_what_is_refused(bare):
    with pytest.raises(ValueError, match="give --mesh FILE or put it after another stage"):
        Surface().build(generator())
    with pytest.raises(ValueError, match="no UVs: set it to 'auto' or 'unwrap'"):
        Surface(uvs="keep").build(generator(), initial_mesh=dataclasses.replace(bare, uvs=None))
    scene = Surface(SMALL).build(generator(), initial_mesh=bare)
    with pytest.raises(ValueError, match=r"'sparsity'; a surface scene has: tv\. Set weights\.sparsity to 0"):
        scene.regularize(None, 0.0, ("sparsity",))
    with pytest.raises(ValueError, match="none with this texture"):
        Surface(HASH).build(generator(), initial_mesh=bare).regularize(None, 0.0, ("tv",))
    for wrong in ({"supersample": 0}, {"roughness": (0.9, 0.1)}, {"metallic": (0.0, 2.0)}, {"brightness": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Surface(**wrong)
    with pytest.raises(ValueError, match="coarsest"):
        Image(16, 32)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_survive_yaml_and_count_their_own_values(name, bare):
    settings = SETTINGS[name]
    assert load_yaml(Surface, save_yaml(settings)) == settings
    scene = settings.build(generator(), initial_mesh=bare)
    textures = [texture for texture in (scene.base_color, scene.finish) if texture is not None]
    assert settings.parameter_count() == sum(p.numel() for texture in textures for p in texture.parameters())
    small, large = (settings.step_bytes(2, side) for side in (32, 64))
    assert 0 < small < large
    assert SCENES["surface"] is Surface


def test_from_a_file_to_a_file(truth, tmp_path):
    """A user's way: load, paint nothing, export at the user's own place."""
    far = dataclasses.replace(truth, vertices=truth.vertices * 40 + np.array([100.0, 0.0, -7.0], np.float32))
    save_glb(far, tmp_path / "far.glb")
    mesh, placement = load_mesh(tmp_path / "far.glb")
    scene = Surface(SMALL).build(generator(), initial_mesh=mesh)
    back = placement.restored(scene.to_mesh(Extract(texture_size=128)))
    np.testing.assert_allclose(back.vertices, far.vertices, atol=1e-4)
    assert np.array_equal(back.faces, far.faces)


def test_what_is_not_painted_stays_as_the_mesh_brought_it(truth):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
    start = dataclasses.replace(truth, metallic=0.7, roughness=0.3, metallic_roughness=pictures[0], normal_map=pictures[1])
    kept = Surface(SMALL, uvs="keep").build(generator(), initial_mesh=start).to_mesh(Extract(texture_size=64))
    assert (kept.metallic, kept.roughness) == (0.7, 0.3)
    np.testing.assert_array_equal(kept.metallic_roughness, pictures[0])
    np.testing.assert_array_equal(kept.normal_map, pictures[1])
    lit = Surface(SMALL, uvs="keep", material="pbr").build(generator(), initial_mesh=start).to_mesh(Extract(texture_size=64))
    assert (lit.metallic, lit.roughness) == (1.0, 1.0)  # of a picture that is the scene's own
    np.testing.assert_array_equal(lit.normal_map, pictures[1])
    # With other UVs the pictures do not fit any more: the mean of the material stays.
    anew = Surface(SMALL, uvs="unwrap").build(generator(), initial_mesh=start).to_mesh(Extract(texture_size=64))
    assert anew.metallic_roughness is None
    assert anew.normal_map is None
    assert anew.metallic == pytest.approx(0.7 * 0.5, abs=0.02)  # of even random texels
    assert anew.roughness == pytest.approx(0.3 * 0.5, abs=0.02)
    grey = Surface(SMALL, keep_colors=False, uvs="keep")
    fresh = grey.build(generator(), initial_mesh=start).to_mesh(Extract(texture_size=64))
    assert fresh.metallic_roughness is None
    assert fresh.metallic == Mesh(truth.vertices, truth.faces).metallic
