"""Thumbnails for a report."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.images import content, open_image, place_of, to_mode
from quantkit.data.item import ImageItem
from quantkit.errors import ImageError, NumericError

# Longer side in pixels: enough to recognize the image when it is enlarged, and to keep a report of 120 images small.
SIDE = 320
_QUALITY = 75


def thumbnail(item: Path | ImageItem) -> bytes | None:
    """Return an image as a JPEG of at most `SIDE` pixels, never enlarged; None if the image cannot be read.

    An array is shown with its smallest value black and its largest white.
    """
    where = place_of(item)
    try:
        data = content(item)
        image = to_mode(open_image(data, where), Decode(), where) if isinstance(data, bytes) else _picture(data)
    except (ImageError, NumericError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _picture(array: npt.NDArray[np.float32]) -> Image.Image:
    lo, hi = float(array.min()), float(array.max())
    levels = np.rint((array - lo) * (255.0 / max(hi - lo, 1e-30))).astype(np.uint8)
    if len(levels) == 3:
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(levels, 0, 2)))
    return Image.fromarray(levels[0]).convert("RGB")
