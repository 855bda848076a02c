"""``--fail-if "top1_drop > 0.5 and agreement < 98"``: a condition on a comparison that ends a run with exit code 20."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from quantkit.errors import GateError, UsageError
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.result import Comparison, ModelResult

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_GRAMMAR = 'write NAME OP NUMBER, joined by "and", such as "top1_drop > 0.5 and agreement < 98"'
_OPTION = "--fail-if"


@dataclass(frozen=True)
class Figure:
    """A measured value and its 95 % interval, where it has one."""

    value: float
    interval: Interval | None = None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.interval.lo:.4g}, {self.interval.hi:.4g}]"


# What a condition may name. Units are those of the JSON: percent, percentage points, nats, dB, milliseconds, bytes.
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


@dataclass(frozen=True)
class Term:
    """One comparison of a figure with a number."""

    name: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.number:g}"

    def holds(self, figure: Figure, *, confident: bool) -> bool:
        """Say whether the figure, or with ``confident`` its whole 95 % interval, meets the condition."""
        meets = _OPERATORS[self.operator]
        if confident and figure.interval is not None:
            return meets(figure.interval.lo, self.number) and meets(figure.interval.hi, self.number)
        return meets(figure.value, self.number)


@dataclass(frozen=True)
class Gate:
    """A condition under which a comparison fails: all of its terms hold for some candidate.

    Attributes:
        terms: joined by "and".
        confident: a term holds only where the whole 95 % interval of its figure meets it.
    """

    terms: tuple[Term, ...]
    confident: bool = False

    def __str__(self) -> str:
        return " and ".join(str(term) for term in self.terms)

    def check(self, comparison: Comparison) -> None:
        """Pass in silence, or fail.

        Raises:
            GateError: the condition holds for a candidate; the models and figures are named.
            UsageError: a figure was not measured, or has no interval to be confident about.
        """
        failed = []
        for model in comparison.candidates:
            figures = [self._figure(term.name, model) for term in self.terms]
            if all(t.holds(f, confident=self.confident) for t, f in zip(self.terms, figures, strict=True)):
                said = ", ".join(f"{term.name} is {figure}" for term, figure in zip(self.terms, figures, strict=True))
                failed.append(f"{model.name}: {said}")
        if failed:
            raise GateError("; ".join(failed), where=f'{_OPTION} "{self}"')

    def _figure(self, name: str, model: ModelResult) -> Figure:
        figure = _measured(model).get(name)
        if figure is None:
            fix = "give the labels" if name in NEED_LABELS else "measure it or leave it out"
            raise UsageError(f"{name} of {model.name} was not measured", where=_OPTION, fix=fix)
        if self.confident and figure.interval is None:
            raise UsageError(f"{name} has no interval", where=_OPTION, fix="leave out --confident")
        return figure


def parse_gate(text: str, *, confident: bool = False) -> Gate:
    """Read a condition: ``NAME OP NUMBER [and NAME OP NUMBER ...]``.

    Raises:
        UsageError: it does not follow the grammar, or names a figure that does not exist.
    """
    terms = []
    for part in re.split(r"\band\b", text):
        match = _TERM.fullmatch(part)
        if match is None:
            raise UsageError(f"cannot read {part.strip()!r} in {text!r}", where=_OPTION, fix=_GRAMMAR)
        name, symbol, number = match.groups()
        if name not in FIGURES:
            raise UsageError(f"there is no figure {name!r}", where=_OPTION, fix=f"choose one of {', '.join(FIGURES)}")
        terms.append(Term(name, symbol, float(number)))
    return Gate(tuple(terms), confident)


def _measured(model: ModelResult) -> dict[str, Figure]:
    """The figures that a candidate has."""
    plain = {
        "top1": model.top1,
        "top5": model.top5,
        "ece": model.ece,
        "latency_ms": model.latency_ms,
        "bytes": model.bytes,
        "sqnr_db": min((tensor.sqnr_db for tensor in model.tensors), default=None),
    }
    figures = {name: Figure(value) for name, value in plain.items() if value is not None}
    versus = model.versus
    if versus is None:
        return figures
    figures["agreement"] = Figure(versus.agreement, versus.agreement_ci95)
    if versus.kl is not None:
        figures["kl"] = Figure(versus.kl, versus.kl_ci95)
    for name, delta in (("top1_drop", versus.top1), ("top5_drop", versus.top5)):
        if delta is not None:
            figures[name] = Figure(-delta.value, Interval(-delta.ci95.hi, -delta.ci95.lo))
    if versus.top1 is not None:
        figures["mcnemar_p"] = Figure(versus.top1.mcnemar_p)
    return figures
