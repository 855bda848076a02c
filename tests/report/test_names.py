"""Names in tables: within the width, whole where they fit, and told apart where they are nearly alike."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from quantkit.report.names import Name, shortened

DENSE = [
    f"/features/denseblock{block}/denselayer{layer}/norm{norm}/act/Relu_output_0"
    for block in (1, 3)
    for layer in (1, 2, 11)
    for norm in (1, 2)
]
ATTENTION = [f"/blocks/blocks.{block}/attn/Softmax_output_0" for block in range(12)]


@pytest.mark.parametrize(
    ("name", "width", "text"),
    [("abcdefghij", 7, "ab…ghij"), ("short", 7, "short"), ("exactly", 7, "exactly")],
)
def test_shortened_name_is_cut_in_its_middle(name, width, text):
    assert shortened(name, width) == text


@pytest.mark.parametrize(
    ("names", "width", "first"),
    [
        (DENSE, 40, "…denseblock1/denselayer1/norm1/act/…"),
        (DENSE, 30, "…1/denselayer1/norm1/act/…"),
        (ATTENTION, 40, "/blocks/blocks.0/attn/Softmax_output_0"),
        (ATTENTION, 30, "…0/attn/Softmax_output_0"),
        (ATTENTION, 13, "…0/attn/…"),
    ],
)
def test_shortened_names_keep_differing_middle(names, width, first):
    cut = [shortened(name, width, names) for name in names]
    assert len(set(cut)) == len(names)
    assert max(map(len, cut)) <= width
    assert cut[0] == first


@given(
    st.lists(st.text("ab/._", min_size=1, max_size=24), min_size=1, max_size=6, unique=True),
    st.integers(2, 26),
)
def test_shortened_names_fit_width_and_short_ones_are_whole(names, width):
    for name in names:
        cut = shortened(name, width, names)
        assert len(cut) <= width
        assert (cut == name) == (len(name) <= width)


@given(st.text("ab/.", min_size=20, max_size=40), st.integers(0, 39), st.integers(8, 19))
def test_shortened_names_differing_in_one_place_stay_different(name, place, width):
    place = min(place, len(name) - 1)
    other = name[:place] + "z" + name[place + 1 :]
    pair = [name, other]
    assert shortened(name, width, pair) != shortened(other, width, pair)


@pytest.mark.parametrize(("width", "whole"), [(60, False), (160, True)])
def test_name_column_takes_available_width(width, whole):
    table = Table(box=None)
    table.add_column("tensor")
    table.add_column("figure", no_wrap=True)
    for name in DENSE:
        table.add_row(Name(name, DENSE), "1234567890 1234567890")
    written = io.StringIO()
    Console(width=width, file=written).print(table)
    lines = written.getvalue().splitlines()[1:]
    assert len(lines) == len(set(lines)) == len(DENSE), "one line each, none like another"
    assert all(line.rstrip().endswith("1234567890 1234567890") for line in lines)
    assert all((name in line) == whole for name, line in zip(DENSE, lines, strict=True))
