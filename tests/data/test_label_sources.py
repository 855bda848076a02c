"""Labels by several names: which source is taken is said, and where another one contradicts it, too."""

import re
from pathlib import Path

import numpy as np
import pytest
from models import write_images
from PIL import Image

from quantkit.data.folder import find_labelled_images
from quantkit.errors import LabelError

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"


def _images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        pytest.param([f"fish/{TENCH}_1.png", f"fish/{GOLDFISH}_1.png", f"big/{SHARK}_1.png"], [2, 0, 1],
                     "file names that begin with WordNet ids, and the folders group the images .*--labels",
                     id="coarser folders"),
        pytest.param([f"a/{TENCH}_1.png", f"b/{TENCH}_2.png"], [0, 0], "have one label, 0", id="finer folders"),
        pytest.param([f"tench/{TENCH}_1.png", f"gold/{GOLDFISH}_1.png"], [1, 0], None, id="same classes"),
        pytest.param([f"{TENCH}/{GOLDFISH}_1.png", f"{TENCH}/{GOLDFISH}_2.png"], [0, 0], None, id="one folder"),
        pytest.param([f"{TENCH}/{SHARK}_1.png", f"{TENCH}/{GOLDFISH}_2.png"], [0, 0],
                     r"folders named by WordNet ids, and the WordNet ids in the file names", id="ids in both"),
        pytest.param([f"val/{TENCH}_1.png", f"val/{GOLDFISH}_1.png"], [0, 1], None, id="no class folder"),
    ],
)  # fmt: skip
def test_labels_by_name_with_another_source_that_contradicts_give_a_warning(
    tmp_path: Path, names: list[str], labels: list[int], said: str | None
) -> None:
    found = find_labelled_images(_images(tmp_path / "images", *names))
    assert found.labels is not None
    assert found.labels.tolist() == labels
    assert len(found.warnings) == (said is not None)
    assert said is None or re.search(said, found.warnings[0])


def test_label_file_that_contradicts_wordnet_ids_gives_a_warning_and_one_of_class_folders_does_not(
    tmp_path: Path,
) -> None:
    folder = _images(tmp_path / "images", f"{TENCH}_1.png", f"{TENCH}_2.png", f"{SHARK}_1.png")
    file = tmp_path / "labels.txt"
    file.write_text(f"{TENCH}_1.png 0\n{TENCH}_2.png 1\n{SHARK}_1.png 2\n")
    assert "one label" not in find_labelled_images(folder, file).warnings[0]
    file.write_text(f"{TENCH}_1.png 7\n{TENCH}_2.png 7\n{SHARK}_1.png 2\n")
    assert not find_labelled_images(folder, file).warnings
    parts = write_images(tmp_path / "parts", per_class=2)
    names = find_labelled_images(parts).names
    file.write_text("".join(f"{name} {place % 2}\n" for place, name in enumerate(names)))
    assert not find_labelled_images(parts, file).warnings


def test_parts_of_a_data_set_are_no_classes_unless_images_are_right_in_them(tmp_path: Path) -> None:
    nested = _images(tmp_path / "nested", "train/cat/1.png", "train/dog/1.png", "Val/cat/2.png", "Val/dog/2.png")
    with pytest.raises(LabelError, match=r"the folders Val, train are parts of a data set, not classes; give one of"):
        find_labelled_images(nested)
    flat = find_labelled_images(_images(tmp_path / "flat", "train/1.png", "test/1.png"))
    assert flat.source == "2 class folders"
    vehicles = find_labelled_images(_images(tmp_path / "vehicles", "train/a/1.png", "bus/a/1.png"))
    assert vehicles.class_names == {0: "bus", 1: "train"}


def test_find_labelled_one_class_folder_gives_warning(tmp_path: Path) -> None:
    [warning] = find_labelled_images(_images(tmp_path / "images", "photos/1.png", "photos/2.png")).warnings
    assert warning.startswith("all images are in the folder photos, so of one class")
