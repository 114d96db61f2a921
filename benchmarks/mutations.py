"""Damaged files of each kind: does each end in one clear line, or in the geometry that an independent reader finds?

    python benchmarks/mutations.py                      # 300 files of each kind
    python benchmarks/mutations.py --kinds obj stl --count 50 --show

A file is made, damaged with a seed, and read as a user's file is. ``KINDS`` maps a name to the function that does this for one
seed and returns an :class:`Outcome`; a new kind is one more line there. Faults are printed with their seeds; the exit code is 1
if there is any.
"""

from __future__ import annotations

import argparse
import codecs
import io
import logging
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import trimesh

from dreamlift.reading.mesh import load_mesh

LONGEST = 500  # characters of a message
ENDS = ("refused", "equal", "noted", "ours", "differs", "crash")
LEGEND = """
refused: one clear line. equal: the triangles that trimesh finds in the same bytes, or in the undamaged file.
noted: read with a note, and trimesh refuses them or finds others. ours: trimesh refuses them, without a note here.
Faults: differs, without a note; crash."""


@dataclass(frozen=True)
class Outcome:
    """How one damaged file ended."""

    end: str  # one of ENDS
    said: str  # the message, the note, or what differs
    seconds: float

    @property
    def fault(self) -> bool:
        return self.end in ("differs", "crash")


def damaged_text(text: str, rng: random.Random) -> bytes:
    """A text file with one to three small damages."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        words = lines[at].split(" ")
        word = rng.randrange(len(words))
        kind = rng.randrange(12)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            odd = ("nan", "1e400", "-1", "0", "abc", "", "1/2", "//", "99999999", "1.5", "inf", "-0", "+1", "1e-3", "\u00e9")
            words[word] = rng.choice(odd)
            lines[at] = " ".join(words)
        elif kind == 4:
            del words[word]
            lines[at] = " ".join(words)
        elif kind == 5:
            words.insert(word, rng.choice(words))
            lines[at] = " ".join(words)
        elif kind == 6:
            lines = lines[:at]
        elif kind == 7:
            lines.insert(at, rng.choice(("# a comment", "", "   ", "xyz 1 2 3", "\\", "g f 1 2 3", "\t\t")))
        elif kind == 8:
            lines[at] = lines[at].upper() if rng.random() < 0.5 else lines[at].replace(" ", "\t")
        elif kind == 9:
            lines[at] += rng.choice((" ", " # a comment", " 7", "\\"))
        elif kind == 10 and lines[at]:
            place = rng.randrange(len(lines[at]))
            lines[at] = lines[at][:place] + rng.choice("0-. /e\tx\u0000") + lines[at][place + 1 :]
        else:
            return rng.choice(("\r\n", "\r", "\n\n")).join(lines).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
        text = "\n".join(lines)
    return text.encode()


def damaged_bytes(data: bytes, rng: random.Random, head: int) -> bytes:
    """A binary file with one to three small damages, a third of them within its first ``head`` bytes."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(head, len(data)) if rng.random() < 0.33 else len(data))
        some = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 4, 50))))
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + some + data[at + len(some) :]
        elif kind == 1:
            data = data[:at] + some + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + len(some) :]
        elif kind == 3:
            data = data[: max(at, 1)]
        else:
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    return data


