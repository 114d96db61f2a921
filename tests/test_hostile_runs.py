"""Run folders that were damaged or made to harm: ``evaluate``, ``gallery`` and ``resume`` end well or in one clear line."""

import json
import math
import random
import struct

import numpy as np
import pytest
import torch
from lift_helpers import run_main

from dreamlift.export.glb import save_glb
from dreamlift.export.video import save_turntable
from dreamlift.runs.run import Run, RunError, read_metrics, read_status
from dreamlift.toybox.judging.score import Score, Scored
from dreamlift.types import Mesh

ODD = [
    None, True, -1, 0, 1e999, math.nan, 10**400, -5.5, "x", "1e3", "", [], {}, [None] * 2000, [[[]]], {"a": 1},
    "a \x1b[31m\u202e mug", "x" * 5000,
]  # fmt: skip


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, whose asset is read but not judged, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float32)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))], dtype=np.int32)
    uvs, picture = (corners[:, :2] + 1) / 2, np.full((8, 8, 3), 200, dtype=np.uint8)
    with Run.create("run", "a red mug") as made:
        save_glb(Mesh(corners, faces, uvs=uvs, base_color=picture), made.folder / "asset.glb", {"placement": {"scale": 0.5,
                 "offset": [0.0, 0.0, 0.0]}})  # fmt: skip
        save_turntable(torch.zeros(2, 8, 8, 3), made.folder / "turntable.webp")
        made.set_status("finished", {"seconds": 61.3, "peak_memory_gb": 1.25, "metrics": {"faces": 12.0}, "plugins": []})
    nan = math.nan
    score = Score(nan, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    views = torch.zeros(8, 8, 8, 3)
    scored = Scored(score, views, views, ("mug",) * 8, torch.ones(8, 4) / 2)
    monkeypatch.setattr("dreamlift.apps.evaluate.score_mesh", lambda *_: scored)
    monkeypatch.setattr("dreamlift.apps.evaluate.load_judge", lambda: (type("Judge", (), {"categories": ("mug",)}), {}))
    return tmp_path / "run"


def status_like(good, pick):
    """The bytes of ``run.json`` after one change: a value, a missing key, flipped bytes, or other content."""
    how, found = pick.randrange(4), json.loads(good)
    if how == 0:
        found[pick.choice([*found, "particles", "seconds", "peak_memory_gb", "prompt"])] = pick.choice(ODD)
        return json.dumps(found).encode()
    if how == 1:
        del found[pick.choice(list(found))]
        return json.dumps(found).encode()
    if how == 2:
        data = bytearray(good)
        for _ in range(pick.randrange(1, 6)):
            data[pick.randrange(len(data))] = pick.randrange(256)
        return bytes(data)
    deep = good.rstrip().removesuffix(b"}") + b', "seconds": ' + nested(900).encode() + b"}"
    others = [
        b"",
        b"[]",
        b"null",
        nested(100_000).encode(),
        json.dumps(ODD).encode(),
        b"9" * 5000,
        good.decode().encode("utf-16"),
    ]
    return pick.choice([*others, deep, good[: pick.randrange(len(good))]])


def leaves(value, path=()):
    """The paths of all values inside nested lists and dicts."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield (*path, key)
        yield from leaves(each, (*path, key))


def glb_like(good, pick):
    """The bytes of a GLB after one change: flipped bytes, a cut, or another value in its JSON."""
    how, data = pick.randrange(3), bytearray(good)
    if how == 0:
        for _ in range(pick.randrange(1, 6)):
            data[pick.randrange(len(data))] = pick.randrange(256)
        return bytes(data)
    if how == 1:
        return good[: pick.randrange(len(data))]
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    *parents, last = pick.choice(list(leaves(document)))
    place = document
    for key in parents:
        place = place[key]
    place[last] = pick.choice(ODD)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = good[20 + size :]
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest


def check_end(capsys, words, where):
    """The command succeeds or says in one line what is wrong with which file; nothing raw is printed."""
    code = run_main(*words)
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), where
    assert err.replace("\n", "").isprintable(), where
    assert out.replace("\n", "").isprintable(), where
    if code:
        *_, last = err.splitlines()
        assert last.startswith("dreamlift: error: "), (where, last)
        assert "unexpected" not in last, (where, last)
        assert len(last) <= len("dreamlift: error: ") + 300, (where, last)
        assert "run" in last, (where, last)
    return code


@pytest.mark.parametrize("first", [0, 35])
def test_seventy_damaged_statuses(run, capsys, first):
    good, codes = (run / "run.json").read_bytes(), []
    for seed in range(first, first + 35):
        (run / "run.json").write_bytes(status_like(good, random.Random(seed)))
        codes.append(check_end(capsys, ["evaluate", "run", "--out", f"e{seed}"], seed))
        if seed % 5 == 0:
            assert check_end(capsys, ["gallery", "run", "--out", f"g{seed}"], seed) == codes[-1]
    assert 5 < codes.count(0) < 30


def test_seventy_damaged_assets(run, capsys):
    good, codes = (run / "asset.glb").read_bytes(), []
    for seed in range(70):
        (run / "asset.glb").write_bytes(glb_like(good, random.Random(seed)))
        codes.append(check_end(capsys, ["evaluate", "run", "--out", f"e{seed}"], seed))
    assert 5 < codes.count(0) < 65


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seconds", None, "seconds is None, accepted: a number of at least 0; restore it"),
        ("seconds", math.nan, "seconds is nan, accepted: a number"),
        ("seconds", 10**400, "accepted: a number of at least 0"),
        ("peak_memory_gb", [1.0], "peak_memory_gb is a list, accepted: a number"),
        ("particles", 3, "particles is 3, accepted: a list of 1 to 1000 entries"),
        ("particles", [None] * 1001, "particles is a list, accepted: a list of 1 to 1000 entries"),
        ("plugins", "my.py", "plugins is 'my.py', accepted: a list of names"),
        ("prompt", ["a"], "prompt is a list, accepted: text"),
    ],
)
def test_values_of_a_wrong_kind_are_named(run, name, value, said):
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**status, name: value}))
    with pytest.raises(RunError) as caught:
        read_status(run)
    assert "run.json was changed: " in str(caught.value)
    assert said in str(caught.value)
    with pytest.raises(RunError):
        Run.open(run)


def test_deep_nesting_and_large_statuses_are_refused(run):
    (run / "run.json").write_text('{"schema": 1, "prompt": ' + nested(100_000) + "}")
    with pytest.raises(RunError, match=r"run.json was changed and cannot be read \(nested too deeply\): restore it"):
        read_status(run)
    with open(run / "run.json", "wb") as file:
        file.truncate(3 << 30)  # sparse
    with pytest.raises(RunError, match="has 3,221,225,472 bytes; accepted: at most 10,000,000 bytes"):
        read_status(run)


def test_a_particle_without_its_asset_and_a_large_asset_are_named(run, capsys):
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**status, "particles": [{}, {}]}))
    assert check_end(capsys, ["evaluate", "run", "--out", "e"], "particle") == 1
    (run / "run.json").write_text(json.dumps(status))
    with open(run / "asset.glb", "wb") as file:
        file.truncate(3 << 30)  # sparse
    assert check_end(capsys, ["evaluate", "run", "--out", "e"], "large") == 2


def test_hostile_prompts_are_shown_as_text(run, capsys):
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**status, "prompt": "\x1b[31mred\u202e\n<script>alert(1)</script>"}))
    assert run_main("evaluate", "run", "--out", "e") == 0
    out, err = capsys.readouterr()
    assert "\\x1b[31mred\\u202e\\n" in out
    assert (out + err).replace("\n", "").isprintable()
    page = (run.parent / "e" / "index.html").read_text()
    assert "<script>alert" not in page
    assert run_main("gallery", "run", "--out", "g") == 0
    page = (run.parent / "g" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_hostile_lines_of_the_logs_and_locks_stop_nothing(run):
    lines = [
        b'{"step": 0, "loss": 1.0, "step": 0}',
        nested(100_000).encode(),
        b"\xff\xfe",
        b'{"step": 1e999}',
        b'{"step": "1"}',
        b"9" * 5000,
    ]
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert [line["step"] for line in read_metrics(run)] == [0]
    for lock in ('{"pid": 1e999, "host": "a"}', nested(100_000), '{"pid": ' + "9" * 5000 + "}", "\x1b[31m"):
        (run / ".lock").write_text(lock)
        Run.open(run).close()
