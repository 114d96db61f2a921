"""The 3D representations and their renderers."""

from dreamlift.scenes.gaussians import Gaussians
from dreamlift.scenes.nerf import Nerf
from dreamlift.scenes.surface import Surface
from dreamlift.scenes.tetmesh import TetMesh

SCENES = {"nerf": Nerf, "gaussians": Gaussians, "tetmesh": TetMesh, "surface": Surface}
