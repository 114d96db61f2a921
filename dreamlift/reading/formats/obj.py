"""OBJ files: polygons with texture coordinates, normals and materials, and vertex colours in their three common forms.

Wavefront's description: http://paulbourke.net/dataformats/obj/. A negative index counts back from the elements that were
declared so far. Faces are grouped by the appearance of their materials, so that thousands of ``usemtl`` make few parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamlift.meshing.geometry import row_numbers
from dreamlift.reading.formats.beside import Beside
from dreamlift.reading.formats.corners import color_range, distinct
from dreamlift.reading.formats.lines import Lines, decoded, numbers, plain_text
from dreamlift.reading.formats.mtl import Material, finish_image, read_mtl
from dreamlift.reading.formats.polygons import triangulated
from dreamlift.reading.part import Contents, Part, counted

USES = 300_000  # largest number of changes of the material
GREY = np.full(3, 0.5)  # of faces without a colour, where others have one
CURVES = (b"vp", b"cstype", b"deg", b"bmat", b"step", b"curv", b"curv2", b"surf", b"parm", b"trim", b"hole", b"scrv", b"sp",
          b"end", b"con")  # fmt: skip
PLAIN = (b"v", b"vt", b"vn", b"f", b"g", b"o", b"s", b"mg", b"usemtl", b"mtllib", b"l", b"p", b"bevel", b"c_interp",
         b"d_interp", b"lod", b"shadow_obj", b"trace_obj", b"ctech", b"stech", b"maplib", b"usemap",
         *CURVES)  # fmt: skip


@dataclass(frozen=True)
class Corners:
    """The corners of all faces, one after another; -1: none."""

    v: np.ndarray  # (C,) positions
    vt: np.ndarray  # (C,) texture coordinates
    vn: np.ndarray  # (C,) normals
    counts: np.ndarray  # (F,) corners of each face
    lines: np.ndarray  # (F,) of the file


@dataclass(frozen=True)
class Values:
    """What the corners' indices name."""

    points: np.ndarray  # (V, 3)
    uvs: np.ndarray  # (U, 2) v downwards
    normals: np.ndarray  # (N, 3)
    colors: np.ndarray | None  # (V, 3) sRGB in [0, 1]


def read_obj(data: bytes, folder: Path) -> Contents:
    """The parts of an OBJ file, one for each appearance. Raises ValueError for one that cannot be read, or has no faces."""
    beside = Beside(folder)
    lines = Lines(_without_comments(plain_text(data).replace(b"\\\n", b" ")))
    notes = _left_out(lines)
    rows = lines.starting(b"v")
    table, counts = lines.table(rows, 3, 6)
    corners = _faces(lines, rows, notes)
    uvs = lines.table(lines.starting(b"vt"), 1, 2)[0]
    uvs[np.isnan(uvs[:, 1]), 1] = 0.0
    uvs[:, 1] = 1 - uvs[:, 1]  # v grows upwards in the file
    normals = lines.table(lines.starting(b"vn"), 3, 3)[0]
    values = Values(table[:, :3], uvs, normals, _vertex_colors(lines, table, counts, notes))
    triangles, owner = triangulated(values.points[corners.v], corners.counts)
    materials, of_face = _materials(lines, corners.lines, beside)
    used = of_face[owner]
    palette = None
    if values.colors is None and any(materials[number].color is not None for number in np.unique(used)):
        palette = np.stack([GREY if each.color is None else each.color for each in materials])
    parts = []
    laid = np.all(corners.vt[triangles] >= 0, axis=1)
    for look, chosen in _groups(materials, used, laid, beside, notes):
        colors = None if palette is None or look.image is not None else np.repeat(palette[used[chosen]], 3, axis=0)
        parts.append(_part(look, corners, triangles[chosen].ravel(), values, colors))
    if values.colors is not None and any(part.image is not None for part in parts):
        notes.append("the vertex colours of faces with a picture are not used")
    if beside.transparent:
        notes.append("its pictures' transparency is not used")
    return Contents(parts, notes + beside.notes)


def _without_comments(text: bytes) -> bytes:
    """The text without comments at the end of numbers; lines that begin as comments have a keyword of their own."""
    if b"#" not in text:
        return text
    return re.sub(rb"(?m)^([ \t]*(?:vt?|vn|[flp])[ \t][^#\n]*)#[^\n]*", rb"\1", text)


