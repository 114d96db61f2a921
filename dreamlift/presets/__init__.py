"""Named settings, each with the paper that it follows.

``toybox`` is the default; the ``-toy`` ones run a paper's losses and stages on the embedded prior in minutes.
"""

from __future__ import annotations

from dreamlift.config.schema import Config
from dreamlift.presets.papers import (
    cfd,
    dreamfusion,
    fantasia3d,
    flow,
    gaussians,
    hifa,
    latent_nerf,
    luciddreamer,
    magic3d,
    mvdream,
    prolificdreamer,
    sdi,
    sjc,
)
from dreamlift.presets.preset import Preset
from dreamlift.presets.toy_stages import TOY_STAGES
from dreamlift.presets.toybox import TOYBOX, TOYS

ABOUT: dict[str, Preset] = {
    "toybox": Preset(TOYBOX, "", "the default: a radiance field, then its mesh"),
    **TOYS,
    **TOY_STAGES,
    **dreamfusion.PRESETS,
    **latent_nerf.PRESETS,
    **hifa.PRESETS,
    **sdi.PRESETS,
    **luciddreamer.PRESETS,
    **sjc.PRESETS,
    **cfd.PRESETS,
    **flow.PRESETS,
    **mvdream.PRESETS,
    **prolificdreamer.PRESETS,
    **magic3d.PRESETS,
    **fantasia3d.PRESETS,
    **gaussians.PRESETS,
}
"""Every preset of the package by its name, with its paper and purpose."""

PRESETS: dict[str, Config] = {name: preset.config for name, preset in ABOUT.items()}
"""The configs, and those that plugins add."""
