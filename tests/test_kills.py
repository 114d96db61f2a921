"""What benchmarks/kills.py counts as lost or half, and the start of a run that was killed between its first files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from run_helpers import HASH, refused

from dreamlift.runs.run import Run, check_out

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import kills


def test_who_imports_it_keeps_their_threads():
    """It gives its own runs one thread each; the variable must not reach the runs of other tests."""
    code = "import os; os.environ.clear(); import kills; assert not os.environ"
    subprocess.run([sys.executable, "-c", code], cwd=Path(kills.__file__).parent, check=True)


@pytest.fixture
def folders(tmp_path):
    """A run that nobody killed, and a copy of its beginning."""
    for name in ("whole", "killed"):
        folder = tmp_path / name
        (folder / "checkpoints/step-000002").mkdir(parents=True)
        (folder / "config.yaml").write_text("steps: 4\n")
        (folder / "checkpoints/step-000002/state.json").write_text("{}")
        (folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
        (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    (tmp_path / "whole/asset.glb").write_bytes(b"whole")
    return tmp_path / "killed", tmp_path / "whole"


def half(killed, whole):
    return kills.half_files(killed, [kills.files_of(whole)], kills.steps_logged(whole))


def test_a_beginning_has_no_half_files(folders):
    killed, whole = folders
    (killed / ".tmp-12").write_bytes(b"ha")
    (killed / "checkpoints/.tmp-13").mkdir()
    (killed / "checkpoints/.tmp-13/state.json").write_text("{")
    (killed / "metrics.jsonl").write_text('{"step": 0}\n{"ste')
    assert half(killed, whole) == []
    assert kills.temporary(killed)
    assert not kills.temporary(whole)
    assert kills.newest(killed) == {"checkpoints": 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("asset.glb", "who"), ("config.yaml", ""), ("checkpoints/step-000002/state.json", "{"), ("run.json", '{"status"'),
        ("metrics.jsonl", '{"step": 1}\n'), ("unknown.bin", "x"),
    ],
)  # fmt: skip
def test_every_half_file_is_found(folders, name, text):
    killed, whole = folders
    (killed / name).write_text(text)
    assert half(killed, whole) == [name]


def test_the_end_must_have_the_same_bytes(folders):
    killed, whole = folders
    assert kills.ends_like(killed, whole) == ["asset.glb"]
    (killed / "asset.glb").write_bytes(b"whole")
    assert kills.ends_like(killed, whole) == []
    (killed / "run.json").write_text(json.dumps({"status": "running"}))
    (killed / "metrics.jsonl").write_text('{"step": 0}\n')
    assert kills.ends_like(killed, whole) == ["metrics.jsonl", "run.json"]


def test_the_table_adds_up():
    told = {
        "a": {"warm": {"kills": 5, "folders": 1}, "fresh": {"kills": 2, "folders": 1, "inside a write": 1}},
        "b": {"warm": {"kills": 1, "folders": 1, "lost": 1}, "full disk": {"tried": 3, "failed": 2}},
    }
    lines = kills.table(told).splitlines()
    assert "| a | 5 | 2 | 1 | 2 | 0 | 0 | 0 |" in lines
    assert "| all | 6 | 2 | 1 | 3 | 1 | 0 | 0 |" in lines
    assert "| full disk | 3 | 2 | 0 | 0 | 0 |" in lines


def test_a_run_killed_between_its_first_files_is_begun_by_the_same_command(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("steps: 3\n")
    (folder / ".tmp-0123456789abcdef").write_text("half of run.json")
    check_out(folder)
    refused(lambda: Run.create(folder, "a mug", config_hash=HASH, config_text="steps: 4\n"), "is not empty")
    Run.create(folder, "a mug", config_hash=HASH, config_text="steps: 3\n").close()
    assert (folder / "run.json").is_file()
    with Run.open(folder, config_hash=HASH):
        assert not (folder / ".tmp-0123456789abcdef").exists()


def test_the_first_command_is_given_again_where_no_run_was_written(folders):
    killed, _ = folders
    tally: Counter[str] = Counter()
    case = kills_case()
    assert kills.next_words(case, killed, tally) == ["resume"]
    (killed / "run.json").unlink()
    assert kills.next_words(case, killed, tally) == ["generate"]
    assert tally == {"between the first two files": 1}


def kills_case():
    from kills_cases import Case

    return Case("a", lambda folder: ["generate"], lambda folder: ["resume"])
