"""A comparison as terminal tables, Markdown and CSV, and the formatting of numbers.

Tables fit 80 columns, and show longer names in wider terminals. The minus sign in them is the typographic one; CSV
contains plain numbers with full precision.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from quantkit import records
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.gate import GateVerdict
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.report.names import Name

ABSENT = "–"
MINUS = "−"
CSV_COLUMNS = (
    "name",
    "top1",
    "top5",
    "bytes",
    "delta_top1",
    "delta_top1_lo",
    "delta_top1_hi",
    "mcnemar_p",
    "delta_top5",
    "delta_top5_lo",
    "delta_top5_hi",
    "lost",
    "gained",
    "agreement",
    "kl",
    "ece",
    "latency_ms",
    "latency_ms_p10",
    "latency_ms_p90",
)
# Intervals of a result, and the columns of their ends.
_ENDS = {
    "delta_top1_ci95": ("delta_top1_lo", "delta_top1_hi"),
    "delta_top5_ci95": ("delta_top5_lo", "delta_top5_hi"),
    "latency_ms_p10_p90": ("latency_ms_p10", "latency_ms_p90"),
}


def accuracy_table(comparison: Comparison) -> Table:
    """Return the main table with one row per model; names are shortened in narrow terminals."""
    name, *figures = _headings(comparison)
    table = plain_table(_accuracy_title(comparison), [name], figures)
    names = [model.name for model in comparison.models]
    for model in comparison.models:
        name, *figures = _cells(comparison, model)
        table.add_row(Name(name, names), *figures)
    return table


def accuracy_rows(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells of the main table as text."""
    return _headings(comparison), [_cells(comparison, model) for model in comparison.models]


def drift_table(model: ModelResult, tensors: Sequence[TensorDrift] | None = None) -> Table:
    """Return the tensors with the largest drift, or the given ones; names are shortened in narrow terminals."""
    headings = ("SQNR dB", "worst ch.", "max steps", "clipped", "range")
    table = plain_table(f"Drift of {model.name}: lowest SQNR first", ["tensor"], headings)
    shown = model.worst_tensors if tensors is None else tensors
    names = [tensor.name for tensor in shown]
    for tensor in shown:
        table.add_row(
            Name(tensor.name, names),
            decibels(tensor.sqnr_db),
            decibels(tensor.worst_channel_sqnr_db),
            ABSENT if tensor.max_err_steps is None else f"{tensor.max_err_steps:.1f}",
            share(tensor.clipped, digits=3),
            share(tensor.range_used, digits=0),
        )
    return table


# With fewer images, a single one often causes half of the error.
MANY = 10


def notes(comparison: Comparison) -> list[str]:
    """Return the notes below the table: the loss that this number of images detects, and warnings."""
    names_by_size = defaultdict[str, list[str]](list)
    for model in comparison.candidates:
        versus = model.versus
        if versus is not None and versus.top1 is not None and not versus.top1.is_significant:
            names_by_size[str(versus.sample_size)].append(model.name)
    said = [f"{', '.join(names)}: {size}" for size, names in names_by_size.items()]
    said += [
        f"{model.name}: one image causes more than half of the error of {len(lonely)} of the "
        f"{len(model.worst_tensors)} tensors with the lowest SQNR, so their SQNR is not representative"
        for model in comparison.candidates
        if (lonely := [one for one in model.worst_tensors if one.images >= MANY and one.image_share > 0.5])
    ]
    return [*said, *comparison.warnings]


