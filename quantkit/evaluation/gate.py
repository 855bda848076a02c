"""Conditions on a comparison that end a run with exit code 20: ``--fail-if "top1_drop > 0.5 or agreement < 98"``.

A condition is used in one of three modes, each an option of ``quantkit compare`` that may be given several times:

- ``--fail-if``: fails if the measured values meet the condition. Intervals are not used.
- ``--fail-if-proven`` (fail if proven worse): fails only if every value in the 95 % interval meets the condition.
  Small samples pass.
- ``--fail-unless-proven`` (fail unless proven within, the release gate): fails unless every value in the 95 %
  interval meets the condition. Small samples fail.

Intervals are two-sided, so one bound has a confidence of 97.5 %. For ``top1_drop > 0.5`` the lower bound decides, for
``top1_drop <= 0.5`` the upper one.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quantkit.errors import GateError, UsageError
from quantkit.evaluation.paired import Interval, wilson_interval
from quantkit.evaluation.result import PERCENT, Comparison, ModelResult
from quantkit.records import plain

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_GRAMMAR = (
    'write NAME OP NUMBER, joined by "and" and "or" ("and" binds tighter, no parentheses), '
    'without units, such as "top1_drop > 0.5 or agreement < 98"'
)


class GateMode(StrEnum):
    """Mode of a condition; the value is the command-line option.

    Example:
        >>> import quantkit
        >>> str(quantkit.GateMode.FAIL_IF)
        '--fail-if'
    """

    FAIL_IF = "--fail-if"
    FAIL_IF_PROVEN = "--fail-if-proven"
    FAIL_UNLESS_PROVEN = "--fail-unless-proven"


@dataclass(frozen=True)
class Figure:
    """A measured value and its 95 % interval, if it has one."""

    value: float
    interval: Interval | None = None

    def __str__(self) -> str:
        if self.interval is None or self.interval.lo == self.interval.hi:
            return _short(self.value)
        return f"{self.value:.4g} [{self.interval.lo:.4g}, {self.interval.hi:.4g}]"


def _short(number: float) -> str:
    """Format a number with four digits, an integer (a size in bytes) with all digits."""
    return str(number) if isinstance(number, int) else f"{number:.4g}"


# Figures of conditions. Units are those of the JSON: percent, percentage points, nats, dB, milliseconds, bytes.
FIGURES = (
    "top1_drop",
    "top5_drop",
    "top1",
    "top5",
    "agreement",
    "kl",
    "ece",
    "mcnemar_p",
    "sqnr_db",
    "latency_ms",
    "bytes",
)
NEED_LABELS = {"top1_drop", "top5_drop", "top1", "top5", "ece", "mcnemar_p"}
# Figures that do not depend on images: the interval is the value.
_EXACT = {"bytes"}
_HAVE_INTERVALS = ("top1_drop", "top5_drop", "top1", "top5", "agreement", "kl", "bytes")


@dataclass(frozen=True)
class Term:
    """A comparison of a figure with a number."""

    name: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.number!r}".removesuffix(".0")

    def holds(self, figure: Figure) -> bool:
        """Return whether the measured value meets the term."""
        return _OPERATORS[self.operator](figure.value, self.number)

    def proven(self, figure: Figure) -> bool | None:
        """Return True if all values in the interval meet the term, False if none does, None otherwise."""
        if figure.interval is None:
            return None
        ends = {_OPERATORS[self.operator](end, self.number) for end in (figure.interval.lo, figure.interval.hi)}
        return ends.pop() if len(ends) == 1 else None


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """The verdict of a gate on a candidate.

    Attributes:
        gate: the gate.
        model: name of the candidate.
        figures: the figures in the condition.
        passed: whether the candidate passes.
        proven: whether every value in the 95 % intervals meets the condition (True), none does (False), or some (None).
        detectable: the loss that the images could show, in words, where a condition on ``top1_drop`` passes undecided.

    Example:
        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> [verdict] = quantkit.parse_gate("agreement < 50").verdicts(result)
        >>> verdict.passed
        True
    """

    gate: "Gate"
    model: str
    figures: dict[str, Figure]
    passed: bool
    proven: bool | None
    detectable: str = ""

    def __str__(self) -> str:
        said = f"{self.model}: " + ", ".join(f"{name} is {figure}" for name, figure in self.figures.items())
        undecided = self.proven is None and any(figure.interval is not None for figure in self.figures.values())
        if not undecided:
            return said
        return f"{said} (neither proven nor excluded at 95 %{self.detectable and f'; {self.detectable}'})"

    @property
    def line(self) -> str:
        """The verdict in one line, with the condition."""
        return f"gate {'passed' if self.passed else 'FAILED'}: {self.gate.where}: {self}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "option": self.gate.mode.value,
            "condition": str(self.gate),
            "model": self.model,
            "passed": self.passed,
            "proven": self.proven,
            "figures": {name: {"value": one.value, "ci95": plain(one.interval)} for name, one in self.figures.items()},
        }


@dataclass(frozen=True)
class Gate:
    """A condition that every candidate of a comparison must pass.

    Attributes:
        alternatives: joined by "or"; each is a tuple of terms joined by "and".
        mode: mode of the condition.

    Example:
        >>> import quantkit
        >>> quantkit.parse_gate("top1_drop > 0.5 or agreement < 98").names
        ('top1_drop', 'agreement')
    """

    alternatives: tuple[tuple[Term, ...], ...]
    mode: GateMode = GateMode.FAIL_IF

    def __str__(self) -> str:
        return " or ".join(" and ".join(map(str, terms)) for terms in self.alternatives)

    @property
    def where(self) -> str:
        """The option and its value, as on the command line."""
        return f'{self.mode} "{self}"'

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct figures in the condition."""
        return tuple(dict.fromkeys(term.name for terms in self.alternatives for term in terms))

    def verdicts(self, comparison: Comparison) -> tuple[GateVerdict, ...]:
        """Evaluate the condition for every candidate.

        Raises:
            UsageError: a figure was not measured, or has no interval and the mode needs one.
        """
        return tuple(self._verdict(model, comparison.images) for model in comparison.candidates)

    def check(self, comparison: Comparison) -> None:
        """Evaluate the condition, and raise if a candidate fails.

        Raises:
            GateError: a candidate fails; the message has the models and figures.
            UsageError: a figure was not measured, or has no interval and the mode needs one.
        """
        require(self.verdicts(comparison))

    def require_measured(self, *, latency: bool, drift: bool) -> None:
        """Check before the comparison that all figures will be measured.

        Args:
            latency: latency is measured.
            drift: drift is measured.

        Raises:
            UsageError: the condition has a figure that will not be measured.
        """
        for name, measured, fix in (("latency_ms", latency, "--latency"), ("sqnr_db", drift, "--drift-images")):
            if name in self.names and not measured:
                raise UsageError(f"{name} is not measured", where=self.where, fix=f"give {fix}")

    def _verdict(self, model: ModelResult, images: int) -> GateVerdict:
        measured = _measured(model, images)
        figures = {name: self._figure(name, model.name, measured) for name in self.names}
        holds = any(all(term.holds(figures[term.name]) for term in terms) for terms in self.alternatives)
        proven = _any(_all(term.proven(figures[term.name]) for term in terms) for terms in self.alternatives)
        passed = {
            GateMode.FAIL_IF: not holds,
            GateMode.FAIL_IF_PROVEN: proven is not True,
            GateMode.FAIL_UNLESS_PROVEN: proven is True,
        }[self.mode]
        versus, detectable = model.versus, ""
        if passed and proven is None and versus is not None and versus.sample_size and "top1_drop" in figures:
            detectable = versus.sample_size.partition(";")[0]
        return GateVerdict(
            gate=self, model=model.name, figures=figures, passed=passed, proven=proven, detectable=detectable
        )

    def _figure(self, name: str, model: str, measured: dict[str, Figure]) -> Figure:
        figure = measured.get(name)
        if figure is None:
            fix = "give the labels" if name in NEED_LABELS else "measure it, or remove it from the condition"
            raise UsageError(f"{name} of {model} was not measured", where=self.mode, fix=fix)
        return figure


