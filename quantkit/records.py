"""Results as rows of named values, for pandas, polars and tables in notebooks."""

import csv
import importlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

from quantkit.errors import UsageError

Row = Mapping[str, Any]
# Maximum number of rows of a table in a notebook; the data frame has all.
_SHOWN = 20
_LEFT, _RIGHT = "text-align:left", "text-align:right"


class Records:
    """Base class of results with rows."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the result as rows with the same keys; values are numbers, strings, booleans or None."""
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """Return the rows as a data frame of pandas, or of polars if pandas is not installed.

        Raises:
            UsageError: neither is installed.
        """
        return dataframe(self.rows())

    def _repr_html_(self) -> str:
        """Return the rows as an HTML table, for notebooks."""
        return html_table(self.rows())

    def __str__(self) -> str:
        """Return the rows as a table of text, for `print`; `repr` has every field."""
        return text_table(self.rows())


def plain(value: Any) -> Any:
    """Return a value of a result as JSON values.

    What has a method ``to_json`` is what that returns. Other dataclasses are objects of their fields, paths and enums
    text, and numbers that are not finite null.
    """
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): plain(one) for name, one in value.items()}
        case tuple() | list():
            return [plain(one) for one in value]
        case Enum():
            return value.value
        case Path():
            return str(value)
    if hasattr(value, "to_json"):
        return value.to_json()
    if hasattr(value, "model_dump"):  # of pydantic, which takes long to import
        return value.model_dump(mode="json")
    return plain_fields(value) if is_dataclass(value) else value


def plain_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values, for its method ``to_json``; see `plain`."""
    return {name: plain(one) for name, one in vars(value).items()}


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV with a line of headings; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue()


def dataframe(rows: Sequence[Row]) -> Any:
    """Return rows as a data frame of pandas, or of polars if pandas is not installed.

    Raises:
        UsageError: neither is installed.
    """
    for name in ("pandas", "polars"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        return library.DataFrame([dict(row) for row in rows])
    raise UsageError("to_dataframe needs pandas or polars", fix="pip install pandas, or use rows()")


def html_table(rows: Sequence[Row], shown: int = _SHOWN) -> str:
    """Return the first ``shown`` rows as an HTML table, with the total number if there are more.

    Args:
        rows: rows with the same keys.
        shown: maximum number of rows to show.
    """
    if not rows:
        return "<table><tbody></tbody></table>"
    names = list(rows[0])
    numeric = {name: all(_is_number(row[name]) for row in rows) for name in names}
    style = {name: _RIGHT if numeric[name] else _LEFT for name in names}
    head = "".join(f'<th style="{style[name]}">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td style="{style[name]}">{escape(_text(row[name]))}</td>' for name in names) + "</tr>"
        for row in rows[:shown]
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return table if len(rows) <= shown else f"{table}<p>{shown} of {len(rows)} rows</p>"


def text_table(rows: Sequence[Row], shown: int = _SHOWN) -> str:
    """Return the first ``shown`` rows as lines of text with headings, with the total number if there are more.

    Args:
        rows: rows with the same keys.
        shown: maximum number of rows to show.
    """
    if not rows:
        return "no rows"
    columns = [[name, *(_text(row[name]) for row in rows[:shown])] for name in rows[0]]
    left = [not all(_is_number(row[name]) for row in rows) for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in zip(*columns, strict=True)
    ]
    return "\n".join(lines if len(rows) <= shown else [*lines, f"{shown} of {len(rows)} rows"])


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
