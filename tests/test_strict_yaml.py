"""YAML that means what it looks like, and refuses the rest quickly."""

import math
import time

import pytest

from dreamlift.config import yaml

SCALARS = {
    "3": 3, "-7": -7, "+5": 5, "0": 0, "1e-3": 1e-3, "1.": 1.0, ".5": 0.5, "6.02E+23": 6.02e23, "true": True,
    "FALSE": False,
    "null": None, "~": None, "no": "no", "on": "on", "yes": "yes", "010": "010", "0x1f": "0x1f", "1_000": "1_000",
    "1:30": "1:30", "2024-01-01": "2024-01-01", "=": "=", "tRue": "tRue", "1e": "1e", "'3'": "3", ".inf": math.inf,
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_of_the_core_schema(text):
    found = yaml.load(f"x: {text}")["x"]
    assert (type(found), found) == (type(SCALARS[text]), SCALARS[text])
    assert yaml.load(f"[{text}]", leaves_as_text=True) == [text.strip("'")]


def test_every_character_survives():
    # One YAML document for many characters: each alone, and inside of a word.
    for start in (*range(0, 0x3000, 512), *range(0xD800, 0xE100, 512), *range(0xFD00, 0x10000, 512), 0x1F600, 0x10FE00):
        texts = [chr(code) for code in range(start, start + 512)]
        data = {"alone": texts, "inside": [f"a{text}b" for text in texts]}
        assert yaml.load(yaml.dump(data)) == data


def test_plain_data_round_trips():
    data = {
        "floats": [1e-5, 1e16, 1e22, 0.1, 5e-324, 123456789.123456789], "ints": [0, -1, 10**40], "flags": [True, None],
        "nested": [[1, [2.5]], [{"a": []}, {}]], "": {"3": "x", "null": "y", "a: b": "z", "<<": "w"},
        "long": "x y " * 500,
    }  # fmt: skip
    text = yaml.dump({**data, "same": data["floats"]})
    assert yaml.load(text) == {**data, "same": data["floats"]}
    assert "&" not in text


def test_bombs_are_refused_at_once():
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    laughs += "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    bombs = {
        laughs: "line 1, column 4: anchors",
        "[" * 100_000: "nested deeper than 30",
        "- " * 100_000: "nested deeper than 30",
        "{a: " * 100_000: "nested deeper than 30",
        "[" + "1," * 400_000 + "]": "more than 20,000 values",
        "x" * 1_000_001: "the YAML text is larger than 1,000,000 bytes",
        "茶" * 400_000: "the YAML text is larger than 1,000,000 bytes",
    }
    for bomb, expected in bombs.items():
        began = time.process_time()
        with pytest.raises(ValueError, match=expected):
            yaml.load(bomb)
        assert time.process_time() - began < 10.0
