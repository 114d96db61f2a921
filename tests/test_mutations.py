"""Damaged files of each kind end in one clear line, or in the geometry that trimesh finds: benchmarks/mutations.py in small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dreamlift.reading import mesh as load
from dreamlift.reading.parse import parse


def _module():
    path = Path(__file__).parents[1] / "benchmarks" / "mutations.py"
    spec = importlib.util.spec_from_file_location("mutations", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


mutations = _module()


@pytest.mark.parametrize("kind", mutations.KINDS)
def test_twenty_damaged_files_of_each_kind(kind, monkeypatch):
    monkeypatch.setattr(load, "parse_limited", parse)
    outcomes = [mutations.KINDS[kind](seed) for seed in range(20)]
    assert [(seed, outcome.end, outcome.said) for seed, outcome in enumerate(outcomes) if outcome.fault] == []
    assert any(outcome.end == "refused" for outcome in outcomes)


def test_the_judge_can_tell_a_wrong_mesh(monkeypatch):
    """A reader that loses a triangle, or that raises, is at fault."""
    monkeypatch.setattr(load, "parse_limited", parse)
    torus = mutations.torus()
    data = mutations.trimesh.exchange.stl.export_stl(torus)
    assert mutations.judged(data, data, "stl").end == "equal"
    right = load.placed

    def worse(part, up):
        return right(load.dataclasses.replace(part, faces=part.faces[1:]), up)

    monkeypatch.setattr(load, "placed", worse)
    assert mutations.judged(data, data, "stl").end == "differs"

    def crash(part, up):
        raise IndexError("list index out of range")

    monkeypatch.setattr(load, "placed", crash)
    assert mutations.judged(data, data, "stl").end == "crash"
