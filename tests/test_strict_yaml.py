"""YAML that means what it looks like, and refuses the rest quickly."""

import math
import time

import pytest

from dreamlift.config import yaml
from dreamlift.config.build import ConfigError, load_yaml
from dreamlift.config.schema import Config

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


READ = {  # what people's editors make of a config: text -> (prompt, seed)
    "y01 CRLF": ("prompt: a red mug\r\nseed: 2\r\n", ("a red mug", 2)),
    "y02 byte order mark": ("\ufeffprompt: a red mug\nseed: 2\n", ("a red mug", 2)),
    "y08 few keys": ("prompt: a red mug\nstages: [{type: lift, steps: 2}]\n", ("a red mug", 0)),
    "y12 document marks": ("---\nprompt: a red mug\nseed: 2\n...\n", ("a red mug", 2)),
    "y14 empty": ("", ("", 0)),
    "y15 JSON": ('{"prompt": "a red mug", "seed": 2}', ("a red mug", 2)),
    "y18 no-break space": ("prompt: a red\u00a0mug\n", ("a red\u00a0mug", 0)),
    "y19 typographic quotes": ("prompt: \u201ca red mug\u201d\n", ("\u201ca red mug\u201d", 0)),
    "y21 comments": ("# my settings\nprompt: a red mug # the thing\nseed: 2\n", ("a red mug", 2)),
}


@pytest.mark.parametrize("name", READ)
def test_configs_of_peoples_editors_are_read(name):
    text, expected = READ[name]
    config = load_yaml(Config, text, "c.yaml")
    assert (config.prompt, config.seed) == expected


def test_a_windows_path_is_read_without_quotes_and_in_single_ones():  # y07b
    for quote in ("", "'"):
        path = r"C:\Users\me\duck.glb"
        assert load_yaml(Config, f"prompt: a duck\ninitial_mesh: {quote}{path}{quote}\n", "c.yaml").initial_mesh == path


REFUSED = {
    "y04 tab as indentation": ("prompt: a red mug\nstages:\n\t- steps: 2\n", r"line 3, column 1: .*; a tab: write spaces"),
    "y05 tab after a colon": ("prompt:\ta red mug\n", r"line 1, column 8: .*; a tab: write spaces"),
    "y07 path in double quotes": (
        'initial_mesh: "C:\\Users\\me"\n',
        r"line 1, .*; a backslash begins an escape in double quotes",
    ),
    "another escape": (
        'prompt: "a\\_mug \\q"\n',
        r"; a backslash begins an escape in double quotes: write .* in single quotes",
    ),
    "y09 unknown key": ("prompt: a red mug\nstep: 2\n", r"step: unknown name, accepted: .*did you mean"),
    "y10 yes": ("memory: {check: yes}\n", r"memory\.check: got 'yes', accepted: true or false"),
    "y11 a number as text": ('seed: "2"\n', r"seed: got '2', accepted: a whole number"),
    "y13 two documents": ("prompt: a\n---\nprompt: b\n", r"line 2, .*; one file holds one config: remove what follows ---"),
    "y16 anchor": ("prompt: &p a red mug\nnegative: *p\n", r"anchors \(&name\) and aliases .* write the value out"),
    "y17 colon in the prompt": ("prompt: a mug: red\n", r"line 1, column 14: .*; text with a colon and a space needs quotes"),
    "y20 threestudio": ('name: "dreamfusion-sd"\ndata_type: "x"\n', r"name: unknown name, accepted: prompt,"),
    "an older config": ("prompt: a red mug\nsteps: 2\n", r"steps: older config formats had this name.*stages\[0\]\.steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_configs_that_are_refused_say_where_and_what_to_write(name):
    text, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said) as caught:
        load_yaml(Config, text, "c.yaml")
    assert "\n" not in str(caught.value)
