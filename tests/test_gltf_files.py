"""The outside of glTF files: encodings of their text, chunks, data written into them, and the files beside them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from gltf_helpers import SIX, Box, encoded, side_colors, six_colors

from dreamlift.reading.gltf import read_gltf

TEXTS = {
    "in one file": lambda box: box.gltf().encode(),
    "a byte-order mark": lambda box: b"\xef\xbb\xbf" + box.gltf().encode(),
    "utf-16": lambda box: box.gltf().encode("utf-16"),
    "utf-16 without a mark": lambda box: box.gltf().encode("utf-16-le"),
    "latin-1 names": lambda box: box.gltf().replace('{"asset"', '{"x": "\xfc", "asset"').encode("latin-1"),
    "another media type": lambda box: box.gltf().replace("octet-stream", "gltf-buffer").encode(),
    "base64 in lines, without padding": lambda box: box.gltf().replace("base64,", "base64,\\n").replace("=", "").encode(),
    "a GLB": lambda box: box.glb(),
    "quotes in names": lambda box: box.gltf().replace('{"asset"', '{"[[{\\"\\\\": "\\\\", "asset"').encode(),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_in_the_encodings_that_programs_write(name):
    parts, notes = read_gltf(TEXTS[name](Box()), ".gltf", Path("nowhere"))
    assert side_colors(parts) == list(SIX)
    assert notes == []


@pytest.mark.parametrize("length", ["right", 0, 24, 10**6])
@pytest.mark.parametrize("tail", [b"", bytes(512), b"\n", b"junk" * 99])
def test_bytes_after_a_glb_and_a_wrong_length_in_its_header_do_no_harm(length, tail):
    data = bytearray(Box().glb() + tail)
    if length != "right":
        data[8:12] = struct.pack("<I", length)
    assert side_colors(read_gltf(bytes(data), ".glb", Path("nowhere")).parts) == list(SIX)


def test_a_binary_chunk_that_lacks_its_padding_is_read():
    box = Box()
    box.binary += b"xy"
    data = box.glb().replace(
        json.dumps({"byteLength": len(box.binary)}).encode(), b'{"byteLength":%4d}' % (len(box.binary) + 3)
    )
    assert side_colors(read_gltf(data, ".glb", Path("nowhere")).parts) == list(SIX)


def test_files_beside_it_are_read_by_their_names(tmp_path):
    """URL-coded names, names as they are, folders below, either slash; the binary file and pictures."""
    box = Box()
    (tmp_path / "my mesh ü.bin").write_bytes(box.binary)
    (tmp_path / "textures").mkdir()
    (tmp_path / "textures" / "a%20b.png").write_bytes(encoded(six_colors()))
    for uri in ("my%20mesh%20%C3%BC.bin", "my mesh ü.bin", "./my%20mesh%20%c3%bc.bin", "textures/../my mesh ü.bin"):
        for picture_uri in ("textures/a%20b.png", "textures\\a%2520b.png"):
            box.doc["images"] = [{"uri": picture_uri}]
            parts, notes = read_gltf(box.gltf(uri).encode(), ".gltf", tmp_path)
            assert side_colors(parts) == list(SIX)
            assert notes == []


def test_files_that_moved_are_found_by_their_names(tmp_path):
    """Absolute paths of another system, folders that are gone, and other letter cases."""
    box = Box()
    (tmp_path / "Box.BIN").write_bytes(box.binary)
    (tmp_path / "tex").mkdir()
    (tmp_path / "tex" / "side ü.png").write_bytes(encoded(six_colors()))
    for uri in ("c:\\old\\box.bin", "../gone/BOX.bin", "/home/me/box.bin", "Box.bin"):
        box.doc["images"] = [{"uri": "textures/Side%20u%CC%88.PNG"}]  # the two letters that some systems write for it
        parts, notes = read_gltf(box.gltf(uri).encode(), ".gltf", tmp_path)
        assert side_colors(parts) == list(SIX)
        assert notes == []


def test_nothing_outside_its_folder_is_opened(tmp_path):
    box = Box()
    folder = tmp_path / "mesh"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(six_colors()))
    (tmp_path / "secret.bin").write_bytes(box.binary)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    absolute = str(tmp_path / "secret.")
    for name in ("../secret.", "%2e%2e/secret.", "..\\secret.", absolute, f"file://{absolute}", "http://example.org/a.",
                 "link.", "up/secret.", "loop/secret.", "c:secret.", "none.", "a\0b.", "a%00b.", "\ud800.",
                 "x" * 5000):  # fmt: skip
        with pytest.raises(ValueError, match=r"^buffer 0 is .{1,250}$"):
            read_gltf(box.gltf(name + "bin").encode("utf-8", "surrogatepass"), ".gltf", folder)
        box.doc["images"] = [{"uri": name + "png"}]
        parts, notes = read_gltf(box.glb(), ".glb", folder)
        assert parts[0].image is None
        assert len(notes) == 1
        assert notes[0].startswith("the picture of image 0 is ")
        assert "\n" not in notes[0]


def test_what_is_read_beside_it_is_limited(tmp_path, monkeypatch):
    from dreamlift.reading.gltf import sources

    box = Box()
    (tmp_path / "a.bin").write_bytes(box.binary)
    (tmp_path / "a.png").write_bytes(encoded(six_colors()))
    box.doc["images"] = [{"uri": "a.png"}]
    monkeypatch.setattr(sources, "SIDE_BYTES", len(box.binary) + 10)
    parts, notes = read_gltf(box.gltf("a.bin").encode(), ".gltf", tmp_path)
    assert parts[0].image is None
    assert "accepted: at most" in notes[0]