def _left_out(lines: Lines) -> list[str]:
    """Notes on statements that are not read."""
    notes = []
    if sum(len(lines.starting(name)) for name in (b"l", b"p")):
        notes.append("its lines and points left out")
    if sum(len(lines.starting(name)) for name in CURVES):
        notes.append("its free-form curves and surfaces left out")
    known = lines.bytes[lines.begins] == ord("#")
    for name in PLAIN:
        known[lines.starting(name)] = True
    if not known.all():
        strange = np.flatnonzero(~known)
        word = decoded(lines.keyword(int(strange[0])))
        notes.append(f"{counted(len(strange), 'line')} with no OBJ statement left out (the first begins with {word[:20]!r})")
    return notes


def _vertex_colors(lines: Lines, table: np.ndarray, counts: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """``(V, 3)`` sRGB: three numbers behind each position, or ZBrush's comments #MRGB (eight hexadecimal digits a vertex)."""
    if (counts >= 6).any():
        return color_range(table[:, 3:6])
    rows = lines.starting(b"#MRGB")
    if not len(rows):
        return None
    try:
        painted = np.frombuffer(bytes.fromhex(b"".join(lines.rest(row) for row in rows).decode("ascii")), np.uint8)
    except ValueError:
        painted = np.empty(0, np.uint8)
    if painted.size != 4 * len(table):
        notes.append("its polypaint (#MRGB) does not fit its vertices: left out")
        return None
    return painted.reshape(-1, 4)[:, 1:] / 255.0


def _faces(lines: Lines, rows: np.ndarray, notes: list[str]) -> Corners:
    """The faces' indices; ``rows`` are the lines of vertices. Raises ValueError for an index that names no vertex."""
    chosen = lines.starting(b"f")
    few = lines.counts[chosen] < 4
    if few.any():
        notes.append(f"{counted(int(few.sum()), 'face')} of fewer than three corners left out")
        chosen = chosen[~few]
    if not len(chosen):
        raise ValueError("it has no faces")
    counts = lines.counts[chosen] - 1
    text = lines.gathered(chosen)
    # Words, and in each the numbers and slashes: "1", "1/2", "1//3" or "1/2/3".
    slash, blank = text == ord("/"), text <= 32
    begins, ends = _runs(~blank)
    inner, _ = _runs(~blank & ~slash)
    count = np.searchsorted(inner, ends) - np.searchsorted(inner, begins)
    total = np.concatenate([[0], np.cumsum(slash)])
    double = np.concatenate([[0], np.cumsum(slash & np.append(slash[1:], False))])
    slashes, twins = total[ends] - total[begins], double[ends] - double[begins]
    values = numbers(np.where(slash, np.uint8(32), text).tobytes(), len(inner))
    if len(values) != len(inner) or slash[begins].any() or count.max() > 3 or slashes.max() > 2 or not _whole(values):
        raise ValueError("a face is not made of whole numbers such as 1, 1/2, 1//3 or 1/2/3")
    first = np.cumsum(count) - count
    values = np.append(values.astype(np.int64), 0)  # 0, which is no index, for those that are not there
    second, third = (np.where(count > n, values[np.minimum(first + n, len(values) - 1)], 0) for n in (1, 2))
    line = np.repeat(chosen, counts)
    v = _absolute(values[first], rows, line)
    if (v < 0).any():
        raise ValueError(f"its faces name vertex {values[first][v < 0][0]}, but it has {len(rows):,}")
    indices = {b"vt": np.where(twins > 0, 0, second), b"vn": np.where(twins > 0, second, third)}
    found = {keyword: _absolute(index, lines.starting(keyword), line) for keyword, index in indices.items()}
    for keyword, index in indices.items():
        if ((index != 0) & (found[keyword] < 0)).any():
            notes.append(f"some faces name {keyword.decode()} that it does not have")
    return Corners(v, found[b"vt"], found[b"vn"], counts, chosen)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of true values begin and end."""
    steps = np.diff(np.concatenate([[0], mask.view(np.int8), [0]]))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def _whole(values: np.ndarray) -> bool:
    return bool((np.abs(values) < 2**53).all() and (values == np.floor(values)).all())


def _absolute(index: np.ndarray, rows: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Indices from 0 of elements in lines ``rows``, named by ``index`` in ``line``; -1 where there is no such element."""
    place = index - 1
    if (index < 0).any():
        place = np.where(index < 0, np.searchsorted(rows, line) + index, place)
    return np.where((place >= 0) & (place < len(rows)) & (index != 0), place, -1)


def _materials(lines: Lines, faces: np.ndarray, beside: Beside) -> tuple[list[Material], np.ndarray]:
    """All used materials, and that of each face ``(F,)`` in ``lines`` of the file. Number 0 is for faces without one."""
    known: dict[bytes, Material] = {}
    missing = False
    for line in lines.starting(b"mtllib"):
        rest = lines.rest(line)
        names = [rest] if beside.find(rest) else [name for name in rest.split() if beside.find(name)] or [rest]
        for name in names:
            data = beside.read(name, "material file")
            missing |= data is None
            if data is not None:
                read_mtl(data, beside, known)
    uses = lines.starting(b"usemtl")
    if len(uses) > USES:
        raise ValueError(f"it changes its material {len(uses):,} times; accepted: {USES:,} (sort its faces by material)")
    places, materials, strange = {}, [Material()], []
    of_use = np.zeros(len(uses) + 1, np.int64)
    for place, line in enumerate(uses, start=1):
        name = lines.rest(line)
        if name not in places:
            places[name] = len(materials)
            if name not in known:
                strange.append(name)
            materials.append(known.get(name, Material()))
        of_use[place] = places[name]
    if strange and not missing:
        first = decoded(strange[0])[:40]
        beside.notes.append(f"{counted(len(strange), 'material')} that it uses defined nowhere (the first is {first!r})")
    return materials, of_use[np.searchsorted(uses, faces)]


@dataclass(frozen=True)
class Appearance:
    """What the faces of one part share."""

    image: np.ndarray | None = None
    surface: np.ndarray | None = None
    metallic: float = 0.0
    roughness: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


def _groups(
    materials: list[Material], used: np.ndarray, laid: np.ndarray, beside: Beside, notes: list[str]
) -> list[tuple[Appearance, np.ndarray]]:
    """The appearances, and the triangles of each; ``laid (T,)``: those with texture coordinates."""
    known: dict[tuple, int] = {}
    looks: list[Appearance] = []
    plain, textured = (np.zeros(len(materials), np.int64) for _ in range(2))
    for number in np.unique(used):
        found = materials[number]
        image = beside.picture(found.maps[b"map_kd"]) if b"map_kd" in found.maps else None
        surface = finish_image(found, beside)
        for wanted, places in ((False, plain), (True, textured)):
            look = Appearance(None, None, found.metallic, found.roughness)
            if wanted and (image is not None or surface is not None):
                factors = (found.metallic, found.roughness) if surface is None else (1.0, 1.0)
                look = Appearance(image, surface, *factors, found.scale, found.offset)
            maps = tuple(found.maps.get(name) for name in (b"map_pr", b"map_pm")) if look.surface is not None else ()
            key = (id(look.image), *maps, look.metallic, look.roughness, look.scale, look.offset)
            places[number] = known.setdefault(key, len(looks))
            if places[number] == len(looks):
                looks.append(look)
    of_triangle = np.where(laid, textured[used], plain[used])
    bare = int((~laid & (textured != plain)[used]).sum())
    if bare:
        notes.append(f"{counted(bare, 'triangle')} of materials with pictures without texture coordinates")
    return [(looks[number], np.flatnonzero(of_triangle == number)) for number in np.unique(of_triangle)]


def _part(look: Appearance, corners: Corners, rows: np.ndarray, values: Values, colors: np.ndarray | None) -> Part:
    """The part of the triangles whose corners are ``rows (3T,)``; ``colors (3T, 3)`` are those of the corners' materials."""
    v, vt, vn = (index[rows] for index in (corners.v, corners.vt, corners.vn))
    laid, lit = bool((vt >= 0).all()), bool((vn >= 0).all())
    columns = [v, *([vt] if laid else []), *([vn] if lit else [])]
    if colors is not None:
        columns.append(row_numbers(colors))
    first, number = distinct(columns)
    shades = None if colors is None else colors[first]
    if look.image is None and values.colors is not None:
        shades = values.colors[v[first]]
    # The file's v grows upwards: 1 - ((1 - v) s + o) = v s + (1 - s - o).
    shift = (look.offset[0], 1 - look.scale[1] - look.offset[1])
    uvs = values.uvs[vt[first]] * look.scale + shift if laid else None
    return Part(
        values.points[v[first]], number.reshape(-1, 3), values.normals[vn[first]] if lit else None, uvs, look.image, shades,
        look.surface, look.metallic, look.roughness,
    )  # fmt: skip
