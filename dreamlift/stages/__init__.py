"""The kinds of stages."""

from dreamlift.stages.base import Stage
from dreamlift.stages.finetune import Finetune
from dreamlift.stages.lift import Lift
from dreamlift.stages.repaint import Repaint

STAGES: dict[str, type[Stage]] = {"lift": Lift, "repaint": Repaint, "finetune": Finetune}
