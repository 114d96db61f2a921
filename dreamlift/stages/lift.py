"""The stage that optimizes a scene by score distillation.

One step: draw cameras, light and backdrops; render once; differentiate the loss of each teacher with respect to its picture
(:mod:`dreamlift.stages.teacher`); run one backward pass through the renderer, with the regularizers and the photometric term;
update the parameters. The random numbers of step ``index`` depend on (seed, index, attempt) only, so a resumed run is
bit-identical to an uninterrupted one. A failed step is rolled back (:mod:`dreamlift.stages.recovery`); a checkpoint between
two copies of the last good state includes the copy, so that a resumed run rolls back to the same state.

With several particles (Wang et al. 2023, ProlificDreamer) the steps alternate between their scenes. Particles share only
the learned parameters of losses; a particle's progress counts its own steps. A stage may be longer than its schedules, whose
progress then stays at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreamlift.cameras import CameraSampler
from dreamlift.prompts import Backdrop
from dreamlift.scenes import SCENES
from dreamlift.scenes.base import Scene, SceneSettings
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import value_at
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.adam import optimizer_of
from dreamlift.stages.base import Place, Ready, SavedState, Stage, Work, meshes_of
from dreamlift.stages.checks import check_priors, check_scene, check_sources
from dreamlift.stages.photometric import Comparison, Photometric, compare_render, pictures_of
from dreamlift.stages.recovery import SNAPSHOT_EVERY, Watch, check_attempts, copied, find_trouble, is_finite
from dreamlift.stages.settings import OF_NORMALS, Adam, Weights
from dreamlift.stages.teacher import Lesson, Teacher, failures_of, teach
from dreamlift.system.streams import random_stream
from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Handover, RenderOutput, Step


@dataclass(frozen=True, kw_only=True)
class Lift(Stage):
    """Optimize a scene so that its renders minimize the losses of its teachers."""

    makes_scene: ClassVar[bool] = True

    steps: int = 300  # optimization steps per particle, at least 1
    schedule_steps: int | None = None  # steps after which all schedules keep their last values, at least 1; null: steps
    cameras: CameraSampler = field(default_factory=CameraSampler)  # random cameras of the renders
    lighting: Lighting = field(default_factory=Lighting)  # random lighting of the renders
    scene: SceneSettings = field(default_factory=Nerf, metadata={"choices": SCENES})  # 3D representation
    weights: Weights = field(default_factory=Weights)  # weights of the scene's regularizers
    adam: Adam = field(default_factory=Adam)  # optimizer
    teachers: tuple[Teacher, ...] = (Teacher(),)  # priors and their losses; may be empty with a photometric term
    photometric: Photometric | None = None  # comparison of renders with known pictures; null: none

    def __post_init__(self) -> None:
        for name in ("steps", "schedule_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not self.teachers and self.photometric is None:
            raise ValueError("teachers is empty and photometric is null: there is no loss; give one of them")

    @property
    def uses_photos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        compared = self.photometric is not None and self.photometric.source == "photos"
        return compared or self.cameras.needs_photo or any(teacher.angle_weight for teacher in self.teachers)

    @property
    def keeps_faces(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scene.keeps_initial_mesh

    def total_steps(self, particles: int) -> int:
        return self.steps * particles

    def needs_of_handover(self, settings: Extract) -> Extract:
        """With a texture only if the scene keeps the mesh; other scenes sample the mesh's colours at points."""
        return settings if self.scene.keeps_initial_mesh else super().needs_of_handover(settings)

    def with_steps(self, steps: int) -> Lift:
        return self if steps == self.steps else replace(self, steps=steps, schedule_steps=self.schedule_steps or self.steps)

    def resolved(self) -> Lift:
        return replace(self, scene=self.scene.resolved())

    def check(self, place: Place) -> None:
        """Check the scene's initial mesh, teachers, regularizers and background, and that there are photos if needed."""
        check_scene(self.scene, self.teachers, self.weights, place)
        check_sources(self.cameras, self.teachers, self.photometric, place)

    def check_priors(self, views: Sequence[int], adapts: Sequence[bool]) -> None:
        check_priors(self.cameras, self.teachers, views, adapts)

    def begin(self, ready: Ready) -> LiftWork:
        return LiftWork(self, ready)

    def rebuild(self, saved: SavedState) -> tuple[Scene, ...]:
        states = saved.work["scenes"]
        meshes = saved.handover.meshes or (None,)
        meshes = meshes * len(states) if len(meshes) == 1 else meshes
        scenes = tuple(self.scene.build(random_stream(0), "cpu", mesh) for mesh in meshes)
        for scene, values in zip(scenes, states, strict=True):
            scene.load_state_dict(values)
        return scenes


