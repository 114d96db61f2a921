"""Messages whose advice must fit the command, and notes on what a command leaves as it was."""

import io
import json
import math
import os
import signal

import pytest
from lift_helpers import generate_words, refused, run_main, small_pictures, status_of
from rich.console import Console

from dreamlift.cli import VERBS
from dreamlift.reading.parse import parse
from dreamlift.runs.progress import Live, Plain, Several, Silent, time_left
from dreamlift.runs.results import older_files
from dreamlift.runs.run import Run
from dreamlift.types import Handover, StageBegan, Step


def test_files_of_an_unfinished_run_and_files_that_grow_old_are_told(cwd, stub, capsys, monkeypatch):
    small_pictures(monkeypatch)
    log = Run.log

    def stopping(self, index, values):
        log(self, index, values)
        if index == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", stopping)
        assert run_main(*generate_words(stub, "run")) == 130
    capsys.readouterr()
    assert run_main("export", "run", "--format", "stl,obj", "--mesh.watertight=false") == 0
    out, err = capsys.readouterr()
    assert "note: this run is unfinished: step 4 of 6; dreamlift resume run goes on\n" in err
    assert out.splitlines() == [os.path.join("run", f"asset.{kind}") for kind in ("stl", "obj", "mtl", "png")]
    assert all((cwd / path).is_file() for path in out.splitlines())
    assert run_main("resume", "run") == 0
    told = (
        "note: asset.obj, asset.stl are older than the new asset.glb; dreamlift export run --format obj,stl writes new ones\n"
    )
    assert told in capsys.readouterr().err


def test_the_note_on_old_files_names_three_and_all_their_formats(tmp_path):
    for name in (
        "asset.glb",
        "asset_lod1.glb",
        "asset.usdz",
        "asset.stl",
        "asset_lod1.stl",
        "asset.3mf",
        "view.html",
        "stage-1.glb",
    ):
        (tmp_path / name).write_bytes(b"")
    told = older_files([tmp_path], ["glb", "usdz"])
    assert told == (
        f"asset.stl, asset_lod1.stl, asset.3mf are older than the new asset.glb; dreamlift export {tmp_path} --format stl,3mf"
        " writes new ones"
    )
    (tmp_path / "particle-2").mkdir()
    (tmp_path / "particle-2" / "asset.3mf").write_bytes(b"")
    assert "asset.3mf and 1 more are older" in older_files([tmp_path, tmp_path / "particle-2"], ["usdz"])
    assert older_files([tmp_path], ["stl", "3mf", "usdz"]) == ""


@pytest.mark.parametrize("verb", ["generate", "resume", "export"])
def test_a_signal_before_a_run_begins_is_told(cwd, capsys, monkeypatch, verb):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, verb, stopped)
    assert run_main("--debug", verb, "settings") == 130  # the latter is a prompt, or a folder
    said = {"generate": "before the run began; nothing was written", "resume": "before the run went on; nothing is lost"}
    assert capsys.readouterr() == (
        "",
        f"dreamlift: stopped{' ' + said[verb] if verb in said else '; the same command again writes all files'}\n",
    )


def test_a_signal_while_a_run_begins_stops_the_run(cwd, stub, capsys, monkeypatch):
    monkeypatch.setattr(Plain, "begin", lambda *_: signal.raise_signal(signal.SIGINT))
    assert run_main(*generate_words(stub, "run")) == 130
    assert status_of(cwd / "run")["status"] == "stopped"
    err = capsys.readouterr().err
    assert "continue with: dreamlift resume run" in err
    assert "nothing was written" not in err


def test_a_folder_of_runs_names_them(cwd, capsys):
    for number in range(5):
        folder = cwd / "outputs" / f"mug-{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({}))
        os.utime(folder, (1e9 + number, 1e9 + number))
    told = "; runs in it: " + ", ".join(os.path.join("outputs", f"mug-{number}") for number in (4, 3, 2)) + " and 2 more"
    for words in (["resume", "outputs"], ["export", "outputs"], ["generate", "--config", "outputs"]):
        refused(capsys, cwd, words, f"outputs is not a run folder: it has no config.yaml{told}")
    assert "runs in it" not in refused(capsys, cwd, ["resume", "outputs/mug-1"], "outputs/mug-1 is not a run folder")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "--lora",
            "the folder 'things' holds no LoRA (pytorch_lora_weights.safetensors) and no learned_embeds.safetensors",
        ),
        ("--embedding", "the embedding file 'things' is a folder"),
        ("--mesh", "the mesh file 'things' is a folder: give --mesh the path of a .glb"),
        ("--photos=[{path: things}]", "things' cannot be used: it is a folder"),
    ],
)
def test_a_folder_in_a_files_place_is_told(cwd, capsys, stub, option, said):
    (cwd / "things").mkdir()
    words = [option] if "=" in option else [option, "things"]
    if option == "--mesh":
        words.append("--preset=texture-toy")
    refused(capsys, cwd, ["generate", "a red mug", "--prior", stub, *words], said)


