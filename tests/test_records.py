"""Results as rows: data frames of pandas or polars, and tables in notebooks."""

import sys
from typing import Any

import pytest

from quantkit.errors import UsageError
from quantkit.records import Records, dataframe, html_table, text_table

ROWS = [{"name": "a<b>", "top1": 99.5, "kl": None}, {"name": "c", "top1": 98.0, "kl": 0.25}]


class _Result(Records):
    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in ROWS]


def test_to_dataframe_without_pandas_and_polars_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="needs pandas or polars; pip install pandas, or use rows"):
        _Result().to_dataframe()


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_to_dataframe_has_the_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    if name == "polars":
        monkeypatch.setitem(sys.modules, "pandas", None)
    frame = dataframe(ROWS)
    assert type(frame).__module__.partition(".")[0] == name
    assert list(frame.columns) == ["name", "top1", "kl"]
    assert list(frame["top1"]) == [99.5, 98.0]


def test_html_table_escapes_text_and_aligns_numbers() -> None:
    html = html_table(ROWS)
    assert "a&lt;b&gt;" in html
    assert html.count("text-align:right") == 6
    assert '<td style="text-align:right"></td>' in html
    assert _Result()._repr_html_() == html


def test_html_table_many_rows_are_cut_and_counted() -> None:
    html = html_table([{"row": index} for index in range(30)], shown=20)
    assert html.count("<tr>") == 21
    assert html.endswith("<p>20 of 30 rows</p>")


def test_html_table_without_rows_is_empty() -> None:
    assert html_table([]) == "<table><tbody></tbody></table>"


def test_print_of_a_result_is_its_rows_in_columns() -> None:
    assert str(_Result()) == "name  top1    kl\na<b>  99.5\nc       98  0.25"


def test_text_table_many_rows_are_cut_and_counted() -> None:
    text = text_table([{"row": index} for index in range(30)], shown=20)
    assert text.splitlines()[-2:] == [" 19", "20 of 30 rows"]
    assert text_table([]) == "no rows"
