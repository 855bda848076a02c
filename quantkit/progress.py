"""What a long step tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quantkit.stats.convergence import ConvergencePoint

# Called with what is done and what there is to do.
Count = Callable[[int, int], None]


class Watcher(Protocol):
    """Receives news of a calibration; the command line draws it, a program may ignore it."""

    def resumed(self, images: int) -> None:
        """The pass goes on after this many images, from an interrupted one."""

    def images(self, done: int, total: int) -> None:
        """So many images have been observed; called by any thread."""

    def converged(self, point: ConvergencePoint) -> None:
        """The ranges were compared with those of the point before."""

    def layers(self, done: int, total: int) -> None:
        """The biases of so many layers have been corrected."""


class NoProgress:
    """A watcher that ignores everything."""

    def resumed(self, images: int) -> None:
        """Ignore it."""

    def images(self, done: int, total: int) -> None:
        """Ignore it."""

    def converged(self, point: ConvergencePoint) -> None:
        """Ignore it."""

    def layers(self, done: int, total: int) -> None:
        """Ignore it."""
