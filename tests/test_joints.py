"""What the joints keep apart, and what they refuse before anything is loaded."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from big_helpers import first_pipeline
from stage_helpers import CONFIG, STAGE, begun, gaussian_prior

from dreamlift.config.build import ConfigError
from dreamlift.config.schema import Config
from dreamlift.config.short import override, whole
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.vsd import VSD
from dreamlift.lifting import load, resolve
from dreamlift.plugins import register
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import find
from dreamlift.stages.base import with_priors
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.teacher import Teacher


@dataclass(frozen=True)
class Opaque(Guidance):
    """A loss that looks at the surface: SDS, and the picture's opacity drawn to 1."""

    def __call__(self, prior, latents, cond, progress, rng, state):
        out = SDS(guidance_scale=1.0)(prior, latents, cond, progress, rng, None)
        return replace(out, loss=out.loss + (1 - cond.render.opacity).square().sum())


def gradients(teachers, prior):
    """Of all the scene's parameters after one step's backward pass, by name."""
    teachers = tuple(replace(teacher, wording=STAGE.teachers[0].wording) for teacher in teachers)
    work = begun(replace(CONFIG, stages=(replace(STAGE, teachers=teachers),)), prior)
    work.optimizer.step = lambda: None
    work.step()
    return {name: value.grad.clone() for name, value in work.scenes[0].named_parameters() if value.grad is not None}


def test_a_loss_may_differentiate_the_render_itself():
    prior = gaussian_prior()
    plain = gradients((Teacher(None, SDS(guidance_scale=1.0)),), prior)
    both = gradients((Teacher(None, Opaque()), Teacher(None, SDS(guidance_scale=1.0))), prior)
    assert plain.keys() == both.keys()
    assert any(not torch.allclose(plain[name], both[name]) for name in plain)


def test_a_teachers_weight_does_not_scale_what_its_loss_learns(stub):
    def learnt(weight):
        job = load(resolve(small(stub, weight)))
        job.work.optimizer.step = lambda: None
        job.work.step()
        return torch.cat([p.grad.flatten() for p in job.work.learned[0].parameters() if p.grad is not None])

    def small(stub, weight):
        config = replace(PRESETS["vsd-toy"], prompt="a red mug")
        names = {"prior": str(stub), "cameras.resolution": "[16]", "scene.samples_per_ray": "8", "weight": str(weight)}
        return override(config, names)

    torch.testing.assert_close(learnt(0.01), learnt(1.0), rtol=1e-4, atol=1e-6)


def names_of(stages):
    return [[teacher.prior.name for teacher in stage.teachers] for stage in with_priors(stages)]


def test_a_further_teacher_does_not_change_the_prior_of_later_stages():
    config = override(PRESETS["prolificdreamer"], {"teachers.1.prior": "mvdream"})
    assert names_of(config.stages) == [["sd-2.1-base", "mvdream"], ["sd-2.1-base"], ["sd-2.1-base"]]


def test_an_option_of_an_inherited_prior_keeps_its_name():
    config = override(PRESETS["prolificdreamer"], {"stages.1.teachers.0.prior.linear_encoder": "true"})
    assert names_of(config.stages) == [["sd-2.1-base"]] * 3
    flags = [stage.teachers[0].prior.linear_encoder for stage in with_priors(config.stages)]
    assert flags == [False, True, True]


def test_one_setting_is_given_once():
    with pytest.raises(ConfigError, match=re.escape("stages.0.steps and steps are the same setting: give one of them")):
        override(PRESETS["toybox"], {"steps": "5", "stages.0.steps": "7"})
    assert whole(PRESETS["toybox"], "guidance.t_max") == "stages.0.teachers.0.guidance.t_max"


def test_a_prior_in_memory_takes_no_options_and_another_name_replaces_it():
    prior = GaussianPrior(torch.zeros(1, 3, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match="a Prior in memory is used as it is"):
        find(PriorChoice.of(prior, linear_encoder=True))
    stage = replace(PRESETS["toybox"].stages[0], teachers=(Teacher(PriorChoice.of(first_pipeline())),))
    config = override(replace(PRESETS["toybox"], stages=(stage,)), {"prior": "toybox"})
    assert config.stages[0].teachers[0].prior == PriorChoice("toybox")
    assert config.stages[0].teachers[0].prior.loaded is None


def refused(message, *stages, **changes):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve(Config(prompt="a red mug", stages=stages, **changes))


def test_what_a_later_stage_cannot_do_is_refused_before_the_first_one():
    first = replace(PRESETS["toybox"].stages[0], scene=replace(PRESETS["toybox"].stages[0].scene))
    exact = GaussianPrior(torch.zeros(1, 3, 8, 8), torch.ones(1))
    later = replace(PRESETS["toybox"].stages[1], teachers=(Teacher(PriorChoice.of(exact), VSD()),))
    refused("vsd trains a LoRA, which this kind of prior does not support", first, later)
    later = replace(PRESETS["toybox"].stages[1], photometric=Photometric(source="handover"))
    refused("stages.1: photometric.source is handover, but no stage before this one leaves pictures", first, later)
    later = replace(later, photometric=Photometric())
    refused("stages.1: photometric.source is photos, but there are none", first, later)


@pytest.mark.parametrize("make", [lambda: Teacher(weight=-1.0), lambda: Photometric(rgb=-1.0)])
def test_weights_are_not_negative(make):
    with pytest.raises(ValueError, match="becomes negative; it must be 0 or more at all times"):
        make()


def test_only_a_part_of_the_kind_can_be_registered():
    with pytest.raises(ValueError, match="the guidance 'mine' must be a dataclass; it is a function"):
        register("guidance", "mine", lambda: None)
    with pytest.raises(ValueError, match="the preset 'mine' must be a Config; it is a Lift"):
        register("preset", "mine", Lift())
