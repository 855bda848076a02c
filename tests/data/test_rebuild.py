import shutil
from pathlib import Path

import pytest
from progress_log import ProgressLog

from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.labels import LabelLine, read_label_file
from quantkit.data.rebuild import plan_calibration_set, rebuild_calibration_set
from quantkit.errors import CalibrationSetError, LabelError, UsageError

NAMES = {0: "cat", 1: "dog", 2: "emu"}


@pytest.fixture
def flat(tmp_path: Path, make_images) -> Path:
    """Thirty pictures in one folder, as a validation set is shipped."""
    return make_images(tmp_path / "flat", *(f"val_{number:02d}.png" for number in range(30)))


@pytest.fixture
def labels(tmp_path: Path, flat: Path) -> Path:
    path = tmp_path / "val_label.txt"
    path.write_text("".join(f"val_{number:02d}.png {number % 3}\n" for number in range(30)))
    return path


@pytest.fixture
def planned(labels: Path) -> CalibrationSet:
    return plan_calibration_set(read_label_file(labels), NAMES, count=9, seed=4)


def sort_into_folders(flat: Path, to: Path) -> Path:
    for path in flat.iterdir():
        target = to / "val" / NAMES[int(path.stem[-2:]) % 3] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return to


def test_rebuild_choice_from_labels_equals_choice_from_images(
    planned: CalibrationSet, labels: Path, flat: Path
) -> None:
    built = build_calibration_set(flat, labels, count=9, seed=4)
    assert [image.name for image in planned.images] == [image.name for image in built.images]
    assert rebuild_calibration_set(planned, flat).digest == built.digest


def test_rebuild_any_layout_gives_same_set(planned: CalibrationSet, flat: Path, tmp_path: Path) -> None:
    tree = sort_into_folders(flat, tmp_path / "tree")
    from_flat, from_tree = (rebuild_calibration_set(planned, folder) for folder in (flat, tree))
    assert from_tree.digest == from_flat.digest
    assert from_tree.verify() == ()
    assert rebuild_calibration_set(from_flat, tree) == from_tree


def test_rebuild_plan_round_trips_without_folder(planned: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    planned.save(path)
    assert "# images:" not in path.read_text()
    assert "# digest:" not in path.read_text()
    assert CalibrationSet.load(path).images == planned.images
    assert not CalibrationSet.load(path).is_rebuilt


def test_rebuild_names_without_suffix_and_with_folders_are_found(flat: Path, tmp_path: Path) -> None:
    tree = sort_into_folders(flat, tmp_path / "tree")
    lines = [LabelLine("val_00", 0, 1), LabelLine("dog/val_01.png", 1, 2), LabelLine("x/y/val_02.png", 2, 3)]
    found = rebuild_calibration_set(plan_calibration_set(lines, {}, count=3), tree)
    assert {image.name for image in found.images} == {"val/cat/val_00.png", "val/dog/val_01.png", "val/emu/val_02.png"}


def test_rebuild_digests_decide_between_files_of_one_name(three_classes: Path, tmp_path: Path) -> None:
    built = build_calibration_set(three_classes, count=12)
    renamed = tmp_path / "renamed"
    shutil.copytree(three_classes / "cat", renamed / "a")
    shutil.copytree(three_classes / "dog", renamed / "b")
    shutil.copytree(three_classes / "emu", renamed / "c")
    assert rebuild_calibration_set(built, renamed).digest == built.digest


def test_rebuild_missing_other_and_broken_images_are_named(planned: CalibrationSet, flat: Path) -> None:
    built = rebuild_calibration_set(planned, flat)
    gone, other, broken = (image.name for image in built.images[:3])
    (flat / gone).unlink()
    shutil.copyfile(flat / built.images[5].name, flat / other)
    with pytest.raises(
        CalibrationSetError, match=rf"2 of 9 images .*{gone} \(missing\), {other} \(another file with this name\)"
    ):
        rebuild_calibration_set(built, flat)
    (flat / broken).write_bytes(b"")
    with pytest.raises(CalibrationSetError, match=rf"{broken} \(the image file is empty\)"):
        rebuild_calibration_set(planned, flat)


def test_rebuild_ambiguous_name_without_digest_is_refused(planned: CalibrationSet, flat: Path) -> None:
    name = planned.images[0].name
    for folder in "a", "b":
        (flat / folder).mkdir()
        shutil.copyfile(flat / name, flat / folder / name)
    (flat / name).unlink()
    with pytest.raises(CalibrationSetError, match=rf"{name} \(2 files with this name\)"):
        rebuild_calibration_set(planned, flat)


def test_rebuild_progress_reaches_end(planned: CalibrationSet, flat: Path) -> None:
    log = ProgressLog()
    rebuild_calibration_set(planned, flat, progress=log)
    assert log.counts[-1] == (9, 9)


def test_rebuild_bad_plans_are_refused(labels: Path) -> None:
    lines = read_label_file(labels)
    with pytest.raises(CalibrationSetError, match="30 labelled images, but 31 are requested; request 30 or fewer"):
        plan_calibration_set(lines, {}, count=31)
    with pytest.raises(UsageError, match="invalid number of images 0"):
        plan_calibration_set(lines, {}, count=0)
    with pytest.raises(LabelError, match=r":99: val_00\.png has label 2, and 0 on line 1"):
        plan_calibration_set([*lines, LabelLine("val_00.png", 2, 99)], {}, count=3)
