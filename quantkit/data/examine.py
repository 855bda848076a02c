"""Examines an image: digest, decoding, special properties, and perceptual hash."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.images import Note, content, notes, open_image, place_of, to_mode
from quantkit.data.item import ImageItem, content_digest
from quantkit.errors import ImageError, NumericError

_LOOK_BITS = 64
# Of 200 photographs shrunk and saved again 87 % differ by at most this number of bits; of 499,500 pairs of different
# ones none does.
_SIMILAR_BITS = 4
_SMALLEST_LOOK = 32


@dataclass(frozen=True)
class Examined:
    """Result of the examination of an image.

    Attributes:
        sha256: hex digest of the file; empty if it cannot be read.
        fault: why the image cannot be used; empty if it can.
        notes: conversions that a plain 8-bit colour image does not need.
        one_colour: whether all pixels are equal.
        look: 64-bit perceptual hash, nearly invariant to resizing and compression; None if the image is too small or
            too uniform.
    """

    sha256: str
    fault: str = ""
    notes: tuple[Note, ...] = ()
    one_colour: bool = False
    look: int | None = None


def examine(item: Path | ImageItem) -> Examined:
    """Read and fully decode an image, or check an array; a fault is returned, not raised."""
    sha256, where = "", place_of(item)
    decode = Decode()
    try:
        data = content(item)
        sha256 = content_digest(data)
        if not isinstance(data, bytes):
            return Examined(sha256, one_colour=bool((data == data.flat[0]).all()))
        image = open_image(data, where)
        found = notes(image, decode)
        image = to_mode(image, decode, where)
    except (ImageError, NumericError) as error:
        return Examined(sha256, error.what)
    cells = np.asarray(image.resize((9, 8), Image.Resampling.BOX, reducing_gap=1.0).convert("L"))
    if cells.min() == cells.max() and len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) == 1:
        return Examined(sha256, "", found, one_colour=True)
    return Examined(sha256, "", found, look=_look(cells) if min(image.size) >= _SMALLEST_LOOK else None)


def lookalikes(looks: Sequence[int | None]) -> list[tuple[int, int]]:
    """Return the pairs of positions with looks that differ by at most a few bits, in order.

    Two looks that differ by at most k bits agree in at least one of k + 1 parts, so only looks with a common part are
    compared, which is exact and fast for many images.

    Args:
        looks: the looks of images (`Examined.look`).
    """
    parts = _SIMILAR_BITS + 1
    width = -(-_LOOK_BITS // parts)
    known = [(position, look) for position, look in enumerate(looks) if look is not None]
    pairs: set[tuple[int, int]] = set()
    for part in range(parts):
        sharing: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, look in known:
            sharing[look >> part * width & (1 << width) - 1].append((position, look))
        for those in sharing.values():
            pairs.update(
                (first, second)
                for (first, look), (second, other) in combinations(those, 2)
                if (look ^ other).bit_count() <= _SIMILAR_BITS
            )
    return sorted(pairs)


def _look(cells: NDArray[np.uint8]) -> int:
    """Return one bit per cell of 8 x 8: whether it is darker than the cell to its right."""
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")
