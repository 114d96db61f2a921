"""The tree of nodes (glTF 2.0, section 3.5): where each mesh stands, and how a skin moves it in its rest pose.

A vertex of a skinned mesh is at ``sum_k w_k G(j_k) B(j_k) v``, with the joints' global transforms G and their inverse bind
matrices B; the transforms of the mesh's own node and its parents are ignored (section 3.7.3.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dreamlift.reading.gltf.accessors import Arrays
from dreamlift.reading.gltf.checks import entries, entry, extension, numbers, record, whole

INSTANCES = 20_000  # largest number of instances of meshes
JOINTS = 100_000  # largest number of joints of all skins together
INSTANCING = "EXT_mesh_gpu_instancing"


class Place(NamedTuple):
    """A node that shows a mesh."""

    mesh: int
    transforms: np.ndarray  # (N, 4, 4) one per instance, to the file's coordinates
    joints: np.ndarray | None  # (J, 4, 4) of a skin, G B: in the place of the transforms for primitives with joints
    weights: tuple[float, ...]  # of the mesh's morph targets, where the node states them


@dataclass
class Tree:
    """The nodes of one document. Only those that its scene reaches are checked, and the joints of their skins."""

    arrays: Arrays
    parents: dict[int, int] = field(default_factory=dict)
    twice: set[int] = field(default_factory=set)  # nodes with two parents
    globals: dict[int, np.ndarray] = field(default_factory=dict)
    skins: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, node in enumerate(entries(self.arrays.document, "nodes")):
            children = node.get("children") if isinstance(node, dict) else None
            for child in children if isinstance(children, list) else ():
                if isinstance(child, int):
                    if child in self.parents:
                        self.twice.add(child)
                    self.parents.setdefault(child, number)

    def places(self) -> list[Place]:
        """The meshes of the scene, in the order of the nodes. Raises ValueError where the nodes are no tree."""
        found: list[Place] = []
        seen: set[int] = set()
        instances = 0
        count = len(entries(self.arrays.document, "nodes"))
        waiting = list(reversed(self._roots(count)))
        while waiting:
            number = whole(waiting.pop(), "a child of a node", 0, count - 1)
            if number in seen or number in self.twice:
                raise ValueError(f"node {number} has two parents or is listed twice; the nodes must be a tree")
            seen.add(number)
            node = entry(self.arrays.document, "nodes", number, "a node")
            waiting += reversed(entries(node, "children"))
            if "mesh" in node:
                found.append(self._place(node, number))
                instances += len(found[-1].transforms)
            if instances > INSTANCES:
                raise ValueError(f"it has more than {INSTANCES:,} instances of meshes")
        return found

    def _roots(self, count: int) -> list[int]:
        scenes = entries(self.arrays.document, "scenes")
        if not scenes:
            return [number for number in range(count) if number not in self.parents]
        scene = entry(self.arrays.document, "scenes", self.arrays.document.get("scene", 0), "the scene")
        roots = [whole(root, "a root of the scene", 0, count - 1) for root in entries(scene, "nodes")]
        if any(root in self.parents for root in roots):
            raise ValueError("a root of the scene is another node's child")
        return roots

    def _place(self, node: dict[str, Any], number: int) -> Place:
        document, what = self.arrays.document, f"node {number}"
        mesh = whole(node["mesh"], f"the mesh of {what}", 0, len(entries(document, "meshes")) - 1)
        stated = entries(node, "weights")
        weights = tuple(numbers(stated, f"the weights of {what}", len(stated)))
        transforms = self.transform(number)[None]
        if "skin" in node:
            skin = entry(document, "skins", node["skin"], f"the skin of {what}")
            if node["skin"] not in self.skins:
                self.skins[node["skin"]] = self._joints(skin, f"skin {node['skin']}")
            return Place(mesh, transforms, self.skins[node["skin"]], weights)
        instancing = extension(node, INSTANCING)
        if instancing is not None:
            transforms = transforms @ self._instances(record(instancing, "attributes", what), what)
        return Place(mesh, transforms, None, weights)

    def transform(self, number: int) -> np.ndarray:
        """The transform (4, 4) of a node to the file's coordinates."""
        path = []
        at: int | None = number
        while at is not None and at not in self.globals:
            if len(path) > len(self.parents) or at in self.twice:
                raise ValueError(f"node {at} has two parents, or its parents are a circle; the nodes must be a tree")
            path.append(at)
            at = self.parents.get(at)
        found = np.eye(4) if at is None else self.globals[at]
        for number in reversed(path):
            node = entry(self.arrays.document, "nodes", number, "a node")
            found = found @ _local(node, f"node {number}")
            self.globals[number] = found
        return found

    def _instances(self, attributes: dict[str, Any], what: str) -> np.ndarray:
        """The transforms (N, 4, 4) of the extension for instances; there is one without any attribute."""
        found = {}
        for name, kind in (("TRANSLATION", "VEC3"), ("ROTATION", "VEC4"), ("SCALE", "VEC3")):
            if name in attributes:
                accessor = self.arrays.accessor(attributes[name], f"the {name} of the instances of {what}")
                if accessor.type != kind or accessor.count > INSTANCES:
                    raise ValueError(f"the {name} of the instances of {what} has the wrong type, or is too long")
                found[name] = accessor.reals(np.arange(accessor.count))
        counts = {len(values) for values in found.values()} or {1}
        if len(counts) > 1:
            raise ValueError(f"the attributes of the instances of {what} differ in their counts")
        count = counts.pop()
        return composed(
            found.get("TRANSLATION", np.zeros((count, 3))),
            found.get("ROTATION", np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))),
            found.get("SCALE", np.ones((count, 3))),
            f"the instances of {what}",
        )

    def _joints(self, skin: dict[str, Any], what: str) -> np.ndarray:
        """The matrices (J, 4, 4) of a skin's joints."""
        count = len(entries(self.arrays.document, "nodes"))
        joints = [whole(joint, f"a joint of {what}", 0, count - 1) for joint in entries(skin, "joints")]
        if not joints or sum(map(len, self.skins.values())) + len(joints) > JOINTS:
            raise ValueError(f"{what} has no joints, or all skins have more than {JOINTS:,}")
        matrices = np.stack([self.transform(joint) for joint in joints])
        if "inverseBindMatrices" not in skin:
            return matrices
        accessor = self.arrays.accessor(skin["inverseBindMatrices"], f"the inverse bind matrices of {what}")
        if accessor.type != "MAT4" or accessor.kind.kind != "f" or accessor.count < len(joints):
            raise ValueError(f"the inverse bind matrices of {what} have the wrong type, or are too few")
        bind = accessor.reals(np.arange(len(joints))).reshape(-1, 4, 4).transpose(0, 2, 1)  # stored by columns
        return matrices @ bind


