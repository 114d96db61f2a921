"""Pictures of every kind are read as a viewer shows them; the numbers come from formulas, not from Pillow's conversions."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dreamlift.images import read
from dreamlift.images.read import decoded, read_picture

SIDE = 32


def encoded(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png(values, color, depth, extra=b""):
    """A PNG file of rows of samples, big-endian; ``extra`` are chunks before the pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    raw = values.astype(">u2" if depth == 16 else "u1")
    rows = b"".join(b"\0" + row.tobytes() for row in raw)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    extra = b"".join(chunk(*each) for each in extra) if extra else b""
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def ramp(channels, top, seed=0):
    return np.random.default_rng(seed).integers(0, top + 1, (SIDE, SIDE, channels))


def opaque(rgb):
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)


GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # PNG's colour types


def test_sixteen_bits_grey_is_rounded_and_not_clipped():
    values = ramp(1, 65535)
    wanted = np.floor(values / 257 + 0.5).repeat(3, axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(decoded(png(values, GREY, 16)), opaque(wanted))


@pytest.mark.parametrize(("color", "channels"), [(RGB, 3), (RGB_ALPHA, 4), (GREY_ALPHA, 2)])
def test_sixteen_bits_of_several_channels(color, channels):
    values = ramp(channels, 65535)
    found = decoded(png(values, color, 16)).astype(int)
    wide = values / 257
    wanted = np.concatenate([wide[..., :1].repeat(3, axis=-1), wide[..., 1:]], axis=-1) if channels == 2 else wide
    wanted = wanted if channels != 3 else opaque(wanted)
    assert np.abs(found - wanted).max() <= 1.0  # Pillow drops the lower byte
    assert set(found[values[..., -1] == 65535, -1].tolist()) <= {255}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("color", "channels"), [(GREY, 1), (RGB, 3)])
def test_a_transparent_colour(depth, color, channels):
    values = ramp(channels, 2**depth - 1)
    values[:4, :4] = clear = values[0, 0]
    data = png(values, color, depth, [(b"tRNS", struct.pack(f">{channels}H", *clear))])
    alpha = decoded(data)[..., 3]
    wanted = np.where((values == clear).all(axis=-1), 0, 255)
    if depth == 16 and color == RGB:  # colours with equal upper bytes are the same one
        wanted = np.where((values >> 8 == clear >> 8).all(axis=-1), 0, 255)
    np.testing.assert_array_equal(alpha, wanted)


def test_cmyk_without_a_profile_is_the_textbooks_formula():
    inks = ramp(4, 255).astype(np.uint8)
    data = encoded(Image.fromarray(inks, "CMYK"), "TIFF")
    c, k = inks[..., :3] / 255, inks[..., 3:] / 255
    found = decoded(data)
    assert np.abs(found[..., :3] - 255 * (1 - c) * (1 - k)).max() <= 1.0
    assert (found[..., 3] == 255).all()


def test_cmyk_in_a_jpeg_is_not_inverted():
    """Adobe's files hold inverted inks; a red field must be red."""
    inks = np.zeros((SIDE, SIDE, 4), np.uint8)
    inks[..., 1:3] = 255
    found = decoded(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
    assert np.abs(found.reshape(-1, 4).mean(axis=0) - (255, 0, 0, 255)).max() < 4


def test_palettes_and_greyscale_with_transparency():
    index = ramp(1, 2)[..., 0].astype(np.uint8)
    colors, alphas = np.array([[9, 8, 7], [250, 0, 3], [1, 2, 200]], np.uint8), np.array([0, 128, 255], np.uint8)
    palette = Image.fromarray(index, "P")
    palette.putpalette(colors.reshape(-1).tolist())
    found = decoded(encoded(palette, transparency=bytes(alphas)))
    np.testing.assert_array_equal(found, np.concatenate([colors, alphas[:, None]], axis=-1)[index])
    both = ramp(2, 255).astype(np.uint8)
    found = decoded(encoded(Image.fromarray(both, "LA")))
    np.testing.assert_array_equal(found, both[..., [0, 0, 0, 1]])
    bits = ramp(1, 1)[..., 0].astype(bool)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits)))[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"])
def test_formats(kind, tmp_path):
    """The same picture in every format; of GIF it has few colours."""
    rgb = ramp(3, 3).astype(np.uint8) * 85
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    path = tmp_path / "a picture – mögen.dat"  # the name says nothing about the format
    path.write_bytes(encoded(Image.fromarray(rgb), kind, **options))
    found = read_picture(path)
    assert np.abs(found.astype(int) - opaque(rgb)).max() <= (6 if kind == "AVIF" else 0)


def turned(picture, orientation):
    """The picture as EXIF says that a viewer shows it (the standard's table: where row 0 and column 0 are)."""
    return {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
        5: picture.swapaxes(0, 1), 6: np.rot90(picture, -1), 7: picture[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(picture, 1),
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_turn_in_exif_data_is_applied(orientation):
    rgb = np.random.default_rng(1).integers(0, 256, (SIDE, 2 * SIDE, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(rgb), exif=exif))[..., :3], turned(rgb, orientation))


def test_damaged_exif_data_does_not_matter(monkeypatch):
    from PIL import ImageOps

    def broken(image):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    notes = []
    assert decoded(encoded(Image.new("RGB", (SIDE, SIDE), "red")), notes.append)[0, 0].tolist() == [255, 0, 0, 255]
    assert notes == ["its EXIF data is damaged: it may be shown turned"]


def linear_profile():
    """A profile of linear light with sRGB's primaries, built from sRGB's own by replacing its three tone curves."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for i in range(count):
        name, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 16] = b"para" + bytes(4) + struct.pack(">HHi", 0, 0, 65536)  # y = x^1
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Linx".encode("utf-16-be"))


@pytest.mark.parametrize("alpha", [False, True])
def test_a_colour_profile_is_applied(alpha):
    rgb = ramp(3, 255).astype(np.uint8)
    whole = np.concatenate([rgb, ramp(1, 255, 5).astype(np.uint8)], axis=-1) if alpha else rgb
    notes = []
    found = decoded(encoded(Image.fromarray(whole), icc_profile=linear_profile()), notes.append)
    light = rgb / 255
    wanted = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(found[..., :3] - wanted)[rgb > 12].max() <= 2.0  # 8-bit tables are coarse in the dark
    np.testing.assert_array_equal(found[..., 3], whole[..., 3] if alpha else 255)
    assert notes == []


def test_srgbs_own_profile_changes_nothing_and_a_damaged_one_is_told():
    rgb = ramp(3, 255).astype(np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    notes = []
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(rgb), icc_profile=own), notes.append), opaque(rgb))
    assert notes == []
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(rgb), icc_profile=b"no profile"), notes.append), opaque(rgb))
    assert notes == ["its color profile cannot be applied: colors may be slightly off"]


def test_a_phones_jpeg_with_a_second_picture_is_read():
    first, second = (Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(decoded(data).astype(int).mean(axis=(0, 1)) - (254, 0, 0, 255)).max() < 2


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "a.png")
    assert read_picture("~/a.png").shape == (SIDE, SIDE, 4)


def test_the_smallest_accepted_size():
    least = read.SIDE[0]
    assert decoded(encoded(Image.new("L", (least, least)))).shape == (least, least, 4)
