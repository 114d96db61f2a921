"""Parts from outside the package: the walk-through of docs/extend.md, word for word, and what goes wrong without it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lift_helpers import TINY, run_main, small_pictures, status_of

from dreamlift import plugins
from dreamlift.cameras import turntable
from dreamlift.config.build import load_yaml
from dreamlift.config.schema import Config
from dreamlift.guidance import GUIDANCE
from dreamlift.plugins import load_plugin, load_plugins, register
from dreamlift.presets import PRESETS
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import NoViews, embed_prompt

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(plugins, "_loaded", [])
    monkeypatch.setattr(plugins, "_added", set())
    before = [(table, dict(table)) for table in plugins.kinds().values()]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


@pytest.fixture
def plugin(tmp_path):
    """The page's loss in a file."""
    code = re.search(r"<!-- min_snr.py -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "min_snr.py"
    file.write_text(code[1])
    return file


def test_the_loss_of_the_page_is_what_its_formula_says(plugin):
    load_plugin(str(plugin))
    assert len(plugin.read_text().splitlines()) <= 36
    loss = GUIDANCE["min-snr"](guidance_scale=1.0, t_min=0.3, t_max=0.3, gamma=2.0)
    prior = GaussianPrior(torch.zeros(1, 3, 4, 4, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    cond = embed_prompt("a mug", "", NoViews(), prior.embed_text).at(turntable(2))
    latents = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    out = loss(prior, latents, cond, 0.0, torch.Generator().manual_seed(0), None)
    (gradient,) = torch.autograd.grad(out.loss, latents)

    rng = torch.Generator().manual_seed(0)
    torch.rand(2, generator=rng)  # the times, which are all 0.3
    noise = torch.randn(2, 3, 4, 4, generator=rng).double()
    alpha, sigma = (x[0, 0, 0, 0] for x in prior.schedule(torch.tensor([0.3])))
    x_t = alpha * latents.detach() + sigma * noise
    exact = sigma * x_t  # the exact eps_hat of N(0, 1), whose noised variance is 1
    snr = float(alpha**2 / sigma**2)
    assert snr > 2.0
    torch.testing.assert_close(gradient, 2.0 / snr * (exact - noise) / 2, rtol=1e-5, atol=1e-7)


def test_a_run_with_a_plugin_and_everything_after_it(plugin, stub, cwd, monkeypatch, capsys):
    small_pictures(monkeypatch)
    words = ["generate", "a red mug", "--prior", stub, *TINY, "--guidance.type", "min-snr", "--out", "run"]
    assert run_main(*words) == 2  # no plugin is named
    assert "--plugin FILE_OR_MODULE" in capsys.readouterr().err
    assert run_main(*words, "--plugin", plugin) == 0
    assert status_of(cwd / "run")["plugins"] == [str(plugin)]
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    assert type(config.stages[0].teachers[0].guidance).__name__ == "MinSNR"
    capsys.readouterr()
    assert run_main("settings", "--preset", "min-snr-toy", "--plugin", plugin) == 0
    assert "--guidance.gamma 5.0  (a number)  signal-to-noise ratio" in capsys.readouterr().out
    assert run_main("evaluate", "run", "--plugin", plugin, "--out", "report") == 0


def test_a_fresh_process_says_which_plugin_a_run_needs(plugin, stub, cwd, monkeypatch):
    """A config alone never imports code."""
    small_pictures(monkeypatch)
    assert (
        run_main("generate", "a red mug", "--prior", stub, *TINY, "--guidance.type=min-snr", "--plugin", plugin, "--out", "run")
        == 0
    )

    def fresh(*more, **environment):
        command = [sys.executable, "-m", "dreamlift.cli", *more]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)

    refused = fresh("resume", "run")
    assert refused.returncode == 2
    assert f"this run was made with --plugin {plugin}: give it again" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert fresh("export", "run", "--format", "stl", DREAMLIFT_PLUGINS=str(plugin)).returncode == 0
    assert (cwd / "run" / "asset.stl").is_file()


def test_installed_packages_bring_their_plugins(tmp_path, monkeypatch, plugin):
    """By entry points; one that is broken is told and stops nothing."""
    (tmp_path / "their_plugin.py").write_text(plugin.read_text())
    (tmp_path / "their_broken.py").write_text("raise RuntimeError('broken')")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dreamlift.plugins]\nmine = their_plugin\nworse = their_broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    notes = []
    load_plugins(note=notes.append)
    assert "min-snr-toy" in PRESETS
    assert notes == ["the plugin 'worse' of an installed package cannot be imported: RuntimeError: broken"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.py", None, "there is no plugin file"),
        ("no_such_module", None, "there is no module no_such_module"),
        ("bad.py", "import no_such_thing", "which needs no_such_thing"),
        ("worse.py", "1 / 0", "fails while it is imported: ZeroDivisionError: division by zero"),
        ("odd.py", "def (", "fails while it is imported: SyntaxError"),
        ("rude.py", "from dreamlift import register\nregister('guidance', 'sds', int)", "is that of a guidance of the package"),
        ("lost.py", "from dreamlift import register\nregister('sofa', 'mine', int)", "unknown kind of part 'sofa'"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used_is_refused_in_one_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_plugin(str(tmp_path / name) if name.endswith(".py") else name)
    assert "\n" not in str(caught.value)


def test_a_part_of_ones_own_may_be_registered_again():
    register("preset", "mine", PRESETS["toybox"])
    register("preset", "mine", PRESETS["toybox-field"])  # a notebook's cell that is run twice
    assert PRESETS["mine"] == PRESETS["toybox-field"]
