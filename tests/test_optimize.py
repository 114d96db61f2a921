"""A lift stage, step by step: resumed bit by bit, schedules that arrive, and a known object rebuilt in 3D."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from lift_helpers import changed, taught
from run_helpers import HASH, same, saved
from stage_helpers import CONFIG, FIELD, SIZE, STAGE, begin, carried_out, gaussian_prior
from torch import nn

from dreamlift.cameras import CameraSampler, PosedCameras, fibonacci_cameras, turntable
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.meshing.isosurface import find_threshold
from dreamlift.priors.exact.empirical import EmpiricalPrior
from dreamlift.prompts import Backdrop
from dreamlift.runs.run import Run
from dreamlift.scenes.background import Random, Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.schedules import Linear
from dreamlift.stages.settings import Adam, Weights
from dreamlift.system.streams import random_stream
from dreamlift.toybox.world.render import Background, render
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import cell_centers
from dreamlift.types import GuidanceOutput, TextStates

# Randomness


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def param_groups(self):
        return []


@dataclass(frozen=True)
class Counting(Guidance):
    """SDS with something of its own that is learned: a count of the calls, which changes the gradient."""

    def init(self, prior, rng):
        return Calls()

    def __call__(self, prior, latents, cond, progress, rng, state):
        state.calls += 1
        out = SDS(guidance_scale=1.0)(prior, latents, cond, progress, rng, None)
        return replace(out, loss=out.loss * (1 + 1 / state.calls))


def counting(**changes):
    return changed(taught(CONFIG, guidance=Counting()), **changes)


@pytest.mark.parametrize(("stop", "particles"), [(1, 1), (3, 1), (9, 1), (5, 2)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path, stop, particles):
    config = replace(counting(), particles=particles)
    whole, _ = carried_out(config)
    first, steps = begin(config)
    for _ in range(stop):
        next(steps)
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH) as run:
        run.save_checkpoint(first.index, saved(first.index, first.state_dict()))
    torch.manual_seed(stop)  # what happens outside must not matter

    second, rest = begin(config)
    with Run.open(tmp_path / "run", config_hash=HASH) as run:
        found = run.load_latest()
    second.load_state_dict(found.work)
    assert found.index == second.index == stop
    assert [step.index for step in rest] == list(range(stop, config.total_steps))
    assert not same(first.state_dict(), whole.state_dict())
    assert same(second.state_dict(), whole.state_dict())
    names = whole.state_dict()["scenes"][0]
    assert {"occupancy.average", "occupancy.occupied"} <= set(names)
    assert whole.state_dict()["learned"][0]["calls"] == config.total_steps


def test_particles_take_turns_and_share_what_the_loss_learns():
    config = replace(counting(steps=4), particles=3)
    work, steps = begin(config)
    before = [{name: value.clone() for name, value in values.items()} for values in work.state_dict()["scenes"]]
    seen = []
    for step in steps:
        now = work.state_dict()["scenes"]
        moved = [not same(old, dict(new)) for old, new in zip(before, now, strict=True)]
        seen.append(step.index)
        assert moved == [number <= step.index for number in range(3)]  # who had a turn so far
        if step.index == 2:
            break
    rest = list(steps)
    assert [*seen, *(step.index for step in rest)] == list(range(12)) == list(range(config.total_steps))
    assert work.learned[0].calls == 12
    assert work.scene is work.scenes[0]
    assert not same(*(dict(scene.state_dict()) for scene in work.scenes[:2]))
    # Sparsity's weight rises with progress: the three steps of a round are at the same one.
    terms = [step.terms["sparsity"] for step in rest]
    assert all(value > 0 for value in terms)


def test_the_seed_alone_decides():
    # This scene begins the same with every seed, so that what differs comes from the steps.
    config = changed(CONFIG, scene=replace(STAGE.scene, background=Random()))
    (one, steps), (two, again) = carried_out(config), carried_out(config)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    three, others = carried_out(replace(config, seed=1))
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used"
    assert same(one.state_dict(), two.state_dict())
    assert [step.loss for step in steps] == [step.loss for step in again]
    assert not same(one.state_dict(), three.state_dict())
    assert all(a.loss != b.loss for a, b in zip(steps, others, strict=True))


def test_streams_of_neighbouring_keys_differ():
    keys = [(1, 23), (12, 3), (1, 2, 3), (123,), ("scene",), (0, "scene"), (0, 0, 1), (0, 1, 0)]
    draws = [torch.rand(4, generator=random_stream(*key)) for key in keys]
    for i, first in enumerate(draws):
        assert torch.equal(first, torch.rand(4, generator=random_stream(*keys[i])))
        assert not any(torch.equal(first, second) for second in draws[i + 1 :])


# Schedules


@dataclass(frozen=True)
class Silent(Guidance):
    """Asks for nothing."""

    def init(self, prior, rng):
        return None

    def __call__(self, prior, latents, cond, progress, rng, state):
        return GuidanceOutput(0.0 * latents.sum(), latents.detach(), torch.zeros(latents.shape[0]))


def test_the_learning_rate_follows_its_schedule():
    scale = Linear(1.0, 0.2, 0.0, 0.5)
    work, steps = begin(changed(CONFIG, adam=Adam(lr_scale=scale)))
    bases = [group["lr"] for group in work.optimizer.param_groups]
    assert len(set(bases)) > 1, "groups with rates of their own are wanted here"
    for step in steps:
        expected = [base * max(0.2, 1 - 0.8 * step.index / 5) for base in bases]
        assert [group["lr"] for group in work.optimizer.param_groups] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_adams_first_step_is_the_learning_rate(scale):
    # In the first step the moments cancel: each touched value moves by exactly its rate (Kingma & Ba 2014, sec. 2.1).
    config = changed(CONFIG, adam=Adam(lr_scale=scale), weights=Weights())
    work, steps = begin(config)
    before = work.scene.field.levels[0].detach().clone()
    next(steps)
    moved = (work.scene.field.levels[0].detach() - before).abs()
    assert float(moved.max()) == pytest.approx(scale * FIELD.lr, rel=1e-4)
    assert float(moved[moved > 0].median()) == pytest.approx(scale * FIELD.lr, rel=1e-3)


def test_gradients_are_clipped_to_the_norm():
    _, steps = begin(changed(CONFIG, adam=Adam(clip_norm=1e-3)))
    work, plain = begin(CONFIG)
    assert next(steps).terms["grad_norm"] == pytest.approx(next(plain).terms["grad_norm"])  # said as it was
    limited, steps = begin(changed(CONFIG, adam=Adam(clip_norm=1e-3)))
    next(steps)
    norms = [torch.stack([p.grad.norm() for p in it.scene.parameters() if p.grad is not None]).norm() for it in (limited, work)]
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-3)
    assert float(norms[1]) > 2e-3


def test_weights_reach_the_loss_and_off_means_off():
    weights = Weights(sparsity=Linear(0.0, 2.0), opaque=0.5)
    config = changed(taught(CONFIG, guidance=Silent()), weights=weights)
    for step in carried_out(config)[1]:
        o = step.render.opacity.detach().double()
        p = o.clamp(1e-3, 1 - 1e-3)
        expected = {"opaque": 0.5 * float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())}
        if step.index:
            expected["sparsity"] = 2.0 * step.index / STAGE.steps * float((o.square() + 0.01).sqrt().mean())
        assert {name: step.terms[name] for name in step.terms if name != "grad_norm"} == pytest.approx(expected)
        assert step.loss == pytest.approx(sum(expected.values()))


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0])
def test_a_regulariser_moves_the_scene_the_way_it_says(weight):
    # Both levels from the start: a level that is switched on later shows the blob more finely, which is a change too.
    scene = replace(STAGE.scene, field=replace(FIELD, switch_on=(0.0, 0.0)))
    config = changed(taught(CONFIG, guidance=Silent()), scene=scene, weights=Weights(sparsity=weight))
    work, steps = begin(config)
    views = turntable(4, size=SIZE)
    before = work.scene.render(views, random_stream()).opacity
    list(steps)
    change = float((work.scene.render(views, random_stream()).opacity - before).detach().mean())
    levels = [float(level.detach().abs().max()) for level in work.scene.field.levels]
    if weight == 0.0:
        assert max(levels) == 0.0  # nothing was asked for, and nothing moved
    else:
        assert change * weight < -0.01


@dataclass(frozen=True)
class Noting(Silent):
    """Asks for nothing, and keeps what it was told."""

    told: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, prior, latents, cond, progress, rng, state):
        self.told.append(cond.prompt_embeds.flatten())
        return super().__call__(prior, latents, cond, progress, rng, state)


@pytest.mark.parametrize("orbit", [1, 2])
def test_each_picture_lies_on_a_backdrop_that_the_prior_is_told(orbit, monkeypatch):
    colors = {"": (0.9, 0.8, 0.7), "dark background": (0.1, 0.0, 0.2)}
    backdrops = tuple(Backdrop(words, color) for words, color in colors.items())
    cameras = CameraSampler(views=4, resolution=(SIZE,), orbit=orbit)
    empty = Nerf(
        field=replace(FIELD, blob=Blob("none"), switch_on=(0.0, 0.0)), samples_per_ray=12, background=Solid(colors[""])
    )
    guidance = Noting()
    config = changed(taught(CONFIG, guidance=guidance), scene=empty, cameras=cameras, weights=Weights())
    config = replace(config, backdrops=backdrops)
    prior = gaussian_prior()

    def embed_text(texts):
        return TextStates(torch.tensor([float("dark" in text) for text in texts])[:, None, None])

    monkeypatch.setattr(prior, "embed_text", embed_text)
    steps, seen = carried_out(config, prior)[1], set()
    for step, said in zip(steps, guidance.told, strict=True):
        told = said.long()
        seen |= set(told.tolist())
        behind = torch.tensor(list(colors.values()))[told][:, None, None]
        opacity = step.render.opacity.detach()
        # A field that has learnt nothing is grey: what shines through it is the colour that the prior was told.
        torch.testing.assert_close(step.render.rgb.detach(), 0.5 * opacity + (1 - opacity) * behind, atol=0.02, rtol=0)
        assert orbit == 1 or told[0] == told[1]
    assert seen == {0, 1}


def test_normals_are_rendered_only_where_they_are_needed():
    for weights, wanted in ((Weights(orientation=1.0), True), (Weights(sparsity=1.0), False)):
        step = next(begin(changed(CONFIG, weights=weights))[1])
        assert (step.render.normal is not None) == wanted == ("orientation" in step.terms)


# In three dimensions


GREY = (0.5, 0.5, 0.5)
REBUILD = changed(
    taught(CONFIG, guidance=SDS(guidance_scale=1.0, t_min=0.02, t_max=Linear(0.98, 0.3), weighting="x0")),
    steps=100, weights=Weights(),
    scene=Nerf(field=Voxel(resolutions=(17, 33), switch_on=(0.0, 0.0)), background=Solid(GREY), samples_per_ray=48),
)  # fmt: skip


def rebuilt(category, mirrored=False):
    """(IoU of the occupancy, PSNR in dB of unseen views, IoU before) of a thing lifted from 24 small pictures of it."""
    thing = make_thing(category, "red", 7)
    cameras = fibonacci_cameras(24, -15.0, 70.0, 2.7, 45.0, 32)
    pictures = render(thing, cameras, background=Background(GREY, GREY)).rgb
    prior = EmpiricalPrior(pictures.flip(2) if mirrored else pictures, cameras)
    work, steps = begin(changed(REBUILD, cameras=PosedCameras(cameras, 2)), prior)
    before = iou(work.scene, thing)
    for step in steps:
        assert not step.note
    work.scene.eval()
    unseen = fibonacci_cameras(6, -5.0, 55.0, 2.7, 45.0, 64)
    truth = render(thing, unseen, background=Background(GREY, GREY)).rgb
    error = (work.scene.render(unseen, random_stream()).rgb.detach() - truth).square().mean()
    return iou(work.scene, thing), -10 * math.log10(float(error)), before


@torch.no_grad()
def iou(scene, thing, size=32):
    points = cell_centers(size)
    density = scene.density(points)
    inside = density > find_threshold(density.view(size, size, size), 2.0 / size)
    truth = thing.occupancy(points)  # from the thing's exact distances: no renderer and no camera takes part
    return float((inside & truth).sum() / (inside | truth).sum())


@pytest.mark.parametrize(("category", "least_iou", "least_psnr"), [("teapot", 0.88, 28.0), ("chair", 0.42, 24.0)])
def test_a_known_object_is_rebuilt_from_scores_alone(category, least_iou, least_psnr):
    # Legs and a thin back are hard for 33 corners a side; from the mirrored chair it would be an IoU of 0.2, and 20 dB.
    found, psnr, before = rebuilt(category)
    assert found > least_iou > before + 0.2
    assert psnr > least_psnr


def test_the_measure_notices_a_mirrored_object():
    found, psnr, _ = rebuilt("teapot", mirrored=True)
    assert found < 0.84
    assert psnr < 26.0
