"""The interface of all 2D priors, and the combination of several noise predictions into a guided one.

A prior is a diffusion model with x_t = alpha(t) x + sigma(t) eps. ``schedule`` and ``predict_noise`` are enough for every
distillation loss, since x0 = (x_t - sigma eps_hat) / alpha in every family; v-predictions and rectified-flow velocities are
converted to eps inside the prior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine, UsedEngine
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.priors.parts import Parts
from dreamlift.priors.saving import Memory
from dreamlift.prompts import Backdrop, Embeds, Wording, embed_prompt
from dreamlift.types import Conditioning, Task, TextStates


class Prior(ABC):
    """A frozen 2D diffusion model (or an exact stand-in for one). ``t`` is in [0, 1]."""

    resolution: int  # side of the training pictures, in pixels
    views: int = 1  # consecutive pictures of a batch that are denoised jointly: views of one object with the same t
    engine: UsedEngine = "torch"  # that runs calls without gradients; see :meth:`use_engine`
    takes_onnx: bool = False  # whether ONNX Runtime can run its network
    adapts: bool = True  # whether a LoRA of it can be trained (:meth:`adapted`)
    reads_pictures: bool = False  # whether it is conditioned on a picture of the object instead of words
    latent_bound: float | None = None  # largest absolute value of its latents: 1 for pixels; None: they have no bound
    device: torch.device

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        """Whether this kind of prior supports ``parts``; see :func:`dreamlift.priors.kinds.kind_of` for the order.

        False for priors that are only constructed in memory.
        """
        return False

    @classmethod
    def check(cls, parts: Parts, choice: PriorChoice) -> None:
        """Refuse options that this kind of prior does not support, before anything is loaded.

        Raises:
            ValueError: one line with the fix.
        """
        return

    @classmethod
    def check_task(cls, parts: Parts | None, show: str, wording: Wording, has_photos: bool) -> None:
        """Refuse what a teacher shows or says that this kind of prior does not support, before anything is loaded.

        Args:
            parts: None for a prior in memory. show: what it is shown (:data:`dreamlift.stages.teacher.Show`).
            has_photos: whether the run has a picture of the object.

        Raises:
            ValueError: one line with the fix.
        """
        return

    @classmethod
    def check_memory(cls, memory: Memory) -> None:
        """Refuse memory settings that this kind of prior does not support, before anything is loaded. Raises ValueError."""
        return

    @classmethod
    def load(cls, parts: Parts, choice: PriorChoice, device: torch.device) -> Prior:
        """The prior with its networks on ``device``, without text encoders.

        Raises:
            ValueError: parts or options that this kind of prior does not support.
        """
        raise NotImplementedError

    @classmethod
    def read(
        cls, parts: Parts, choice: PriorChoice, task: Task, wording: Wording, backdrops: Sequence[Backdrop],
        device: torch.device, engine: UsedEngine = "torch",
    ) -> Embeds:  # fmt: skip
        """The network's conditioning, computed before the network is loaded; the encoders are freed.

        Args:
            task: the prompt, negative prompt and photos of the run. wording: the view phrases of the prompt.
            backdrops: the backgrounds that the prompt names. engine: of the run; a kind may ignore it.
        """
        raise NotImplementedError

    def embeds(self, task: Task, wording: Wording, backdrops: Sequence[Backdrop]) -> Embeds:
        """What this prior, in memory, is conditioned on; the twin of :meth:`read`."""
        return embed_prompt(task.prompt, task.negative, wording, self.embed_text, backdrops)

    @classmethod
    def text_precision(cls, parts: Parts, device: torch.device) -> torch.dtype:
        """The precision of the text encoders (and networks) on ``device``: half on a CUDA GPU, else float32."""
        # On CPUs without bf16 units half precision is some 60 times slower than float32.
        return torch.float16 if device.type == "cuda" else torch.float32

    @abstractmethod
    def encode(self, rgb: Tensor) -> Tensor:
        """Pictures ``(B, H, W, 3)`` in [0, 1] to latents ``(B, C, h, w)``, differentiably; any H, W."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, h, w)`` to pictures ``(B, H, W, 3)`` in [0, 1]."""

    @abstractmethod
    def embed_text(self, prompts: list[str]) -> TextStates:
        """Text states ``(V, L, D)`` of V prompts, and pooled ones ``(V, P)`` if the network uses them."""

    @abstractmethod
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma, both ``(B, 1, 1, 1)``, for ``t (B,)``."""

    @abstractmethod
    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        """eps_hat ``(B, C, h, w)`` for ``x_t (B, C, h, w)`` at ``t (B,)``, guided by :func:`classifier_free_guidance`.

        Scale 1 is the prediction for the prompt alone; scale 0 is that for the negative (or empty) prompt.
        """

    @abstractmethod
    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        """A trainable copy of the prior with a LoRA of ``rank``, and a camera input, both drawn from ``rng``.

        Its initial predictions equal the unguided prior's; with ``camera_input`` "matrix", those without a camera do nearly.

        Raises:
            ValueError: this prior supports no LoRA.
        """

    @abstractmethod
    def save_memory(self, memory: Memory) -> None:
        """Apply the memory settings to all later calls."""

    def use_engine(self, engine: Engine) -> None:
        """Let ``engine`` run all later calls that need no gradient, after :meth:`save_memory`, and set ``self.engine``.

        Raises:
            ValueError: "onnx" is wanted, but cannot run this prior's network.
        """
        if engine == "onnx":
            raise ValueError("ONNX Runtime does not run this kind of prior: use --engine auto or torch")


class Adapted(nn.Module, ABC):
    """A prior with a low-rank adaptation, which holds the parameters, and with the camera as an input."""

    @abstractmethod
    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """eps_hat ``(B, C, h, w)`` for the prompt and ``cond.cameras``, unguided, differentiable in the parameters."""


def classifier_free_guidance(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance, ``uncond + s (cond - uncond)`` (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

    Several systems state s for ``cond + s (cond - uncond)``, which is s + 1 here.
    """
    return uncond + guidance_scale * (cond - uncond)


