"""The kinds of stages that a run is made of."""

from dreamlift.stages.base import Stage
from dreamlift.stages.lift import Lift

STAGES: dict[str, type[Stage]] = {"lift": Lift}