def require(verdicts: Sequence[GateVerdict]) -> None:
    """Raise if a verdict is a failure.

    Raises:
        GateError: the message has every condition and model that failed, with the figures.
    """
    failed: dict[Gate, list[GateVerdict]] = {}
    for verdict in verdicts:
        if not verdict.passed:
            failed.setdefault(verdict.gate, []).append(verdict)
    if failed:
        raise GateError("; ".join(f"{gate.where}: {', '.join(map(str, said))}" for gate, said in failed.items()))


def parse_gate(text: str, mode: GateMode = GateMode.FAIL_IF) -> Gate:
    """Parse a condition: ``NAME OP NUMBER``, joined by ``and`` and ``or``; ``and`` has precedence.

    Raises:
        UsageError: the syntax is invalid, a figure does not exist, or has no interval in a mode that needs intervals.

    Example:
        >>> import quantkit
        >>> gate = quantkit.parse_gate("top1_drop <= 0.5", quantkit.GateMode.FAIL_UNLESS_PROVEN)
        >>> str(gate)
        'top1_drop <= 0.5'
    """
    alternatives = tuple(
        tuple(_term(part, text, mode) for part in re.split(r"\band\b", alternative))
        for alternative in re.split(r"\bor\b", text)
    )
    return Gate(alternatives, mode)


