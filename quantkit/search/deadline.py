"""The time limit of a search: work under way checks it at every image, layer and move of a range."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from quantkit.progress import ProgressCallback

Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfTimeError(Exception):
    """The time limit of a search has passed."""


class Deadline:
    """The end of a time limit, and the time before it that is left for the final model.

    Nothing is checked before `begin`, so that a search has a first result, nor after `lift`, so that it is written.

    Args:
        seconds: time limit from now on; None for no limit.

    Attributes:
        reserve_s: seconds that finishing takes from here on; the search stops this long before the end.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end_s = math.inf if seconds is None else time.monotonic() + seconds
        self._enforced = False
        self.reserve_s = 0.0

    def begin(self) -> None:
        """Enforce the limit from now on."""
        self._enforced = True

    def lift(self) -> None:
        """Stop enforcing the limit."""
        self._enforced = False

    def check(self) -> None:
        """Check that there is time left.

        Raises:
            OutOfTimeError: there is none.
        """
        if self._enforced and time.monotonic() + self.reserve_s > self._end_s:
            raise OutOfTimeError

    def counting(self, count: ProgressCallback) -> ProgressCallback:
        """Return a callback that checks the limit between items."""

        def counted(done: int, total: int) -> None:
            count(done, total)
            if done < total:
                self.check()

        return counted

    def images(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return a sequence that checks the limit whenever an item is taken."""
        return _Checked(items, self.check)

    def each(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """Return a function that checks the limit before each call."""

        def checked(*arguments: Any) -> Result:
            self.check()
            return function(*arguments)

        return checked


class _Checked(Sequence[Item]):
    """A sequence that calls a function whenever an item is taken."""

    def __init__(self, items: Sequence[Item], check: Callable[[], None]) -> None:
        self._items, self._check = items, check

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return _Checked(self._items[place], self._check)
        self._check()
        return self._items[place]