DECIMAL = {
    ".obj": b"# 1,5 by hand\nv -0,5 1,0 2,0\nv 0,5 1,0 2,0\nv 0,5 0,0 2,5\nf 1 2 3\n",
    ".stl": b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 -0,5 1\nvertex 1 0,5 1\nvertex 1 1,5 1\nendloop\nendfacet\n",
    ".ply": b"ply\nformat ascii 1.0\ncomment 1,5\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 -0,5\n1 0 0\n0 1 0\n3 0 1 2\n",
}


@pytest.mark.parametrize("kind", DECIMAL)
def test_decimal_commas_are_named_with_their_line(kind, tmp_path):
    line = next(n for n, text in enumerate(DECIMAL[kind].split(b"\n"), 1) if b"-0,5" in text)
    with pytest.raises(ValueError, match=rf"^line {line}: '-0,5' is no number \(a decimal comma\? write a point\)$"):
        parse(DECIMAL[kind], kind, tmp_path)
    part, _ = parse(DECIMAL[kind].replace(b",", b"."), kind, tmp_path)
    assert len(part.faces) == 1


# Progress


TERMS = {"grad_rms": 0.0123, "t": 0.412, "rgb": 0.0123, "mask": 0.00123, "opacity": 0.0123, "orient": 0.0123, "sparsity": 0.1}


def two_stages(reporter, monkeypatch, seen):
    """Two stages of 100 steps, of 1 s and of 4 s, with 50 s between them; ``seen`` is called after each step."""
    clock = [0.0]
    monkeypatch.setattr("dreamlift.runs.progress.time.monotonic", lambda: clock[0])
    for number, seconds in enumerate((1.0, 4.0)):
        reporter.event(StageBegan(number, 2, Handover(), 100 * (number + 1)), 200)
        for index in range(100 * number, 100 * (number + 1)):
            clock[0] += seconds
            reporter.event(Step(index, 0.1, TERMS, None, None, ()), 200)
            seen(index)
        clock[0] += 50.0


def test_the_time_left_is_that_of_the_stage(capsys, monkeypatch):
    said = {}
    monkeypatch.setattr("dreamlift.runs.progress.PLAIN_EVERY", -math.inf)  # every step has a line
    two_stages(Plain(), monkeypatch, lambda index: said.update({index: capsys.readouterr().err.strip()}))
    assert said[39].startswith("step 40/200")
    assert said[39].endswith("1.0 it/s  60 s left in this stage")
    assert said[109].endswith("0.2 it/s  6:00 left")  # 90 steps of 4 s: the time between the stages does not count
    assert said[199].endswith("0 s left")
    assert [time_left(*given) for given in ((0, 100, 1.0), (0, 5000, 1.0), (0, 5000, 1.0, 51))] == [
        "99 s left", "1:23:19 left", "50 s left in this stage",
    ]  # fmt: skip


def test_a_narrow_terminal_shows_the_count_and_the_time_left(monkeypatch):
    live, lines = Live(), {}

    def seen(index):
        console = Console(width=80, file=io.StringIO(), color_system=None)
        console.print(live.bar.get_renderable())
        lines[index] = console.file.getvalue().splitlines()

    live.bar.start = lambda: None
    two_stages(live, monkeypatch, seen)
    assert all(len(shown) == 1 for shown in lines.values())  # a stage takes the bar of the one before away
    assert "it/s" not in lines[0][0]
    assert " 40/200 60 s left in this stage 1.0 it/s  grad 0.0" in lines[39][0]
    assert " 110/200 6:00 left 0.2 it/s  grad 0.0123  t 0.412" in lines[109][0]


def test_several_reporters_hear_of_stages(capsys):
    plain = Plain()
    Several(Silent(), plain).event(StageBegan(0, 2, Handover(), 100), 200)
    assert plain.end == 100
    assert capsys.readouterr().err == "stage 1 of 2\n"
