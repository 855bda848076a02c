"""Which cluster work is spread over, as the user writes it; Ray itself is not imported here."""

import re
from dataclasses import dataclass
from typing import Self

from quantkit.errors import UsageError

OPTION = "--cluster"
_FIX = "write auto, ray://HOST:PORT or local:N"


@dataclass(frozen=True)
class ClusterAddress:
    """A cluster as it was named.

    Attributes:
        url: ``auto`` (the Ray that this process or this machine belongs to), ``ray://HOST:PORT``, or ``local``.
        workers: of a local one, how many; None otherwise.
    """

    url: str
    workers: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address of ``auto``, ``ray://HOST:PORT`` or ``local:N``.

        Raises:
            UsageError: it is none of these.
        """
        if text == "auto" or re.fullmatch(r"ray://[^\s/:]+:\d{1,5}", text):
            return cls(text)
        local = re.fullmatch(r"local:(\d{1,4})", text)
        if local is None or int(local[1]) < 1:
            raise UsageError(f"invalid cluster {text!r}", where=OPTION, fix=_FIX)
        return cls("local", int(local[1]))

    @property
    def is_local(self) -> bool:
        """Whether Ray is started on this machine for the time of the work."""
        return self.workers is not None
