"""3MF: triangles in a stated unit, for slicers; one XML file in a zip archive with two small files that name it.

3D Manufacturing Format, core specification 1.3 (https://github.com/3MFConsortium/spec_core), on the Open Packaging Conventions
(ECMA-376, part 2). Millimetres, +z up. Colours are not written: they need an extension that few slicers read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from dreamlift.system.files import atomic_write_bytes
from dreamlift.types import Mesh

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
START = '<?xml version="1.0" encoding="UTF-8"?>\n'
PARTS = {
    "[Content_Types].xml": f'''{START}<Types xmlns="{PACKAGE}/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
''',
    "_rels/.rels": f'''{START}<Relationships xmlns="{PACKAGE}/relationships">
<Relationship Id="model" Target="/3D/3dmodel.model" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
''',
}
TIME = (1990, 1, 1, 0, 0, 0)  # of the files in the archive, so that equal meshes give equal archives


def save_3mf(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write the triangles of ``mesh``, whose coordinates are millimetres with +z up.

    The prompt in ``extras`` becomes the title. The object keeps its coordinates; the build places it in the octant of positive
    coordinates, which the specification asks for.

    Raises:
        OSError: the file cannot be written; an old one is intact.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**PARTS, "3D/3dmodel.model": _model(mesh, str((extras or {}).get("prompt") or ""))}.items():
            entry = zipfile.ZipInfo(name, TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text.encode("utf-8"))
    atomic_write_bytes(path, out.getvalue())


def _model(mesh: Mesh, title: str) -> str:
    """The XML of the model."""
    corner = mesh.vertices[mesh.faces.ravel()].min(axis=0)
    shift = " ".join(f"{0 - value:.9g}" for value in corner.tolist())
    # 9 significant digits represent a float32 exactly.
    points = "\n".join(f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>' for x, y, z in mesh.vertices.tolist())
    triangles = "\n".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh.faces.tolist())
    return f'''{START}<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}">
<metadata name="Title">{_text(title)}</metadata>
<metadata name="Application">dreamlift</metadata>
<resources>
<object id="1" type="model">
<mesh>
<vertices>
{points}
</vertices>
<triangles>
{triangles}
</triangles>
</mesh>
</object>
</resources>
<build>
<item objectid="1" transform="1 0 0 0 1 0 0 0 1 {shift}"/>
</build>
</model>
'''


def _text(value: str) -> str:
    """``value`` as XML text; characters that XML 1.0 does not allow become "?"."""
    allowed = (c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in value)
    return escape("".join(allowed))
