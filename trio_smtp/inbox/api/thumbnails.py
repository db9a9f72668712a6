"""Small pictures of pictures. Their size is checked before they are decoded."""

from __future__ import annotations

import base64
from contextlib import suppress
from io import BytesIO

__all__ = ["BLANK", "thumbnail"]

_SIZE = (180, 120)
_MAX_PIXELS = 40_000_000
#: What is decoded: raster images that Pillow reads without other programs.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")

#: A white JPEG of 180x120.
BLANK = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////////"
    "////////////////////wAALCAB4ALQBAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAT/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/9oA"
    "CAEBAAA/ALQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAf/Z"
)


def thumbnail(content: bytes) -> bytes:
    """A JPEG of 180x120 that shows the middle of an image; `BLANK` where it is none, or Pillow is not installed."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return BLANK
    with suppress(Exception), Image.open(BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > _MAX_PIXELS:
            return BLANK
        image.draft("RGB", (2 * _SIZE[0], 2 * _SIZE[1]))  # JPEG alone: decodes no more than needed
        small = image.convert("RGBA")
        if small.width > _SIZE[0] and small.height > _SIZE[1]:
            small = ImageOps.fit(small, _SIZE)
        canvas = Image.new("RGB", _SIZE, "white")
        canvas.paste(small, ((_SIZE[0] - small.width) // 2, (_SIZE[1] - small.height) // 2), small)
        out = BytesIO()
        canvas.save(out, "JPEG", quality=80)
        return out.getvalue()
    return BLANK