def _local(node: dict[str, Any], what: str) -> np.ndarray:
    """A node's own transform (4, 4): its matrix, then its translation, rotation and scale."""
    found = np.eye(4)
    if not {"matrix", "translation", "rotation", "scale"} & set(node):
        return found
    if "matrix" in node:
        found = np.array(numbers(node["matrix"], f"the matrix of {what}", 16)).reshape(4, 4).T
    translation, rotation, scale = (
        np.array([numbers(node[name], f"the {name} of {what}", len(default)) if name in node else default])
        for name, default in (("translation", [0.0] * 3), ("rotation", [0.0, 0.0, 0.0, 1.0]), ("scale", [1.0] * 3))
    )
    return found @ composed(translation, rotation, scale, what)[0]


def composed(translations: np.ndarray, rotations: np.ndarray, scales: np.ndarray, what: str) -> np.ndarray:
    """The matrices (N, 4, 4) of translations (N, 3), quaternions x, y, z, w (N, 4) and scales (N, 3).

    Raises:
        ValueError: a quaternion has no direction; others are normalised.
    """
    lengths = np.linalg.norm(rotations, axis=1, keepdims=True)
    if not (lengths > 1e-6).all():
        raise ValueError(f"a rotation of {what} is not a unit quaternion")
    x, y, z, w = (rotations / lengths).T
    found = np.zeros((len(scales), 4, 4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            found[:, i, j] = value * scales[:, j]
    found[:, :3, 3] = translations
    found[:, 3, 3] = 1.0
    return found
