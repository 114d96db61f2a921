"""The gallery: a page with every run's turntable, which opens the assets, in a folder that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image, ImageSequence

from dreamlift.cli import main
from dreamlift.export.video import save_turntable
from dreamlift.runs.run import Run


class Reader(HTMLParser):
    """What a browser would find: pictures, links, options and texts; nothing else may be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str]]] = {}
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.setdefault(tag, []).append({name: value or "" for name, value in attrs})
        assert not {"src", "href"} & dict(attrs).keys() or tag in ("img", "a")

    def handle_data(self, data):
        self.texts.append(data)


def read(folder):
    reader = Reader()
    reader.feed((folder / "index.html").read_text())
    return reader


@pytest.fixture
def runs(tmp_path):
    prompts = ("a red mug", 'a <b>"bold"</b> chair')
    for number, prompt in enumerate(prompts):
        with Run.create(tmp_path / f"run{number}", prompt) as run:
            (run.folder / "asset.glb").write_bytes(b"x" * 700_000)
            frames = torch.rand(3 + number, 16, 16, 3, generator=torch.Generator().manual_seed(number))
            save_turntable(frames, run.folder / "turntable.webp")
            values = {"seconds": 61.3 - number, "peak_memory_gb": 1.25, "seed": 7 * number, "metrics": {"faces": 500.0}}
            run.set_status("finished", values)
    return [tmp_path / f"run{number}" for number in range(2)], prompts


def test_an_unfinished_run_among_others_is_left_out(runs, tmp_path, capsys):
    with Run.create(tmp_path / "begun", "a mug"):
        pass
    words = ["gallery", str(tmp_path / "begun"), "--out", str(tmp_path / "page")]
    assert main(words) == 2
    assert "has no asset.glb yet" in capsys.readouterr().err
    assert main([*words[:2], str(runs[0][0]), *words[2:]]) == 0
    assert "begun has no asset.glb yet: resume the run with" in capsys.readouterr().err
    assert "<h1>1 asset</h1>" in (tmp_path / "page" / "index.html").read_text()


def test_a_folder_of_runs_stands_for_its_runs(runs, tmp_path, capsys):
    (tmp_path / "page").mkdir()
    assert main(["gallery", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    assert len(read(tmp_path / "page").found["img"]) == 2
    (tmp_path / "sheet.png").touch()
    assert main(["gallery", *map(str, [tmp_path / "sheet.png", *runs[0]]), "--out", str(tmp_path / "other")]) == 0
    assert "sheet.png is neither a run folder nor a GLB file (left out)" in capsys.readouterr().err
    assert main(["gallery", str(tmp_path / "sheet.png")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["gallery", str(tmp_path / "empty")]) == 2
    assert "empty is not a run folder, and has none in it: there is no run.json" in capsys.readouterr().err


def test_a_page_shows_every_turntable_and_opens_every_asset(runs, tmp_path, capsys):
    folders, prompts = runs
    out = tmp_path / "page"
    assert main(["gallery", *map(str, folders), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "assets/000.html", "assets/000.webp", "assets/001.html", "assets/001.webp", "index.html",
    ]  # fmt: skip
    reader = read(out)
    assert [picture["alt"] for picture in reader.found["img"]] == [f"{prompt}, turning" for prompt in prompts]
    for number, (folder, picture) in enumerate(zip(folders, reader.found["img"], strict=True)):
        assert picture["loading"] == "lazy"
        data = (out / picture["src"]).read_bytes()
        assert data == (folder / "turntable.webp").read_bytes()
        assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 3 + number
        page = (out / reader.found["a"][number]["href"]).read_text()
        assert base64.b64encode((folder / "asset.glb").read_bytes()).decode() in page
        assert html.escape(prompts[number]) in page
    assert set(prompts) <= set(reader.texts)
    assert "run0 · 61.3 s · 1.25 GB · 0.7 MB" in reader.texts


def test_tiles_have_the_figures_that_they_are_sorted_by(runs, tmp_path):
    out = tmp_path / "page"
    assert main(["gallery", *map(str, runs[0]), "--out", str(out)]) == 0
    reader = read(out)
    figures = [json.loads(tile["data-figures"]) for tile in reader.found["figure"]]
    told = {"seconds": 61.3, "peak_memory_gb": 1.25, "seed": 0, "faces": 500, "megabytes": 0.7}
    assert figures == [told, {**told, "seconds": 60.3, "seed": 7}]
    offered = [option["value"] for option in reader.found["option"]]
    assert offered == ["", "seed", "seconds", "peak_memory_gb", "faces", "megabytes"]
    assert reader.found["meta"][1]["content"] == "width=device-width, initial-scale=1"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_a_browser_sorts_the_tiles(runs, tmp_path):
    """The page's script, in a browser: the order and the figure shown."""
    out = tmp_path / "page"
    assert main(["gallery", *map(str, runs[0]), "--out", str(out)]) == 0
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{out}/index.html#sort=seconds"], capture_output=True, text=True, timeout=120)
    reader = Reader()
    reader.feed(done.stdout)
    assert [picture["src"] for picture in reader.found["img"]] == ["assets/001.webp", "assets/000.webp"]
    assert [text for text in reader.texts if "time: " in text] == ["time: 60.3 s", "time: 61.3 s"]


def test_pages_of_before_are_passed_over(runs, tmp_path, capsys):
    folders, _ = runs
    first, second = tmp_path / "gallery-1", tmp_path / "gallery-2"
    assert main(["gallery", *map(str, folders), "--out", str(first)]) == 0
    assert main(["gallery", str(first), *map(str, folders), "--out", str(second)]) == 0
    assert (second / "index.html").read_text() == (first / "index.html").read_text()
    assert main(["gallery", str(first), "--out", str(tmp_path / "gallery-3")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_what_has_no_turntable_is_refused(runs, tmp_path, capsys):
    folders, _ = runs
    (folders[1] / "turntable.webp").unlink()
    assert main(["gallery", *map(str, folders), "--out", str(tmp_path / "page")]) == 2
    assert "has no turntable.webp" in capsys.readouterr().err
    assert main(["gallery", str(tmp_path), "--out", str(tmp_path / "page")]) == 2
    assert not (tmp_path / "page").exists()
