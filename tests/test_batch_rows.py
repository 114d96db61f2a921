"""The list of a batch: three kinds of files, every faulty line told at once, and settings as `dreamlift generate` has them."""

from __future__ import annotations

import argparse
import json
import re
import shutil

import pytest
from lift_helpers import TINY, tree

from dreamlift.apps.start import config_of
from dreamlift.batch.options import as_generate, seconds, shard, size
from dreamlift.batch.plan import Planner, config_from, plan
from dreamlift.batch.rows import RowsError, read_rows
from dreamlift.cli import main, split_overrides
from dreamlift.config.build import to_plain
from dreamlift.priors.loading.sources import EMBEDDED
from dreamlift.verbs import build_parser


def rows_of(folder, name, text, **how):
    path = folder / name
    path.write_text(text, **{"encoding": "utf-8", **how})
    return [(row.line, row.cells) for row in read_rows(path)]


def planned(path, *words):
    rest, overrides = split_overrides(["batch", str(path), "--out", "runs", *map(str, words)])
    arguments = build_parser().parse_args(rest)
    planner = Planner(as_generate(arguments), overrides, path.parent, "cpu")
    return plan(read_rows(path), planner, path)


def test_the_three_kinds_of_lists(tmp_path):
    text = "\ufeff# colours\r\na red mug\r\n\r\n  a blue chair \r\n#a car\r\n"
    assert rows_of(tmp_path, "a.txt", text, newline="") == [(2, {"prompt": "a red mug"}), (4, {"prompt": "a blue chair"})]
    text = 'prompt,seed,guidance.guidance_scale,texture-size\n"a mug, red",3,7.5,\n\na chair,,,512\n'
    assert rows_of(tmp_path, "a.csv", text) == [
        (2, {"prompt": "a mug, red", "seed": "3", "guidance.guidance_scale": "7.5"}),
        (4, {"prompt": "a chair", "texture_size": "512"}),
    ]
    lines = [{"prompt": "a mug", "seed": 3, "cameras.resolution": [64], "watertight": True, "negative": None}, {"prompt": "é"}]
    text = "\n\n".join(json.dumps(line) for line in lines)
    assert rows_of(tmp_path, "a.jsonl", text) == [
        (1, {"prompt": "a mug", "seed": "3", "cameras.resolution": "[64]", "watertight": "true"}), (3, {"prompt": "é"})
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "prompt,guidance_scale\na,1\n", ["line 1: the column 'guidance_scale' is unknown; did you mean guida"]),
        ("a.csv", "prompt,sede\na,1\n", ["line 1: the column 'sede' is unknown; did you mean seed?"]),
        ("a.csv", "prompt,seed,seed\na,1,1\n", ["line 1: the column 'seed' stands there twice"]),
        ("a.csv", "prompt,device\na,cpu\n", ["line 1: the column 'device' is not accepted: give --device once, for all"]),
        ("a.csv", "prompt;seed\na;1\n", ["line 1: the columns are separated by semicolons"]),
        ("a.csv", "prompt,seed\na mug, red,1\nb,1\nc\n", ["line 2: 3 cells, but there are 2 columns", "line 4: 1 cells"]),
        ("a.csv", 'prompt\n"a\n', ["line 2: it is no CSV: unexpected end of data"]),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"\n[1]\n{"a": 1, "a": 2}\n', ["line 2: it is no JSON", "line 3: it is a list",
                                                                     "line 4: it is no JSON: a name stands in it twice"]),
    ],
)  # fmt: skip
def test_faulty_lines_are_named_together(tmp_path, name, text, expected):
    with pytest.raises(RowsError) as caught:
        rows_of(tmp_path, name, text)
    assert len(caught.value.told) == len(expected)
    assert all(told.startswith(part) for told, part in zip(caught.value.told, expected, strict=True)), caught.value.told


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"# nothing\n", "has no assets: write one prompt a line"),
        ("a.csv", b"prompt,seed\n", "has no assets: write the columns in the first line, such as prompt,seed, and below it"),
        ("a.jsonl", b"\n", 'has no assets: write an object a line, such as {"prompt"'),
        ("a.txt", "a caf\xe9".encode("latin-1"), "is not UTF-8 text (the byte 0xE9 in line 1, column 6"),
        ("a.txt", b"a\n" * 1001, "has 1,001 assets; accepted: at most 1,000"),
        ("a.xlsx", b"PK", "is no list: accepted are .txt, .csv, .jsonl files"),
    ],
)
def test_files_that_are_no_lists(tmp_path, monkeypatch, name, data, expected):
    monkeypatch.setattr("dreamlift.batch.rows.MAX_ROWS", 1000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_rows(tmp_path / name)
    with pytest.raises(ValueError, match="there is no list file"):
        read_rows(tmp_path / "missing.txt")


def test_a_row_is_what_generate_makes_of_the_same_options(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "prompt,seed,preset,steps,guidance.guidance_scale,format,no_texture,name\n"
        "a red mug,3,,40,7.5,\"glb,obj\",true,mug\na blue chair,,vsd-toy,,,,,\na green car,5,vsd-toy,,,,,\n"
    )  # fmt: skip
    found = planned(path, "--faces", 700, "--mesh.resolution", 40, "--seed", 9)
    words = [
        [
            "a red mug",
            "--seed",
            "3",
            "--steps",
            "40",
            "--guidance.guidance_scale",
            "7.5",
            "--format",
            "glb,obj",
            "--no-texture",
        ],
        ["a blue chair", "--preset", "vsd-toy", "--seed", "9"],
        ["a green car", "--preset", "vsd-toy", "--seed", "5"],
    ]
    for entry, own in zip(found.entries, words, strict=True):
        rest, overrides = split_overrides(["generate", *own, "--faces", "700", "--mesh.resolution", "40"])
        expected = config_of(build_parser().parse_args(rest), overrides)
        assert to_plain(config_from(entry, found.settings[entry.settings], "auto")) == to_plain(expected)
        assert entry.preset == (own[own.index("--preset") + 1] if "--preset" in own else "toybox")
    assert [entry.folder for entry in found.entries] == ["mug", *(f"{name}-{entry.id}" for name, entry in zip(
        ("a-blue-chair", "a-green-car"), found.entries[1:], strict=True))]  # fmt: skip
    assert len(found.settings) == 2  # two rows share theirs


def test_the_id_is_that_of_the_asset(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a red mug\n")

    def id_of(*words):
        return planned(path, "--prior", EMBEDDED / "toybox", *words).entries[0].id

    first = id_of()
    assert id_of() == first
    assert id_of("--device", "cpu", "--checkpoint-every", 3, "--keep-checkpoints", 5) == first  # they change nothing of it
    assert len({first, id_of("--seed", 1), id_of("--steps", 9), id_of("--faces", 9)}) == 4
    copy = tmp_path / "prior"
    shutil.copytree(EMBEDDED / "toybox", copy)
    assert planned(path, "--prior", copy).entries[0].id != first  # a prior is a setting, and that is its folder
    second = planned(path, "--prior", copy).entries[0].id
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")  # another revision
    assert planned(path, "--prior", copy).entries[0].id != second


def test_the_preset_is_that_of_each_row_and_no_part_of_the_id(cwd):
    (cwd / "mine.yaml").write_text("negative: blurry\n")
    (cwd / "a.csv").write_text("prompt,preset,config,steps\na red mug,magic3d-toy,,9\na blue mug,,mine.yaml,\na car,,,\n")
    found = planned(cwd / "a.csv").entries
    assert [entry.preset for entry in found] == ["magic3d-toy", "", "toybox"]
    (cwd / "b.txt").write_text("a car\n")
    assert planned(cwd / "b.txt", "--preset", "toybox").entries[0].id == found[2].id


def test_a_picture_counts_by_its_content_and_lies_beside_the_list(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    picture = Image.new("RGBA", (64, 64))
    picture.paste((255, 0, 0, 255), (16, 16, 48, 48))
    for name in ("one", "two"):
        picture.save(tmp_path / "lists" / f"{name}.png")
    picture.paste((0, 255, 0, 255), (16, 16, 48, 48))
    picture.save(tmp_path / "lists" / "three.png")
    path = tmp_path / "lists" / "a.csv"
    path.write_text("image,prompt,elevation\none.png,a red mug,10\ntwo.png,a red mug,10\nthree.png,a red mug,10\n")
    found = planned(path)
    assert [entry.photos[0]["path"] for entry in found.entries] == [
        str(tmp_path / "lists" / f"{n}.png") for n in ("one", "three")
    ]
    assert all(entry.photos[0]["elevation_deg"] == 10.0 for entry in found.entries)
    path.write_text("image,prompt\none.png,\nfour.png,\n")
    with pytest.raises(RowsError) as caught:
        planned(path)
    assert len(caught.value.told) == 1
    assert caught.value.told[0].startswith("line 3: ")
    assert "four.png" in caught.value.told[0]


def test_nothing_is_started_while_any_row_is_faulty(cwd, capsys):
    rows = ["prompt,seed,name,guidance.guidance_scale", "a red mug,x,,", "a dragon,1,,", "a red mug,1,,high", ",1,,",
            "a red mug,1,Mug!,", "a red mug,1,mug,", "a blue mug,1,mug,", *["a dragon,1,,"] * 20]  # fmt: skip
    (cwd / "a.csv").write_text("\n".join(rows) + "\n")
    before = tree(cwd)
    assert main(["batch", "a.csv", "--out", "runs", *TINY]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "dreamlift: error: 26 lines of a.csv cannot be used, and nothing was started: mend what is listed above"
    expected = ["line 2: seed: got 'x', accepted: int",
                "line 3 and 20 more: the prior toybox-geometry knows no noun of 'a dragon'",
                "line 4: guidance.guidance_scale: got 'high'", "line 5: the prompt is empty",
                "line 6: the name 'Mug!' is not accepted",
                "line 8: the name 'mug' is that of line 7"]  # fmt: skip
    assert all(line.startswith(part) for line, part in zip(lines, expected, strict=False)), lines
    assert tree(cwd) == before


def test_equal_rows_are_made_once(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("a red mug\na blue mug\na red mug\n")
    assert [entry.line for entry in planned(path).entries] == [1, 2]


@pytest.mark.parametrize(("text", "value"), [("12GB", 12e9), ("500 MB", 5e8), ("1.5TiB", 1.5e12), ("2e9", 2e9)])
def test_sizes(text, value):
    assert size(text) == value


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1.5h", 5400), ("2d", 172800), ("30", 30)])
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(("kind", "text"), [(size, "many"), (size, "0"), (size, "1.2.3GB"), (seconds, "-3s"), (seconds, "1y"),
                                            (shard, "0/3"), (shard, "4/3"), (shard, "1")])  # fmt: skip
def test_what_is_no_size_time_or_part(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="accepted:"):
        kind(text)


def test_parts_of_a_list_are_all_of_it(tmp_path):
    assert sorted(x for part in ("1/3", "2/3", "3/3") for x in range(10)[slice(shard(part)[0], None, shard(part)[1])]) == [
        *range(10)
    ]
