"""Photos that cannot be used are refused in one line."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dreamlift.images import onnx_matting
from dreamlift.images.photos import read_photos
from dreamlift.images.read import FILE_BYTES, PIXELS, SIDE
from dreamlift.reading.photos import Photo

LEAST, MOST = SIDE


@pytest.fixture(autouse=True)
def _no_models(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_matting, "folders", lambda: (tmp_path,))


def corner(size=32, color=(255, 0, 0, 255)):
    """A picture that is opaque in its upper left quarter only."""
    pixels = np.zeros((size, size, 4), dtype=np.uint8)
    pixels[: size // 2, : size // 2] = color
    return Image.fromarray(pixels)


def encoded(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def header_of(width, height):
    """A PNG that declares a size and holds one row of it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(4 * 8))) + chunk(b"IEND", b"")


def frames(kind):
    return encoded(corner(), kind, save_all=True, append_images=[corner(color=(0, 0, 255, 255))])


BAD = {
    "bomb of 60k x 60k": (header_of(60_000, 60_000), "it has far more pixels than are accepted"),
    "144 megapixels": (
        header_of(12_000, 12_000),
        f"it has 12000 x 12000 pixels; accepted: at most {MOST} a side and {PIXELS:,}",
    ),
    "1 x 10000": (encoded(Image.new("RGBA", (1, 10_000))), f"it has 1 x 10000 pixels; accepted: at least {LEAST} a side"),
    "too wide": (
        encoded(Image.new("L", (MOST + 1, LEAST))),
        f"it has {MOST + 1} x {LEAST} pixels; accepted: at most {MOST} a side",
    ),
    "one pixel": (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 255))), "it has 1 x 1 pixels; accepted: at least 16 a side"),
    "truncated": (encoded(Image.effect_noise((64, 64), 90).convert("RGBA"))[:2000], "it is damaged (OSError"),
    "cut in its header": (encoded(corner())[:20], "it is damaged (OSError"),
    "of no bytes": (b"", "it is empty"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing; save it as PNG or JPEG"),
    "html": (b"<!DOCTYPE html><html></html>", "it is not a picture that can be read; save it as PNG or JPEG"),
    "zip": (b"PK\x03\x04" + bytes(100), "it is not a picture that can be read"),
    "pdf": (b"%PDF-1.7" + bytes(100), "it is a PDF; save it as PNG or JPEG"),
    "photoshop": (b"8BPS" + bytes(100), "it is a Photoshop document; save it as PNG"),
    "heic": (bytes(3) + b"\x18ftypheic" + bytes(100), "it is a HEIC picture, as iPhones take them; save it as PNG or JPEG"),
    "film": (bytes(3) + b"\x18ftypisom" + bytes(100), "it is a film or a camera's raw picture; save it as PNG"),
    "damaged avif": (bytes(3) + b"\x18ftypavif" + bytes(100), "save it"),
    "floats": (encoded(Image.fromarray(np.zeros((32, 32), np.float32)), "TIFF"), "its pixels are floats or 32-bit numbers"),
    "transparent everywhere": (encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), "it is transparent everywhere"),
    "opaque and flat": (encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 255))), "there is no object in it"),
    "grey and flat": (encoded(Image.new("L", (32, 32), 90)), "there is no object in it"),
    "noise": (encoded(Image.effect_noise((64, 64), 90)), "its background is not plain, and its colours do not tell"),
    "animated webp": (frames("WEBP"), "it is an animation; save one of its frames as PNG"),
    "animated gif": (frames("GIF"), "it is an animation; save one of its frames as PNG"),
    "animated png": (frames("PNG"), "it is an animation; save one of its frames as PNG"),
    "tiff of two pages": (frames("TIFF"), "it has several pages; save one of its pages as PNG"),
}


def refusal(path):
    with pytest.raises(ValueError, match="the photo") as caught:
        read_photos([Photo(str(path))])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_pictures_that_cannot_be_photos_are_refused(name, tmp_path):
    data, said = BAD[name]
    (tmp_path / "photo.png").write_bytes(data)
    assert said in refusal(tmp_path / "photo.png")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    assert "it is a folder" in refusal(tmp_path)
    assert "there is no file" in refusal(tmp_path / "missing.png")
    assert "addresses are not fetched; download it first (curl -LO and the address), then give" in refusal(
        "https://example.org/photo.png"
    )
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(FILE_BYTES + 1)  # sparse
    assert "accepted: at most 64 MiB" in refusal(tmp_path / "large.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "it is not a plain file" in refusal(tmp_path / "pipe.png")
        assert "it is not a plain file" in refusal("/dev/zero")
        (tmp_path / "link.png").symlink_to("/dev/zero")
        assert "it is not a plain file" in refusal(tmp_path / "link.png")


def test_the_messages_are_one_line_that_names_the_file_and_ends_with_the_fix(tmp_path):
    for name, (data, _) in BAD.items():
        path = tmp_path / "photo.png"
        path.write_bytes(data)
        told = refusal(path)
        assert told.startswith(f"the photo {str(path)!r} cannot be used: "), name
        assert len(told) - len(str(path)) <= 280, name
