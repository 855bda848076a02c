import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from progress_log import ProgressLog

from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationImage, CalibrationSet, LeftOut
from quantkit.errors import CalibrationSetError


@pytest.fixture
def chosen(three_classes: Path) -> CalibrationSet:
    (three_classes / "emu/1.png").write_bytes(b"<html>")
    return build_calibration_set(three_classes, count=11, seed=3)


def test_calibration_set_round_trips_through_manifest(chosen: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "sets/zoo.csv"
    chosen.save(path)
    assert CalibrationSet.load(path) == chosen


def test_manifest_is_plain_csv_under_comment_lines(chosen: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "zoo.csv"
    chosen.save(path)
    text = path.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert {"# images: zoo", "# seed: 3", "# count: 11", "# classes: 3", f"# digest: {chosen.digest}"} <= set(head)
    assert any(line.startswith('# left out: "emu/1.png" not an image: it starts like an HTML page') for line in head)
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert [row["path"] for row in rows] == [image.name for image in chosen.images]
    assert rows[0].keys() == {"path", "sha256", "label", "class_name"}


def test_manifest_saved_twice_has_same_bytes(chosen: CalibrationSet, tmp_path: Path) -> None:
    chosen.save(tmp_path / "a.csv")
    CalibrationSet.load(tmp_path / "a.csv").save(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_manifest_moved_with_images_is_loaded(chosen: CalibrationSet, tmp_path: Path) -> None:
    chosen.save(tmp_path / "sets/zoo.csv")
    (tmp_path / "away").mkdir()
    shutil.move(tmp_path / "sets", tmp_path / "away/sets")
    shutil.move(chosen.root, tmp_path / "away/zoo")
    moved = CalibrationSet.load(tmp_path / "away/sets/zoo.csv")
    assert moved.root == tmp_path / "away/zoo"
    assert moved.verify() == ()
    assert moved.digest == chosen.digest


def test_manifest_image_folder_can_be_given_anew(chosen: CalibrationSet, tmp_path: Path) -> None:
    chosen.save(tmp_path / "zoo.csv")
    shutil.move(chosen.root, tmp_path / "other")
    assert len(CalibrationSet.load(tmp_path / "zoo.csv").verify()) == 11
    assert CalibrationSet.load(tmp_path / "zoo.csv", images=tmp_path / "other").verify() == ()


def test_digest_depends_on_content_and_labels_only(chosen: CalibrationSet) -> None:
    turned = replace(chosen, images=chosen.images[::-1], root=Path("/elsewhere"), seed=9, source="?", left_out=())
    renamed = replace(chosen, images=tuple(replace(image, name=f"x{image.name}") for image in chosen.images))
    first, *others = chosen.images
    relabelled = replace(chosen, images=(replace(first, label=7), *others))
    assert turned.digest == renamed.digest == chosen.digest
    assert relabelled.digest != chosen.digest
    assert replace(chosen, images=chosen.images[1:]).digest != chosen.digest


def test_calibration_set_labels_and_paths_follow_images(chosen: CalibrationSet) -> None:
    assert chosen.labels is not None
    assert chosen.labels.dtype == np.int64
    for label, path in zip(chosen.labels, (Path(str(item.where)) for item in chosen.items), strict=True):
        assert path.parent.name == ("cat", "dog", "emu")[label]
        assert path.is_file()


def test_verify_names_missing_changed_and_broken_images(chosen: CalibrationSet) -> None:
    gone, changed, broken = (image.name for image in chosen.images[:3])
    root = Path(chosen.root)
    (root / gone).unlink()
    shutil.copyfile(root / chosen.images[4].name, root / changed)
    (root / broken).write_bytes(b"\xff\xd8\xff\xe0")
    log = ProgressLog()
    problems = {item.name: item.why for item in chosen.verify(progress=log)}
    assert problems.keys() == {gone, changed, broken}
    assert "no such file" in problems[gone]
    assert problems[changed] == "the file has changed (other digest)"
    assert "not an image" in problems[broken] or "damaged" in problems[broken]
    assert log.counts[-1] == (11, 11)


def test_digest_of_set_chosen_from_labels_is_refused() -> None:
    planned = CalibrationSet(Path(), (CalibrationImage("a.jpg", "", 1),))
    with pytest.raises(
        CalibrationSetError, match="selected from labels alone and has no digests; find them with quantkit calib-set"
    ):
        _ = planned.digest


def manifest(*rows: str, head: str = "# quantkit calibration set\n# format: 1\n") -> str:
    return head + "path,sha256,label,class_name\n" + "".join(f"{row}\n" for row in rows)


SHA = "0" * 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"set\.csv: not a calibration set of quantkit; write one with quantkit calib-set build"),
        ("path,label\na.jpg,3\n", r"set\.csv: not a calibration set of quantkit"),
        (manifest(f"a.jpg,{SHA},0,", head="# quantkit calibration set\n# format: 9\n"), r"format 9 is not known"),
        (manifest(f"a.jpg,{SHA},0,", head="# quantkit calibration set\n"), r"'# format:' has no integer"),
        (manifest(), r"set\.csv: the calibration set is empty"),
        ("# quantkit calibration set\n# format: 1\npath,label\n", r"set\.csv:3: the columns are not path,sha256,label"),
        (manifest(f"a.jpg,{SHA},0"), r"set\.csv:4: the row has 3 columns, not 4"),
        (manifest(f"a.jpg,{SHA[:9]},0,"), r"set\.csv:4: '000000000' is not a SHA-256"),
        (manifest(f"a.jpg,{SHA},0,", f"b.jpg,{SHA},-1,"), r"set\.csv:5: label '-1' is not a class index"),
        (manifest(f"../a.jpg,{SHA},0,"), r"set\.csv:4: '\.\./a\.jpg' is not a path below the image folder"),
        (manifest(f"/etc/passwd,{SHA},0,"), r"set\.csv:4: '/etc/passwd' is not a path below the image folder"),
        (manifest(f"a.jpg,{SHA},0,", f"a.jpg,{SHA},0,"), r"a\.jpg is in the set 2 times"),
        (manifest(f"a.jpg,{SHA},0,", f"b.jpg,{SHA},,"), r"1 of 2 images have no label, the first b\.jpg"),
        (manifest(f'"a.jpg,{SHA},0,'), r"set\.csv:4: not readable as CSV"),
        (
            manifest(f"a.jpg,{SHA},0,", head="# quantkit calibration set\n# format: 1\n# count: 2\n"),
            r"set\.csv: it has 1 images and declares 2; build the set again",
        ),
        (
            manifest(f"a.jpg,{SHA},0,", head=f"# quantkit calibration set\n# format: 1\n# digest: {SHA}\n"),
            r"set\.csv: its rows were changed since it was written",
        ),
        (
            manifest(f"a.jpg,{SHA},0,", head="# quantkit calibration set\n# format: 1\n# left out: a b\n"),
            r"'# left out:' without a quoted name",
        ),
    ],
)
def test_manifest_damaged_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "set.csv"
    path.write_text(content)
    with pytest.raises(CalibrationSetError, match=message):
        CalibrationSet.load(path)


