"""The 3D representations and their renderers."""

from dreamlift.scenes.gaussians import Gaussians
from dreamlift.scenes.nerf import Nerf

SCENES = {"nerf": Nerf, "gaussians": Gaussians}
