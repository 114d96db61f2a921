"""Process settings, and kernels that cannot be cached or are not there."""

import os
import subprocess
import sys

import pytest

from dreamlift.system import jit


def python(code, **environment):
    """What a fresh interpreter prints."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return done.stdout.strip()


def test_tune_process_comes_before_torch():
    code = "import sys, os; from dreamlift.system.startup import tune_process; tune_process(); "
    assert python(code + "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)") == "PASSIVE False"
    assert python(code + "print(os.environ['OMP_WAIT_POLICY'])", OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_everything_works_without_numba():
    code = """
import sys; sys.modules["numba"] = None
import torch
from dreamlift.cameras import turntable
from dreamlift.system.jit import fast_kernels_available
from dreamlift.scenes.nerf.scene import Nerf
rng = torch.Generator().manual_seed(0)
scene = Nerf().build(rng)
scene.render(turntable(1, size=8), rng, normals=True).rgb.mean().backward()
print(fast_kernels_available(), scene.field.levels[0].grad.abs().sum().item() > 0)
"""
    assert python(code) == "False True"


def test_loading_the_kernels_leaves_torchs_threads_alone():
    code = "import torch; torch.set_num_threads(3); import dreamlift.scenes; print(torch.get_num_threads())"
    assert python(code) == "3"


@pytest.mark.skipif(jit.numba is None, reason='needs numba: pip install "numba"')
def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    class Numba:
        @staticmethod
        def njit(cache=False, **options):
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return lambda function: function

    monkeypatch.setattr(jit, "numba", Numba)
    assert jit.compiled(abs) is abs


def test_ranges_cover_everything_once():
    for total, least in ((0, 4), (1, 4), (7, 4), (1000, 4), (1000, 2000)):
        spans = jit.parallel_ranges(lambda low, high: (low, high), total, least)
        assert [i for low, high in spans for i in range(low, high)] == list(range(total))
