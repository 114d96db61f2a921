"""Materials and environments, against numerical integration, closed forms and hand-worked numbers."""

from __future__ import annotations

import math
import os
import zlib

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dreamlift.cameras import turned
from dreamlift.color import to_linear, to_srgb
from dreamlift.shading import brdf, environment
from dreamlift.shading.environment import Environment, harmonics, irradiance_numbers, panorama_directions, studio


def column(value, like):
    return torch.full_like(like[..., :1], value)


def hemisphere(count):
    """A product rule over the hemisphere around +z: directions (N, 3) and solid angles (N,), sum 2 pi. Not random.

    With z = 1 - u^2 it is finest around +z, where narrow lobes lie.
    """
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    angle = (torch.arange(count, dtype=torch.float64) + 0.5) * 2 * math.pi / count
    u, angle = (x.reshape(-1) for x in torch.meshgrid(u, angle, indexing="ij"))
    z = 1 - u**2
    sine = (1 - z**2).sqrt()
    return torch.stack([sine * angle.cos(), sine * angle.sin(), z], dim=1), 4 * math.pi * u / count**2


def albedo_of(base, roughness, metallic, cosine, count=400):
    """int f(l, v) (n.l) dl by quadrature: the share of the light from direction v that is reflected anywhere."""
    l, weight = hemisphere(count)  # noqa: E741
    n = torch.tensor([0.0, 0.0, 1.0]).double().expand_as(l)
    v = torch.tensor([math.sqrt(1 - cosine**2), 0.0, cosine]).double().expand_as(l)
    f = brdf.reflectance(column(base, l).expand_as(l), column(roughness, l), column(metallic, l), n, l, v)
    return float((f[:, 0] * l[:, 2] * weight).sum())


@pytest.mark.parametrize("roughness", [0.25, 0.5, 0.9])
def test_the_density_of_normals_integrates_to_one(roughness):
    h, weight = hemisphere(600)
    total = (brdf.ggx(h[:, 2], torch.tensor(roughness).double()) * h[:, 2] * weight).sum()
    assert float(total) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("metallic", [0.0, 1.0])
@pytest.mark.parametrize("roughness", [0.3, 0.6, 1.0])
def test_a_white_furnace_gains_no_energy(metallic, roughness):
    """A metal, and a dielectric's gloss (base 0), reflect at most all; a smooth mirror nearly all; a white dielectric nearly 1.

    There glTF's formula itself, whose diffuse share 1 - F does not know what the gloss took, is up to 12 % above 1 where it
    is seen at a grazing angle; :meth:`Environment.lit` is not.
    """
    shares = [albedo_of(metallic, roughness, metallic, cosine) for cosine in (1.0, 0.7, 0.3)]
    assert 0.0 < min(shares) < max(shares) < 1.001
    if metallic == 0.0:
        white = [albedo_of(1.0, roughness, 0.0, cosine) for cosine in (1.0, 0.7, 0.3)]
        assert white[0] == pytest.approx(1.0, abs=0.04)
        assert max(white) < 1.13
    elif roughness == 0.3:
        assert shares[0] > 0.95


def test_reciprocity():
    rng = torch.Generator().manual_seed(0)
    n = torch.tensor([0.0, 0.0, 1.0]).expand(500, 3)
    l, v = (normalize(torch.randn(500, 3, generator=rng).abs() + 0.01, dim=-1) for _ in range(2))  # noqa: E741
    base, rough, metal = (torch.rand(500, k, generator=rng) for k in (3, 1, 1))
    there = brdf.reflectance(base, rough.clamp_min(0.05), metal, n, l, v)
    back = brdf.reflectance(base, rough.clamp_min(0.05), metal, n, v, l)
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-5)


def test_reflectance_by_hand():
    """roughness 1, metal, all directions along the normal: D = 1/pi, V = 1/4, F = f_0 = base, so f = base / (4 pi)."""
    z = torch.tensor([[0.0, 0.0, 1.0]])
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    f = brdf.reflectance(torch.tensor([[0.8, 0.4, 0.2]]), one, one, z, z, z)
    torch.testing.assert_close(f, torch.tensor([[0.8, 0.4, 0.2]]) / (4 * math.pi))
    # The same as a dielectric: (1 - 0.04) base / pi + 0.04 / (4 pi). For base 0.5: 0.152789 + 0.003183.
    f = brdf.reflectance(torch.full((1, 3), 0.5), one, zero, z, z, z)
    assert float(f[0, 0]) == pytest.approx(0.155972, abs=1e-5)
    # roughness sqrt(1/2): alpha = 1/2, D = alpha^2 / (pi alpha^4) = 4 / pi at the peak, V = 1/4: f = base / pi as a metal.
    f = brdf.reflectance(torch.full((1, 3), 0.5), one * math.sqrt(0.5), one, z, z, z)
    assert float(f[0, 0]) == pytest.approx(0.5 / math.pi, rel=1e-4)
    behind = brdf.reflectance(torch.ones(1, 3), one, zero, z, -z, z)
    assert float(behind.abs().max()) == 0.0


