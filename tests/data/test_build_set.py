import shutil
from collections import Counter
from pathlib import Path

import pytest
from progress_log import ProgressLog

from quantkit.data.build_set import build_calibration_set, choose_images
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_images
from quantkit.errors import CalibrationSetError, LabelError, UsageError


def names_of(chosen: CalibrationSet) -> list[str]:
    return [image.name for image in chosen.images]


def test_build_set_classes_give_same_number_where_possible(three_classes: Path) -> None:
    assert build_calibration_set(three_classes, count=9).per_class == {0: 3, 1: 3, 2: 3}
    chosen = build_calibration_set(three_classes, count=15)
    assert chosen.per_class == {0: 6, 1: 6, 2: 3}
    assert "the classes have 3 to 6 images, because some have too few usable ones" in chosen.remarks


def test_build_set_every_beginning_is_balanced(three_classes: Path) -> None:
    chosen = build_calibration_set(three_classes, count=23)
    for length in range(1, 10):
        counts = Counter(image.label for image in chosen.images[:length])
        assert max(counts.values()) - min(counts[label] for label in range(3)) <= 1


def test_build_set_depends_on_seed_only(three_classes: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved elsewhere"
    for path in sorted(three_classes.rglob("*.png"), reverse=True):
        target = moved / path.relative_to(three_classes)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    first, again = (build_calibration_set(folder, count=9, seed=5) for folder in (three_classes, moved))
    assert first.images == again.images
    assert first.digest == again.digest
    assert build_calibration_set(three_classes, count=9, seed=6).digest != first.digest


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_build_set_any_workers_give_same_set(three_classes: Path, workers: int) -> None:
    one = build_calibration_set(three_classes, count=9, workers=1)
    assert build_calibration_set(three_classes, count=9, workers=workers) == one


def test_build_set_class_folders_and_label_file_choose_same_images(
    tmp_path: Path, three_classes: Path, make_images
) -> None:
    flat, lines = tmp_path / "flat", []
    for path in sorted(three_classes.rglob("*.png")):
        target = flat / f"{path.parent.name}_{path.name}"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        lines.append(f"{target.name} {('cat', 'dog', 'emu').index(path.parent.name)}\n")
        shutil.move(path, path.with_name(target.name))
    (tmp_path / "labels.txt").write_text("".join(lines))
    from_tree = build_calibration_set(three_classes, count=9)
    assert build_calibration_set(flat, tmp_path / "labels.txt", count=9).digest == from_tree.digest


def test_build_set_undecodable_image_is_named_and_replaced_by_its_class(three_classes: Path) -> None:
    clean = build_calibration_set(three_classes, count=9)
    victim = next(image for image in clean.images if image.class_name == "dog")
    path = three_classes / victim.name
    path.write_bytes(path.read_bytes()[:100])
    mended = build_calibration_set(three_classes, count=9)
    assert [item.name for item in mended.left_out] == [victim.name]
    assert "damaged" in mended.left_out[0].why
    assert mended.per_class == clean.per_class
    assert len(set(names_of(mended)) & set(names_of(clean))) == 8


def test_build_set_class_without_usable_images_gives_places_to_others(three_classes: Path) -> None:
    for path in (three_classes / "emu").iterdir():
        path.write_bytes(b"")
    chosen = build_calibration_set(three_classes, count=9)
    assert len(chosen.left_out) == 3
    assert sorted(chosen.per_class.values()) == [4, 5]
    assert "1 of 3 classes are not in the set: 2 emu" in chosen.remarks


def test_build_set_exact_duplicates_are_taken_once(three_classes: Path) -> None:
    for path in (three_classes / "cat").iterdir():
        if path.name != "0.png":
            shutil.copyfile(three_classes / "cat/0.png", path)
    chosen = build_calibration_set(three_classes, count=12)
    assert chosen.per_class == {0: 1, 1: 8, 2: 3}
    assert len({image.sha256 for image in chosen.images}) == 12
    assert len(chosen.left_out) >= 3
    assert all("the same bytes as cat/" in item.why for item in chosen.left_out)


def test_build_set_too_few_usable_images_are_refused(three_classes: Path) -> None:
    (three_classes / "emu/0.png").write_bytes(b"<html>")
    with pytest.raises(
        CalibrationSetError,
        match=r"22 usable images, but 23 are requested \(1 left out, the first: emu/0\.png: .*HTML",
    ):
        build_calibration_set(three_classes, count=23)


def test_build_set_default_count_of_fewer_images_takes_all_usable(three_classes: Path) -> None:
    (three_classes / "emu/0.png").write_bytes(b"<html>")
    chosen = build_calibration_set(three_classes)
    assert len(chosen) == 22
    assert [item.name for item in chosen.left_out] == ["emu/0.png"]


def test_build_set_default_count_without_usable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(CalibrationSetError, match=r"0 usable images, .* give a folder of images"):
        build_calibration_set(tmp_path, unlabelled=True)


def test_build_set_without_usable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(CalibrationSetError, match=r"0 usable images, but .* give a folder of images"):
        build_calibration_set(tmp_path, count=1, unlabelled=True)


def test_build_set_fewer_images_than_classes_names_missing(three_classes: Path) -> None:
    chosen = build_calibration_set(three_classes, count=2)
    assert len(chosen.per_class) == 2
    assert any("1 of 3 classes are not in the set" in remark for remark in chosen.remarks)


def test_build_set_imagenet_classes_without_images_are_remarked(tmp_path: Path, make_images) -> None:
    folder = make_images(tmp_path, "n01440764/a.png", "n01443537/b.png")
    chosen = build_calibration_set(folder, count=2)
    assert chosen.per_class == {0: 1, 1: 1}
    [remark] = chosen.remarks
    assert remark.startswith("998 of 1,000 classes have no image: 2 great white shark, 3 tiger shark,")


def test_build_set_images_without_labels_are_drawn_on_request(tmp_path: Path, make_images) -> None:
    folder = make_images(tmp_path, *(f"{number}.png" for number in range(20)))
    chosen = build_calibration_set(folder, count=8, unlabelled=True)
    assert (len(chosen), chosen.labels, chosen.per_class, chosen.remarks) == (8, None, {}, ())
    assert chosen == choose_images(find_images(folder), count=8)
    with pytest.raises(LabelError, match="no labels: "):
        build_calibration_set(folder, count=8)


@pytest.mark.parametrize("count", [0, -3])
def test_build_set_count_below_one_is_refused(three_classes: Path, count: int) -> None:
    with pytest.raises(UsageError, match=f"invalid number of images {count}"):
        build_calibration_set(three_classes, count=count)


def test_build_set_progress_ends_at_count(three_classes: Path) -> None:
    (three_classes / "emu/0.png").write_bytes(b"")
    log = ProgressLog()
    build_calibration_set(three_classes, count=20, progress=log)
    assert log.counts[-1] == (20, 20)
    assert [done for done, _ in log.counts] == sorted(done for done, _ in log.counts)


def test_build_set_of_real_photos_is_balanced(shared_assets: Path) -> None:
    chosen = build_calibration_set(shared_assets / "imagenet_samples", count=400)
    assert list(chosen.per_class.values()) == [1] * 400
    assert chosen.left_out == ()
    smaller = build_calibration_set(shared_assets / "imagenet_samples", count=100)
    assert smaller.images == chosen.images[:100]
