"""One HTML file that shows an asset in any browser, from the disk and without a network.

The viewer (``static/viewer.js``) is written in plain WebGL 2. It has switches for light, texture, wireframe, turntable and
background, and reads only the GLBs of :mod:`dreamlift.export.glb`. A content security policy blocks all network access. The
URL's fragment sets the initial view, for example ``view.html#azimuth=30&elevation=15&spin=0&wire=1``.
"""

from __future__ import annotations

import base64
import html
from importlib import resources
from pathlib import Path

from dreamlift.system.files import atomic_write_text

# Allows the page's own script and style, and the pictures that the script extracts from the GLB, but no address.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:"

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; overflow: hidden; font: 14px/1.4 system-ui, sans-serif; color: #222; }}
canvas {{ position: fixed; inset: 0; width: 100%; height: 100%; touch-action: none; cursor: grab; outline: none; }}
h1, nav, #problem {{ position: relative; z-index: 1; margin: 12px 16px; pointer-events: none; }}
h1, #problem {{ display: table; padding: 4px 10px; border-radius: 8px; background: #fffc; overflow-wrap: anywhere; }}
h1 {{ font-size: 15px; font-weight: 600; }}
#problem[hidden], .bare h1, .bare nav {{ display: none; }}
nav {{ position: fixed; left: 0; right: 0; bottom: 0; display: flex; flex-wrap: wrap; gap: 6px; }}
button {{ pointer-events: auto; font: inherit; color: #222; padding: 5px 12px; border: 1px solid #8888; border-radius: 8px; \
background: #fffc; cursor: pointer; }}
button[aria-pressed="true"] {{ background: #245; color: #fff; }}
</style>
</head>
<body>
<canvas id="view" tabindex="0" role="img" aria-label="{title}"></canvas>
<h1>{title}</h1>
<p id="problem" hidden></p>
<nav>
<button type="button" data-name="spin" aria-pressed="true">turntable</button>
<button type="button" data-name="light" aria-pressed="true">light</button>
<button type="button" data-name="clay" aria-pressed="false">clay</button>
<button type="button" data-name="wire" aria-pressed="false">wireframe</button>
<button type="button" data-name="background">background</button>
</nav>
<noscript>The asset is shown by a script; the file asset.glb opens in any 3D viewer.</noscript>
<script type="text/plain" id="glb">{glb}</script>
<script>{script}</script>
</body>
</html>
"""


def save_page(glb_path: str | Path, html_path: str | Path, title: str) -> None:
    """Write the page of :func:`page_of`.

    Raises:
        FileNotFoundError: there is no such GLB file.
        OSError: the page cannot be written; an old one is intact.
    """
    atomic_write_text(html_path, page_of(glb_path, title))


def page_of(glb_path: str | Path, title: str) -> str:
    """A page that shows the GLB file; ``title`` (the prompt) is escaped and shown as text.

    Raises:
        FileNotFoundError: there is no such GLB file.
    """
    glb = base64.b64encode(Path(glb_path).read_bytes()).decode("ascii")
    script = resources.files("dreamlift.export").joinpath("static/viewer.js").read_text(encoding="utf-8")
    # A lone surrogate has no UTF-8 form.
    shown = html.escape(title.encode("utf-8", errors="replace").decode("utf-8"), quote=True)
    policy = html.escape(POLICY, quote=True).replace("&#x27;", "'")
    return TEMPLATE.format(policy=policy, title=shown, glb=glb, script=script)
