"""Pictures of textures: decoded where they are used.

All that are used have at most ``TEXELS`` texels together, and so have all their copies in other tints.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.reading.gltf.accessors import Arrays
from dreamlift.reading.gltf.checks import entry
from dreamlift.reading.pictures import PICTURES, TEXELS

IMAGES, IMAGE_BYTES = 256, 256 << 20  # largest number of pictures that are used, and of their bytes together
MAGIC = {b"\xabKTX": "KTX2", b"version https://git-lfs": "a Git LFS pointer"}


class Picture(NamedTuple):
    """A decoded picture."""

    color: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8; None: opaque

    def single(self) -> np.ndarray | None:
        """The colour (3,) of a picture of one colour."""
        first = self.color[0, 0]
        # The corner is looked at first: most pictures are told apart there.
        return first if (self.color[:8, :8] == first).all() and (self.color == first).all() else None


@dataclass
class Pictures:
    """The pictures of one document, each decoded once."""

    arrays: Arrays
    found: dict[int, Picture | str] = field(default_factory=dict)  # a sentence for one that cannot be read
    tints: dict[tuple[int, tuple[float, ...]], np.ndarray] = field(default_factory=dict)
    texels: int = 0
    tinted_texels: int = 0
    bytes: int = 0

    def get(self, index: Any, what: str) -> Picture | str:
        """The picture of image ``index``, or a sentence that says why there is none.

        Raises:
            ValueError: there is no such image, or the pictures are too large together.
        """
        image = entry(self.arrays.document, "images", index, f"the image of {what}")
        if index not in self.found:
            if len(self.found) == IMAGES:
                raise ValueError(f"it uses more than {IMAGES} images")
            self.found[index] = self._read(image, f"image {index}")
        return self.found[index]

    def _read(self, image: dict[str, Any], what: str) -> Picture | str:
        try:
            if "bufferView" in image:
                data = bytes(self.arrays.view(image["bufferView"], what)[0])
            else:
                data = self.arrays.sources.read(image.get("uri"), what)
        except ValueError as error:
            return f"the picture of {error}" if str(error).startswith(what) else f"the picture of {what}: {error}"
        self.bytes += len(data)
        if self.bytes > IMAGE_BYTES:
            raise ValueError(f"its textures have more than {IMAGE_BYTES >> 20} MiB together")
        try:
            return self._decoded(data)
        except TooManyTexelsError:
            raise
        except Exception:  # a damaged file can raise any exception
            named = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
            return f"the picture of {what} is {f'{named}, which is not read' if named else 'no readable picture'}"

    def _decoded(self, data: bytes) -> Picture:
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                image = Image.open(io.BytesIO(data), formats=PICTURES)
            except Image.DecompressionBombError:
                raise TooManyTexelsError from None
        with image:
            self.texels += image.width * image.height
            if self.texels > TEXELS:
                raise TooManyTexelsError
            if image.mode.startswith("I"):  # 16 bits of grey, which convert() would cut off at 255
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return Picture(np.repeat(grey[..., None], 3, axis=-1), None)
            if image.has_transparency_data:
                values = np.asarray(image.convert("RGBA"))
                return Picture(values[..., :3].copy(), values[..., 3].copy())
            return Picture(np.array(image.convert("RGB")), None)

    def tinted(self, index: int, factor: np.ndarray) -> np.ndarray:
        """The colours (H, W, 3) of a picture that was read, times ``factor`` (3,) in linear light; a copy is made once."""
        picture = self.found[index]
        assert isinstance(picture, Picture)
        if (factor >= 1).all():
            return picture.color
        key = (index, tuple(factor.tolist()))
        if key not in self.tints:
            self.tinted_texels += picture.color.shape[0] * picture.color.shape[1]
            if self.tinted_texels > TEXELS:
                raise ValueError(f"its textures, in all their tints, have more than {TEXELS:,} texels together")
            table = linear_to_srgb(np.clip(srgb_to_linear(np.arange(256) / 255.0)[:, None] * factor, 0, 1))
            steps = (table * 255 + 0.5).astype(np.uint8)
            self.tints[key] = np.stack([steps[:, c][picture.color[..., c]] for c in range(3)], axis=-1)
        return self.tints[key]


class TooManyTexelsError(ValueError):
    """The pictures are larger than is accepted."""

    def __init__(self) -> None:
        super().__init__(f"its textures have more than {TEXELS:,} texels together (one of 8192 x 8192): scale them down")
