"""The 3D representations and their renderers."""

from dreamlift.scenes.nerf import Nerf
from dreamlift.scenes.tetmesh import TetMesh

SCENES = {"nerf": Nerf, "tetmesh": TetMesh}
