"""The gallery: one page with every run's turntable, that needs no other file."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image, ImageSequence

from dreamlift.cli import main
from dreamlift.export.video import save_turntable
from dreamlift.runs.run import Run


class Reader(HTMLParser):
    """What a browser would find: pictures and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[dict[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append({name: value or "" for name, value in attrs})
        assert not {"src", "href"} & dict(attrs).keys() or tag == "img"  # nothing is fetched

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def runs(tmp_path):
    prompts = ("a red mug", 'a <b>"bold"</b> chair')
    for number, prompt in enumerate(prompts):
        with Run.create(tmp_path / f"run{number}", prompt) as run:
            (run.folder / "asset.glb").write_bytes(b"x" * 700_000)
            frames = torch.rand(3 + number, 16, 16, 3, generator=torch.Generator().manual_seed(number))
            save_turntable(frames, run.folder / "turntable.webp")
            run.set_status("finished", {"seconds": 61.3, "peak_memory_gb": 1.25})
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


def test_a_page_holds_every_turntable(runs, tmp_path, capsys):
    folders, prompts = runs
    out = tmp_path / "page"
    assert main(["gallery", *map(str, folders), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert [path.name for path in out.iterdir()] == ["index.html"]
    reader = Reader()
    reader.feed((out / "index.html").read_text())
    assert [picture["alt"] for picture in reader.pictures] == [f"{prompt}, turning" for prompt in prompts]
    for number, (folder, picture) in enumerate(zip(folders, reader.pictures, strict=True)):
        data = base64.b64decode(picture["src"].removeprefix("data:image/webp;base64,"))
        assert data == (folder / "turntable.webp").read_bytes()
        frames = list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))
        assert len(frames) == 3 + number
    assert set(prompts) <= set(reader.texts)
    assert "run0 · 61.3 s · 1.25 GB · 0.7 MB" in reader.texts


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
