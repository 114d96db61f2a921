"""The 3D representations and their renderers."""

from dreamlift.scenes.nerf import Nerf

SCENES = {"nerf": Nerf}
