"""Small pictures for a report."""

import io
from pathlib import Path

from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.images import open_image, read_bytes, to_mode
from quantkit.errors import ImageError

# Longer side in pixels: enough to recognize the image when it is enlarged, and to keep a report of 120 images small.
SIDE = 320
_QUALITY = 75


def thumbnail(path: Path) -> bytes | None:
    """Return an image as a JPEG of at most `SIDE` pixels, never enlarged; None where the image cannot be read."""
    try:
        image = to_mode(open_image(read_bytes(path), path), Decode(), path)
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
