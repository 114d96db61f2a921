"""Set-up of all tests: process settings before torch is imported, and the fixtures of whole runs."""

from __future__ import annotations

import os

from dreamlift.system.startup import tune_process

tune_process()

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # the GPU's kernels then run in Python; Triton reads this when it is imported

from big_helpers import first_pipeline, xl_pipeline  # noqa: E402
from lift_helpers import save_stub  # noqa: E402

from dreamlift.priors.exact.gaussian import GaussianPrior  # noqa: E402
from dreamlift.priors.kinds import Located  # noqa: E402
from dreamlift.prompts import embed_prompt  # noqa: E402
from dreamlift.runs.carry_out import Outcome  # noqa: E402


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A prior that is small and ready at once."""
    return save_stub(tmp_path_factory.mktemp("prior") / "stub")


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """An empty folder to stand in, and no network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def no_steps(monkeypatch):
    """Runs are prepared and their folders made, but nothing is lifted."""
    prior = GaussianPrior(torch.zeros(1, 3, 8, 8), torch.ones(1))

    def read(_, task, wording, backdrops, *__):
        return embed_prompt(task.prompt, task.negative, wording, prior.embed_text, backdrops)

    monkeypatch.setattr(Located, "load", lambda *_: prior)
    monkeypatch.setattr(Located, "read", read)
    monkeypatch.setattr("dreamlift.runs.carry_out._carry_out", lambda run, *_: Outcome(run.folder, True, None))


def saved(pipe, name, tmp_path_factory):
    """(folder, stock pipeline)"""
    folder = tmp_path_factory.mktemp(name) / "model"
    pipe.save_pretrained(folder)
    return folder, pipe


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(folder, stock pipeline) of Stable Diffusion 1.x's shape."""
    return saved(first_pipeline(), "first", tmp_path_factory)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """(folder, stock pipeline) of Stable Diffusion XL's shape."""
    return saved(xl_pipeline(), "xl", tmp_path_factory)


@pytest.fixture(scope="module")
def xl_folder(xl):
    return xl[0]
