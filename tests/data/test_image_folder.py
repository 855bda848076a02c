import os
from pathlib import Path

import numpy as np
import pytest

from quantkit.data.folder import find_images, find_labelled_images
from quantkit.errors import CalibrationSetError, LabelError


def lay(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def labels_by_name(found) -> dict[str, int]:
    return dict(zip(found.names, found.labels.tolist(), strict=True))


def test_find_images_by_suffix_sorted_without_hidden(tmp_path: Path) -> None:
    lay(tmp_path, "b.JPEG", "a/z.png", "a.jpg", "a/.hidden.jpg", "._b.JPEG", ".cache/x.jpg", "Thumbs.db", "notes.txt")
    found = find_images(tmp_path)
    assert found.names == ("a.jpg", "a/z.png", "b.JPEG")
    assert [Path(str(item.where)) for item in found.items] == [
        tmp_path / "a.jpg",
        tmp_path / "a/z.png",
        tmp_path / "b.JPEG",
    ]
    assert found.labels is None


def test_find_images_order_is_that_of_names(tmp_path: Path) -> None:
    names = [f"{letter}/{number}.jpg" for letter in "abc" for number in range(5)]
    lay(tmp_path / "one", *names)
    lay(tmp_path / "two", *reversed(names))
    assert find_images(tmp_path / "one").names == find_images(tmp_path / "two").names


def test_find_images_links_are_followed_but_not_in_circle(tmp_path: Path) -> None:
    lay(tmp_path, "data/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    (tmp_path / "data/loop").symlink_to("loop")
    (tmp_path / "data/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert find_images(tmp_path / "data").names == ("broken.jpg", "more/y.jpg", "x.jpg")


def test_find_images_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    lay(tmp_path, "a.npz", "b.npz", "c.txt")
    with pytest.raises(
        CalibrationSetError, match=r"no images found \(looked for .*\.jpg.*; there is 2 \.npz, 1 \.txt\)"
    ):
        find_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationSetError, match=r"empty: no images found .*there is nothing"):
        find_images(tmp_path / "empty")


def test_find_images_missing_folder_or_file_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg")
    with pytest.raises(CalibrationSetError, match=r"none: there is no such folder"):
        find_images(tmp_path / "none")
    with pytest.raises(CalibrationSetError, match=r"a\.jpg: neither a folder of images nor a tar, zip or parquet file"):
        find_images(tmp_path / "a.jpg")


def test_find_labelled_class_folders_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    found = find_labelled_images(lay(tmp_path, "dog/1.jpg", "cat/1.jpg", "cat/deep/2.jpg"))
    assert labels_by_name(found) == {"cat/1.jpg": 0, "cat/deep/2.jpg": 0, "dog/1.jpg": 1}
    assert found.class_names == {0: "cat", 1: "dog"}
    assert (found.classes, found.source) == (2, "2 class folders")


def test_find_labelled_class_folders_take_numbers_from_names_file(tmp_path: Path) -> None:
    lay(tmp_path / "images", "dog/1.jpg", "cat/1.jpg")
    (tmp_path / "names.txt").write_text("truck\ndog\ncat\n")
    found = find_labelled_images(tmp_path / "images", names=tmp_path / "names.txt")
    assert labels_by_name(found) == {"cat/1.jpg": 2, "dog/1.jpg": 1}
    assert found.class_names == {0: "truck", 1: "dog", 2: "cat"}
    assert found.classes == 3
    assert "numbered by the file of class names" in found.source


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        ([str(n) for n in range(10)], None),
        ([str(n) for n in range(11)], "folder 10 is class 2"),
        (["0", "3", "7"], "folder 3 is class 1"),
        ([f"{n:02d}" for n in range(12)], None),
        (["0", "1", "x"], None),
    ],
)
def test_find_labelled_folders_named_by_other_numbers_are_remarked(
    tmp_path: Path, names: list[str], warning: str | None
) -> None:
    found = find_labelled_images(lay(tmp_path, *(f"{name}/1.jpg" for name in names)))
    assert found.class_names == dict(enumerate(sorted(names)))
    assert (found.warnings == ()) is (warning is None)
    assert warning is None or warning in found.warnings[0]


