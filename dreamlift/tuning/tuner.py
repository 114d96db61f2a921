"""The fine-tuning itself: an object that makes one step at a time and whose state can be saved and restored.

Everything random of a step follows from the seed and the step's index, so that a resumed tuning is bit-identical to an
uninterrupted one. DreamBooth uses it on photos and class pictures, textual inversion on photos; any pictures with prompts and
cameras will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.network import DenoisingNetwork
from dreamlift.priors.parts import Parts
from dreamlift.priors.saving import Memory
from dreamlift.system.streams import random_stream
from dreamlift.tuning.examples import Examples, drawn, told
from dreamlift.tuning.loss import draw_times, dreambooth_loss, noised, target, weight
from dreamlift.tuning.network import TunedNetwork
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.text import FixedText, TunedText, make_text

CLIP_NORM = 1.0  # largest norm of the gradient, as in diffusers' examples


class TuningDivergedError(RuntimeError):
    """The loss is no number any more."""


class Tuner:
    """A fine-tuning after ``index`` steps.

    Args:
        own: pictures of the subject. kin: of its class; None: no prior preservation.
        latent: whether the network works on an autoencoder's latents.
    """

    def __init__(
        self, network: TunedNetwork, text: FixedText | TunedText, own: Examples, kin: Examples | None, settings: Tuning,
        latent: bool,
    ) -> None:  # fmt: skip
        self.network, self.text, self.own, self.kin = network, text, own, kin if settings.class_weight else None
        self.settings, self.latent, self.index = settings, latent, 0
        self.parameters = dict(_named(network, text))
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(self._rate(name), []).append(parameter)
        self.optimizer = torch.optim.AdamW([{"params": own, "lr": lr} for lr, own in groups.items()], weight_decay=1e-2)

    def _rate(self, name: str) -> float:
        settings = self.settings
        found = settings.word_lr if name.endswith(".vector") else settings.text_lr if name[:5] == "text." else settings.lr
        assert found is not None
        return found

    def loss(self, index: int) -> Tensor:
        """The loss () of step ``index``."""
        settings, base = self.settings, self.network.base
        count = settings.batch or 1
        sets = [(self.own, "own"), (self.kin, "kin")] if self.kin is not None else [(self.own, "own")]
        latents, cameras, prompts, steps = [], [], [], []
        rng, horizon = random_stream("tuning", settings.seed, index), len(base.alphas_cumprod)
        for examples, name in sets:
            assert examples is not None
            rows, said = drawn(examples, name, settings.seed, index, count)
            latents.append(examples.latents[rows])
            cameras.append(told(examples, rows, base.camera_width))
            prompts += said
            steps.append(draw_times(base.prediction, count, horizon, rng))
        x0 = torch.cat(latents)
        eps = torch.randn(x0.shape, generator=rng).to(base.device)
        x0, at = x0.to(base.device), torch.cat(steps).to(base.device)
        abar = base.alphas_cumprod[at].view(-1, 1, 1, 1)
        out = self.network(noised(x0, eps, abar), at, torch.cat(cameras), self.text(prompts))
        errors = weight(base.prediction, abar, self.latent) * (out - target(base.prediction, x0, eps, abar)).square()
        return dreambooth_loss(errors, count, settings.class_weight)

    def step(self) -> float:
        """Make one step; returns its loss.

        Raises:
            TuningDivergedError: the loss is NaN or infinite; the weights are those before the step.
        """
        loss = self.loss(self.index)
        if not math.isfinite(value := float(loss.detach())):
            raise TuningDivergedError(f"the tuning diverged at step {self.index}: give a smaller --lr and another --out")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.index += 1
        return value

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a step changes, by name."""
        found = {f"value.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            entry = self.optimizer.state.get(parameter, {})
            found |= {f"{key}.{name}": torch.as_tensor(value) for key, value in entry.items()}
        return {**found, "index": torch.tensor(self.index)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of :meth:`state_dict`.

        Raises:
            ValueError: it is the state of another tuning.
        """
        shapes = {f"value.{name}": parameter.shape for name, parameter in self.parameters.items()}
        if {key: value.shape for key, value in state.items() if key.startswith("value.")} != shapes:
            raise ValueError("the saved state is that of other weights")
        self.index = int(state["index"])
        for name, parameter in self.parameters.items():
            parameter.copy_(state[f"value.{name}"])
            entry: dict[str, Any] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := state.get(f"{key}.{name}")) is not None:
                    entry[key] = value.clone() if key == "step" else torch.empty_like(parameter).copy_(value)
            self.optimizer.state[parameter] = entry


def make_tuner(
    parts: Parts, choice: PriorChoice, own: Examples, kin: Examples | None, word: str, settings: Tuning,
    device: torch.device, picture_size: int,
) -> Tuner:  # fmt: skip
    """A tuner before its first step, for the prior in ``parts``, with the LoRAs and embeddings of ``choice`` as its start.

    Args:
        word: the new word, whose vectors are learnt with ``settings.learn_word``.
        picture_size: pixels a side of the pictures, which Stable Diffusion XL is told.
    """
    every = [*own.every_prompt(), *(kin.every_prompt() if kin and settings.class_weight else ())]
    dtype, rng = training_dtype(device, settings.all_weights), random_stream("text LoRA", settings.seed)
    text = make_text(parts, choice, list(dict.fromkeys(every)), word, settings, device, dtype, rng)
    base = DenoisingNetwork(parts, device, dtype, choice.camera_conditioning, choice.loras)
    base.picture_size = picture_size
    base.save_memory(Memory(gradient_checkpointing=settings.gradient_checkpointing))
    rank = 0 if settings.all_weights or settings.word_only else settings.rank or 1
    rng = random_stream("LoRA", settings.seed)
    network = TunedNetwork(base, rank, settings.targets or "attention", rng, frozen=settings.word_only)
    return Tuner(network, text, own, kin, settings, latent=parts.has("vae"))


def training_dtype(device: torch.device, all_weights: bool) -> torch.dtype:
    """The precision of the frozen weights: bfloat16 on a GPU, whose range needs no scaled loss; all weights need float32."""
    return torch.bfloat16 if device.type == "cuda" and not all_weights else torch.float32


def tune(tuner: Tuner) -> Iterator[float]:
    """Yield the loss of each step until ``settings.steps`` steps are done."""
    while tuner.index < (tuner.settings.steps or 0):
        yield tuner.step()


def _named(network: TunedNetwork, text: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trained parameters by name, each once."""
    for prefix, module in (("unet", network), ("text", text)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter
