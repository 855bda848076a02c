"""Notes: many of a kind are one line, and none is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.notes import Note, NoteKind, as_note, grouped


def test_grouped_many_widened_scales_sums_channels_and_layers() -> None:
    notes = [
        "opset 11 raised to 13",
        Note("a: 100 channels", NoteKind.WIDENED, number=100),
        Note("b: 18 channels", NoteKind.WIDENED, number=18),
    ]
    first, second = grouped(notes)
    assert (first.text, first.is_summary) == ("opset 11 raised to 13", False)
    assert second.text == "weight scales widened for int32 biases: 118 channels of 2 layers"
    assert second.items == ("a: 100 channels", "b: 18 channels")
    assert second.is_summary


def test_grouped_one_of_a_kind_keeps_its_text() -> None:
    [group] = grouped([Note("a: 3 channels", NoteKind.WIDENED, number=3)])
    assert (group.text, group.is_summary) == ("a: 3 channels", False)


def test_grouped_unlike_ranges_names_the_worst() -> None:
    notes = [Note(f"add{levels}", NoteKind.UNLIKE_RANGES, severity=-levels) for levels in (9.0, 2.0, 12.0)]
    assert grouped(notes)[0].text.endswith("in 3 places; the worst is add2.0")


def test_grouped_equal_strings_are_counted() -> None:
    [group] = grouped(["again", "again"])
    assert (group.text, group.is_summary) == ("again (2 times)", False)


@pytest.mark.parametrize("kind", NoteKind)
def test_note_kinds_all_have_a_summary(kind: NoteKind) -> None:
    [group] = grouped([Note("one", kind), Note("two", kind)])
    assert group.is_summary
    assert "2" in group.text


def test_note_with_prefix_keeps_kind_and_number() -> None:
    note = Note("key: kept", NoteKind.UNKNOWN_KEY, number=4, severity=2.0).with_prefix("vamc.yaml: ")
    assert (note, note.kind, note.number, note.severity) == ("vamc.yaml: key: kept", NoteKind.UNKNOWN_KEY, 4, 2.0)


@given(st.lists(st.tuples(st.sampled_from([None, *NoteKind]), st.text(min_size=1, max_size=3))))
def test_grouped_loses_and_repeats_nothing(given_notes: list[tuple[NoteKind | None, str]]) -> None:
    notes = [Note(text, kind) for kind, text in given_notes]
    items = [item for group in grouped(notes) for item in group.items]
    assert sorted(items) == sorted(notes)
    kinds = [as_note(group.items[0]).kind for group in grouped(notes)]
    named = [kind for kind in kinds if kind is not None]
    assert len(named) == len(set(named))
