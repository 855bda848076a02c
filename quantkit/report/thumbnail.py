"""Small pictures for a report."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from quantkit.config.pipeline import Decode
from quantkit.data.images import content, open_image, place_of, to_mode
from quantkit.data.item import ImageItem
from quantkit.errors import ImageError, NumericError

# Shown at half of this, so that they stay sharp on screens of twice the density.
SIDE = 192
_QUALITY = 75


def thumbnail(item: Path | ImageItem) -> bytes | None:
    """Return the middle square of an image as a small JPEG, or None where the image can no longer be read.

    A ready array is shown with its least value black and its greatest white.
    """
    where = place_of(item)
    try:
        data = content(item)
        image = to_mode(open_image(data, where), Decode(), where) if isinstance(data, bytes) else _picture(data)
    except (ImageError, NumericError):
        return None
    small = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _picture(array: npt.NDArray[np.float32]) -> Image.Image:
    lo, hi = float(array.min()), float(array.max())
    levels = np.rint((array - lo) * (255.0 / max(hi - lo, 1e-30))).astype(np.uint8)
    if len(levels) == 3:
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(levels, 0, 2)))
    return Image.fromarray(levels[0]).convert("RGB")
