"""The 3D representations and their renderers."""

from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.tetmesh.scene import TetMesh

SCENES = {"nerf": Nerf, "gaussians": Gaussians, "tetmesh": TetMesh, "surface": Surface}
