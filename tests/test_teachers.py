"""Several teachers of one render: their gradients are those of the sum of their losses, whatever each of them is shown."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import trimesh
from run_helpers import same
from safetensors.torch import save_file
from stage_helpers import begun, steps_of

from dreamlift.cameras import CameraSampler, orbit_cameras, rays_of, turntable
from dreamlift.config.schema import Config
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.lifting import lift, load, resolve
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import NoViews
from dreamlift.scenes.background import Learned, Solid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, Switch
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher, shown, teach
from dreamlift.system.streams import random_stream
from dreamlift.types import Conditioning, GuidanceOutput, Handover, LoraFile, Mesh, Pictures, RenderOutput, Step, Task

SIZE = 10
STAGE = Lift(
    steps=10, cameras=CameraSampler(views=2, resolution=(SIZE,)), lighting=Lighting(0.5, 0.5),
    scene=Nerf(Voxel((5, 9), (0.0, 0.0)), background=Learned(random_probability=0.0), samples_per_ray=12),
    weights=Weights(sparsity=0.3, opaque=0.2, distortion=0.1, tv=0.1, orientation=0.01),
)  # fmt: skip


def gaussian(seed: int, std: float, kind: type[GaussianPrior] = GaussianPrior) -> GaussianPrior:
    return kind(torch.rand(1, 3, SIZE, SIZE, generator=random_stream(seed)), torch.tensor([std]))


def taught_by(*teachers: Teacher, **changes) -> Config:
    teachers = tuple(replace(each, wording=NoViews()) for each in teachers)
    return Config(stages=(replace(STAGE, teachers=teachers, **changes),))


# Gradients


def seen_as(show: str, render: RenderOutput, cameras) -> torch.Tensor:
    """What a teacher is shown, from the definitions."""
    if show == "color":
        return render.rgb
    if show == "normal":
        return render.opacity * 0.5 + render.normal * 0.5
    rays = rays_of(cameras)
    points = rays.origins.to(render.depth) + render.depth * rays.directions.to(render.depth)
    return (points + 1) / 2 * render.opacity


def joint(config: Config, scene, priors, pictures: Pictures | None, index: int) -> tuple[float, dict[str, float]]:
    """Gradients of step ``index``, left in the scene, by one backward pass of the sum of everything; the loss and its terms."""
    (stage,), rng = config.stages, random_stream(config.seed, index, 0)
    progress, value, total = index / stage.steps, 0.0, torch.zeros(())
    cameras = stage.cameras(progress, rng)
    shading = stage.lighting(cameras, progress, rng)
    render = scene.render(cameras, rng, shading, progress=progress, normals=True)
    for teacher, prior in zip(stage.teachers, priors, strict=True):
        weight = teacher.weight if isinstance(teacher.weight, float) else teacher.weight(progress)
        x = seen_as(teacher.show, render, cameras).permute(0, 3, 1, 2)
        t = 0.02 + (0.98 - 0.02) * torch.rand(len(x), generator=rng)
        eps = torch.randn(x.shape, generator=rng).to(x)
        alpha, sigma = (0.5 * math.pi * t).cos().view(-1, 1, 1, 1), (0.5 * math.pi * t).sin().view(-1, 1, 1, 1)
        x_t = alpha * x + sigma * eps
        eps_hat = sigma * (x_t - alpha * prior.means) / (alpha.square() * prior.stds.square() + sigma.square())
        gradient = (sigma.square() * (eps_hat - eps)).detach()
        total = total + weight * (gradient * x).sum() / len(x)
        value += weight * float(0.5 * gradient.square().sum()) / len(x)
    raw = scene.regularize(render, progress)
    terms = {name: getattr(stage.weights, name) * raw[name] for name in stage.weights.at(progress)}
    if pictures is not None:
        chosen = torch.randperm(len(pictures.rgb), generator=rng)[0]
        behind = torch.rand(1, 3, generator=rng)
        camera = pictures.cameras[chosen : chosen + 1]
        other = scene.render(camera, rng, background=behind, progress=progress)
        mask = pictures.alpha[chosen]
        error = mask * pictures.rgb[chosen] + (1 - mask) * behind - other.rgb[0]
        terms |= {"photo_rgb": 3.0 * error.square().mean(), "photo_mask": 2.0 * (other.opacity[0] - mask).square().mean()}
    (total + sum(terms.values())).backward()
    found = {name: float(term.detach()) for name, term in terms.items()}
    return value + sum(found.values()), found


@pytest.mark.parametrize(
    ("shows", "weights", "compared"),
    [
        (("color", "color"), (1.0, 1.0), False),
        (("color", "normal"), (0.3, Linear(0.5, 5.5)), False),
        (("place", "color"), (2.0, 0.7), True),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradients_of_several_teachers_are_those_of_the_sum(shows, weights, compared, dtype, tolerance):
    teachers = [Teacher(guidance=SDS(1.0), show=show, weight=weight) for show, weight in zip(shows, weights, strict=True)]
    pictures, photometric = None, None
    if compared:
        cameras, rng = turntable(3, size=SIZE), random_stream("pictures")
        pictures = Pictures(torch.rand(3, SIZE, SIZE, 3, generator=rng), torch.rand(3, SIZE, SIZE, 1, generator=rng), cameras)
        photometric = Photometric("handover", rgb=3.0, mask=2.0, resolution=(SIZE,))
    config = taught_by(*teachers, photometric=photometric)
    priors = gaussian(1, 0.3), gaussian(2, 0.1)
    for prior in priors:
        prior.means, prior.stds = prior.means.to(dtype), prior.stds.to(dtype)
    work, other = (begun(config, *priors, handover=Handover(pictures=pictures)) for _ in range(2))
    work.scene.to(dtype), other.scene.to(dtype)
    work.index = 3
    loss, terms = joint(config, other.scene, priors, pictures, 3)
    step = work.step()
    assert step.note == ""
    wanted = {name: parameter.grad for name, parameter in other.scene.named_parameters()}
    for name, parameter in work.scene.named_parameters():
        assert parameter.grad.dtype == dtype
        assert float(wanted[name].norm()) > 0
        assert float((parameter.grad - wanted[name]).norm()) <= tolerance * float(wanted[name].norm()), name
    assert step.loss == pytest.approx(loss, rel=10 * tolerance)
    assert {name: step.terms[name] for name in terms} == pytest.approx(terms, rel=10 * tolerance)
    assert len(step.guidance) == 2
    assert {"t", "t_2", "grad_rms", "grad_rms_2"} <= set(step.terms)


def test_the_angle_weight_scales_the_gradient_of_each_picture():
    """At the photo's view nothing, opposite to it all; of every tensor of the render that the loss depends on."""
    cameras, photo = (turntable(count, elevation_deg=0.0, size=SIZE) for count in (3, 1))  # 0, 120, 240 degrees; 0 degrees
    rng, prior, plan = random_stream("render"), gaussian(1, 0.3), Teacher(None, SDS(1.0), NoViews(), weight=2.0)
    shapes = {"rgb": 3, "opacity": 1, "depth": 1, "normal": 3}
    render = RenderOutput(**{
        name: torch.rand(3, SIZE, SIZE, n, generator=rng).requires_grad_() for name, n in shapes.items()
    })  # fmt: skip
    cond = Conditioning(torch.zeros(3, 1, 1), torch.zeros(3, 1, 1), cameras=cameras, render=render)
    for show, names in (("color", {"rgb"}), ("normal", {"normal", "opacity"}), ("place", {"depth", "opacity"})):
        plain, soft, full = (
            teach(replace(plan, show=show, angle_weight=share), prior, cond, cameras, 0.5, random_stream(), None, photo)
            for share in (0.0, 0.5, 1.0)
        )
        assert {name for name in shapes for tensor, _ in full.gradients if tensor is getattr(render, name)} == names
        for (_, before), (_, half), (_, whole) in zip(plain.gradients, soft.gradients, full.gradients, strict=True):
            assert float(before.abs().amax(dim=(1, 2, 3)).min()) > 0
            torch.testing.assert_close(whole, before * torch.tensor([0.0, 2 / 3, 2 / 3]).view(3, 1, 1, 1))
            torch.testing.assert_close(half, before * torch.tensor([1 / 2, 5 / 6, 5 / 6]).view(3, 1, 1, 1))
        assert full.loss == plain.loss


