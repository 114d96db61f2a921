"""The pictures that visitors give: what is refused, and how long they are kept."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest
from PIL import Image
from studio_helpers import Fake, png

from dreamlift.studio.folder import CLAIM, CLAIM_SECONDS, PICTURES, WAITING, Runs
from dreamlift.studio.serve import Place
from dreamlift.studio.worker import marked
from dreamlift.system.processes import pid_space, started


@pytest.fixture
def root(tmp_path):
    return tmp_path / "outputs"


@pytest.fixture
def studio(root):
    fake = Fake(root, Place(port=0))
    yield fake
    fake.close()


def pictures(root):
    """The files of pictures, without those that say who needs them."""
    return sorted(path for path in (root / PICTURES).glob("*") if path.suffix == ".png")


def names_picture(run, picture):
    """The folder of a run from a picture."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"photos:\n- path: {picture}\n", encoding="utf-8")


def ordered(studio, side=32):
    """The number and the picture's file of an order from a picture."""
    picture = studio.post("/api/pictures", png(side))[1]["picture"]
    number = studio.post("/api/start", {"prompt": "", "picture": picture})[1]["number"]
    return number, os.path.basename(studio.hub.waiting[-1].order["picture"])


def test_a_picture_is_checked_and_kept_under_a_name_of_the_studios(studio, root):
    status, found = studio.post("/api/pictures", png())
    assert (status, found["width"], found["height"]) == (200, 32, 32)
    (kept,) = pictures(root)
    assert kept.read_bytes() == png()
    studio.sent.clear()
    status, _ = studio.post("/api/start", {"prompt": "", "picture": found["picture"], "seed": 7})
    assert status == 200
    order = studio.hub.waiting.pop().order
    assert order == {"prompt": "", "preset": "", "seed": 7, "picture": str(kept.resolve())}
    assert studio.post("/api/start", {"prompt": "", "picture": "../../secret.glb"})[0] == 400


BAD_PICTURES = {b"": "not a picture", b"<svg/>": "SVG", b"\x89PNG\r\n\x1a\n" + b"x" * 99: "cannot be used", png(8): "8 x 8",
                png()[:60]: "cannot be used", b"PK\x03\x04": "not a picture"}  # fmt: skip


@pytest.mark.parametrize("data", BAD_PICTURES)
def test_what_is_no_picture_is_refused_in_one_line(studio, data):
    status, found = studio.post("/api/pictures", data)
    assert status == 400
    assert BAD_PICTURES[data] in found["error"]
    assert "\n" not in found["error"]


def test_a_decompression_bomb_is_refused_by_its_header(studio):
    out = io.BytesIO()
    Image.new("1", (15000, 15000)).save(out, "PNG")
    begun = time.monotonic()
    status, found = studio.post("/api/pictures", out.getvalue())
    assert (status, "15000 x 15000" in found["error"] or "pixels" in found["error"]) == (400, True)
    assert time.monotonic() - begun < 5


def test_the_oldest_are_removed_but_not_those_of_orders_that_wait(studio, root):
    _, ordered_first = ordered(studio, 39)
    for side in range(40, 40 + WAITING + 5):
        assert studio.post("/api/pictures", png(side))[0] == 200
    assert len(pictures(root)) == WAITING + 1
    assert ordered_first in [path.name for path in pictures(root)]


def test_a_picture_is_kept_when_its_run_has_begun_and_no_longer_than_its_order_else(studio, root):
    number, name = ordered(studio)
    assert not list(root.glob(f"{PICTURES}/*.used"))
    assert studio.post("/api/stop", {"number": number})[0] == 200  # out of the queue
    _, kept = ordered(studio, 40)
    with marked(str(root / PICTURES / kept)) as mark:  # as the process of a run does
        mark.wanted = True
        studio.runs.sweep()  # of a server that starts while the run of a killed one has not written its config.yaml yet
        assert [path.name for path in pictures(root)] == [kept]
        names_picture(root / "from-a-picture", root / PICTURES / kept)
    studio.runs.sweep()
    assert [path.name for path in pictures(root)] == [kept]
    assert name != kept


def test_a_picture_goes_with_the_last_run_that_names_it(root, tmp_path):
    """Also with one in a folder of several seeds, and with one that is linked from another disk."""
    folder, runs = root / PICTURES, (root / "a", root / "seeds" / "seed-1", root / "linked")
    folder.mkdir(parents=True)
    for name in ("kept", "gone"):
        (folder / f"{name}.png").write_bytes(png())
        (folder / f"{name}.used").touch()
    for run in (*runs[:2], tmp_path / "other disk"):
        names_picture(run, folder / "kept.png")
    runs[2].symlink_to(tmp_path / "other disk")
    Runs(root).sweep()
    for run in runs:
        assert sorted(os.listdir(folder)) == ["kept.png", "kept.used"]
        (run / "config.yaml").unlink()
        Runs(root).sweep()
    assert not folder.exists()


def test_a_run_that_was_killed_elsewhere_may_still_begin(root):
    folder = root / PICTURES
    folder.mkdir(parents=True)
    (folder / "run.png").write_bytes(png())
    (folder / "run.used").write_text("another machine\n12 345")
    Runs(root).sweep()
    assert sorted(os.listdir(folder)) == ["run.png", "run.used"]
    os.utime(folder / "run.used", (time.time() - CLAIM_SECONDS - 9,) * 2)
    Runs(root).sweep()
    assert not folder.exists()


def test_where_a_config_cannot_be_read_no_picture_of_a_run_goes(root):
    folder = root / PICTURES
    folder.mkdir(parents=True)
    for name in ("run.png", "run.used", "left.png"):
        (folder / name).write_bytes(b"")
    (root / "run").mkdir()
    os.mkfifo(root / "run" / "config.yaml")
    (root / "broken").mkdir()
    (root / "broken" / "config.yaml").mkdir()
    Runs(root).sweep()
    assert sorted(os.listdir(folder)) == ["run.png", "run.used"]


def test_a_run_that_wrote_nothing_leaves_the_mark_of_another_run_alone(root):
    (root / PICTURES).mkdir(parents=True)
    file = root / PICTURES / "a.png"
    file.write_bytes(png())
    for fresh in (True, False):
        with marked(str(file)):
            assert file.with_suffix(".used").exists()
        assert file.with_suffix(".used").exists() != fresh
        file.with_suffix(".used").touch()
    with marked(""):
        pass


def test_what_a_killed_server_has_left_is_removed_at_the_next_start(root):
    folder = root / PICTURES
    folder.mkdir(parents=True)
    for name in ("left.png", "used.png", "used.used", ".tmp-0123"):
        (folder / name).write_bytes(png())
    names_picture(root / "run", folder / "used.png")
    (folder / f"{CLAIM}1").write_text(f"{pid_space()}\n{2**22 + 1} 7")  # no process has this number
    Runs(root).sweep()
    assert sorted(os.listdir(folder)) == ["used.png", "used.used"]
    (folder / "used.used").unlink()
    Runs(root).sweep()
    assert not folder.exists()
    Runs(root).sweep()


def test_a_server_leaves_the_pictures_of_another_one_that_lives(root):
    folder = root / PICTURES
    folder.mkdir(parents=True)
    (folder / "theirs.png").write_bytes(png())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (folder / f"{CLAIM}{other.pid}").write_text(f"{pid_space()}\n{other.pid} {started(other.pid)}")
        runs = Runs(root)
        runs.keep_picture(png(40))
        runs.sweep()
        assert [path.name for path in pictures(root)] == ["theirs.png"]
        other.communicate(b"\n")
    runs.sweep()
    assert not folder.exists()
