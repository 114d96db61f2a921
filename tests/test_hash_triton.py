"""The GPU's hash encoding without a GPU: run by Triton's interpreter, and compiled for a real architecture."""

import os
import subprocess
import sys

import pytest
import torch

from dreamlift.scenes.nerf import hashgrid
from dreamlift.scenes.nerf.hashgrid import Hashgrid

pytest.importorskip("triton", reason='needs Triton: pip install "triton"')
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="a GPU runs these kernels itself")


@interpreted
@pytest.mark.parametrize(("features", "active"), [(2, 6), (2, 4), (3, 6), (1, 0)])
def test_kernels_against_the_torch_twin(features, active):
    from dreamlift.scenes.nerf.hashgrid_triton import EncodeTriton

    rng = torch.Generator().manual_seed(0)
    layout = hashgrid.layout_of(Hashgrid(levels=6, log2_rows=10, base_resolution=4, growth=1.9, features=features))
    table = torch.randn(layout.first[-1], features, generator=rng, requires_grad=True)
    points = torch.rand(700, 3, generator=rng) * 1.1 - 0.05  # some outside: they are clamped
    points[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.25, 0.0]])
    levels = hashgrid.levels_of(layout, table.device)
    got = EncodeTriton.apply(table, points, levels, active)
    want = hashgrid.encode_torch(table, points, layout, active)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    if active:
        probe = torch.randn(got.shape, generator=rng)
        (grad,), (twin,) = (torch.autograd.grad(out, table, probe) for out in (got, want))
        torch.testing.assert_close(grad, twin, rtol=1e-4, atol=1e-5)


@interpreted
def test_kernels_of_no_points():
    from dreamlift.scenes.nerf.hashgrid_triton import EncodeTriton

    layout = hashgrid.layout_of(Hashgrid(levels=2, log2_rows=10, base_resolution=4))
    table = torch.randn(layout.first[-1], 2, requires_grad=True)
    out = EncodeTriton.apply(table, torch.zeros(0, 3), hashgrid.levels_of(layout, table.device), 2)
    assert out.shape == (4, 0)
    assert float(torch.autograd.grad(out.sum(), table)[0].abs().sum()) == 0.0


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dreamlift.scenes.nerf import hashgrid_triton
for kernel in (hashgrid_triton._forward, hashgrid_triton._backward):
    signature = dict(zip(kernel.arg_names[:4], ("*fp32", "*fp32", "*i32", "*fp32")))
    signature |= {"count": "i32", "features": "constexpr", "block": "constexpr"}
    source = ASTSource(kernel, signature, constexprs={"features": 2, "block": 256})
    made = compile(source, target=GPUTarget("cuda", 80, 32))
    print(len(made.asm["cubin"]), "atom." in made.asm["ptx"] or "red.global" in made.asm["ptx"])  # "red." is also in "shared."
"""


def test_kernels_compile_for_a_gpu(tmp_path):
    """To machine code for sm_80 (A100), which needs no GPU; only the backward one adds atomically."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environ, capture_output=True, text=True, check=True)
    (forward, plain), (backward, atomic) = (line.split() for line in done.stdout.splitlines())
    assert int(forward) > 1000
    assert int(backward) > 1000
    assert (plain, atomic) == ("False", "True")
