"""The kinds of stages."""

from dreamlift.stages.base import Stage
from dreamlift.stages.lift import Lift

STAGES: dict[str, type[Stage]] = {"lift": Lift}