def test_a_rough_dielectric_under_a_point_light_is_nearly_lambertian():
    """At normal incidence from all sides of view, base colour 1: (1 - F) cos, plus a few per cent of gloss."""
    angle = torch.linspace(0, 1.3, 20)
    light = torch.stack([angle.sin(), torch.zeros(20), angle.cos()], dim=1) * 3
    n = torch.tensor([[0.0, 0.0, 1.0]])
    for i in range(20):
        got = brdf.point_light(torch.ones(1, 3), torch.ones(1, 1), torch.zeros(1, 1), n, torch.zeros(1, 3), light[i], n)
        assert float(got[0, 0]) == pytest.approx(math.cos(float(angle[i])), abs=0.05)


@pytest.mark.parametrize(("cosine", "roughness"), [(0.9, 0.4), (0.5, 0.7), (0.3, 1.0)])
def test_the_table_of_the_split_sum_is_the_integral(cosine, roughness):
    """A + B is the reflectance of a perfect metal, and f_0 A + B that of a duller one: by quadrature of f itself."""
    a, b = (float(x) for x in brdf.specular_scale(torch.tensor([[cosine]]), torch.tensor([[roughness]])))
    assert a + b == pytest.approx(albedo_of(1.0, roughness, 1.0, cosine), abs=0.01)
    assert 0.5 * a + b == pytest.approx(albedo_of(0.5, roughness, 1.0, cosine), abs=0.01)


