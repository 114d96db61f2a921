"""Schedules against hand-worked numbers and the formulas of their papers."""

import math
import subprocess
import sys

import pytest

from dreamlift.schedules import SCHEDULES, Constant, Exponential, Linear, Piecewise, Sqrt, Switch, value_at

EXAMPLES = {
    "constant": Constant(0.98),
    "linear": Linear(0.98, 0.02),
    "piecewise": Piecewise(((0.1, 1.0), (0.6, 3.0), (1.0, 2.0))),
    "exponential": Exponential(1.0, 0.1, 0.01, 1.0, warm_up=0.1),
    "sqrt": Sqrt(0.98, 0.3),
    "switch": Switch(0.98, 0.5, 0.2),
}


def test_table_and_examples_name_the_same_schedules():
    assert {name: type(example) for name, example in EXAMPLES.items()} == SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_finite_pure_and_hashable(name):
    schedule = EXAMPLES[name]
    values = [schedule(i / 1000) for i in range(1001)]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    assert values == [value_at(schedule, i / 1000) for i in range(1001)]
    assert hash(schedule) == hash(EXAMPLES[name])


def test_constant_and_plain_numbers():
    assert Constant(7.5)(0.0) == Constant(7.5)(1.0) == value_at(7.5, 0.3) == 7.5
    assert value_at(3, 0.5) == 3.0
    assert isinstance(value_at(3, 0.5), float)


def test_linear_matches_threestudios_rule():
    # threestudio's C([2000, 10, 30, 6000], step) is start + (end - start) * clamp((step - 2000) / 4000).
    schedule = Linear(10.0, 30.0, 0.2, 0.6)
    for step in range(0, 10_001, 50):
        share = max(min(1.0, (step - 2000) / 4000), 0.0)
        assert schedule(step / 10_000) == pytest.approx(10.0 + 20.0 * share, abs=1e-12)
    assert [Linear(0.98, 0.02)(p) for p in (0.0, 1.0)] == [0.98, 0.02]
    assert Linear(4.0, 0.0)(0.25) == 3.0


def test_piecewise_by_hand():
    schedule = EXAMPLES["piecewise"]
    given = (0.0, 0.1, 0.35, 0.6, 0.8, 1.0)
    assert [schedule(p) for p in given] == pytest.approx([1.0, 1.0, 2.0, 3.0, 2.5, 2.0], abs=1e-12)
    assert Piecewise(((0.5, 4.0),))(0.0) == Piecewise(((0.5, 4.0),))(1.0) == 4.0
    for p in (0.0, 0.2, 0.25, 0.3, 1.0):
        assert Piecewise(((0.2, 1.0), (0.3, 0.0)))(p) == pytest.approx(Linear(1.0, 0.0, 0.2, 0.3)(p), abs=1e-12)


def test_sqrt_is_hifas_formula():
    t_min, t_max = 0.3, 0.98
    for step in range(1001):
        expected = t_max - (t_max - t_min) * math.sqrt(step / 1000)
        assert Sqrt(t_max, t_min)(step / 1000) == pytest.approx(expected, abs=1e-12)
    assert [Sqrt(t_max, t_min)(p) for p in (0.0, 0.25, 1.0)] == pytest.approx([0.98, 0.64, 0.3])


def test_switch_changes_at_its_place():
    schedule = Switch(0.98, 0.5, 0.2)
    assert [schedule(p) for p in (0.0, math.nextafter(0.2, 0.0), 0.2, 1.0)] == [0.98, 0.98, 0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(math.nan), "value must be a finite number, got nan"),
        (lambda: Linear(1.0, math.inf), "end_value must be a finite number, got inf"),
        (lambda: Linear(1.0, 0.0, 0.6, 0.6), "0 <= start < end <= 1, got 0.6 and 0.6"),
        (lambda: Linear(1.0, 0.0, 0.0, 5000.0), "0 <= start < end <= 1, got 0.0 and 5000.0"),
        (lambda: Piecewise(()), r"points is empty: give at least one \(progress, value\) pair"),
        (lambda: Piecewise(((0.5, 1.0), (0.5, 2.0))), "points must rise in progress"),
        (lambda: Piecewise(((0.0, 1.0), (2.0, 2.0))), r"within \[0, 1\], got progress \[0.0, 2.0\]"),
        (lambda: Piecewise(((0.0, math.nan),)), "points must be a finite number, got nan"),
        (lambda: Sqrt(-math.inf, 0.0), "start_value must be a finite number, got -inf"),
        (lambda: Switch(0.98, 0.5, 5000.0), r"at is progress in \[0, 1\], got 5000.0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("progress", [-0.01, 1.01, 500, math.nan])
def test_progress_that_is_a_step_is_refused(progress):
    with pytest.raises(ValueError, match=r"progress is a fraction of the run in \[0, 1\] \(step / steps\), got"):
        value_at(1.0, progress)


def test_settings_import_without_torch():
    code = "import sys, dreamlift.schedules, dreamlift.config.build, dreamlift.runs.run; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
