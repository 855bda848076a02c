"""Small pictures for a report."""

import io
from pathlib import Path

from PIL import Image, ImageOps

from quantkit.config.pipeline import Decode
from quantkit.data.images import open_image, read_bytes, to_mode
from quantkit.errors import ImageError

# Shown at half of this, so that they stay sharp on screens of twice the density.
SIDE = 192
_QUALITY = 75


def thumbnail(path: Path) -> bytes | None:
    """Return the middle square of an image as a small JPEG, or None where the image is no longer at hand."""
    try:
        image = to_mode(open_image(read_bytes(path), path), Decode(), path)
    except ImageError:
        return None
    small = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
