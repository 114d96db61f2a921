"""The 3D representations and their renderers."""

from dreamlift.scenes.nerf import Nerf
from dreamlift.scenes.surface import Surface

SCENES = {"nerf": Nerf, "surface": Surface}
