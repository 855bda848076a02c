"""Console output and the global options of all commands: quiet, verbose, log file, JSON events."""

import io
import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from quantkit.errors import OutputError
from quantkit.files import make_folder, reason

_LOG_WIDTH = 160
_LOG = logging.getLogger("quantkit.cli")


class TeeConsole(Console):
    """A console that copies its output to the log file.

    A closed pipe is left to the caller; rich would end the program with code 1, whatever happened.
    """

    def on_broken_pipe(self) -> None:
        """Raise an exception for the caller to handle."""
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, and log."""
        super().print(*objects, **options)
        if session.logging:
            text = io.StringIO()
            plain = {name: value for name, value in options.items() if name in ("markup", "soft_wrap")}
            Console(file=text, width=_LOG_WIDTH, highlight=False, color_system=None).print(*objects, **plain)
            for line in text.getvalue().splitlines():
                session.log(line)


console = TeeConsole(highlight=False)
errors = TeeConsole(stderr=True, highlight=False)


@dataclass
class Session:
    """The global options of a command line.

    Attributes:
        quiet: print results, warnings and errors only.
        verbose: list every note, and the messages of the progress.
        clock: returns seconds; for the interval of progress lines.
    """

    quiet: bool = False
    verbose: bool = False
    clock: Callable[[], float] = field(default=time.monotonic)
    _handler: logging.Handler | None = None
    _events: TextIO | None = None
    _closes_events: bool = False

    @property
    def logging(self) -> bool:
        """Whether there is a log file."""
        return self._handler is not None

    @property
    def events_on_stderr(self) -> bool:
        """Whether JSON events go to standard error, which then carries nothing else."""
        return self._events is not None and not self._closes_events

    def open_log(self, path: Path) -> None:
        """Start appending to a log file.

        Raises:
            OutputError: the file cannot be written.
        """
        make_folder(path.parent)
        try:
            handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"the log file cannot be written ({reason(error)})", where=path) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._handler = handler
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
        _LOG.propagate = False

    def log(self, text: str) -> None:
        """Write a line to the log file, if there is one."""
        if self._handler is not None:
            _LOG.info("%s", text)

    def open_events(self, path: Path) -> None:
        """Start writing JSON events to a file, ``-`` for standard error.

        Raises:
            OutputError: the file cannot be written.
        """
        if str(path) == "-":
            self._events, self._closes_events = sys.stderr, False
            return
        make_folder(path.parent)
        try:
            self._events, self._closes_events = path.open("a", encoding="utf-8"), True
        except OSError as error:
            raise OutputError(f"the event file cannot be written ({reason(error)})", where=path) from error

    def event(self, name: str, **values: Any) -> None:
        """Write one event, a JSON object on one line: ``time``, ``event`` and the values."""
        if self._events is None:
            return
        plain = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **values}
        self._events.write(json.dumps(plain, ensure_ascii=False, default=str) + "\n")
        self._events.flush()

    def reset(self) -> None:
        """Close the files and return to the defaults, for a new command line."""
        if self._handler is not None:
            _LOG.removeHandler(self._handler)
            self._handler.close()
        if self._events is not None and self._closes_events:
            with suppress(OSError):
                self._events.close()
        self.quiet, self.verbose, self.clock = False, False, time.monotonic
        self._handler, self._events, self._closes_events = None, None, False


session = Session()
