"""Presets: named settings, each with its paper.

``toybox`` is the default. The ``-toy`` presets run a paper's losses and stages with the embedded prior in minutes.
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
from dreamlift.presets.pictures import dreambooth3d, magic123, zero123
from dreamlift.presets.preset import Preset
from dreamlift.presets.toy_pictures import TOY_PICTURES
from dreamlift.presets.toy_stages import TOY_STAGES
from dreamlift.presets.toy_subjects import TOY_SUBJECTS
from dreamlift.presets.toybox import TOYBOX, TOYS

ABOUT: dict[str, Preset] = {
    "toybox": Preset(TOYBOX, "", "the default: the shape by places, then its colors"),
    **TOYS,
    **TOY_STAGES,
    **TOY_PICTURES,
    **TOY_SUBJECTS,
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
    **zero123.PRESETS,
    **magic123.PRESETS,
    **dreambooth3d.PRESETS,
}
"""All presets of the package by name, with their paper and purpose."""

PRESETS: dict[str, Config] = {name: preset.config for name, preset in ABOUT.items()}
"""The configs of all presets, including those that plugins add."""
