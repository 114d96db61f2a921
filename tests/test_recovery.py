"""Steps that go wrong: rolled back to the last good copy, never a NaN that is kept, and an end with advice."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from lift_helpers import changed, taught
from run_helpers import HASH, same, saved
from stage_helpers import CONFIG, SIZE, STAGE, begin, carried_out

from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.runs.run import Run
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.stages.recovery import ATTEMPTS, SNAPSHOT_EVERY, DivergedError
from dreamlift.stages.settings import Adam, Weights


def all_finite(values):
    if isinstance(values, torch.Tensor):
        return bool(torch.isfinite(values).all())
    if isinstance(values, dict):
        return all(map(all_finite, values.values()))
    return all(map(all_finite, values)) if isinstance(values, (list, tuple)) else True


@dataclass(frozen=True)
class Faulty(Guidance):
    """SDS that goes wrong in one way at the given steps, once for each time that a step is named."""

    kind: str
    steps: int
    faults: list[int] = field(default_factory=list)

    def init(self, prior, rng):
        return None

    def __call__(self, prior, latents, cond, progress, rng, state):
        index = round(progress * self.steps)
        out = SDS(guidance_scale=1.0)(prior, latents, cond, progress, rng, None)
        if index not in self.faults:
            return out
        self.faults.remove(index)
        if self.kind == "loss":
            return replace(out, loss=out.loss * float("nan"))
        if self.kind == "gradient":
            return replace(out, loss=out.loss + (0 * latents).sum().sqrt())  # the root's slope at 0 is infinite
        return replace(out, x0=out.x0 * float("inf"))


def faulty(kind, faults, steps=10):
    return changed(taught(CONFIG, guidance=Faulty(kind, steps, list(faults))), steps=steps)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("loss", "the loss is not finite"), ("gradient", "the gradient is not"), ("prior", "the prior's prediction is not")],
)
def test_one_bad_step_is_rolled_back_and_said(kind, said):
    config = faulty(kind, [6])
    work, steps = begin(config)
    seen, losses = [], {}
    for step in steps:
        assert all_finite(work.state_dict())
        assert all_finite(work.good)
        if not step.note:
            assert math.isfinite(step.loss)
            losses.setdefault(step.index, []).append(step.loss)
        seen.append((step.index, bool(step.note)))
        assert not step.note or (said in step.note and "rolled back to step 0 (attempt 1 of 3)" in step.note)
    assert seen == [(i, i == 6) for i in range(7)] + [(i, False) for i in range(10)]
    assert all(first != second for first, second in (losses[i] for i in range(6))), "the numbers were not drawn anew"
    assert work.index == config.total_steps


def test_a_roll_back_goes_to_the_last_copy_and_restores_everything():
    config = faulty("loss", [SNAPSHOT_EVERY + 3], steps=SNAPSHOT_EVERY + 5)
    work, steps = begin(config)
    for step in steps:
        if work.index == SNAPSHOT_EVERY and not step.note:
            kept = work.state_dict()
            copy = {name: value.clone() for name, value in kept["scenes"][0].items()}
            moments = [entry["exp_avg"].clone() for entry in kept["optimizer"]["state"].values()]
        if step.note:
            break
    assert f"rolled back to step {SNAPSHOT_EVERY} (" in step.note
    assert same(dict(work.scene.state_dict()), copy)
    assert same([entry["exp_avg"] for entry in work.optimizer.state_dict()["state"].values()], moments)


@pytest.mark.parametrize("kind", ["loss", "gradient", "prior"])
def test_what_goes_wrong_again_and_again_ends_the_run_with_advice(kind):
    work, steps = begin(faulty(kind, [4] * 100))
    notes = []
    with pytest.raises(DivergedError) as caught:
        notes += [step.note for step in steps if step.note]
    assert work.attempt == ATTEMPTS
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("step 4: ", "after 3 roll-backs", "Lower adam.lr_scale", "guidance_scale"))
    assert all_finite(work.state_dict())


def test_a_long_run_outlives_more_than_three_bad_steps():
    last = 4 * SNAPSHOT_EVERY
    config = faulty("loss", range(5, last, SNAPSHOT_EVERY), steps=last)
    config = changed(config, scene=replace(STAGE.scene, background=Learned(), samples_per_ray=4), weights=Weights())
    work, steps = carried_out(config)
    notes = [step.note for step in steps if step.note]
    assert len(notes) == 4 > ATTEMPTS
    assert all("attempt 1 of 3" in note for note in notes)
    assert work.index == last


def test_a_prior_that_answers_nan_is_not_taken_for_one_that_is_content():
    class Broken(GaussianPrior):
        def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
            return super().predict_noise(x_t, t, cond, guidance_scale) * float("nan")

    with pytest.raises(DivergedError, match="step 0: the prior's prediction is not finite"):
        carried_out(CONFIG, Broken(torch.zeros(1, 3, SIZE, SIZE), torch.ones(1)))


def test_weights_that_overflow_are_never_the_last_good_ones():
    work, steps = begin(changed(CONFIG, adam=Adam(lr_scale=1e38)))
    notes = []
    with pytest.raises(DivergedError, match="parameters are not finite"):  # noqa: PT012 - looks between the steps
        for step in steps:
            assert step.note or all_finite(work.state_dict())
            assert all_finite(work.good)
            notes += [step.note] if step.note else []
    assert len(notes) == ATTEMPTS


def test_an_empty_scene_ends_the_run_with_advice():
    thin = Voxel(resolutions=(4,), switch_on=(0.0,), blob=Blob("cone", 10.0, 0.01))  # no corner lies in so small a blob
    with pytest.raises(DivergedError, match=r"step 0: the scene has become empty, .* weights.sparsity"):
        carried_out(changed(CONFIG, scene=replace(STAGE.scene, field=thin)))


def test_a_scene_that_empties_once_comes_back():
    work, steps = begin(CONFIG)
    notes = []
    for step in steps:
        if step.index == 5 and not notes:
            with torch.no_grad():
                for level in work.scene.field.levels:
                    level[..., 0] = -1e3
        notes += [step.note] if step.note else []
    assert len(notes) == 1
    assert "step 6: the scene has become empty; rolled back to step 0" in notes[0]
    assert float(step.render.opacity.detach().mean()) > 0.01


@pytest.mark.parametrize("stop", [SNAPSHOT_EVERY - 4, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 2, SNAPSHOT_EVERY + 4])
def test_a_resumed_run_rolls_back_to_where_the_uninterrupted_one_does(tmp_path, stop):
    """Between the last copy and the bad step, before both, and after the roll-back: the same bits at the end."""
    config = faulty("loss", [SNAPSHOT_EVERY + 3], steps=SNAPSHOT_EVERY + 7)
    whole, steps = carried_out(config)
    assert [f"rolled back to step {SNAPSHOT_EVERY} (" in step.note for step in steps if step.note] == [True]

    first, steps = begin(faulty("loss", [SNAPSHOT_EVERY + 3], steps=SNAPSHOT_EVERY + 7))
    for _ in steps:
        if first.index == stop:
            break
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH) as run:
        run.save_checkpoint(first.index, saved(first.index, first.state_dict()))
    assert bool(first.state_dict()["good"]) == (stop != SNAPSHOT_EVERY)  # what is the same is not stored twice
    faults = [SNAPSHOT_EVERY + 3] if stop < SNAPSHOT_EVERY + 4 else []
    second, rest = begin(faulty("loss", faults, steps=SNAPSHOT_EVERY + 7))
    with Run.open(tmp_path / "run", config_hash=HASH) as run:
        second.load_state_dict(run.load_latest().work)
    notes = [step.note for step in rest if step.note]
    assert len(notes) == len(faults)
    assert same(second.state_dict(), whole.state_dict())


def test_work_without_a_copy_makes_one_where_it_goes_on():
    """As after a checkpoint of the very step of the copy, which holds it once."""
    first, steps = begin(CONFIG)
    for _ in range(3):
        next(steps)
    second, rest = begin(CONFIG)
    second.load_state_dict({**first.state_dict(), "good": {}})
    next(rest)
    assert (second.index, second.good["index"]) == (4, 3)
