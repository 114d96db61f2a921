"""Notebooks: what is shown while a run goes on, and the examples, executed cell by cell in IPython."""

from __future__ import annotations

import base64
import importlib.util
import io
import re
from pathlib import Path

import nbformat
import pytest
import torch
from lift_helpers import small_pictures
from PIL import Image

from dreamlift import notebook
from dreamlift.config.short import override
from dreamlift.notebook import watch
from dreamlift.presets import PRESETS
from dreamlift.types import Note, RenderOutput, StageBegan, Step

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
IMAGE = re.compile(r'src="data:image/png;base64,([^"]+)"')


@pytest.fixture
def shell():
    """An IPython session, and what it has displayed: (data, is an update)."""
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell, shown = InteractiveShell.instance(), []

    class Kept(DisplayPublisher):
        def publish(self, data, metadata=None, *, transient=None, update=False, **more):
            shown.append((data, update))

    shell.display_pub = Kept(parent=shell)
    yield shell, shown
    InteractiveShell.clear_instance()


def events(count):
    yield StageBegan(0, 2, None, end=count)
    yield Note("a <note>")
    for index in range(count):
        rgb = torch.full((2, 8, 8, 3), index / count, requires_grad=True)
        render = RenderOutput(rgb, torch.ones(2, 8, 8, 1), torch.ones(2, 8, 8, 1), None)
        yield Step(index, 1.0, {"t": 0.5}, None, render, ())


def test_outside_ipython_events_pass_and_nothing_is_shown(capsys):
    steps = list(watch(events(3)))
    assert [type(step).__name__ for step in steps] == ["StageBegan", "Note", "Step", "Step", "Step"]
    assert capsys.readouterr() == ("", "")


def test_nothing_is_computed_in_advance():
    made = []

    def source():
        for index, event in enumerate(events(3)):
            made.append(index)
            yield event

    watched = watch(source())
    next(watched)
    assert made == [0]


def test_in_ipython_one_display_is_renewed(shell):
    _, shown = shell
    passed = list(watch(events(4), every=0.0))
    assert len(passed) == 6
    assert [update for _, update in shown] == [False] + [True] * (len(shown) - 1)
    pages = [data["text/html"] for data, _ in shown]
    assert 'value="0.0000"' in pages[0]
    assert 'value="1.0000"' in pages[-1]
    assert "stage 1 of 2  step 4 of 4  t 0.5" in pages[-1]
    assert "note: a &lt;note&gt;" in pages[-1]
    picture = Image.open(io.BytesIO(base64.b64decode(IMAGE.search(pages[-1])[1])))
    assert picture.size == (512, 256)  # two renders of 8 pixels, enlarged
    assert picture.getpixel((5, 5)) == (191, 191, 191)  # 3 / 4
    assert len({IMAGE.search(page)[1] for page in pages[2:] if IMAGE.search(page)}) == 4


def test_a_slow_clock_shows_few_pictures_but_the_last_one(shell):
    list(watch(events(50), every=1000.0))
    pages = [data["text/html"] for data, _ in shell[1]]
    assert len(pages) <= 5
    assert "step 50 of 50" in pages[-1]
    assert IMAGE.search(pages[-1])


def test_a_frame_holds_the_page_as_text():
    page = '<html lang="en"><script>"a" && 1 < 2</script></html>'
    framed = notebook.frame(page)
    assert 'sandbox="allow-scripts"' in framed
    inside = re.search(r'srcdoc="([^"]*)"', framed)[1]
    assert inside.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&") == page


def with_small_meshes(config):
    """A preset whose pictures and meshes are small, so that a notebook's cells take seconds."""
    small = {"mesh.resolution": 24, "mesh.faces": 300, "mesh.texture_size": 64}
    if len(config.stages) > 1:
        small |= {"stages.1.scene.resolution": 16}
    return override(config, small, text=False)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_run(shell, path, tmp_path, monkeypatch):
    session, shown = shell
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_STEPS", "8")
    monkeypatch.setenv("MPLBACKEND", "agg")
    small_pictures(monkeypatch)
    for name in ("toybox", "toybox-field"):
        monkeypatch.setitem(PRESETS, name, with_small_meshes(PRESETS[name]))
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "%pip install" in code[0].source
    results = []
    for cell in code:
        done = session.run_cell(cell.source)
        done.raise_error()
        results.append(done.result)
    if path.stem == "quickstart":
        assert (tmp_path / "mug.glb").stat().st_size > 1000
        assert results[2]._repr_html_().startswith("<iframe")
    else:
        assert results[-1]._repr_html_().startswith("<iframe")
        assert any(update and "<progress" in data.get("text/html", "") for data, update in shown)
        assert set(session.user_ns["curves"]) >= {"t", "grad_rms"}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.parametrize(
    ("source", "installed"),
    [
        ("", None),
        ("clone", "{here}/clone[fast]"),  # a folder, and never a name that pip would look up in an index
        ("dreamlift", "{here}/dreamlift[fast]"),
        ("git+https://example.org/dreamlift", "dreamlift[fast] @ git+https://example.org/dreamlift"),
    ],
)
def test_the_first_cell_installs_from_where_the_reader_says(shell, path, source, installed, tmp_path, monkeypatch):
    session, called = shell[0], []
    monkeypatch.chdir(tmp_path)
    session.register_magic_function(called.append, "line", "pip")
    (first, *_) = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert first.source.count('SOURCE = ""') == 1
    found, text = importlib.util.find_spec, first.source.replace('SOURCE = ""', f"SOURCE = {source!r}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *words: None if name == "dreamlift" else found(name, *words))
    done = session.run_cell(text)
    if installed is None:
        assert isinstance(done.error_in_exec, ImportError)
        assert "set SOURCE above to a clone's folder or git+https://..." in str(done.error_in_exec)
        assert called == []
    else:
        done.raise_error()
        assert called == [f'install -q "{installed.format(here=tmp_path)}"']


def test_there_are_two_examples():
    assert [path.stem for path in EXAMPLES] == ["inside_a_run", "quickstart"]
