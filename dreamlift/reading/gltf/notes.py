"""What is told to the user about what a file holds beside what is read."""

from __future__ import annotations

from typing import Any

from dreamlift.reading.gltf.checks import extension

SENTENCES, LETTERS, NAMES = 10, 160, 4  # largest number of sentences, of letters of one, of extensions named
# Extensions that are read here, or whose loss is noted where it is met.
KNOWN = {
    "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_texture_basisu", "KHR_materials_unlit",
    "KHR_materials_pbrSpecularGlossiness", "EXT_mesh_gpu_instancing", "KHR_lights_punctual", "KHR_draco_mesh_compression",
    "EXT_meshopt_compression", "KHR_meshopt_compression", "KHR_materials_emissive_strength",
}  # fmt: skip


class Notes:
    """Collects what a file holds that is not read (nouns), and what was done in another way (sentences), each once."""

    def __init__(self) -> None:
        self.nouns: dict[str, None] = {}
        self.sentences: dict[str, None] = {}

    def left_out(self, noun: str) -> None:
        self.nouns[noun[:LETTERS]] = None

    def add(self, sentence: str) -> None:
        self.sentences[sentence[:LETTERS]] = None

    def done(self) -> list[str]:
        """One sentence for all nouns, the first further sentences, and how many more there are."""
        found = list(self.sentences)
        if self.nouns:
            *others, last = self.nouns
            several = others or last.endswith("s")
            listed = f"{', '.join(others)} and {last}" if others else last
            found.insert(0, f"its {listed} {'are' if several else 'is'} left out")
        more = len(found) - SENTENCES
        return found if more <= 0 else [*found[:SENTENCES], f"{more} more things are not as in the file"]


def counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}{'es' if name.endswith('sh') else 's'}"


def note_document(document: dict[str, Any], used_meshes: set[int], notes: Notes) -> None:
    """Note what stands at the top of a document and is not read."""

    def length(owner: dict[str, Any], name: str) -> int:
        found = owner.get(name)
        return len(found) if isinstance(found, list) else 0

    meshes = document.get("meshes")
    meshes = meshes if isinstance(meshes, list) else []
    shown = [i for i, mesh in enumerate(meshes) if isinstance(mesh, dict) and mesh.get("primitives")]
    found = [
        (length(document, "animations"), "animation"),
        (length(document, "cameras"), "camera"),
        (length(extension(document, "KHR_lights_punctual") or {}, "lights"), "light"),
        (length(document, "scenes") - 1, "other scene"),
        (len(set(shown) - used_meshes), "unused mesh"),
    ]
    for number, name in found:
        if number > 0:
            notes.left_out(counted(number, name))
    stated = [document.get(name) for name in ("extensionsRequired", "extensionsUsed")]
    names = [name for found in stated if isinstance(found, list) for name in found if isinstance(name, str)]
    strange = list(dict.fromkeys(name[:40] for name in names if name not in KNOWN))
    if strange:
        listed = ", ".join(repr(name)[1:-1] for name in strange[:NAMES])
        more = f" and {len(strange) - NAMES} more" if len(strange) > NAMES else ""
        notes.add(
            f"the extension{'s' if len(strange) > 1 else ''} {listed}{more} {'are' if len(strange) > 1 else 'is'} not read"
        )
