"""Short names of settings: what each stands for, and that none is ambiguous."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from dreamlift.config.build import ConfigError, apply_overrides, describe_fields
from dreamlift.config.schema import Config
from dreamlift.config.short import describe, override, shortened, whole, with_prior
from dreamlift.guidance.vsd import VSD
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import COLORED, TOYBOX
from dreamlift.priors.choice import PriorChoice
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.stages import STAGES
from dreamlift.stages.base import Stage, with_priors
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Teacher
from dreamlift.types import LoraFile


@dataclass(frozen=True, kw_only=True)
class Pause(Stage):
    """A stage with one setting of its own and no teacher."""

    pause: int = 3

    def total_steps(self, particles):
        return 0

    def check(self, place): ...

    def begin(self, ready):
        raise NotImplementedError


WHOLE = {
    "steps": "stages.0.steps", "scene.type": "stages.0.scene.type", "cameras.views": "stages.0.cameras.views",
    "adam.lr_scale.type": "stages.0.adam.lr_scale.type", "photometric": "stages.0.photometric",
    "weights": "stages.0.weights", "teachers.1.weight": "stages.0.teachers.1.weight",
    "guidance.guidance_scale": "stages.0.teachers.0.guidance.guidance_scale", "show": "stages.0.teachers.0.show",
    "prior": "stages.0.teachers.0.prior", "prior.name": "stages.0.teachers.0.prior.name",
    "prior.loras.0.scale": "stages.0.teachers.0.prior.loras.0.scale", "wording.blend": "stages.0.teachers.0.wording.blend",
    "weight": "stages.0.teachers.0.weight",
    # names of the run itself, whole names, and names that nothing has
    "seed": "seed", "mesh.faces": "mesh.faces", "backdrops.0.color": "backdrops.0.color", "stages.1.steps": "stages.1.steps",
    "stages": "stages", "stepz": "stepz", "then.0.steps": "then.0.steps", "": "",
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_whole_names_by_hand(name):
    assert whole(TOYBOX, name) == whole(Config(), name) == WHOLE[name]


def test_a_short_name_means_the_first_stage_that_has_the_setting(monkeypatch):
    monkeypatch.setitem(STAGES, "pause", Pause)
    config = Config(stages=(Pause(), Lift(), Lift()))
    assert [whole(config, name) for name in ("pause", "steps", "guidance.type", "scene.type")] == [
        "stages.0.pause", "stages.1.steps", "stages.1.teachers.0.guidance.type", "stages.1.scene.type",
    ]  # fmt: skip
    assert shortened(config, "stages.1.steps") == "steps"
    assert shortened(config, "stages.1.teachers.0.show") == "show"
    assert shortened(config, "stages.2.steps") == "stages.2.steps"
    assert override(config, {"steps": "7", "pause": "5", "show": "normal"}).stages == (
        Pause(pause=5), Lift(steps=7, teachers=(Teacher(show="normal"),)), Lift(),
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_has_one_short_name_which_stands_for_it_again(name):
    config = PRESETS[name]
    long = [row[0] for row in describe_fields(config)]
    short = [row[0] for row in describe(config)]
    assert short == [shortened(config, each) for each in long]
    assert [whole(config, each) for each in short] == long
    assert len(set(short)) == len(short)
    assert [row[1:] for row in describe(config)] == [row[1:] for row in describe_fields(config)]
    left = [each for each in short if each.startswith("stages.0.")]
    # All else of the first stage has a shorter name, except what no lift has: a short name of it would be an option of its own.
    assert [each for each in left if whole(Config(), each.removeprefix("stages.0.")) != each.removeprefix("stages.0.")] == []
    assert left[0] == "stages.0.type"
    assert len(left) == 1 or not isinstance(config.stages[0], Lift)
    assert not any(each.startswith("stages.0.teachers.0.") for each in short)


@pytest.mark.parametrize("name", PRESETS)
def test_the_short_rows_of_a_preset_are_the_whole_preset(name):
    config = PRESETS[name]
    assert override(Config(), {row[0]: row[2] for row in describe(config)}) == config


def test_short_and_whole_names_go_together_in_any_order():
    given = {"steps": "7", "stages.1.steps": "9", "guidance.type": "vsd", "guidance.lora_lr": "1e-3", "seed": "4"}
    for turn in (1, -1):
        found = override(TOYBOX, dict(list(given.items())[::turn]))
        assert [stage.steps for stage in found.stages] == [7, 9]
        assert found.stages[0].teachers[0].guidance == VSD(lora_lr=1e-3)
        assert found.stages[1].teachers == TOYBOX.stages[1].teachers
        assert found.seed == 4
    assert apply_overrides(TOYBOX, {whole(TOYBOX, name): text for name, text in given.items()}) == override(TOYBOX, given)


# Stages


def test_null_removes_a_stage_and_numbers_are_those_of_before():
    first, second = TOYBOX.stages
    assert override(TOYBOX, {"stages.1": "null"}).stages == (first,)
    assert override(TOYBOX, {"stages.0": "null"}).stages == (second,)
    assert override(TOYBOX, {"stages.0": "null", "stages.1.steps": "5"}).stages == (replace(second, steps=5),)
    assert override(TOYBOX, {"stages.1": "null", "steps": "5"}).stages == (replace(first, steps=5),)
    assert override(TOYBOX, {"stages.2": "null"}).stages == TOYBOX.stages  # there is none to remove
    three = PRESETS["prolificdreamer-toy"].stages
    assert override(PRESETS["prolificdreamer-toy"], {"stages.1": "null"}).stages == (three[0], three[2])
    two = override(TOYBOX, {"teachers.1.guidance.type": "sds"})
    assert len(two.stages[0].teachers) == 2
    assert override(two, {"teachers.1": "null"}) == TOYBOX
    for overrides, said in (
        ({"stages.0": "null", "stages.1": "null"}, "stages is empty; a run needs at least one stage"),
        ({"stages.3": "null"}, "stages.3: no such entry; accepted: 0 to 2 (2 adds one)"),
        ({"stages.1": "none", "stages.1.steps": "3"}, "'1' is given both as a whole and in parts"),
    ):
        with pytest.raises(ConfigError) as caught:
            override(TOYBOX, overrides)
        assert said in str(caught.value)


def test_a_stage_is_added_with_its_kind():
    added = {"stages.2.type": "lift", "stages.2.scene.type": "gaussians", "stages.2.steps": "9"}
    assert override(TOYBOX, added).stages == (*TOYBOX.stages, Lift(steps=9, scene=Gaussians()))


# Priors


def test_another_prior_reaches_every_stage_whose_prior_is_not_stated():
    for given in ({"prior": "sd-1.5"}, {"prior.name": "sd-1.5"}):
        changed = override(COLORED, given)
        assert changed.stages[1] == COLORED.stages[1]
        assert [stage.teachers[0].prior for stage in with_priors(changed.stages)] == [PriorChoice("sd-1.5")] * 2
    stated = override(COLORED, {"prior": "sd-1.5", "stages.1.teachers.0.prior": "sdxl"})
    assert [stage.teachers[0].prior.name for stage in with_priors(stated.stages)] == ["sd-1.5", "sdxl"]
    # Magic3D's second stage states another prior than its first: it keeps that
    assert [stage.teachers[0].prior.name for stage in with_priors(override(PRESETS["magic3d"], {"prior": "x/y"}).stages)] == [
        "x/y", PRESETS["magic3d"].stages[1].teachers[0].prior.name,
    ]  # fmt: skip
    # a part of the choice leaves the other parts as they are
    latent = override(PRESETS["latent-nerf-toy"], {"prior.name": "x/y"})
    assert latent.stages[0].teachers[0].prior == PriorChoice("x/y", linear_encoder=True)


def test_files_beside_the_prior_go_to_the_first_teacher():
    loras = (LoraFile("a.safetensors", 0.5),)
    changed = with_prior(COLORED, loras=loras)
    assert changed.stages[0].teachers[0].prior == PriorChoice("toybox", loras=loras)
    assert [stage.teachers[0].prior.loras for stage in with_priors(changed.stages)] == [loras, loras]
    later = with_prior(Config(stages=(Pause(), Lift())), loras=loras)
    assert later.stages[1].teachers[0].prior == PriorChoice(loras=loras)
    with pytest.raises(ValueError, match="no stage of this config has a teacher"):
        with_prior(Config(stages=(Pause(),)), loras=loras)


# Errors


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"steps": "ten"}, "steps: got 'ten', accepted: a whole number"),
        ({"guidance.t_max": "x"}, "guidance.t_max: got 'x', accepted: a number"),
        ({"guidance.t_maxx": "1"}, "guidance.t_maxx: unknown name, accepted: guidance_scale, t_min, t_max"),
        ({"guidance.t_maxx": "1"}, "did you mean 'guidance.t_max'?"),
        ({"guidance.scale": "1"}, "did you mean 'guidance.guidance_scale'?"),
        ({"guidence.scale": "1"}, "guidence: unknown name; did you mean 'guidance'?"),
        ({"stages.1.stepz": "1"}, "stages.1.stepz: unknown name, accepted: steps, schedule_steps"),
        ({"stages.1.stepz": "1"}, "did you mean 'stages.1.steps'?"),
        ({"steps": "1", "stages.1.steps": "x"}, "stages.1.steps: got 'x'"),
        ({"prior": "x", "prior.name": "y"}, "prior.name: 'prior' is given both as a whole and in parts"),
    ],
)
def test_errors_name_settings_as_they_were_given(overrides, said):
    with pytest.raises(ConfigError) as caught:
        override(TOYBOX, overrides)
    message = str(caught.value)
    assert said in message
    assert "stages.0" not in message
    assert "\n" not in message
