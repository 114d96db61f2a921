"""Distillation losses, one paper a file."""

from __future__ import annotations

from dreamlift.guidance.base import Guidance
from dreamlift.guidance.diffusion_loss import DiffusionLoss
from dreamlift.guidance.sds import SDS

GUIDANCE: dict[str, type[Guidance]] = {
    "sds": SDS,
    "diffusion_loss": DiffusionLoss,
}
"""Every loss by its name in a config."""
