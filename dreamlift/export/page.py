"""One HTML file that shows an asset in any browser, from the disk and without a network.

The viewer is Google's model-viewer, as the UMD build that is shipped in ``static/``: browsers refuse to load an ES
module from ``file://``. A content security policy forbids the page every network address, whatever the asset asks for.
"""

from __future__ import annotations

import base64
import html
from importlib import resources
from pathlib import Path

from dreamlift.files import atomic_write_text

# The script is part of the page ('unsafe-inline') and compiles a mesh decoder of its own ('wasm-unsafe-eval'). Pictures
# and the GLB come from the page's own data; no address is allowed.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; worker-src blob:"
)

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; background: #f4f4f2; color: #222; font: 15px/1.4 system-ui, sans-serif; }}
body {{ display: flex; flex-direction: column; }}
h1 {{ margin: 0; padding: 12px 16px; font-size: 16px; font-weight: 600; overflow-wrap: anywhere; }}
model-viewer {{ flex: 1; width: 100%; min-height: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
<model-viewer alt="{title}" camera-controls auto-rotate touch-action="pan-y" shadow-intensity="0.7" \
src="data:model/gltf-binary;base64,{glb}"></model-viewer>
<script>{script}</script>
</body>
</html>
"""


def save_page(glb_path: str | Path, html_path: str | Path, title: str) -> None:
    """Write a page that shows the GLB file; ``title`` (the prompt) is shown as text, whatever it holds.

    Raises:
        FileNotFoundError: there is no such GLB file.
        OSError: the page cannot be written; an old one is intact.
    """
    glb = base64.b64encode(Path(glb_path).read_bytes()).decode("ascii")
    script = resources.files("dreamlift.export").joinpath("static/model-viewer-umd.min.js").read_text(encoding="utf-8")
    # In an inline script only these two sequences mean something to the HTML parser.
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    # A lone surrogate has no UTF-8 form.
    shown = html.escape(title.encode("utf-8", errors="replace").decode("utf-8"), quote=True)
    policy = html.escape(POLICY, quote=True).replace("&#x27;", "'")
    atomic_write_text(html_path, TEMPLATE.format(policy=policy, title=shown, glb=glb, script=script))