def test_the_photos_cameras_reach_the_angle_weight():
    """With every view at the photo's own place, a teacher with the full weight changes nothing."""
    front = CameraSampler(views=2, resolution=(SIZE,), azimuth_deg=(40.0, 40.0), elevation_deg=(10.0, 10.0))
    there = torch.tensor([[math.radians(40.0)], [math.radians(10.0)], [2.0], [0.8]])
    pictures = Pictures(torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 1), orbit_cameras(*there, 4))
    config = taught_by(Teacher(guidance=SDS(1.0), angle_weight=1.0), cameras=front, weights=Weights())
    step = begun(config, gaussian(1, 0.3), task=Task("a mug", photos=pictures)).step()
    assert step.terms["grad_rms"] > 0
    assert step.terms["grad_norm"] < 1e-6 * step.terms["grad_rms"]


class Counted(GaussianPrior):
    """Counts its encodings and its answers."""

    encoded = asked = 0

    def encode(self, rgb):
        self.encoded += 1
        return super().encode(rgb)

    def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
        self.asked += 1
        return super().predict_noise(x_t, t, cond, guidance_scale)


def test_a_teacher_without_weight_is_not_called():
    first, second = gaussian(1, 0.3, Counted), gaussian(2, 0.1, Counted)
    config = taught_by(Teacher(guidance=SDS(1.0), weight=Switch(0.0, 1.0, 0.6)), Teacher(guidance=SDS(2.0)))
    steps = []
    for step in steps_of(begun(config, first, second)):
        steps.append(step)
        assert (first.encoded, first.asked) == (max(0, step.index - 5),) * 2
        assert second.encoded == second.asked == step.index + 1
    assert [len(step.guidance) for step in steps] == [1] * 6 + [2] * 4
    assert all(("t" in step.terms) == (step.index >= 6) and "t_2" in step.terms for step in steps)  # by their place


