"""Cache of decoded images as 8-bit pixels, so that no image is decoded and resized twice."""

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantkit.config.pipeline import Pipeline
from quantkit.data.images import Readable, content, place_of
from quantkit.data.item import FileItem
from quantkit.data.preprocess import normalize, pixels_of

# 3,500 images of 224 x 224 pixels.
LIMIT_BYTES = 512 << 20


class DecodedImages:
    """Loads images identically to `quantkit.data.preprocess.preprocess`, and decodes each once.

    Only the pixels are cached, a quarter of the size of the model's input; loading is thread-safe. Images beyond the
    limit are decoded each time.

    Args:
        pipeline: preprocessing of all images.
        limit_bytes: maximum memory for pixels.
        only: cache only these images; all by default.
    """

    def __init__(
        self, pipeline: Pipeline, limit_bytes: int = LIMIT_BYTES, *, only: Iterable[Path | Readable] | None = None
    ) -> None:
        self._pipeline, self._left = pipeline, limit_bytes
        self._only = None if only is None else {_key(image) for image in only}
        self._pixels: dict[Path | Readable, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __call__(self, image: Path | Readable) -> NDArray[np.float32]:
        """Return an image as float32 ``[C, H, W]``; an array is returned unchanged.

        Raises:
            ImageError: the image cannot be decoded.
        """
        return self.scaled(image, self._pipeline)

    def scaled(self, image: Path | Readable, pipeline: Pipeline) -> NDArray[np.float32]:
        """Return one image with its channels scaled and ordered as another pipeline does.

        Args:
            image: the image.
            pipeline: equal to this one's up to ``to_tensor``, but for the order of the colours.

        Raises:
            ImageError: the image cannot be decoded.
        """
        key = _key(image)
        pixels = self._pixels.get(key)
        if pixels is None:
            data = content(image)
            if not isinstance(data, bytes):
                return data
            pixels = pixels_of(data, self._pipeline, place_of(image))
            self._keep(key, pixels)
        out = np.empty((pipeline.channels, *pixels.shape[:2]), np.float32)
        normalize(pixels, pipeline, out)
        return out

    def _keep(self, key: Path | Readable, pixels: NDArray[np.uint8]) -> None:
        if self._only is not None and key not in self._only:
            return
        with self._lock:
            if key not in self._pixels and pixels.nbytes <= self._left:
                self._pixels[key] = pixels.copy() if pixels.base is not None else pixels
                self._left -= pixels.nbytes


def _key(image: Path | Readable) -> Path | Readable:
    return image.path if isinstance(image, FileItem) else image