class PerParticle(nn.ModuleList):
    """A loss's learned parameters, separate for each particle."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self for group in part.param_groups()]  # pyright: ignore[reportCallIssue]


class LiftWork(Work):
    """See the module's docstring."""

    def __init__(self, stage: Lift, ready: Ready) -> None:
        self.stage, self.ready, self.place = stage, ready, ready.place
        stage.check_priors([prior.views for prior in ready.priors], [prior.adapts for prior in ready.priors])
        self.first = self.index = ready.place.first
        self.end = self.first + stage.total_steps(self.place.particles)
        self.attempt = 0  # roll-backs since the last good copy
        self.watches = [Watch()] * self.place.particles
        self.good: dict[str, Any] = {}  # the last good copy of the state
        self.stream = (self.place.seed, *(["stage", self.place.number] if self.place.number else []))
        self.meshes = ready.handover.meshes or (None,)
        if len(self.meshes) == 1:
            self.meshes = self.meshes * self.place.particles
        self.scenes = tuple(
            stage.scene.build(random_stream(*self.stream, "scene", *([n] if n else [])), ready.device, mesh).train()
            for n, mesh in enumerate(self.meshes)
        )
        self.learned = tuple(self._learned(number) for number in range(len(stage.teachers)))
        parts = [*self.scenes, *(part for part in self.learned if part is not None)]
        groups = [dict(group) for part in parts for group in part.param_groups()]  # pyright: ignore[reportCallIssue]
        self.optimizer = optimizer_of(stage.adam, groups)
        self.base_lrs = tuple(group["lr"] for group in self.optimizer.param_groups)
        self.photos = ready.task.photos.cameras if ready.task.photos is not None else None
        compared = stage.photometric
        self.pictures = None if compared is None else pictures_of(compared, ready.task, ready.handover, ready.device)

    def _learned(self, number: int) -> nn.Module | None:
        """The learned parameters of one teacher's loss; None if it has none."""
        guidance, prior = self.stage.teachers[number].guidance, self.ready.priors[number]
        stream = (*self.stream, "guidance", *(["teacher", number] if number else []))
        learned = guidance.init(prior, random_stream(*stream))
        if learned is None or guidance.shared or self.place.particles == 1:
            return learned
        others = [guidance.init(prior, random_stream(*stream, n)) for n in range(1, self.place.particles)]
        return PerParticle([learned, *others])

    @property
    def turn(self) -> int:
        """The particle of the next step."""
        return (self.index - self.first) % len(self.scenes)

    @property
    def scene(self) -> Scene:
        """The scene of the next step; after the last step, the first scene."""
        return self.scenes[self.turn]

    def step(self) -> Step:
        self.good = self.good or copied(self.values())
        step, trouble = self._take_step()
        if trouble:
            return replace(step, note=self._roll_back(trouble))
        self.index += 1
        self.watches[self.turn - 1].warn(self.index)
        if self.index % SNAPSHOT_EVERY == 0 or self.finished:
            self.attempt = 0  # the limit is per copy: a long run may have more failures
            self.good = copied(self.values())
        return step

    def _take_step(self) -> tuple[Step, str]:
        """One step, and its failure ("" if it succeeded; otherwise the state must be rolled back)."""
        stage, scene, turn = self.stage, self.scene, self.turn
        own = (self.index - self.first) // self.place.particles  # the particle's own steps so far in this stage
        progress = min(own / (stage.schedule_steps or stage.steps), 1.0)
        rng = random_stream(self.place.seed, self.index, self.attempt)
        weights, compared = stage.weights.at(progress), stage.photometric
        self.optimizer.zero_grad(set_to_none=True)
        lessons, photo = [], None
        if compared is not None and compared.replaces_teachers(own):
            known = self._compared(scene, progress, rng, weights)
            cameras, render, terms = known.cameras, known.render, known.terms
        else:
            cameras = stage.cameras(progress, rng, self.photos).to(self.ready.device)
            render, backdrops = self._render(scene, cameras, weights, progress, rng)
            lessons = self._lessons(render, cameras, backdrops, progress, rng, turn)
            raw = scene.regularize(render, progress, tuple(weights), rng) if weights else {}
            terms = {name: weights[name] * value for name, value in raw.items()}
            if compared is not None and compared.compares(own):
                again = {name: value for name, value in weights.items() if name != "sparsity" and compared.regularize}
                known = self._compared(scene, progress, rng, again)
                photo, terms = known.render, terms | known.terms
        total = self._backward(lessons, terms)

        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * value_at(stage.adam.lr_scale, progress)
        norm = gradient_norm(scene, stage.adam.clip_norm)
        metrics = {name if lesson.number == 0 else f"{name}_{lesson.number + 1}": value
                   for lesson in lessons for name, value in lesson.out.metrics.items()}  # fmt: skip
        finite = torch.stack([lesson.out.x0.isfinite().all() for lesson in lessons]).all() if lessons else torch.ones(())
        answered, loss, size, opacity, *shown_values = as_numbers(
            [finite, total, norm, render.opacity.mean(), *terms.values(), *metrics.values()]
        )
        trouble = find_trouble(bool(answered), loss, size, opacity)
        if not trouble:
            self.optimizer.step()
            if photo is not None:
                scene.observe(photo)
            scene.after_step(own, progress, rng, render, self.optimizer)
            self.watches[turn] = self.watches[turn].after(self.index, opacity)
            if not is_finite(scene):
                trouble = "the scene's parameters are not finite"
            elif not all(is_finite(part) for part in self.learned if part is not None):
                trouble = "the learned parameters of the loss are not finite"
        values = dict(zip([*terms, *metrics], shown_values, strict=True)) | {"grad_norm": size}
        return Step(self.index, loss, values, cameras, render, tuple(lesson.out for lesson in lessons)), trouble

    def _render(
        self, scene: Scene, cameras: Cameras, weights: Any, progress: float, rng: torch.Generator
    ) -> tuple[RenderOutput, list[Backdrop]]:
        """The render of a step, and the backdrop of each of its pictures."""
        shading = self.stage.lighting(cameras, progress, rng)
        normals = bool(OF_NORMALS & set(weights)) or any(teacher.show == "normal" for teacher in self.stage.teachers)
        backdrops = draw_backdrops(self.place.backdrops, self.stage.cameras, rng)
        behind = torch.tensor([each.color for each in backdrops], device=self.ready.device) if backdrops else None
        return scene.render(cameras, rng, shading, background=behind, progress=progress, normals=normals), backdrops

    def _lessons(
        self, render: RenderOutput, cameras: Cameras, backdrops: list[Backdrop], progress: float, rng: torch.Generator,
        turn: int,
    ) -> list[Lesson]:  # fmt: skip
        """The results of all teachers whose weight is not 0, numbered by their place in the stage's list."""
        found = []
        for number, (teacher, prior, embeds, learned) in enumerate(
            zip(self.stage.teachers, self.ready.priors, self.ready.embeds, self.learned, strict=True)
        ):
            if value_at(teacher.weight, progress) == 0.0:
                continue
            # Normals and places lie on black: the words of a backdrop would be wrong.
            cond = replace(embeds.at(cameras, backdrops if teacher.show == "color" else (), teacher.show), render=render)
            own = learned[turn] if isinstance(learned, PerParticle) else learned
            with failures_of(teacher, prior, number, self.index):
                lesson = teach(teacher, prior, cond, cameras, progress, rng, own, self.photos)
            found.append(replace(lesson, number=number))
        return found

    def _compared(self, scene: Scene, progress: float, rng: torch.Generator, weights: Mapping[str, float]) -> Comparison:
        """A render from the cameras of known pictures, and its terms; ``weights``: of the regularizers among them."""
        settings, names = self.stage.photometric, set(weights)
        assert settings is not None
        assert self.pictures is not None
        found = compare_render(scene, self.pictures, settings, progress, rng, bool(OF_NORMALS & names))
        raw = scene.regularize(found.render, progress, tuple(weights), rng) if weights else {}
        found.terms |= {f"photo_{name}": weights[name] * value for name, value in raw.items()}
        return found

    def _backward(self, lessons: list[Lesson], terms: dict[str, Tensor]) -> Tensor:
        """One backward pass through the renderer, with all teachers' gradients and all terms; returns the total loss ()."""
        # As products, whose gradients are the given ones: torch imports its symbolic shapes (0.5 s) to check given gradients.
        pairs = [pair for lesson in lessons for pair in lesson.gradients]
        assert all(tensor.shape == gradient.shape for tensor, gradient in pairs)
        roots = [(tensor * gradient).sum() for tensor, gradient in pairs]
        rest = sum(terms.values())
        if isinstance(rest, Tensor) and rest.requires_grad:
            roots.append(rest)
        if roots:
            torch.autograd.backward(roots)
        losses = [lesson.loss for lesson in lessons]
        return (sum(losses[1:], losses[0]) if losses else torch.zeros(())) + rest

    def _roll_back(self, trouble: str) -> str:
        """Restore the last good copy and use other random numbers from there; returns a message for the user."""
        failed, attempt = self.index, self.attempt + 1
        check_attempts(failed, trouble, attempt)
        self.load_values(copied(self.good))
        self.attempt = attempt
        return f"step {failed}: {trouble}; rolled back to step {self.index} (attempt {attempt} of 3)"

    def leave(self, settings: Extract) -> Handover:
        return replace(self.ready.handover, meshes=meshes_of(self, settings))

    def history(self, particle: int) -> str:
        return self.watches[particle].told

    def state_dict(self) -> dict[str, Any]:
        # A copy of the current step equals the values and is not stored a second time.
        return {**self.values(), "good": self.good if self.good.get("index") != self.index else {}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.load_values(saved)
        self.good = saved["good"]

    def values(self) -> dict[str, Any]:
        """The state that steps change; its tensors are not copies."""
        return {
            "index": self.index,
            "attempt": self.attempt,
            "watches": [asdict(watch) for watch in self.watches],
            "scenes": [dict(scene.state_dict()) for scene in self.scenes],
            "learned": [None if part is None else dict(part.state_dict()) for part in self.learned],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_values(self, saved: dict[str, Any]) -> None:
        """Restore a state from :meth:`values`."""
        self.index, self.attempt = saved["index"], saved["attempt"]
        self.watches = [Watch(**watch) for watch in saved["watches"]]
        for part, values in zip((*self.scenes, *self.learned), (*saved["scenes"], *saved["learned"]), strict=True):
            if part is not None:
                part.load_state_dict(values)
        self.optimizer.load_state_dict(saved["optimizer"])


def as_numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Tensors () as numbers, with one transfer from a GPU, since each transfer waits for the GPU."""
    apart = [value.detach() if isinstance(value, Tensor) else torch.tensor(value) for value in values]
    away = [value.float() for value in apart if value.device.type != "cpu"]
    fetched = iter(torch.stack(away).tolist() if away else ())
    return [float(value) if value.device.type == "cpu" else next(fetched) for value in apart]


def draw_backdrops(backdrops: Sequence[Backdrop], cameras: CameraSampler, rng: torch.Generator) -> list[Backdrop]:
    """One of ``backdrops`` for each picture of a step, the same for the views of one orbit; [] if there are none.

    The prompt names the backdrop, which determines the background's colour at high noise. With several backdrops, density
    of one colour in empty space has a high loss on all others.
    """
    if not backdrops:
        return []
    drawn = torch.randint(len(backdrops), (cameras.views // cameras.orbit,), generator=rng)
    return [backdrops[i] for i in drawn.repeat_interleave(cameras.orbit).tolist()]


def gradient_norm(scene: Scene, limit: float | None) -> Tensor:
    """The norm () of the scene's gradient before clipping; with a ``limit`` larger gradients are scaled down to it."""
    parameters = [parameter for parameter in scene.parameters() if parameter.grad is not None]
    if limit is not None:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
