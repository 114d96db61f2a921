"""The GPU's ray marching without a GPU: run by Triton's interpreter, and compiled for a real architecture."""

import os
import subprocess
import sys

import pytest
import torch

from dreamlift.cameras import rays_of, turntable
from dreamlift.scenes.nerf import volume

pytest.importorskip("triton", reason='needs Triton: pip install "triton"')
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="a GPU runs these kernels itself")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rays(size=12, fov_deg=60.0):
    """Origins and directions of two pictures; some rays miss the cube, and one runs along an axis."""
    found = rays_of(turntable(2, size=size, fov_deg=fov_deg))
    origins, directions = found.origins.reshape(-1, 3).clone(), found.directions.reshape(-1, 3).clone()
    origins[0], directions[0] = torch.tensor([-3.0, 0.1, 0.2]), torch.tensor([1.0, 0.0, 0.0])
    return origins, directions


@interpreted
@pytest.mark.parametrize("masked", [True, False])
def test_samples_against_the_torch_twin(masked):
    from dreamlift.scenes.nerf.volume_triton import sample_rays_triton

    origins, directions = rays()
    jitter = torch.rand(len(origins), generator=generator())
    occupied = torch.rand(8, 8, 8, generator=generator(1)) > 0.5 if masked else None
    want = volume.sample_rays_torch(origins, directions, 0.8, 20, jitter, occupied)
    got = sample_rays_triton(origins, directions, 0.8, 20, jitter, occupied)
    assert len(want.starts) > 500
    assert len(want.ray_indices.unique()) < len(origins)
    torch.testing.assert_close(got.ray_indices, want.ray_indices)
    torch.testing.assert_close(got.starts, want.starts, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.ends, want.ends, rtol=1e-6, atol=1e-6)


@interpreted
def test_no_rays_and_rays_that_miss_give_no_samples():
    from dreamlift.scenes.nerf.volume_triton import CompositeTriton, sample_rays_triton

    none = torch.zeros(0, 3)
    assert len(sample_rays_triton(none, none, 1.0, 8, none[:, 0], None).starts) == 0
    away = torch.tensor([[0.0, 5.0, 0.0]])
    missed = sample_rays_triton(away, torch.tensor([[0.0, 1.0, 0.0]]), 1.0, 8, torch.full((1,), 0.5), None)
    offsets = volume.ray_offsets(missed, 1)
    _, sums = CompositeTriton.apply(missed.starts, torch.zeros(0, 3), missed.starts, missed.ends, offsets, 0.0)
    assert sums.tolist() == [[0.0] * 5]


@interpreted
@pytest.mark.parametrize("stop", [0.0, 0.3])
@pytest.mark.parametrize("through", ["sums", "weights", "both"])
@pytest.mark.parametrize("channels", [3, 6])
def test_what_rays_collect_against_the_torch_twin(stop, through, channels):
    from dreamlift.scenes.nerf.volume_triton import CompositeTriton

    origins, directions = rays()
    samples = volume.sample_rays_torch(origins, directions, 0.8, 16, torch.full((len(origins),), 0.5))
    offsets, count, rng = volume.ray_offsets(samples, len(origins)), len(samples.starts), generator(2)
    density = (6.0 * torch.rand(count, generator=rng)).requires_grad_()
    values = torch.rand(count, channels, generator=rng).requires_grad_()
    twin = volume.composite_torch(density, values, samples, offsets, stop)
    expected = (twin.weights, torch.cat([twin.opacity[:, None], twin.depth_sum[:, None], twin.values], dim=1))
    got = CompositeTriton.apply(density, values, samples.starts, samples.ends, offsets, stop)
    probes = [torch.randn(each.shape, generator=rng) * (through in (name, "both"))
              for name, each in zip(("weights", "sums"), expected, strict=True)]  # fmt: skip
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    used = [i for i, name in enumerate(("weights", "sums")) if through in (name, "both")]
    ours, theirs = (torch.autograd.grad([out[i] for i in used], (density, values), [probes[i] for i in used], allow_unused=True)
                    for out in (got, expected))  # fmt: skip
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=1e-4, atol=1e-5)


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dreamlift.scenes.nerf import volume_triton
floats = ("origins", "directions", "jitter", "out_start", "out_end", "density", "values", "starts", "ends", "weights", "after",
          "sums", "grad_weights", "grad_sums", "grad_density", "grad_values")
kinds = {name: "*fp32" for name in floats} | {"occupied": "*u8", "offsets": "*i64", "out_ray": "*i64"}
kinds |= {"rays": "i32", "count": "i32", "size": "i32", "bounds": "fp32", "stop": "fp32"}
for kernel, constants in (
    (volume_triton._sample, {"write": False}), (volume_triton._sample, {"write": True}),
    (volume_triton._forward, {"channels": 3}), (volume_triton._backward, {"channels": 3, "direct": True}),
):
    constants |= {"block": 64}
    signature = {name: "constexpr" if name in constants else kinds[name] for name in kernel.arg_names}
    made = compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", 80, 32))
    print(len(made.asm["cubin"]), "st.global" in made.asm["ptx"])
"""


def test_kernels_compile_for_a_gpu(tmp_path):
    """To machine code for sm_80 (A100), which needs no GPU."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environ, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    assert all(int(size) > 1000 and stores == "True" for size, stores in lines)