def test_a_teacher_without_weight_changes_nothing():
    mute = Teacher(guidance=SDS(1.0), show="normal", weight=0.0)
    teacher = Teacher(guidance=SDS(1.0))
    both = begun(taught_by(mute, teacher), gaussian(1, 0.3), gaussian(2, 0.1))
    alone = begun(taught_by(teacher), gaussian(2, 0.1))
    losses = [[step.loss for step in steps_of(work)] for work in (both, alone)]
    assert losses[0] == losses[1]
    assert same(*(dict(work.scene.state_dict()) for work in (both, alone)))


@dataclass(frozen=True)
class Missed(Guidance):
    """A loss that does not depend on the picture."""

    def __call__(self, prior, latents, cond, progress, rng, state):
        return GuidanceOutput(torch.zeros(()), latents.detach(), torch.zeros(len(latents)))


def test_a_loss_without_a_gradient_leaves_the_others_alone():
    prior, teacher = gaussian(2, 0.1), Teacher(guidance=SDS(1.0))
    both, alone = begun(taught_by(Teacher(guidance=Missed()), teacher), prior), begun(taught_by(teacher), prior)
    both.step(), alone.step()
    assert same(*(dict(work.scene.state_dict()) for work in (both, alone)))


def test_the_graph_of_one_encoder_is_gone_before_the_next_one_runs():
    kept, alive = [], []

    class Heavy(GaussianPrior):
        def encode(self, rgb):
            alive.append([reference() is not None for reference in kept])
            inner = torch.ones_like(rgb)  # the product keeps it for its gradient
            kept.append(weakref.ref(inner))
            return super().encode(rgb * inner)

    prior = gaussian(1, 0.3, Heavy)
    begun(taught_by(*[Teacher(guidance=SDS(1.0))] * 3), prior).step()
    assert alive == [[], [False], [False, False]]


# What a prior is shown


def test_colors_are_shown_as_they_are_and_normals_in_the_unit_cube_on_black():
    opacity = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3, 1)
    normal = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]).view(1, 1, 3, 3)  # weighted by opacity
    render = RenderOutput(torch.rand(1, 1, 3, 3), opacity, torch.ones(1, 1, 3, 1), normal)
    cameras = turntable(1, size=4)
    assert shown(render, "color", cameras) is render.rgb
    wanted = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]).view(1, 1, 3, 3)
    torch.testing.assert_close(shown(render, "normal", cameras), wanted)


def test_a_place_by_hand():
    """The middle pixel of a camera at 2.5 in front of a ball of radius 0.5 sees (0, 0, 0.5); from the left, (0.5, 0, 0)."""
    azimuth = torch.tensor([0.0, math.pi / 2])
    cameras = orbit_cameras(azimuth, torch.zeros(2), torch.full((2,), 2.5), torch.ones(2), 5)
    opacity = torch.zeros(2, 5, 5, 1)
    opacity[:, 2, 2] = 1.0
    picture = shown(RenderOutput(torch.rand(2, 5, 5, 3), opacity, torch.full((2, 5, 5, 1), 2.0), None), "place", cameras)
    torch.testing.assert_close(picture[0, 2, 2], torch.tensor([0.5, 0.5, 0.75]))
    torch.testing.assert_close(picture[1, 2, 2], torch.tensor([0.75, 0.5, 0.5]))
    picture[:, 2, 2] = 0.0
    assert float(picture.abs().max()) == 0.0


def ball() -> Mesh:
    made = trimesh.creation.icosphere(4, 0.6)
    return Mesh(made.vertices.astype(np.float32), made.faces.astype(np.int32))