def test_srgb_by_hand_and_back():
    values = torch.tensor([0.0, 0.04045, 0.5, 1.0])
    linear = torch.tensor([0.0, 0.0031308, 0.2140411, 1.0])
    torch.testing.assert_close(to_linear(values), linear, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(to_srgb(linear), values, rtol=1e-4, atol=1e-5)
    dark = torch.zeros(3, requires_grad=True)
    (to_srgb(dark).sum() + to_linear(dark).sum()).backward()
    assert torch.isfinite(dark.grad).all()


def test_solid_angles_and_axes_of_a_panorama():
    directions, angles = panorama_directions(32)
    assert float(angles.sum()) == pytest.approx(4 * math.pi)
    assert float((directions.norm(dim=-1) - 1).abs().max()) < 1e-12
    assert float(directions[16, 32] @ torch.tensor([0.0, 0.0, 1.0]).double()) > 0.99  # middle: the front
    assert float(directions[16, 48, 0]) > 0.99  # a quarter further right: +x
    assert float(directions[0, 5, 1]) > 0.99  # the first row: up


def test_harmonics_are_orthonormal():
    directions, angles = panorama_directions(128)
    y = harmonics(directions).reshape(-1, 9)
    torch.testing.assert_close((y * angles.reshape(-1, 1)).T @ y, torch.eye(9).double(), rtol=0, atol=1e-3)


def test_irradiance_against_monte_carlo():
    """E(n) = int L(l) max(0, n.l) dl of the studio, by random directions, within the 3 % of a second-order expansion."""
    rng = torch.Generator().manual_seed(3)
    numbers = irradiance_numbers(studio(panorama_directions(64)[0]))
    directions = normalize(torch.randn(100_000, 3, generator=rng), dim=-1)
    light = studio(directions)
    for n in normalize(torch.randn(12, 3, generator=rng), dim=-1):
        want = (light * (directions @ n).clamp_min(0)[:, None]).mean(dim=0) * 4 * math.pi
        got = harmonics(n) @ numbers
        assert ((got - want).abs() / want).max() < 0.03


def test_a_uniform_environment_is_a_furnace():
    """All directions give 1: a white dielectric shows 1 exactly, a metal the single-scattering albedo A + B."""
    lit = Environment(torch.ones(16, 32, 3)).lit
    rng = torch.Generator().manual_seed(1)
    n = normalize(torch.randn(64, 3, generator=rng), dim=-1)
    v = normalize(n + 0.7 * normalize(torch.randn(64, 3, generator=rng), dim=-1), dim=-1)
    white, ones = torch.ones(64, 3), torch.ones(64, 1)
    torch.testing.assert_close(lit(white, ones * 0.5, ones * 0, n, v), white, rtol=0, atol=3e-3)
    metal = lit(white, ones * 0.5, ones, n, v)
    for i in range(0, 64, 16):
        assert float(metal[i, 0]) == pytest.approx(albedo_of(1.0, 0.5, 1.0, float(n[i] @ v[i])), abs=0.015)


def test_gloss_is_sharp_where_smooth_and_blurred_where_rough():
    """One bright spot at +x: seen only near the mirror direction by a smooth surface, spread out by a rough one."""
    panorama = torch.zeros(64, 128, 3)
    panorama[28:36, 92:100] = 10.0  # around +x
    glossy = Environment(panorama).glossy
    x, off = torch.tensor([[1.0, 0.0, 0.0]]), normalize(torch.tensor([[1.0, 0.0, 1.0]]), dim=-1)
    smooth, rough = torch.full((1, 1), 0.1), torch.full((1, 1), 0.9)
    assert glossy(x, smooth).mean() > 8
    assert glossy(off, smooth).mean() < 0.1
    assert 0.05 < glossy(off, rough).mean() < glossy(x, rough).mean() < 2
    # Across the seam behind, light goes on without a step.
    behind = normalize(torch.tensor([[1e-3, 0.0, -1.0], [-1e-3, 0.0, -1.0]]), dim=-1)
    seam = Environment(studio(panorama_directions(64)[0]).float()).glossy(behind, smooth.expand(2, 1))
    torch.testing.assert_close(seam[0], seam[1], rtol=0, atol=5e-3)


def test_gradients_of_a_lit_surface_by_finite_differences():
    light = Environment(studio(panorama_directions(16)[0]).float()).double()
    rng = torch.Generator().manual_seed(2)
    n = normalize(torch.randn(40, 3, generator=rng).double(), dim=-1)
    v = normalize(n + 0.5 * normalize(torch.randn(40, 3, generator=rng).double(), dim=-1), dim=-1)
    values = [0.2 + 0.6 * torch.rand(40, k, generator=rng).double() for k in (3, 1, 1)]
    moves = [torch.randn(x.shape, generator=rng).double() for x in values]

    def value(step):
        moved = [(x + step * m).requires_grad_() for x, m in zip(values, moves, strict=True)]
        spot = brdf.point_light(*moved, n, torch.zeros_like(n), torch.tensor([1.0, 2.0, 3.0]).double(), v)
        return (to_srgb(light.lit(*moved, n, v)) + spot).mean(), moved

    total, leaves = value(0.0)
    grads = torch.autograd.grad(total, leaves)
    want = sum(float((g * m).sum()) for g, m in zip(grads, moves, strict=True))
    ahead, behind = (float(value(step)[0].detach()) for step in (1e-6, -1e-6))
    assert (ahead - behind) / 2e-6 == pytest.approx(want, rel=1e-3)


def test_turning_goes_from_the_front_to_the_right():
    front = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(turned(front, torch.tensor(math.pi / 2)), torch.tensor([[1.0, 0.5, 0.0]]), rtol=0, atol=1e-6)


def test_a_panorama_of_ones_own(tmp_path):
    from PIL import Image

    path = tmp_path / "sky.png"
    Image.new("RGB", (64, 32), (200, 200, 200)).save(path)
    found = environment.load_environment(str(path), 2.0)
    n = normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(found.diffuse(n), torch.full((5, 3), 1.5), rtol=0, atol=0.01)  # 0.75 times the brightness
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    with pytest.raises(ValueError, match=r"64 x 64 pixels; accepted: twice as wide as high"):
        environment.load_environment(str(tmp_path / "square.png"))
    Image.new("RGB", (64, 32)).save(tmp_path / "night.png")
    with pytest.raises(ValueError, match="gives no light"):
        environment.load_environment(str(tmp_path / "night.png"))
    with pytest.raises(ValueError, match="cannot be used as a panorama"):
        environment.load_environment(str(tmp_path / "none.png"))


def test_damaged_and_hostile_panoramas_are_refused_at_once(tmp_path):
    from PIL import Image

    path = tmp_path / "sky.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)).save(path)
    data = path.read_bytes()
    huge = bytearray(data)
    huge[16:24] = (60_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")  # a header that is in order but for what it promises
    broken = data[:60] + bytes(each ^ 255 for each in data[60:90]) + data[90:]
    for content in (bytes(huge), broken, data[:200], b"", b"<html></html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be used as a panorama"):
            environment.load_environment(str(path))
    with pytest.raises(ValueError, match="cannot be used as a panorama"):
        environment.load_environment(str(tmp_path))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a plain file"):
            environment.load_environment(str(tmp_path / "pipe"))