def perp_neg(uncond: Tensor, cond: Tensor, negatives: Tensor, weights: Tensor, guidance_scale: float) -> Tensor:
    """Perp-Neg (Armandpour et al. 2023, https://arxiv.org/abs/2304.04968, eq. 8).

    Only the component of each negative direction that is perpendicular to the prompt's direction is used:
    ``uncond + s (d + sum_i w_i (d_i - <d_i, d> / <d, d> d))`` with d = cond - uncond, d_i = negative_i - uncond.

    Args:
        uncond, cond: ``(B, C, h, w)``.
        negatives: ``(B, N, C, h, w)``.
        weights: ``(B, N)``, <= 0.
    """
    main = (cond - uncond).unsqueeze(1)
    other = negatives - uncond.unsqueeze(1)
    dims = (-3, -2, -1)
    along = (other * main).sum(dims, keepdim=True) / main.square().sum(dims, keepdim=True).clamp_min(1e-12)
    perpendicular = other - along * main
    total = main.squeeze(1) + (weights[..., None, None, None] * perpendicular).sum(1)
    return uncond + guidance_scale * total


def stack_text(cond: Conditioning, guidance_scale: float) -> TextStates:
    """The text states of one guided prediction, ``(P * B, L, D)``: negative prompt, prompt, Perp-Neg's N negative phrases.

    With ``guidance_scale`` 1 and without Perp-Neg only the prompt is used, with 0 only the negative prompt (P = 1 in both
    cases), which halves the cost.
    """
    negative = TextStates(cond.negative_prompt_embeds, cond.negative_pooled_prompt_embeds)
    prompt = TextStates(cond.prompt_embeds, cond.pooled_prompt_embeds)
    if guidance_scale == 0.0:
        return negative
    if cond.perp_embeds is None:
        return prompt if guidance_scale == 1.0 else _stacked(negative, prompt)
    pooled = None if cond.perp_pooled_embeds is None else cond.perp_pooled_embeds.transpose(0, 1).flatten(0, 1)
    return _stacked(negative, prompt, TextStates(cond.perp_embeds.transpose(0, 1).flatten(0, 1), pooled))


def _stacked(*parts: TextStates) -> TextStates:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TextStates(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def combine(noise: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
    """The guided eps_hat ``(B, C, h, w)`` from the predictions ``(P * B, C, h, w)`` in :func:`stack_text`'s order."""
    batch = cond.prompt_embeds.shape[0]
    if noise.shape[0] == batch:
        return noise
    parts = noise.unflatten(0, (-1, batch))
    if cond.perp_embeds is None or cond.perp_weights is None:
        return classifier_free_guidance(parts[0], parts[1], guidance_scale)
    return perp_neg(parts[0], parts[1], parts[2:].transpose(0, 1), cond.perp_weights, guidance_scale)


def cosine_schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), both ``(B, 1, 1, 1)`` (variance preserving)."""
    angle = (0.5 * torch.pi * t).view(-1, 1, 1, 1)
    return angle.cos(), angle.sin()