@pytest.mark.parametrize(
    "settings", [Surface(texture=Image(16, 16), background=Solid()), TetMesh(resolution=32, background=Solid())]
)
def test_places_of_a_rendered_sphere_lie_on_it(settings):
    scene = settings.build(random_stream(), initial_mesh=ball()).eval()
    cameras = turntable(3, elevation_deg=25.0, size=48)
    render = scene.render(cameras, random_stream())
    picture = shown(render, "place", cameras).detach()
    whole, empty = render.opacity[..., 0] > 0.999, render.opacity[..., 0] == 0
    assert int(whole.sum()) > 300
    points = 2 * picture[whole] - 1
    torch.testing.assert_close(points.norm(dim=-1), torch.full((len(points),), 0.6), atol=0.02, rtol=0)
    toward = torch.nn.functional.normalize(cameras.c2w[:, :3, 3], dim=-1)[torch.nonzero(whole)[:, 0]]
    assert float((points * toward).sum(-1).min()) > 0.0  # the near side
    assert float(picture[empty].abs().max()) == 0.0


def test_a_gradient_of_places_moves_a_surface():
    """Teachers that want every place nearer to the camera of the front pull the surface toward it."""

    @dataclass(frozen=True)
    class Forward(Guidance):
        def __call__(self, prior, latents, cond, progress, rng, state):
            loss = -latents[:, 2].sum()  # z of the places
            return GuidanceOutput(loss, latents.detach(), torch.zeros(len(latents)))

    front = CameraSampler(views=1, resolution=(32,), azimuth_deg=(0.0, 0.0), elevation_deg=(0.0, 0.0))
    scene = TetMesh(resolution=16, background=Solid())
    stage = Lift(steps=8, cameras=front, scene=scene, teachers=(Teacher(guidance=Forward(), wording=NoViews(), show="place"),))
    work = begun(Config(stages=(stage,)), gaussian(1, 0.3))
    cameras = turntable(1, elevation_deg=0.0, size=32)
    before = work.scene.render(cameras, random_stream()).depth[0, 14:18, 14:18].detach().mean()
    list(steps_of(work))
    after = work.scene.render(cameras, random_stream()).depth[0, 14:18, 14:18].detach().mean()
    assert float(after) < float(before) - 0.02


# Priors


def test_two_priors_in_memory_lift_together():
    choices = PriorChoice.of(gaussian(1, 0.3, Counted)), PriorChoice.of(gaussian(2, 0.1, Counted))
    config = replace(taught_by(*(Teacher(choice, SDS(1.0)) for choice in choices)), prompt="a mug", device="cpu")
    job = load(resolve(config))
    assert job.work.ready.priors == tuple(choice.loaded for choice in choices)
    assert sum(isinstance(event, Step) for event in lift(job)) == 10
    assert [choice.loaded.asked for choice in choices] == [10, 10]


def test_teachers_of_one_choice_share_the_prior_and_others_have_their_own(stub, tmp_path):
    plain = PriorChoice(str(stub))
    layer = next(
        name.removesuffix(".weight")
        for name, weight in load(resolve(run_of(plain))).work.ready.priors[0].network.unet.named_parameters()
        if "attn" in name and weight.ndim == 2
    )
    width = load(resolve(run_of(plain))).work.ready.priors[0].network.unet.get_parameter(f"{layer}.weight").shape
    file = {f"unet.{layer}.lora_A.weight": torch.ones(2, width[1]), f"unet.{layer}.lora_B.weight": torch.ones(width[0], 2)}
    save_file(file, tmp_path / "clay.safetensors")
    half, full = (replace(plain, loras=(LoraFile(str(tmp_path / "clay.safetensors"), scale),)) for scale in (0.5, 1.0))
    priors = load(resolve(run_of(plain, half, PriorChoice(str(stub)), full, half, None))).work.ready.priors
    assert [priors.index(prior) for prior in priors] == [0, 1, 0, 3, 1, 1]  # of equal ones the first
    weights = [priors[i].network.unet.get_parameter(f"{layer}.weight") for i in (0, 1, 3)]
    torch.testing.assert_close(weights[2] - weights[0], 2 * (weights[1] - weights[0]))
    torch.testing.assert_close(weights[2] - weights[0], torch.full(width, 2.0))


def run_of(*choices: PriorChoice | None) -> Config:
    """A run with a teacher of each choice."""
    teachers = (Teacher(choice, SDS(float(number + 1))) for number, choice in enumerate(choices))
    return replace(taught_by(*teachers), prompt="a red mug", device="cpu")
