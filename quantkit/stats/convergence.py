"""How much the ranges still move while a pass goes on: when more images no longer change them."""

from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.numerics import Range


@dataclass(frozen=True)
class ConvergencePoint:
    """How far the ranges lay from those of the point before.

    Attributes:
        images: images seen at this point.
        movement: by method name, the greatest relative change of any tensor's width (1.0 = 100 percent).
        tensor: by method name, the tensor that moved most.
    """

    images: int
    movement: dict[str, float]
    tensor: dict[str, str]


def movement(before: Mapping[str, Range], after: Mapping[str, Range]) -> tuple[float, str]:
    """Return the greatest change of an end of a range, relative to the width after it, and the tensor's name."""
    worst, name = 0.0, ""
    for tensor, new in after.items():
        old = before[tensor]
        width = new.hi - new.lo
        change = max(abs(new.lo - old.lo), abs(new.hi - old.hi))
        relative = change / width if width > 0 else float(change > 0)
        if relative > worst:
            worst, name = relative, tensor
    return worst, name


def next_point(images: int) -> int:
    """Return the image count of the convergence point after ``images``: 16, then each half as far again.

    Counts, not times, so that a pass that stops when stable stops at the same image on any machine.
    """
    point = 16
    while point <= images:
        point += point // 2
    return point


def images_enough(points: list[ConvergencePoint], method: str, tolerance: float) -> int | None:
    """Return the first image count from which on no range moved by more than ``tolerance``, or None."""
    enough = None
    for point in points:
        moved = point.movement.get(method)
        if moved is None:
            continue
        if moved > tolerance:
            enough = None
        elif enough is None:
            enough = point.images
    return enough
