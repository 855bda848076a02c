from collections import Counter
from pathlib import Path

import pytest

from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.classes import imagenet_classes
from quantkit.data.labels import LabelLine
from quantkit.data.rebuild import plan_calibration_set, rebuild_calibration_set
from quantkit.demo.digits import unpack_digits

FOLDER = Path(__file__).parents[2] / "calib_sets"


def test_shipped_sets_folder_holds_manifests_only() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".csv", ".md"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_shipped_sets_load_and_are_balanced(path: Path) -> None:
    chosen = CalibrationSet.load(path)
    assert len(set(chosen.per_class.values())) == 1
    assert f"`{path.name}` | {len(chosen):,} |" in (FOLDER / "README.md").read_text()


def test_shipped_imagenet_set_has_one_validation_image_per_class() -> None:
    chosen = CalibrationSet.load(FOLDER / "imagenet_val_1000.csv")
    names = list(imagenet_classes().values())
    assert sorted(chosen.per_class) == list(range(1000))
    assert all(image.class_name == names[image.label] for image in chosen.images)
    numbers = [int(image.name.removeprefix("ILSVRC2012_val_").removesuffix(".JPEG")) for image in chosen.images]
    assert len(set(numbers)) == 1000
    assert all(1 <= number <= 50_000 for number in numbers)


def test_shipped_imagenet_set_is_drawn_by_its_recipe() -> None:
    """With the chosen images alone as candidates, the draw puts them into the very same order."""
    chosen = CalibrationSet.load(FOLDER / "imagenet_val_1000.csv")
    lines = [LabelLine(image.name, image.label, number) for number, image in enumerate(chosen.images)]
    again = plan_calibration_set(lines[::-1], {}, count=1000, seed=chosen.seed)
    assert [image.name for image in again.images] == [image.name for image in chosen.images]


def test_shipped_digits_set_is_rebuilt_from_shipped_digits(tmp_path: Path) -> None:
    planned = CalibrationSet.load(FOLDER / "digits_100.csv")
    chosen = rebuild_calibration_set(planned, unpack_digits(tmp_path / "digits"))
    assert Counter(Path(str(item.where)).parent.name for item in chosen.items) == Counter(
        {str(digit): 10 for digit in range(10)}
    )
    assert all(Path(str(item.where)).parent.parent.name == "calibration" for item in chosen.items)
    assert chosen.verify() == ()