def test_manifest_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationSetError, match=r"none\.csv: cannot read the calibration set \(no such file"):
        CalibrationSet.load(tmp_path / "none.csv")


def test_manifest_cut_anywhere_is_refused(chosen: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "zoo.csv"
    chosen.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CalibrationSetError):
            CalibrationSet.load(path)


def test_manifest_line_ends_and_byte_order_mark_are_read(chosen: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "zoo.csv"
    chosen.save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert CalibrationSet.load(path).images == chosen.images


NAMES = st.text(st.characters(exclude_characters="/\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    names=st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=5, unique=True),
    class_name=st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), max_size=10),
    why=st.text(max_size=10).map(lambda text: "".join(text.split())),
)
def test_manifest_any_name_round_trips(
    names: list[str], class_name: str, why: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    images = tuple(CalibrationImage(name, f"{i:064x}", i, class_name) for i, name in enumerate(names))
    chosen = CalibrationSet(root / "images", images, left_out=tuple(LeftOut(name, why) for name in names))
    chosen.save(root / "any.csv")
    assert CalibrationSet.load(root / "any.csv") == chosen


def test_manifest_name_that_is_not_utf8_round_trips(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    chosen = CalibrationSet(tmp_path, (CalibrationImage(name, SHA, 0),))
    chosen.save(tmp_path / "set.csv")
    assert CalibrationSet.load(tmp_path / "set.csv").images == chosen.images


@pytest.mark.parametrize(("folder", "name"), [("a\nb", "a.jpg"), ("a", "b\r.jpg")])
def test_manifest_line_break_in_name_is_refused(tmp_path: Path, folder: str, name: str) -> None:
    chosen = CalibrationSet(tmp_path / folder, (CalibrationImage(name, SHA, 0),))
    with pytest.raises(CalibrationSetError, match="the name contains a line break; rename it"):
        chosen.save(tmp_path / "set.csv")
    assert not (tmp_path / "set.csv").exists()


@given(content=st.binary(max_size=300))
def test_manifest_of_any_bytes_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(b"# quantkit calibration set\n# format: 1\n" + content)
    with pytest.raises(CalibrationSetError):
        CalibrationSet.load(path)


def test_manifest_is_read_by_csv_readers_that_skip_comments(chosen: CalibrationSet, tmp_path: Path) -> None:
    chosen.save(tmp_path / "zoo.csv")
    lines = [line for line in (tmp_path / "zoo.csv").read_text().splitlines() if not line.startswith("#")]
    assert len(list(csv.reader(io.StringIO("\n".join(lines))))) == 12
