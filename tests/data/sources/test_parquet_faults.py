"""Parquet files as they come: without the columns, with nulls, damaged, with row groups too large to read."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import flat, labels_of, pictures, table, write_parquet

from quantkit.data.build_set import build_calibration_set
from quantkit.data.folder import find_labelled_images
from quantkit.data.sources import parquet_file
from quantkit.data.sources.open import open_source
from quantkit.data.usable import usable_images
from quantkit.errors import CalibrationSetError, ImageError, LabelError, QuantkitError

PICTURES = pictures(2)
KIND = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
ROWS: list[Any] = [{"bytes": data, "path": flat(name)} for name, data in PICTURES.items()]


def write(path: Path, rows: list[Any], labels: Any = None, **columns: Any) -> Path:
    """Write a file with some rows and labels."""
    labels = pyarrow.array(labels_of(PICTURES)) if labels is None else labels
    made = pyarrow.table({"image": pyarrow.array(rows, KIND), "label": labels, **columns})
    pyarrow.parquet.write_table(made, path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (pyarrow.table({"img": [b"x"], "label": [1]}), r"there is no column image \(columns: img, label\)"),
        (pyarrow.table({"image": ["a.png"], "label": [1]}), r"the column image is string, not bytes"),
        (pyarrow.table({"image": [{"path": "a"}], "label": [1]}), r"the column image is struct.*, not bytes"),
        (pyarrow.table({"image": pyarrow.array([], KIND)}), r"it has no rows"),
    ],
)
def test_parquet_without_the_columns_names_those_it_has(made: Any, message: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(CalibrationSetError, match=rf"a\.parquet: {message}"):
        open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize("null", [None, {"bytes": None, "path": "x.png"}], ids=["struct", "bytes"])
def test_parquet_null_image_is_named_by_row_and_left_out_if_asked(null: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [*ROWS[:3], null, *ROWS[4:]])
    with pytest.raises(CalibrationSetError, match=r"a\.parquet: row 3: the row has no image \(null\)"):
        open_source(path)
    rest = open_source(path, skip_damaged=True)
    assert len(rest) == 5
    assert rest.labels is not None
    assert rest.labels.tolist() == [0, 0, 1, 2, 2]
    assert [item.read() for item in rest.items] == [row["bytes"] for row in [*ROWS[:3], *ROWS[4:]]]


def test_parquet_null_label_is_named_by_row(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"a\.parquet: row 4: the row has no label \(null\)"):
        open_source(write(tmp_path / "a.parquet", ROWS, [0, 0, 1, 1, None, 2]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 6, "the column label is string, not an integer"),
        ([0, 1, -2, 0, 0, 0], "row 2: label -2 is not a class index"),
        ([0, -1, 0, 0, 0, 0], r"row 1: the row has no label \(-1\), and others have"),
    ],
)
def test_parquet_labels_that_are_no_class_indices_are_named(labels: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=message):
        open_source(write(tmp_path / "a.parquet", ROWS, labels))


def test_parquet_test_split_without_labels_is_read_as_unlabelled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS, [-1] * 6)
    assert open_source(path).labels is None
    with pytest.raises(LabelError, match="no labels"):
        find_labelled_images(path)


def test_parquet_undecodable_image_is_left_out_if_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [*ROWS[:1], {"bytes": b"rubbish", "path": "cat_1.png"}, *ROWS[2:]])
    chosen = build_calibration_set(path, count=5)
    assert [(left.name, left.why[:12]) for left in chosen.left_out] == [("cat_1.png", "not an image")]
    rest = usable_images(path)
    assert len(rest) == 5
    assert "left out 1 images that cannot be decoded" in rest.warnings[0]
    assert "row 1 (cat_1.png): not an image" in rest.warnings[0]


def test_parquet_huge_row_group_is_refused_with_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "MAX_ROW_GROUP_BYTES", 100)
    item = open_source(write(tmp_path / "a.parquet", ROWS)).items[3]
    with pytest.raises(
        ImageError, match=r"row group 1: the row group is too large \(\d+ bytes of images.*row_group_size=100"
    ):
        item.read()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_parquet_truncated_file_is_named_and_others_used_if_asked(keep: float, tmp_path: Path) -> None:
    for shard in range(3):
        write_parquet(tmp_path / f"val-{shard:05d}-of-00003.parquet", PICTURES, path_of=lambda _: None)
    cut = tmp_path / "val-00001-of-00003.parquet"
    cut.write_bytes(cut.read_bytes()[: int(keep * cut.stat().st_size)])
    with pytest.raises(CalibrationSetError, match=r"val-00001-of-00003\.parquet: not a complete parquet file"):
        open_source(tmp_path)
    rest = open_source(tmp_path, skip_damaged=True)
    assert len(rest) == 12
    assert rest.names[6] == "val-00002-of-00003-000000.png"


def test_parquet_missing_file_of_numbered_set_is_named(tmp_path: Path) -> None:
    for shard in (0, 2):
        write_parquet(tmp_path / f"val-{shard:05d}-of-00003.parquet", PICTURES)
    with pytest.raises(CalibrationSetError, match=r"1 shards are missing, .*val-00001-of-00003\.parquet first"):
        open_source(tmp_path)


def test_parquet_files_of_different_classes_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", PICTURES)
    write_parquet(tmp_path / "b.parquet", PICTURES, classes=("dog", "cat", "emu"))
    with pytest.raises(LabelError, match="the files have different classes"):
        open_source(tmp_path)


def test_parquet_and_archives_mixed_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", PICTURES)
    (tmp_path / "b.tar").write_bytes(bytes(1024))
    with pytest.raises(CalibrationSetError, match="parquet files and archives are mixed"):
        open_source(f"{tmp_path}/{{a.parquet,b.tar}}")


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": {"features": {"label": {"names": [1]}}}}', b"\xff"])
def test_parquet_damaged_metadata_gives_no_class_names(metadata: bytes, tmp_path: Path) -> None:
    made = table(PICTURES).replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(made, tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").class_names == {}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parquet_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    import contextlib

    path = write(tmp_path / "a.parquet", ROWS)
    content = bytearray(path.read_bytes())
    # In the metadata at the end most of all, which says where everything is.
    first = data.draw(st.sampled_from([0, len(content) - 1200]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    for skip in (False, True):
        with contextlib.suppress(QuantkitError):
            for item in open_source(path, skip_damaged=skip).items:
                assert isinstance(item.read(), bytes)
