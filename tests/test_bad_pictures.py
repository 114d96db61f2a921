"""Photos that cannot be used are refused in one line; odd ones are read as a picture viewer shows them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dreamlift.reading.photos import FILE_BYTES, MOST_PIXELS, SIDE, Photo, read_photos


def corner(size=8, color=(255, 0, 0, 255)):
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
    "bomb of 60k x 60k": (header_of(60_000, 60_000), "exceeds limit"),
    "144 megapixels": (header_of(12_000, 12_000), f"it has 12000 pixels a side; accepted: at most {MOST_PIXELS}"),
    "truncated": (encoded(Image.effect_noise((64, 64), 90).convert("RGBA"))[:2000], "cannot be used"),
    "of no bytes": (b"", "it is empty"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot identify image file"),
    "html": (b"<!DOCTYPE html><html></html>", "cannot identify image file"),
    "zip": (b"PK\x03\x04" + bytes(100), "cannot identify image file"),
    "16 bits, grey": (encoded(Image.fromarray(np.full((8, 8), 30_000, dtype=np.uint16))), "has no mask"),
    "grey": (encoded(Image.new("L", (8, 8), 90)), "has no mask"),
    "cmyk": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "cannot identify image file"),
    "transparent everywhere": (encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), "has no mask"),
    "opaque everywhere": (encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 255))), "has no mask"),
    "one pixel": (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 255))), "has no mask"),
    "1 x 10000": (encoded(Image.new("RGBA", (1, 10_000))), "it has 1 x 10000 pixels; crop it to a square"),
    "animated webp": (frames("WEBP"), "it is an animation of 2 frames; save one of them"),
    "animated gif": (frames("GIF"), "cannot identify image file"),
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
    assert "an address is not opened: download the file first" in refusal("https://example.org/photo.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(FILE_BYTES + 1)  # sparse
    assert "accepted: at most 64 MiB" in refusal(tmp_path / "large.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "it is not a plain file" in refusal(tmp_path / "pipe.png")
        assert "it is not a plain file" in refusal("/dev/zero")
        (tmp_path / "link.png").symlink_to("/dev/zero")
        assert "it is not a plain file" in refusal(tmp_path / "link.png")


def test_odd_pictures_are_read_as_they_are_shown(tmp_path):
    """A palette with transparency, 16 bits, and a turned photo, against the plain picture."""
    plain = corner()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    palette.paste(1, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    files = {
        "plain": encoded(plain), "link": None, "webp": encoded(plain, "WEBP", lossless=True),
        "palette": encoded(palette, transparency=0), "turned": encoded(turned, exif=exif),
    }  # fmt: skip
    found = {}
    for name, data in files.items():
        path = tmp_path / f"{name}.png"
        if data is None:
            path.symlink_to(tmp_path / "plain.png")
        else:
            path.write_bytes(data)
        found[name] = read_photos([Photo(str(path))])
    half = SIDE // 2
    for name, pictures in found.items():
        mask = pictures.alpha[0, ..., 0]
        assert (mask[:half, :half] == 1).all(), name
        assert mask.sum() == half * half, name
        assert (pictures.rgb[0, 5, 5] == pictures.rgb.new_tensor([1.0, 0.0, 0.0])).all(), name
