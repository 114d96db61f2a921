"""Distillation losses, one paper a file."""

from __future__ import annotations

from dreamlift.guidance.base import Guidance
from dreamlift.guidance.cfd import CFD
from dreamlift.guidance.csd import CSD
from dreamlift.guidance.diffusion_loss import DiffusionLoss
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.nfsd import NFSD
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.rfds import RFDS
from dreamlift.guidance.sdi import SDI
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.sjc import SJC
from dreamlift.guidance.vsd import VSD

GUIDANCE: dict[str, type[Guidance]] = {
    "sds": SDS,
    "diffusion_loss": DiffusionLoss,
    "csd": CSD,
    "cfd": CFD,
    "ism": ISM,
    "sdi": SDI,
    "vsd": VSD,
    "sjc": SJC,
    "nfsd": NFSD,
    "hifa": HiFA,
    "rfds": RFDS,
    "reconstruction": Reconstruction,
    "refine": Refine,
}
"""Every loss by its name in a config."""
