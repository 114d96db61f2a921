"""Twelve prompts through the shipped command, default preset, on one sheet to look at.

    python benchmarks/contact_sheet.py --out docs/pictures/contact_sheet.png

One row a prompt: the scene's own renders from 8 sides above, the exported GLB read back and rendered below. Beside it a
table of seconds, peak memory, the round trip's PSNR, faces and the file's size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw
from quality import lift_all

PROMPTS = (
    "a red mug", "a blue chair", "an orange rocket", "a green car", "a yellow duck", "a purple teapot",
    "a purple house", "a pink mushroom", "a blue robot", "a red table", "a green tree", "an orange boat",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/contact_sheet.png"))
    parser.add_argument("--runs", type=Path, default=Path("outputs/contact_sheet"), help="folders are kept and reused")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="after --, passed on to generate")
    arguments = parser.parse_args()
    extra = [word for word in arguments.settings if word != "--"]
    rows = []
    print(f"{'prompt':20s} {'s':>6s} {'GB':>5s} {'PSNR dB':>8s} {'faces':>6s} {'MB':>5s}")
    folders = lift_all([(prompt, arguments.runs, extra) for prompt in arguments.prompts], arguments.jobs)
    for prompt, folder in zip(arguments.prompts, folders, strict=True):
        run = json.loads((folder / "run.json").read_text())
        metrics = run["metrics"]
        print(f"{prompt:20s} {run['seconds']:6.0f} {run['peak_memory_gb']:5.2f} {metrics['roundtrip_psnr']:8.1f} "
              f"{metrics['faces']:6.0f} {(folder / 'asset.glb').stat().st_size / 1e6:5.2f}", flush=True)  # fmt: skip
        rows.append((prompt, Image.open(folder / "preview.png").convert("RGB")))
    width, height = rows[0][1].size
    sheet = Image.new("RGB", (width, len(rows) * (height + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (prompt, picture) in enumerate(rows):
        pen.text((4, i * (height + 16) + 2), prompt, fill="black")
        sheet.paste(picture, (0, i * (height + 16) + 16))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