def markdown(comparison: Comparison, verdicts: Sequence[GateVerdict] = ()) -> str:
    """Return the main table, the notes, the verdicts of gates and the drift of each candidate as GitHub Markdown."""
    lines = [f"**{_accuracy_title(comparison)}**", ""]
    headings = _headings(comparison)
    lines += _markdown_table(headings, (_cells(comparison, model) for model in comparison.models))
    lines += ["", *(f"- {_markdown_text(note)}" for note in notes(comparison))]
    lines += [f"- {_markdown_text(verdict.line)}" for verdict in verdicts]
    for model in comparison.candidates:
        if model.worst_tensors:
            lines += ["", f"Drift of {_markdown_text(model.name)}, lowest SQNR first", ""]
            lines += _markdown_table(
                ("tensor", "SQNR dB", "worst channel dB", "max error, steps", "cosine", "clipped"),
                (
                    (
                        tensor.name,
                        decibels(tensor.sqnr_db),
                        decibels(tensor.worst_channel_sqnr_db),
                        ABSENT if tensor.max_err_steps is None else f"{tensor.max_err_steps:.1f}",
                        f"{tensor.cosine:.5f}",
                        share(tensor.clipped, digits=3),
                    )
                    for tensor in model.worst_tensors
                ),
            )
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Return one row per model with plain numbers; missing figures are empty."""
    return records.csv_text(CSV_COLUMNS, map(_numbers, comparison.models))


def _numbers(model: ModelResult) -> list[Any]:
    """Return the figures of a model in the order of the columns of CSV."""
    found = model.to_json()
    found |= {"lost": found.get("lost_top1"), "gained": found.get("gained_top1")}
    for name, ends in _ENDS.items():
        found |= zip(ends, found.get(name) or (None, None), strict=True)
    return [found.get(column) for column in CSV_COLUMNS]


def points(value: float, interval: Interval | None = None) -> str:
    """Format percentage points with a sign and an optional interval: ``−0.40 [−1.02, +0.21]``."""
    text = _signed(value)
    return text if interval is None else f"{text} [{_signed(interval.lo)}, {_signed(interval.hi)}]"


def p_value(p: float) -> str:
    """Format a p value to three digits, very small ones as a bound."""
    return "<.001" if p < 0.001 else f"{p:.3f}"


def size(count: int | None) -> str:
    """Format a number of bytes in decimal units."""
    if count is None:
        return ABSENT
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count / factor < 100 else f"{count / factor:.0f} {unit}"
    return f"{count} B"


def decibels(value: float) -> str:
    """Format a ratio in dB; it is infinite without error."""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{value:.1f}".replace("-", MINUS)


def milliseconds(model: ModelResult) -> str:
    """Format the median latency with its 10th and 90th percentile: ``6.95 [6.81, 7.4]``; without a spread, alone."""
    if model.latency_ms is None:
        return ABSENT
    text = f"{model.latency_ms:.3g}"
    spread = model.latency_spread_ms
    return text if spread is None else f"{text} [{spread.lo:.3g}, {spread.hi:.3g}]"


def share(value: float | None, digits: int = 2) -> str:
    """Format a fraction as percent."""
    return ABSENT if value is None else f"{100 * value:z.{digits}f} %"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def plain_table(title: str, text: Sequence[str], figures: Sequence[str], *, wide: int | None = 0) -> Table:
    """Return a table in the common style.

    Args:
        title: its title.
        text: headings of the columns of text.
        figures: headings of the columns of numbers behind them.
        wide: position of the column that takes the width that is left, and less in a narrow terminal; None for none.
    """
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
    )
    for place, heading in enumerate((*text, *figures)):
        is_figure = place >= len(text)
        table.add_column(heading, justify="right" if is_figure else "left", no_wrap=place != wide)
    return table


def _accuracy_title(comparison: Comparison) -> str:
    against = f"difference to {comparison.reference.name} with its 95 % interval"
    return f"{comparison.images:,} images, {against if comparison.labelled else 'without labels'}"


def _headings(comparison: Comparison) -> tuple[str, ...]:
    accuracy = ("top-1", "top-5", "Δ top-1, points", "p") if comparison.labelled else ("KL, nats",)
    return ("model", *accuracy, "agree", "size", *(("ms",) if _timed(comparison) else ()))


def _cells(comparison: Comparison, model: ModelResult) -> tuple[str, ...]:
    versus = model.versus
    top1 = None if versus is None else versus.top1
    cells = [model.name]
    if comparison.labelled:
        cells += [percent(model.top1), percent(model.top5)]
        cells += [ABSENT, ABSENT] if top1 is None else [points(top1.value, top1.ci95), p_value(top1.mcnemar_p)]
    else:
        cells.append(ABSENT if versus is None or versus.kl is None else f"{versus.kl:.4f}")
    cells += [ABSENT if versus is None else percent(versus.agreement), size(model.bytes)]
    if _timed(comparison):
        cells.append(ABSENT if model.latency_ms is None else f"{model.latency_ms:.3g}")
    return tuple(cells)


def _timed(comparison: Comparison) -> bool:
    return any(model.latency_ms is not None for model in comparison.models)


def _signed(value: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0, which has no minus sign.
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Format a figure in percent."""
    return ABSENT if value is None else f"{value:.2f}"


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    aligned = "|".join([" --- "] + [" ---: "] * (len(headings) - 1))
    body = [" | ".join(_markdown_text(cell) for cell in row) for row in rows]
    return [f"| {' | '.join(headings)} |", f"|{aligned}|", *(f"| {row} |" for row in body)]


def _markdown_text(text: str) -> str:
    """Escape text so that Markdown does not interpret it as table cells, HTML or emphasis."""
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