def test_find_labelled_wordnet_folders_have_imagenet_indices(tmp_path: Path) -> None:
    found = find_labelled_images(lay(tmp_path, "n15075141/1.jpg", "n01443537/1.jpg"))
    assert labels_by_name(found) == {"n01443537/1.jpg": 1, "n15075141/1.jpg": 999}
    assert found.class_names[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert found.classes == 1000


def test_find_labelled_other_wordnet_ids_are_plain_class_folders(tmp_path: Path) -> None:
    found = find_labelled_images(lay(tmp_path, "n00000002/1.jpg", "n01443537/1.jpg"))
    assert labels_by_name(found) == {"n00000002/1.jpg": 0, "n01443537/1.jpg": 1}


def test_find_labelled_file_names_with_wordnet_id_give_labels(tmp_path: Path) -> None:
    found = find_labelled_images(lay(tmp_path, "n01440764_tench.JPEG", "batch/n01484850_77.JPEG"))
    assert labels_by_name(found) == {"batch/n01484850_77.JPEG": 2, "n01440764_tench.JPEG": 0}


def test_find_labelled_label_file_gives_labels(tmp_path: Path) -> None:
    lay(tmp_path / "images", "a.jpg", "b.jpg")
    (tmp_path / "val_label.txt").write_text("b.jpg 7\na.jpg 3\na.jpg 3\nc.jpg 1\n")
    found = find_labelled_images(tmp_path / "images", tmp_path / "val_label.txt")
    assert labels_by_name(found) == {"a.jpg": 3, "b.jpg": 7}
    assert found.source == "label file val_label.txt"
    repeated, missing = found.warnings
    assert "1 lines repeat an earlier one" in repeated
    assert "1 labels have no image here: c.jpg (line 4)" in missing


def test_find_labelled_images_without_label_are_refused(tmp_path: Path) -> None:
    lay(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "labels.txt").write_text("b.jpg 7\n")
    with pytest.raises(LabelError, match=r"labels\.txt: 2 of 3 images have no label: a\.jpg, c\.jpg"):
        find_labelled_images(tmp_path / "images", tmp_path / "labels.txt")


def test_find_labelled_too_few_names_are_refused(tmp_path: Path) -> None:
    lay(tmp_path / "images", "a.jpg")
    (tmp_path / "labels.txt").write_text("a.jpg 2\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(LabelError, match=r"names\.txt: it has 2 names, and the labels go up to 2"):
        find_labelled_images(tmp_path / "images", tmp_path / "labels.txt", tmp_path / "names.txt")


def test_find_labelled_without_labels_points_at_label_file_nearby(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", "val_label.txt")
    with pytest.raises(LabelError, match=r"no labels: .*--labels \(such as val_label\.txt near the images\)"):
        find_labelled_images(tmp_path)


def test_find_labelled_images_outside_class_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"1 of 3 images are outside the class folders: stray\.jpg"):
        find_labelled_images(lay(tmp_path, "cat/1.jpg", "dog/1.jpg", "stray.jpg"))


def test_find_labelled_folder_around_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"all images are in one folder set, .*give .*set if those are the classes"):
        find_labelled_images(lay(tmp_path, "set/cat/1.jpg", "set/dog/1.jpg"))


def test_find_images_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "cat/1.jpg")

    def refuse(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CalibrationSetError, match=r"cannot list the folder \(permission denied\)"):
        find_images(tmp_path)


def test_find_labelled_real_photos_have_imagenet_labels(shared_assets: Path) -> None:
    found = find_labelled_images(shared_assets / "imagenet_samples")
    np.testing.assert_array_equal(found.labels, np.arange(1000))


def test_labels_of_images_in_memory_are_asked_for_as_values() -> None:
    images = np.zeros((2, 3, 4, 4), np.float32)
    for given in (images, list(images)):
        with pytest.raises(
            LabelError, match=r"^images in memory.*: the images have no labels; give \(images, labels\)"
        ):
            find_labelled_images(given)
