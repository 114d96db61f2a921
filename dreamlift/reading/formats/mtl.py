"""Material files of OBJ: colours, and the pictures of base colours, metallic and roughness.

The statements are those of Wavefront's description (http://paulbourke.net/dataformats/mtl/), with the extensions Pr, Pm,
map_Pr and map_Pm for metallic and roughness. Colours are taken as sRGB, as modelling programs write them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from dreamlift.color import linear_to_srgb
from dreamlift.reading.formats.beside import Beside
from dreamlift.reading.formats.lines import plain_text
from dreamlift.reading.part import FLAT_METALLIC, FLAT_ROUGHNESS

MATERIALS = 100_000  # largest number of materials in all files
# The options of maps, and how many words each has at least and at most; words after the first must be numbers.
OPTIONS = {
    b"-blendu": (1, 1), b"-blendv": (1, 1), b"-boost": (1, 1), b"-mm": (2, 2), b"-o": (1, 3), b"-s": (1, 3), b"-t": (1, 3),
    b"-texres": (1, 1), b"-clamp": (1, 1), b"-bm": (1, 1), b"-imfchan": (1, 1), b"-type": (1, 1), b"-cc": (1, 1),
}  # fmt: skip
READ = (b"map_kd", b"map_pr", b"map_pm")
SILENT = (b"map_ks", b"map_ns", b"map_ke")  # of the highlights, which no material here has


@dataclass
class Material:
    """A material's statements, as far as they are used."""

    color: np.ndarray | None = None  # (3,) sRGB in [0, 1]
    metallic: float = FLAT_METALLIC
    roughness: float = FLAT_ROUGHNESS
    maps: dict[bytes, bytes] = field(default_factory=dict)  # of each statement in lower case, the file's name
    scale: tuple[float, float] = (1.0, 1.0)  # of the texture coordinates, for the base colours
    offset: tuple[float, float] = (0.0, 0.0)


def read_mtl(data: bytes, beside: Beside, known: dict[bytes, Material]) -> None:
    """Add the materials of one file to ``known``; the first of a name counts. Raises ValueError for too many."""
    current: Material | None = None
    unused: set[str] = set()
    clear = False
    for line in plain_text(data).replace(b"\\\n", b" ").splitlines():
        words = line.split(None, 1)
        if not words or words[0].startswith(b"#"):
            continue
        keyword, rest = words[0].lower(), words[1].strip() if len(words) > 1 else b""
        if keyword == b"newmtl":
            if len(known) >= MATERIALS:
                raise ValueError(f"its material files have more than {MATERIALS:,} materials")
            current = Material()
            known.setdefault(rest, current)
        elif current is None:
            continue
        elif keyword == b"kd":
            current.color = _color(rest)
        elif keyword in (b"pr", b"pm"):
            value = _values(rest.split()[:1])
            if len(value):
                setattr(current, "roughness" if keyword == b"pr" else "metallic", float(np.clip(value[0], 0, 1)))
        elif keyword in (b"d", b"tr"):
            value = _values(rest.split()[-1:])
            clear |= bool(len(value) and value[0] != (1 if keyword == b"d" else 0))
        elif keyword in READ:
            options, name = split_options(rest)
            current.maps[keyword] = name
            if keyword == b"map_kd":
                current.scale, current.offset = _pair(options, b"-s", 1.0), _pair(options, b"-o", 0.0)
        elif keyword.startswith((b"map_", b"bump", b"norm", b"disp", b"refl", b"decal")) and keyword not in SILENT:
            unused.add(words[0].decode("latin-1")[:20])
    if clear:
        beside.notes.append("its materials' transparency is not used")
    if unused:
        beside.notes.append(f"the maps {', '.join(sorted(unused)[:8])} of its materials are not used")


def split_options(rest: bytes) -> tuple[dict[bytes, list[bytes]], bytes]:
    """The options of a map statement and the file's name, which may hold spaces and hyphens."""
    options: dict[bytes, list[bytes]] = {}
    while True:
        match = re.match(rb"(-[a-zA-Z]+)\s+", rest)
        if not match or match[1].lower() not in OPTIONS:
            return options, rest.strip()
        name = match[1].lower()
        least, most = OPTIONS[name]
        rest = rest[match.end() :]
        values: list[bytes] = []
        while len(values) < most and (word := re.match(rb"(\S+)(\s+|$)", rest)):
            if len(values) >= least and not re.fullmatch(rb"[-+]?[0-9.]+(e[-+]?[0-9]+)?", word[1], re.IGNORECASE):
                break
            values.append(word[1])
            rest = rest[word.end() :]
        options[name] = values


def finish_image(material: Material, beside: Beside) -> np.ndarray | None:
    """The picture ``(H, W, 3)`` of metallic and roughness, from two grey ones; None where the material has none."""
    pictures = {}
    for name in (b"map_pr", b"map_pm"):
        found = beside.picture(material.maps[name]) if name in material.maps else None
        if found is not None:
            pictures[name] = found[..., 0]
    if not pictures:
        return None
    shape = next(iter(pictures.values())).shape
    image = np.full((*shape, 3), 255, np.uint8)
    for name, column, value in ((b"map_pr", 1, material.roughness), (b"map_pm", 2, material.metallic)):
        if name not in pictures:
            image[..., column] = round(255 * value)
        else:
            grey = pictures[name]
            rows, columns = (np.arange(n) * m // n for n, m in zip(shape, grey.shape, strict=True))
            image[..., column] = grey[rows[:, None], columns]
    return image


def _values(words: list[bytes]) -> np.ndarray:
    try:
        found = np.array([float(word) for word in words])
    except ValueError:
        return np.empty(0)
    return found if np.isfinite(found).all() else np.empty(0)


def _pair(options: dict[bytes, list[bytes]], name: bytes, missing: float) -> tuple[float, float]:
    found = _values(options.get(name, []))
    return (float(found[0]) if len(found) else missing, float(found[1]) if len(found) > 1 else missing)


def _color(rest: bytes) -> np.ndarray | None:
    """``(3,)`` sRGB; one number means grey, "xyz" is CIE XYZ in linear light, and a spectrum is not read."""
    words = rest.split()
    xyz = words[:1] == [b"xyz"]
    found = _values(words[1:4] if xyz else words[:3])
    if not len(found):
        return None
    color = np.resize(found, 3) if len(found) != 2 else np.append(found, found[1])
    if xyz:
        matrix = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
        color = linear_to_srgb(np.clip(np.array(matrix) @ color, 0, 1))
    return np.clip(color, 0, 1)
