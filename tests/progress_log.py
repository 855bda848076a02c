"""A progress that remembers what it received."""

from collections.abc import Callable


class ProgressLog:
    """Implements `quantkit.Progress`.

    Args:
        on: called with each task's name and each count, to interrupt the work.
    """

    def __init__(self, on: Callable[[str, int, int], None] | None = None) -> None:
        self._on = on
        self.tasks: list[tuple[str, str]] = []
        self.counts: list[tuple[int, int]] = []
        self.messages: list[str] = []

    def task(self, name: str, unit: str) -> Callable[[int, int], None]:
        self.tasks.append((name, unit))

        def count(done: int, total: int) -> None:
            self.counts.append((done, total))
            if self._on is not None:
                self._on(name, done, total)

        return count

    def message(self, text: str) -> None:
        self.messages.append(text)
