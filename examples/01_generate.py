"""A prompt to a GLB, from Python. Run: python examples/01_generate.py "a red mug" mug.glb"""

from __future__ import annotations

import sys

from dreamlift import generate


def main(prompt: str = "a red mug", path: str = "mug.glb", steps: str = "300") -> None:
    asset = generate(prompt, seed=1, steps=int(steps))
    print(asset.save(path), asset.metrics)


if __name__ == "__main__":
    main(*sys.argv[1:])
