"""Faults of a source: raised, or collected while the rest is used."""

from quantkit.errors import CalibrationSetError, QuantkitError, first_of

SKIP = "or use the rest with --skip-damaged"


class Faults:
    """Faults of a source.

    Args:
        skip: collect faults instead of raising the first.
        labels: whether labels of the source are read and checked; False if a label file is given.

    Attributes:
        found: the collected faults.
    """

    def __init__(self, skip: bool = False, *, labels: bool = True) -> None:
        self.skip, self.labels = skip, labels
        self.found: list[QuantkitError] = []

    def report(self, error: QuantkitError) -> None:
        """Raise a fault, or collect it.

        Raises:
            QuantkitError: the fault, unless faults are skipped.
        """
        if not self.skip:
            raise error
        self.found.append(error)

    def damaged(self, what: str, where: object, fix: str = "download it again") -> None:
        """Report a damaged part of a source.

        Raises:
            CalibrationSetError: the fault, unless faults are skipped.
        """
        self.report(CalibrationSetError(what, where=where, fix=f"{fix}, {SKIP}"))

    def warnings(self) -> tuple[str, ...]:
        """Return what was left out in one sentence; empty if nothing was."""
        if not self.found:
            return ()
        shown = first_of([f"{error.where}: {error.what}" for error in self.found], 3, "; ")
        return (f"left out {len(self.found)} damaged parts of the source: {shown}",)
