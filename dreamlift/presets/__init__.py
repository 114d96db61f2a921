"""Named settings, each with the paper that it follows and what it costs.

``toybox`` is the default; the ``-toy`` ones run a paper's losses and stages on the embedded prior in minutes.
"""

from __future__ import annotations

from dreamlift.config.schema import Config
from dreamlift.presets.papers import PAPERS
from dreamlift.presets.staged import STAGED
from dreamlift.presets.toybox import TOYBOX, TOYS

PRESETS: dict[str, Config] = {"toybox": TOYBOX, **PAPERS, **STAGED, **TOYS}