def corners(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The triangles that have an area, centred and of a common size, as sorted rows of corners, whichever way they face."""
    found = np.asarray(vertices, np.float64)[faces]
    with np.errstate(all="ignore"):
        found = found[np.isfinite(found).all(axis=(1, 2))]
        low, high = found.min(axis=(0, 1), initial=np.inf), found.max(axis=(0, 1), initial=-np.inf)
        size = max(float(np.linalg.norm(high - low)), 1e-300)
        found = (found - (low + high) / 2) / size
        area = np.linalg.norm(np.cross(found[:, 1] - found[:, 0], found[:, 2] - found[:, 0]), axis=1)
    found = np.round(found[area > 1e-9], 4) + 0.0
    rows = np.array([sorted(map(tuple, triangle)) for triangle in found.tolist()]).reshape(len(found), 9)
    return rows[np.lexsort(rows.T)] if len(rows) else rows


def independent(data: bytes, kind: str) -> np.ndarray | str:
    """The triangles that trimesh finds, or why it finds none."""
    try:
        with np.errstate(all="ignore"):
            options = {"skip_materials": True} if kind == "ply" else {}
            scene = trimesh.load_scene(io.BytesIO(data), file_type=kind, process=False, **options)
            found = [np.asarray(part.triangles) for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
            flat = np.concatenate(found).reshape(-1, 3)
            return corners(flat, np.arange(len(flat)).reshape(-1, 3))
    except Exception as error:  # whatever the other reader raises
        return f"{type(error).__name__}: {error}"[:120]


def _same(ours: np.ndarray, theirs: np.ndarray | str) -> bool:
    return not isinstance(theirs, str) and ours.shape == theirs.shape and bool(np.abs(ours - theirs).max(initial=0) < 2e-3)


def judged(data: bytes, original: bytes, kind: str) -> Outcome:
    """How a mesh file of these bytes ends. ``original`` is the file before it was damaged."""
    notes: list[str] = []
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        path.write_bytes(data)
        try:
            mesh, _ = load_mesh(path, note=notes.append)
        except ValueError as error:
            said, seconds = str(error), time.monotonic() - start
            clear = "cannot be used as a mesh: " in said and "\n" not in said and len(said) < LONGEST
            return Outcome("refused" if clear else "crash", said.split("as a mesh: ")[-1], seconds)
        except Exception as error:
            return Outcome("crash", f"{type(error).__name__}: {error}", time.monotonic() - start)
    seconds = time.monotonic() - start
    ours, theirs = corners(mesh.vertices, mesh.faces), independent(data, kind)
    # Some damage means nothing; and blank lines in a text PLY file, which trimesh takes for rows, are taken out for it.
    tidy = b"\n".join(line for line in data.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip())
    if any(_same(ours, each) for each in (theirs, independent(original, kind), independent(tidy, kind))):
        return Outcome("equal", "", seconds)
    if notes:
        return Outcome("noted", notes[0], seconds)
    if isinstance(theirs, str):
        return Outcome("ours", theirs, seconds)
    return Outcome("differs", f"{len(ours)} triangles, {len(theirs)} by trimesh", seconds)


def torus() -> trimesh.Trimesh:
    found = trimesh.creation.torus(1.0, 0.3, major_sections=12, minor_sections=6)
    found.visual = trimesh.visual.TextureVisuals(uv=found.vertices[:, :2] * 0.3 + 0.5)
    return found


def seeded(seed: int) -> random.Random:
    return random.Random(seed)


def obj(seed: int) -> Outcome:
    text = str(trimesh.exchange.obj.export_obj(torus(), include_normals=seed % 2 == 0, write_texture=False))
    return judged(damaged_text(text, seeded(seed)), text.encode(), "obj")


def ply(seed: int) -> Outcome:
    data = trimesh.exchange.ply.export_ply(torus(), encoding="ascii" if seed % 2 else "binary")
    rng = seeded(seed)
    return judged(damaged_text(data.decode(), rng) if seed % 2 else damaged_bytes(data, rng, 300), data, "ply")


def stl(seed: int) -> Outcome:
    rng = seeded(seed)
    if seed % 2:
        text = trimesh.exchange.stl.export_stl_ascii(torus())
        return judged(damaged_text(text, rng), text.encode(), "stl")
    data = trimesh.exchange.stl.export_stl(torus())
    return judged(damaged_bytes(data, rng, 84), data, "stl")


def glb(seed: int) -> Outcome:
    """Every second file has one or two other numbers in its document; the others have damaged bytes."""
    rng, data = seeded(seed), torus().export(file_type="glb")
    size = int.from_bytes(data[12:16], "little")
    if seed % 2 == 0:
        return judged(damaged_bytes(data, rng, 20 + size), data, "glb")
    words = re.split(r"(-?\d+(?:\.\d+)?)", data[20 : 20 + size].decode())
    for _ in range(rng.randint(1, 2)):
        odd = ("-1", "0", "1", "2", "3", "5", "1e9", "0.5", "null", "[]", "5120", "5126", "99999", '"a"')
        words[rng.randrange(len(words) // 2) * 2 + 1] = rng.choice(odd)
    text = "".join(words).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    head = b"glTF" + (2).to_bytes(4, "little") + (20 + len(text) + len(rest)).to_bytes(4, "little")
    return judged(head + len(text).to_bytes(4, "little") + b"JSON" + text + rest, data, "glb")


# What one damaged file of each kind, made from a seed, ends in.
KINDS: dict[str, Callable[[int], Outcome]] = {"obj": obj, "ply": ply, "stl": stl, "glb": glb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of files (default: all)")
    parser.add_argument("--count", type=int, default=300, help="files of each kind")
    parser.add_argument("--show", action="store_true", help="print each file's end, not only the faults")
    args = parser.parse_args()
    logging.disable()  # trimesh logs tracebacks
    print(f"| kind | files | {' | '.join(ENDS)} | slowest (s) |\n|---|{'---|' * (len(ENDS) + 2)}")
    failed = False
    for kind in args.kinds:
        ends = [KINDS[kind](seed) for seed in range(args.count)]
        counts = Counter(outcome.end for outcome in ends)
        cells = " | ".join(str(counts[end]) for end in ENDS)
        print(f"| {kind} | {args.count} | {cells} | {max(outcome.seconds for outcome in ends):.1f} |")
        for seed, outcome in enumerate(ends):
            if outcome.fault or args.show:
                print(f"    {kind} {seed}: {outcome.end}: {outcome.said}", file=sys.stderr)
        failed |= any(outcome.fault for outcome in ends)
    print(LEGEND)
    sys.exit(failed)


if __name__ == "__main__":
    main()
