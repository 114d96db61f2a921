"""The options of what shows assets, and the order that those of ``dreamlift render`` make; imports no large packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamlift.runs.progress import Reporter

RENDER_EXAMPLES = """examples:
  dreamlift render outputs/RUN
  dreamlift render outputs/RUN --format mp4,webp,png --size 768 --frames 120
  dreamlift render outputs/RUN --path flight.json --fps 30 --out flight.mp4
  dreamlift render chair.obj --look clay --frames 1 --format png --out chair.png

A camera path is a JSON list of keyframes, evenly spaced in time; each value changes evenly between two of them:
  [{"azimuth_deg": 0, "elevation_deg": 10}, {"azimuth_deg": 270, "elevation_deg": 40, "distance": 2.0, "fov_deg": 30}]
"""


def add_render(make: Any) -> None:
    """Add the options of render."""
    make.add_argument(
        "asset", type=Path, metavar="RUN_OR_FILE", help="a run's folder, or a .glb, .gltf, .obj, .ply or .stl file"
    )
    make.add_argument("--path", default="orbit", metavar="PATH", help="orbit (default), or a JSON file of keyframes, as below")
    make.add_argument("--format", metavar="NAMES", help="some of mp4, webp, png, separated by commas (default: webp, or "
                      "as the suffix of --out); png: one picture a frame, in a folder")  # fmt: skip
    make.add_argument("--size", type=int, default=512, metavar="PIXELS", help="width and height (default: 512)")
    make.add_argument("--frames", type=int, default=96, metavar="N", help="number of pictures (default: 96)")
    make.add_argument("--fps", type=float, default=24.0, metavar="N", help="pictures a second (default: 24)")
    make.add_argument(
        "--elevation", type=float, default=15.0, metavar="DEGREES", help="of the orbit, above the horizon (default: 15)"
    )
    make.add_argument(
        "--look", default="color", metavar="NAME",
        help="color (default: the material in a studio's light), base (its base color without light), clay, normal or wire",
    )  # fmt: skip
    make.add_argument("--background", default="white", metavar="COLOR", help="white (default), grey, black, or #rrggbb")
    make.add_argument(
        "--out", type=Path, metavar="FILE",
        help="a file, or a name to which the formats' suffixes are added (default: orbit in the run's folder)",
    )  # fmt: skip
    make.add_argument("--overwrite", action="store_true", help="replace files of an earlier render")


def add_seeds(group: Any) -> None:
    """Add the option of generate for several seeds."""
    group.add_argument(
        "--seeds", type=int, metavar="N", help="make N assets with consecutive seeds, and a sheet of them, the best first"
    )


def add_watch(make: Any) -> None:
    """Add the option of generate and resume for a page of the run: its port, 0 for any that is free, or None for no page."""
    make.add_argument(
        "--watch", nargs="?", type=int, const=0, metavar="PORT",
        help="show the object in a browser page while it is made, at this port (default: one that is free); seen from another "
        "machine after: ssh -L PORT:127.0.0.1:PORT MACHINE",
    )  # fmt: skip


def run_render(arguments: argparse.Namespace, reporter: Reporter) -> list[Path]:
    """Render as the options say; returns the files.

    Raises:
        ValueError, OSError: as :func:`dreamlift.showing.render.render`.
    """
    from dreamlift.showing.draw import LOOKS
    from dreamlift.showing.render import RenderOrder, file_of, files_of, parse_color, render

    if arguments.look not in LOOKS:
        raise ValueError(f"--look is {arguments.look!r}; accepted: {', '.join(LOOKS)}")
    order = RenderOrder(
        path=arguments.path, frames=arguments.frames, fps=arguments.fps, size=arguments.size,
        elevation_deg=arguments.elevation, look=arguments.look, background=parse_color(arguments.background),
    )  # fmt: skip
    file_of(arguments.asset)
    files = files_of(arguments.asset, arguments.out, arguments.format, order, arguments.overwrite)
    try:
        return render(
            arguments.asset, order, files, reporter.note, lambda index, total: reporter.counted("rendering", index, total, {})
        )
    finally:
        reporter.close()


def add_evaluate(make: Any) -> None:
    """Add the options of evaluate."""
    make.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or GLB files with --prompt")
    make.add_argument("--prompt", help="the prompt of the GLB files")
    make.add_argument("--out", type=Path, help="the report's folder (default: outputs/evaluation-<time>)")
    make.add_argument("--clip", help="a CLIP model (folder or hub name), for prompts beyond the judge's vocabulary")
    make.add_argument(
        "--reference", type=Path, metavar="PICTURE",
        help="a picture of the object: PSNR, SSIM and (with --clip) similarity of the front view at the photo's camera",
    )  # fmt: skip
    make.add_argument(
        "--shape", action="store_true",
        help="also compare solid, opening, surface and colors with a true thing of the kind (about 5 s an asset)",
    )  # fmt: skip


def add_gallery(make: Any) -> None:
    """Add the options of gallery."""
    make.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    make.add_argument("--out", type=Path, help="the page's folder (default: outputs/gallery-<time>)")
    make.add_argument(
        "--judge", action="store_true", help="also sort by the judge's figures, as evaluate has them (seconds an asset)"
    )
