"""Materials: base colour, metallic and roughness (glTF 2.0, section 3.9), or the older specular and glossiness.

https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Archived/KHR_materials_pbrSpecularGlossiness: its diffuse colour
is taken for the base colour of a material that is not metallic, of roughness 1 - glossiness.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.reading.gltf.checks import entry, extension, numbers, record
from dreamlift.reading.gltf.notes import Notes
from dreamlift.reading.gltf.pictures import Picture, Pictures
from dreamlift.reading.gltf.uvs import Laid, read_laid
from dreamlift.reading.part import FLAT_METALLIC, FLAT_ROUGHNESS

GLOSS = "KHR_materials_pbrSpecularGlossiness"
REPEAT = 10497


@dataclass(frozen=True)
class Look:
    """A material, as far as it is read."""

    name: str = ""  # for errors and notes
    factor: np.ndarray | None = None  # (3,) of the base colour, linear light; None: not stated
    alpha: float = 1.0  # of the base colour
    image: int | None = None  # number of the base colour's picture
    surface: np.ndarray | None = None  # (H, W, 3) uint8: green roughness, blue metallic, each times its factor
    laid: Laid = dataclasses.field(default_factory=Laid)  # of all its textures
    repeats: bool = True  # whether its textures repeat beyond their edges
    metallic: float = FLAT_METALLIC
    roughness: float = FLAT_ROUGHNESS
    double_sided: bool = False
    opaque: bool = True  # whether alpha is ignored

    def without_textures(self) -> Look:
        return dataclasses.replace(self, image=None, surface=None)


@dataclass
class Materials:
    """The materials of one document, each read at its first use."""

    pictures: Pictures
    notes: Notes
    found: dict[int, Look] = field(default_factory=dict)

    def look(self, index: Any, owner: str) -> Look:
        material = entry(self.pictures.arrays.document, "materials", index, f"the material {owner}")
        if index not in self.found:
            self.found[index] = self._look(material, f"material {index}")
        return self.found[index]

    def _look(self, material: dict[str, Any], what: str) -> Look:
        pbr = record(material, "pbrMetallicRoughness", what)
        gloss = extension(material, GLOSS)
        if gloss is not None and not {"baseColorTexture", "baseColorFactor"} & set(pbr):
            look = self._glossy(gloss, what)
        else:
            look = self._metallic(pbr, what)
        opaque = material.get("alphaMode") not in ("MASK", "BLEND")
        alpha = None if look.image is None else self._picture(look.image).alpha
        if not opaque and (look.alpha < 1 or (alpha is not None and alpha.min() < 255)):
            self.notes.left_out("transparency")
        if isinstance(material.get("normalTexture"), dict):
            self.notes.left_out("normal maps")
        if isinstance(material.get("occlusionTexture"), dict):
            self.notes.left_out("occlusion maps")
        if isinstance(material.get("emissiveTexture"), dict) or any(_list(material.get("emissiveFactor"))):
            self.notes.left_out("emission")
        return dataclasses.replace(look, name=what, double_sided=material.get("doubleSided") is True, opaque=opaque)

    def _metallic(self, pbr: dict[str, Any], what: str) -> Look:
        base, laid, repeats = self._texture(pbr, "baseColorTexture", what)
        other, second, _ = self._texture(pbr, "metallicRoughnessTexture", what)
        if base is not None and other is not None and second != laid:
            self.notes.add(f"the metallic and roughness of {what} get the texture coordinates of its colours")
        metallic, roughness = (
            min(1.0, max(0.0, numbers([pbr.get(name, 1.0)], f"the {name} of {what}", 1)[0]))
            for name in ("metallicFactor", "roughnessFactor")
        )
        surface = None if other is None else self._picture(other).color
        laid = laid if base is not None or other is None else second
        return Look("", *_factor(pbr, "baseColorFactor", what), base, surface, laid, repeats, metallic, roughness)

    def _glossy(self, gloss: dict[str, Any], what: str) -> Look:
        base, laid, repeats = self._texture(gloss, "diffuseTexture", what)
        other, second, _ = self._texture(gloss, "specularGlossinessTexture", what)
        shine = min(1.0, max(0.0, numbers([gloss.get("glossinessFactor", 1.0)], f"the glossinessFactor of {what}", 1)[0]))
        self.notes.left_out("specular colours")
        factor, opacity = _factor(gloss, "diffuseFactor", what)
        alpha = None if other is None else self._picture(other).alpha
        if alpha is None:
            return Look("", factor, opacity, base, None, laid, repeats, 0.0, 1.0 - shine)
        surface = np.zeros((*alpha.shape, 3), np.uint8)
        surface[..., 1] = (255.5 - alpha * shine).astype(np.uint8)
        return Look("", factor, opacity, base, surface, laid if base is not None else second, repeats, 0.0, 1.0)

    def _picture(self, index: int) -> Picture:
        found = self.pictures.found[index]
        assert isinstance(found, Picture)  # _texture has read it
        return found

    def _texture(self, owner: dict[str, Any], name: str, what: str) -> tuple[int | None, Laid, bool]:
        """The picture of a texture, its mapping, and whether it repeats. Without a readable picture: None, with a note."""
        info = owner.get(name)
        if not isinstance(info, dict):
            return None, Laid(), True
        document, what = self.pictures.arrays.document, f"the {name} of {what}"
        texture = entry(document, "textures", info.get("index"), what)
        laid = read_laid(info, f"of {what}")
        wraps = [REPEAT, REPEAT]
        if "sampler" in texture:
            sampler = entry(document, "samplers", texture["sampler"], f"the sampler of {what}")
            wraps = [sampler.get("wrapS", REPEAT), sampler.get("wrapT", REPEAT)]
        extensions = texture.get("extensions")
        others = [x["source"] for x in (extensions if isinstance(extensions, dict) else {}).values()
                  if isinstance(x, dict) and "source" in x]  # fmt: skip
        # The plain picture is the fallback that every program reads; those of extensions may be of any kind.
        reason = None
        for source in ([texture["source"]] if "source" in texture else []) + others[:8]:
            found = self.pictures.get(source, what)
            if isinstance(found, Picture):
                return source, laid, wraps == [REPEAT, REPEAT]
            reason = reason or found
        self.notes.add(reason or f"{what} has no picture")
        return None, laid, True

    def appearance(self, look: Look, colors: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The picture of a part's base colours, and its vertices' colours, which multiply it; None: not stated.

        Args:
            colors: (V, 3) of the vertices, linear light, in [0, 1].

        Returns:
            (H, W, 3) uint8 sRGB and (V, 3) sRGB in [0, 1]. One is left out where the other can hold both.
        """
        factor = np.ones(3) if look.factor is None else look.factor
        if look.image is None:
            if colors is None:
                return None, None if look.factor is None else linear_to_srgb(look.factor)[None]
            return None, linear_to_srgb(colors * factor)
        if colors is not None and len(colors) and (colors == colors[0]).all():
            factor, colors = factor * colors[0], None
        if colors is None:
            return self.pictures.tinted(look.image, factor), None
        single = self._picture(look.image).single()
        if single is not None:
            return None, linear_to_srgb(colors * factor * srgb_to_linear(single / 255.0))
        return self.pictures.tinted(look.image, factor), linear_to_srgb(colors)


def _factor(owner: dict[str, Any], name: str, what: str) -> tuple[np.ndarray | None, float]:
    """The colour (3,) and the alpha of a factor, in [0, 1]; None and 1 where it is not stated."""
    if name not in owner:
        return None, 1.0
    values = np.clip(numbers(owner[name], f"the {name} of {what}", 4), 0.0, 1.0)
    return values[:3], float(values[3])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
