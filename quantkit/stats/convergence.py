"""Convergence of the ranges during a pass."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from quantkit.numerics import Range

FIRST_POINT = 16
# Ranges have converged if the relative error of the worst one is at most this; its rounding noise is then accurate to
# 20 log10(1.1) = 0.8 dB.
SETTLED = 0.1
# Single points are noisy, so the median of this number of points is used.
_POINTS = 3
_LONG_STEP = 1.25


@dataclass(frozen=True)
class ConvergencePoint:
    """Change of the ranges since the previous convergence point.

    Attributes:
        images: number of images observed at this point.
        movement: by method name, the largest change of an end of a range relative to the width (1.0 = 100 percent).
        tensor: by method name, the tensor with the largest change.
    """

    images: int
    movement: dict[str, float]
    tensor: dict[str, str]

    def only(self, methods: Container[str]) -> "ConvergencePoint":
        """Return the changes by these methods."""
        return ConvergencePoint(
            self.images,
            {name: share for name, share in self.movement.items() if name in methods},
            {name: tensor for name, tensor in self.tensor.items() if name in methods},
        )


def movement(before: Mapping[str, Range], after: Mapping[str, Range]) -> tuple[float, str]:
    """Return the largest change of an end of a range, relative to the new width, and the tensor's name."""
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
    """Return the image count of the convergence point after ``images``: 16, then always 50 % more.

    Points depend on counts, not on time, so a pass that stops when stable stops at the same image on any machine.
    """
    point = FIRST_POINT
    while point <= images:
        point += point // 2
    return point


def images_enough(points: list[ConvergencePoint], method: str, tolerance: float) -> int | None:
    """Return the first image count after which no range changed by more than ``tolerance``, or None."""
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


def remaining_error(points: Sequence[ConvergencePoint], method: str) -> float | None:
    """Return the estimated error of the worst range, compared with unlimited images, relative to its width.

    An estimate from ``n`` images has an error of ``c / sqrt(n)``, and two successive ones, from ``m`` and from ``n``
    images, differ by ``c sqrt(1 / m - 1 / n)``. That gives ``c`` at every point, and the median of the last three
    is used. Observed extremes do not follow this law: for minmax the result is a lower bound.

    Args:
        points: convergence points of a pass, in order.
        method: name of the method.

    Returns:
        The error, 0.1 for 10 % of the width, or None if the method's ranges were not compared.
    """
    starts = [FIRST_POINT, *(point.images for point in points)]
    steps = [
        (start, point)
        for start, point in zip(starts, points, strict=False)
        if method in point.movement and point.images > start
    ]
    if not steps:
        return None
    # The last step of a pass may be short, which is not informative.
    long = [(start, point) for start, point in steps if point.images >= _LONG_STEP * start] or steps
    last = sorted(point.movement[method] / math.sqrt(1 / start - 1 / point.images) for start, point in long[-_POINTS:])
    return last[len(last) // 2] / math.sqrt(points[-1].images)


def settling_note(
    points: Sequence[ConvergencePoint], images: int, method: str, classes: int | None, *, compared: bool = False
) -> str | None:
    """Return a note if the ranges have not converged, with the number of images needed; None if they have.

    Args:
        points: convergence points of the pass, in order.
        images: number of images of the pass.
        method: name of the method; percentile is used if it was not tracked.
        classes: number of classes of the model, None if unknown.
        compared: whether the method was found no worse than the others, which are not recommended then.
    """
    seen = f"{images:,} images"
    if classes is not None and images < classes:
        seen += f" for {classes:,} classes"
    if images <= FIRST_POINT:
        return f"ranges have not converged: {seen} are too few; use several hundred, usually 1,000"
    watched = method if any(method in point.movement for point in points) else "percentile"
    error = remaining_error(points, watched)
    if error is None or error <= SETTLED:
        return None
    said = f"ranges have not converged: {seen} leave an error of {100 * error:.0f} % of the worst {watched} range"
    if watched == "minmax":
        fix = "use more images" if compared else "use --method percentile, or more images"
        return f"{said}, and extremes grow with every image; {fix}"
    needed = images * (error / SETTLED) ** 2
    unit = 10.0 ** (math.floor(math.log10(needed)) - 1)
    return f"{said}; use about {math.ceil(needed / unit) * unit:,.0f}"