def parse_gates(conditions: Mapping[GateMode, Sequence[str] | None], *, latency: bool, drift: bool) -> tuple[Gate, ...]:
    """Parse the conditions of all modes, and check that their figures will be measured.

    Args:
        conditions: the conditions of each mode, None for none.
        latency: latency will be measured.
        drift: drift will be measured.

    Raises:
        UsageError: a condition is malformed, or has a figure that will not be measured.
    """
    gates = tuple(parse_gate(text, mode) for mode, texts in conditions.items() for text in texts or ())
    for gate in gates:
        gate.require_measured(latency=latency, drift=drift)
    return gates


def _term(part: str, text: str, mode: GateMode) -> Term:
    match = _TERM.fullmatch(part)
    if match is None:
        place = "" if part.strip() == text.strip() else f" in {text!r}"
        raise UsageError(f"cannot read {part.strip()!r}{place}", where=mode, fix=_GRAMMAR)
    name, symbol, number = match.groups()
    if name not in FIGURES:
        raise UsageError(f"there is no figure {name!r}", where=mode, fix=f"choose one of {', '.join(FIGURES)}")
    if mode is not GateMode.FAIL_IF and name not in _HAVE_INTERVALS:
        raise UsageError(
            f"{name} has no interval",
            where=mode,
            fix=f"use {GateMode.FAIL_IF} for it; intervals have {', '.join(_HAVE_INTERVALS)}",
        )
    return Term(name, symbol, float(number))


def _all(parts: Iterable[bool | None]) -> bool | None:
    """Three-valued "and": False if any part is False, None if any is unknown."""
    found = set(parts)
    return False if False in found else None if None in found else True


def _any(parts: Iterable[bool | None]) -> bool | None:
    """Three-valued "or": True if any part is True, None if any is unknown."""
    found = set(parts)
    return True if True in found else None if None in found else False


def _measured(model: ModelResult, images: int) -> dict[str, Figure]:
    """Return the measured figures of a candidate."""
    plain = {
        "ece": model.ece,
        "latency_ms": model.latency_ms,
        "bytes": model.bytes,
        "sqnr_db": min((tensor.sqnr_db for tensor in model.tensors), default=None),
    }
    figures = {
        name: Figure(value, Interval(value, value) if name in _EXACT else None)
        for name, value in plain.items()
        if value is not None
    }
    for name, share in (("top1", model.top1), ("top5", model.top5)):
        if share is not None:
            figures[name] = Figure(share, wilson_interval(round(share / PERCENT * images), images).scaled(PERCENT))
    versus = model.versus
    if versus is None:
        return figures
    figures["agreement"] = Figure(versus.agreement, versus.agreement_ci95)
    if versus.kl is not None:
        figures["kl"] = Figure(versus.kl, versus.kl_ci95)
    for name, delta in (("top1_drop", versus.top1), ("top5_drop", versus.top5)):
        if delta is not None:
            figures[name] = Figure(0.0 - delta.value, Interval(0.0 - delta.ci95.hi, 0.0 - delta.ci95.lo))
    if versus.top1 is not None:
        figures["mcnemar_p"] = Figure(versus.top1.mcnemar_p)
    return figures
