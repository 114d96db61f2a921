"""The loop, a generator of :class:`~dreamlift.types.Step`: render, ask the prior, go back, step.

The progress bar, the checkpoints, previews and tests all consume the same steps; there are no callbacks. All randomness
of step ``index`` follows from (seed, index, attempt) alone, so a resumed run repeats the interrupted one bit by bit.

Two watchdogs look at every step. A value that is not finite, or a scene that has emptied, rolls the state back to the
last good copy and goes on with other random numbers; the step's ``note`` says so. After three times without reaching
the next copy the run ends with :class:`DivergedError`. A checkpoint between two copies holds the last one as well, so
that a resumed run rolls back to where the uninterrupted one would.

With several particles (Wang et al. 2023, ProlificDreamer) each step is one scene's, in turn; they share nothing but what the
loss learns, and a particle's progress is that of its own steps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.config.schema import Config, Show
from dreamlift.priors.base import Prior
from dreamlift.prompts import Backdrop, PromptEmbeds
from dreamlift.scenes.base import Scene
from dreamlift.schedules import value_at
from dreamlift.types import Mesh, RenderOutput, Step

SNAPSHOT_EVERY = 25  # steps between two copies of the last good state
ATTEMPTS = 3
EMPTY = 1e-3  # mean opacity of a render below which nothing is left to lift


class DivergedError(RuntimeError):
    """The run went wrong again and again; the message says how, and what to change."""


@dataclass
class State:
    """All that changes during a run."""

    scenes: tuple[Scene, ...]  # the particles
    guidance: nn.Module | None  # what the loss learns, where it learns something; `Each` where particles do not share it
    optimizer: torch.optim.Optimizer
    base_lrs: tuple[float, ...]  # learning rates of the optimiser's groups before any schedule
    index: int = 0  # the next step, counted from the run's beginning
    stage: int = 0  # counted from 0
    first: int = 0  # the step with which this stage began
    starts: tuple[Mesh | None, ...] = ()  # what each particle's scene began as in this stage
    attempt: int = 0  # how often the run was rolled back to the last good copy
    good: dict[str, Any] = field(default_factory=dict)  # the last good copy

    @property
    def scene(self) -> Scene:
        """The particle whose turn it is; after a run, the first one."""
        return self.scenes[self.turn]

    @property
    def turn(self) -> int:
        """Which particle's it is."""
        return (self.index - self.first) % len(self.scenes)

    @property
    def learned(self) -> nn.Module | None:
        """What the loss learns with that particle."""
        return self.guidance[self.turn] if isinstance(self.guidance, Each) else self.guidance

    def become(self, other: State) -> None:
        """Be another state from now on: the next stage's."""
        vars(self).update(vars(other))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold."""
        return {
            "stage": self.stage,
            "first": self.first,
            "starts": [None if mesh is None else dict(vars(mesh)) for mesh in self.starts],
            **self.values(),
            "good": self.good if self.good.get("index") != self.index else {},  # of this very step, it is these values
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a checkpoint of this same stage (:func:`start` makes a state of another one)."""
        self.load_values(saved)
        self.good = saved.get("good", {})  # older checkpoints have none

    def values(self) -> dict[str, Any]:
        """What changes from step to step; the tensors are the state's own."""
        learned = self.guidance.state_dict() if self.guidance is not None else {}
        return {
            "index": self.index,
            "attempt": self.attempt,
            "scenes": [dict(scene.state_dict()) for scene in self.scenes],
            "guidance": dict(learned),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_values(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`values` gave."""
        self.index, self.attempt = saved["index"], saved["attempt"]
        for scene, values in zip(self.scenes, saved["scenes"], strict=True):
            scene.load_state_dict(values)
        if self.guidance is not None:
            self.guidance.load_state_dict(saved["guidance"])
        self.optimizer.load_state_dict(saved["optimizer"])


class Each(nn.ModuleList):
    """What a loss learns of each particle apart."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self for group in part.param_groups()]  # pyright: ignore[reportCallIssue]


def random_stream(*key: int | str) -> torch.Generator:
    """A CPU generator whose numbers follow from ``key`` alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def start(config: Config, prior: Prior, starts: tuple[Mesh | None, ...] = (None,), stage: int = 0, first: int = 0) -> State:
    """A fresh state of a stage on the prior's device.

    Args:
        config: of this stage.
        starts: what each particle's scene begins as; one stands for all.
        stage: its number, from 0. first: the run's step with which it begins.

    Raises:
        ValueError: cameras or a loss that this prior cannot work with.
    """
    check_views(config, prior)
    stream = (config.seed, *(["stage", stage] if stage else []))
    meshes = starts * config.particles if len(starts) == 1 else starts
    scenes = tuple(
        config.scene.build(random_stream(*stream, "scene", *([number] if number else [])), prior.device, mesh).train()
        for number, mesh in enumerate(meshes)
    )
    learned = config.guidance.init(prior, random_stream(*stream, "guidance"))
    if learned is not None and not config.guidance.shared and config.particles > 1:
        streams = [random_stream(*stream, "guidance", number) for number in range(1, config.particles)]
        learned = Each([learned, *(config.guidance.init(prior, each) for each in streams)])
    groups = [dict(group) for part in (*scenes, learned) if part is not None for group in part.param_groups()]
    adam = config.adam
    optimizer = torch.optim.Adam(groups, betas=(adam.beta1, adam.beta2), eps=adam.eps)
    rates = tuple(group["lr"] for group in optimizer.param_groups)
    return State(scenes, learned, optimizer, rates, first, stage, first, meshes)


def restored(config: Config, prior: Prior, saved: dict[str, Any]) -> State:
    """The state that ``saved`` (of :meth:`State.state_dict`) was, in the stage that it was in; ``config`` is that stage's."""
    starts = tuple(None if mesh is None else Mesh(**mesh) for mesh in saved["starts"])
    state = start(config, prior, starts, saved["stage"], saved["first"])
    state.load_state_dict(saved)
    return state


def check_views(config: Config, prior: Prior) -> None:
    """Refuse cameras that a prior of several views cannot look through. Raises ValueError."""
    if prior.views > 1 and config.cameras.orbit != prior.views:
        raise ValueError(
            f"cameras.orbit is {config.cameras.orbit}, but this prior looks at {prior.views} views of an object together: set "
            f"cameras.orbit to {prior.views} and cameras.views to a multiple of it (as --preset mvdream does)"
        )


def optimize(config: Config, prior: Prior, embeds: PromptEmbeds, state: State) -> Iterator[Step]:
    """Steps from ``state.index`` to the end of this stage; ``state`` is changed in place, and right after each step.

    ``config`` is the stage's own (:attr:`Config.stages`).

    Raises:
        DivergedError: three roll-backs to the same copy did not help.
    """
    end = state.first + config.steps * config.particles
    state.good = state.good or snapshot(state)
    while state.index < end:
        step, trouble = take_step(config, prior, embeds, state)
        if trouble:
            step = replace(step, note=roll_back(state, trouble))
        else:
            state.index += 1
            if state.index % SNAPSHOT_EVERY == 0 or state.index == end:
                state.attempt = 0  # past the trouble: a long run may meet more of it than three times
                state.good = snapshot(state)
        yield step


def take_step(config: Config, prior: Prior, embeds: PromptEmbeds, state: State) -> tuple[Step, str]:
    """One step, and what is wrong with it ("" if nothing; otherwise the state must be rolled back)."""
    index, scene = state.index, state.scene
    own = (index - state.first) // config.particles  # the particle's own steps so far in this stage
    progress = own / config.steps
    rng = random_stream(config.seed, index, state.attempt)
    cameras = config.cameras(progress, rng).to(prior.device)
    shading = config.lighting(cameras, progress, rng)
    weights = config.weights.at(progress)
    normals = "orientation" in weights or config.show == "normal"
    backdrops = draw_backdrops(config, rng)
    behind = torch.tensor([each.color for each in backdrops], device=prior.device) if backdrops else None
    render = scene.render(cameras, rng, shading, background=behind, progress=progress, normals=normals)
    cond = replace(embeds.at(cameras, backdrops), render=render)
    out = config.guidance(prior, prior.encode(shown(render, config.show)), cond, progress, rng, state.learned)
    raw = scene.regularize(render, progress, tuple(weights)) if weights else {}
    terms = {name: weights[name] * value for name, value in raw.items()}
    total = out.loss + sum(terms.values())

    optimizer = state.optimizer
    for group, lr in zip(optimizer.param_groups, state.base_lrs, strict=True):
        group["lr"] = lr * value_at(config.adam.lr_scale, progress)
    optimizer.zero_grad(set_to_none=True)
    if total.requires_grad:  # not where the cameras see nothing of the scene
        total.backward()
    norm = gradient_norm(scene, config.adam.clip_norm)
    finite, loss, size, opacity, *shown_values = as_numbers(
        [out.x0.isfinite().all(), total, norm, render.opacity.mean(), *terms.values(), *out.metrics.values()]
    )
    trouble = find_trouble(bool(finite), loss, size, opacity)
    if not trouble:
        optimizer.step()
        scene.after_step(own, progress, rng, render, optimizer)
        if not is_finite(scene):
            trouble = "the scene has values that are not finite numbers"
        elif state.guidance is not None and not is_finite(state.guidance):
            trouble = "what the loss has learnt has values that are not finite numbers"
    values = dict(zip([*terms, *out.metrics], shown_values, strict=True)) | {"grad_norm": size}
    return Step(index, loss, values, cameras, render, out), trouble


def as_numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Tensors () as numbers, by one transfer from a GPU: each wait for it costs more than what it then does."""
    apart = [value.detach() if isinstance(value, Tensor) else torch.tensor(value) for value in values]
    away = [value.float() for value in apart if value.device.type != "cpu"]
    fetched = iter(torch.stack(away).tolist() if away else ())
    return [float(value) if value.device.type == "cpu" else next(fetched) for value in apart]


def draw_backdrops(config: Config, rng: torch.Generator) -> list[Backdrop]:
    """One of ``config.backdrops`` for each picture of a step, the same for the views of one orbit; [] if there are none.

    The prior is told which: it need not guess the colour at high noise, as it must that of :class:`scenes.background.Random`,
    and nothing that the scene could put in the place of air has the colour of them all.
    """
    if not config.backdrops:
        return []
    drawn = torch.randint(len(config.backdrops), (config.cameras.views // config.cameras.orbit,), generator=rng)
    return [config.backdrops[i] for i in drawn.repeat_interleave(config.cameras.orbit).tolist()]


def shown(render: RenderOutput, show: Show) -> Tensor:
    """The pictures ``(B, H, W, 3)`` in [0, 1] that the prior sees: colours, or normals on black (Fantasia3D)."""
    if show == "color" or render.normal is None:
        return render.rgb
    return 0.5 * (render.normal + render.opacity)


def gradient_norm(scene: Scene, limit: float | None) -> Tensor:
    """The norm () of all the scene's gradients; they are scaled down to ``limit`` if one is given."""
    parameters = [parameter for parameter in scene.parameters() if parameter.grad is not None]
    if limit is not None:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def find_trouble(answered: bool, loss: float, norm: float, opacity: float) -> str:
    """What the watchdogs see before a step, in words; "" if all is well.

    Args:
        answered: the prior's answer is finite. loss, norm: of all the gradients. opacity: mean of the render.
    """
    # Losses leave such values out of their gradient: without this look a broken prior would teach nothing, unnoticed.
    if not answered:
        return "the prior's answer is not finite numbers"
    if not math.isfinite(loss):
        return "the loss is not a finite number"
    if not math.isfinite(norm):
        return "the gradient is not a finite number"
    if opacity < EMPTY:
        return "the scene has become empty"
    return ""


def is_finite(part: nn.Module) -> bool:
    """Whether every parameter is finite. Their norm is enough: it is not finite as soon as one value is not (or is beyond
    1e19), and a GPU finds it for many tensors at once."""
    values = [parameter.detach() for parameter in part.parameters() if parameter.numel()]
    return not values or bool(torch.isfinite(nn.utils.get_total_norm(values)))


def snapshot(state: State) -> dict[str, Any]:
    """A deep copy of the state's values."""
    return _copied(state.values())


def roll_back(state: State, trouble: str) -> str:
    """Go back to the last good copy, with other random numbers from there; returns what happened, for the user."""
    failed, attempt = state.index, state.attempt + 1
    if attempt > ATTEMPTS:
        raise DivergedError(
            f"step {failed}: {trouble}, after {ATTEMPTS} roll-backs. Lower adam.lr_scale or guidance.guidance_scale, "
            "or the weights.sparsity and weights.opaque if the scene empties"
        )
    state.load_values(_copied(state.good))
    state.attempt = attempt
    return f"step {failed}: {trouble}; rolled back to step {state.index} (attempt {attempt} of {ATTEMPTS})"


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry) for entry in value)
    return value
