"""Training sets on disk: numbered npz files of arrays, each written whole, which any process may render separately."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dreamlift.system.files import atomic_write_bytes
from dreamlift.toybox.world.things import CATEGORIES

Arrays = Mapping[str, np.ndarray]


def write_shard(folder: Path, name: str, index: int, size: int, make: Callable[[], Arrays], compressed: bool = True) -> Path:
    """Write the arrays of ``make()`` as shard ``index`` into ``folder`` unless its file exists; returns the file."""
    path = folder / f"{name}-{size}-{index:05d}.npz"
    if not path.exists():
        buffer, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
        save(buffer, **dict(make()))  # pyright: ignore[reportArgumentType]
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, buffer.getvalue())
    return path


def read_shards(folder: Path, name: str, size: int, maker: str) -> dict[str, np.ndarray]:
    """The arrays of all shards of ``size`` pixels in ``folder``, joined; ``maker`` is the module that makes them.

    Raises:
        FileNotFoundError: ``folder`` has none.
    """
    files = sorted(folder.glob(f"{name}-{size}-*.npz"))
    if not files:
        raise FileNotFoundError(f"no {name} in {folder}; make them with: python -m {maker} --data {folder}")
    return joined([dict(np.load(file)) for file in files])


def joined(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The arrays of ``parts``, one after the other."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def render_shards(make_shard: Callable[[Path, int, int, Sequence[str]], Path], data: Path, told: str) -> None:
    """The command line of a module that renders shards of some kinds: every STRIDE-th one, on one thread."""
    parser = argparse.ArgumentParser(description=told)
    parser.add_argument("--data", type=Path, default=data, help="folder of the shards")
    parser.add_argument("--shards", type=int, default=60, help="index after the last shard")
    parser.add_argument("--first", type=int, default=0, help="index of the first shard")
    parser.add_argument("--stride", type=int, default=1, help="render every STRIDE-th shard, to divide the work")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    known = tuple(CATEGORIES)
    parser.add_argument("--kinds", nargs="+", choices=known, default=known, metavar="KIND", help="categories; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for index in range(arguments.first, arguments.shards, arguments.stride):
        print(make_shard(arguments.data, index, arguments.size, arguments.kinds), flush=True)
