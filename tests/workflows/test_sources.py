"""The commands' work on images from other places than a folder: the same bits, resumed, excluded, reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_model, write_images
from source_forms import Pictures, add, write_parquet, write_tar, write_zip

from quantkit.config.pipeline import READY_ARRAYS, Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_labelled_images
from quantkit.data.item import content_digest
from quantkit.data.preprocess import preprocess
from quantkit.data.sources.archive import MemberItem
from quantkit.errors import CalibrationSetError, ConfigError, ImageError, NumericError, UsageError
from quantkit.runs.folder import RunFolder
from quantkit.search.budget import FloatBudget
from quantkit.search.stages import Goal
from quantkit.stats.file import load_statistics
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import accuracy_of, evaluate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.report import report
from quantkit.workflows.sensitivity import sensitivity
from quantkit.workflows.tune import TuneOptions, tune

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))

FORMS: dict[str, Callable[[Path, Pictures], Any]] = {
    "tar": lambda place, images: write_tar(place / "a.tar", images),
    "zip": lambda place, images: write_zip(place / "a.zip", images),
    "parquet": lambda place, images: _parquet(place, images),
}


def _parquet(place: Path, images: Pictures) -> Path:
    return write_parquet(
        place / "a.parquet", images, path_of=lambda name: name.rpartition("/")[2], classes=("a", "b", "c", "d")
    )


class Place:
    """A model and images, in a folder and by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_model(folder / "tiny.onnx")
        self.images = write_images(folder / "images", per_class=8)
        for path in sorted(self.images.rglob("*.png")):
            path.rename(path.with_name(f"{path.parent.name}_{path.name}"))
        self.pictures = {
            path.relative_to(self.images).as_posix(): path.read_bytes() for path in sorted(self.images.rglob("*.png"))
        }

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the preprocessed images, and their labels."""
        found = find_labelled_images(self.images)
        assert found.labels is not None
        return np.stack([preprocess(item, PIPELINE) for item in found.items]), found.labels


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def _statistics(run: Path) -> bytes:
    return (run / "statistics.safetensors").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_calibrate_any_form_same_statistics_bytes_as_folder(form: str, place: Place) -> None:
    folder_set = build_calibration_set(place.images, count=32)
    folder_set.save(place.folder / "folder.csv")
    calibrate(place.model, place.folder / "folder.csv", PIPELINE, run=place.folder / "folder-run")
    source = FORMS[form](place.folder, place.pictures)
    chosen = build_calibration_set(source, count=32)
    assert chosen.digest == folder_set.digest
    chosen.save(place.folder / "other.csv")
    done = calibrate(place.model, place.folder / "other.csv", PIPELINE, run=place.folder / "other-run", threads=3)
    assert _statistics(done.run) == _statistics(place.folder / "folder-run")
    assert (done.run / "int8.onnx").read_bytes() == (place.folder / "folder-run/int8.onnx").read_bytes()


def test_calibrate_arrays_same_tensors_as_folder_and_says_so_in_the_record(place: Place) -> None:
    chosen = build_calibration_set(place.images, count=32)
    calibrate(place.model, chosen, PIPELINE, run=place.folder / "folder-run")
    images, labels = place.arrays()
    for name, given in (
        ("array", (images, labels)),
        ("iterable", list(zip(images, labels, strict=True))),
        ("batches", [(images[:20], labels[:20]), (images[20:], labels[20:])]),
    ):
        done = calibrate(place.model, given, run=place.folder / name)
        ours, theirs = done.statistics, load_statistics(place.folder / "folder-run/statistics.safetensors")
        assert list(ours.tensors) == list(theirs.tensors)
        for tensor, statistics in ours.tensors.items():
            np.testing.assert_array_equal(statistics.counts, theirs.tensors[tensor].counts)
            assert (statistics.lo, statistics.hi) == (theirs.tensors[tensor].lo, theirs.tensors[tensor].hi)
        record = RunFolder(done.run).read()
        assert record.set.array_shape == images.shape[1:]
        assert record.pipeline == READY_ARRAYS
        assert json.loads((done.run / "run.json").read_text())["pipeline"] == {"ops": []}


def test_evaluate_run_of_arrays_takes_arrays_and_refuses_pictures(place: Place) -> None:
    images, labels = place.arrays()
    run = calibrate(place.model, (images[:16], labels[:16]), run=place.folder / "run").run
    ours = compare(["fp32", "int8"], run=run, images=(images, labels))
    files = compare(["fp32", "int8"], run=run, images=place.images, pipeline=PIPELINE)
    assert ours.candidates[0].versus.agreement == files.candidates[0].versus.agreement
    assert ours.reference.top1 == files.reference.top1
    with pytest.raises(ConfigError, match="the image needs preprocessing, and the run was calibrated on arrays"):
        compare(["fp32", "int8"], run=run, images=place.images)


def test_calibrate_pictures_without_preprocessing_are_refused(place: Place) -> None:
    with pytest.raises(UsageError, match="no preprocessing was given"):
        calibrate(place.model, build_calibration_set(place.images, count=4), run=place.folder / "run")


@pytest.mark.parametrize("step", ["calibrate", "evaluate", "compare"])
def test_calibrate_arrays_of_other_shape_are_refused(step: str, place: Place) -> None:
    images, labels = place.arrays()
    wrong = (images[:, :, :6], labels)
    steps: dict[str, Callable[[], object]] = {
        "calibrate": lambda: calibrate(place.model, wrong, run=place.folder / "run"),
        "evaluate": lambda: evaluate(place.model, images=wrong, cache=place.folder / "cache"),
        "compare": lambda: compare([place.model, f"again={place.model}"], images=wrong),
    }
    with pytest.raises(ImageError, match=r"the arrays have shape \[3, 6, 8\], and the model needs \[3, 8, 8\]"):
        steps[step]()


def test_calibrate_nan_in_array_is_named_with_position(place: Place) -> None:
    images, labels = place.arrays()
    images[9, 2, 1, 0] = np.nan
    with pytest.raises(NumericError, match=r"image 9: 1 of 192 values are NaN or infinite, the first at \[2, 1, 0\]"):
        calibrate(place.model, (images, labels), run=place.folder / "run")


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_any_form_same_predictions_and_answers_no_image_twice(form: str, place: Place) -> None:
    source = FORMS[form](place.folder, place.pictures)
    options: dict[str, Any] = {"pipeline": PIPELINE, "cache": place.folder / "cache"}
    folder = evaluate(place.model, images=place.images, **options)
    first = evaluate(place.model, images=source, limit=20, **options)
    done = evaluate(place.model, images=source, **options)
    assert (first.kept, done.kept) == (0, 20)
    np.testing.assert_array_equal(done.predictions.top1, folder.predictions.top1)
    assert accuracy_of(done.predictions) == accuracy_of(folder.predictions)


def test_calibrate_interrupted_over_tar_resumes_to_same_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = build_calibration_set(write_tar(place.folder / "a.tar", place.pictures), count=32)
    calibrate(place.model, chosen, PIPELINE, run=place.folder / "whole")
    monkeypatch.setattr("quantkit.engine.observe.CHUNK_SECONDS", 0.0)
    read = MemberItem.read
    left = iter(range(20))

    def failing(item: MemberItem) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(item)

    chosen.save(place.folder / "set.csv")
    monkeypatch.setattr(MemberItem, "read", failing)
    monkeypatch.setattr(MemberItem, "digest", lambda item: content_digest(read(item)))
    with pytest.raises(KeyboardInterrupt):
        calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "parts", threads=1)
    monkeypatch.setattr(MemberItem, "read", read)
    assert (place.folder / "parts/statistics.partial.safetensors").is_file()
    calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "parts", threads=1)
    assert _statistics(place.folder / "parts") == _statistics(place.folder / "whole")


def test_compare_calibration_images_of_tar_are_excluded_and_warned_of(place: Place) -> None:
    tar = write_tar(place.folder / "a.tar", place.pictures)
    build_calibration_set(tar, count=12).save(place.folder / "set.csv")
    run = calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "run").run
    rest = compare(["fp32", "int8"], run=run)  # what remains of the archive that the set was drawn from
    assert rest.images == 20
    warned = compare(["fp32", "int8"], run=run, images=place.images)
    assert any("12 of 32 images are in the calibration set too" in warning for warning in warned.warnings)
    without = compare(["fp32", "int8"], run=run, images=place.images, exclude=place.folder / "set.csv")
    assert without.images == 20


def test_report_over_a_zip_has_thumbnails(place: Place) -> None:
    chosen = build_calibration_set(place.images, count=8)
    run = calibrate(place.model, chosen, PIPELINE, run=place.folder / "run").run
    other = tiny_model(place.folder / "other.onnx", seed=5)
    for images in (write_zip(place.folder / "a.zip", place.pictures), place.arrays()):
        evaluation = compare(["fp32", other], run=run, images=images)
        report(evaluation, place.folder / "report.html")
        assert "data:image/jpeg;base64," in (place.folder / "report.html").read_text()


def test_sensitivity_uses_the_calibration_images_of_a_parquet_file(place: Place) -> None:
    source = _parquet(place.folder, place.pictures)
    build_calibration_set(source, count=12).save(place.folder / "set.csv")
    run = calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "run").run
    build_calibration_set(place.images, count=12).save(place.folder / "folder.csv")
    other = calibrate(place.model, place.folder / "folder.csv", PIPELINE, run=place.folder / "other").run
    ours, theirs = (sensitivity(one, count=8) for one in (run, other))
    assert ours == theirs


def test_calibrate_set_of_missing_archive_is_named(place: Place) -> None:
    tar = write_tar(place.folder / "a.tar", place.pictures)
    build_calibration_set(tar, count=8).save(place.folder / "set.csv")
    tar.unlink()
    with pytest.raises(CalibrationSetError, match=r"8 of 8 images of the set are missing"):
        calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "run")


def test_calibrate_unpacks_nothing_beside_archive(place: Place) -> None:
    (place.folder / "data").mkdir()
    tar = write_tar(place.folder / "data" / "a.tar", place.pictures)
    chosen = build_calibration_set(tar, count=8)
    calibrate(place.model, chosen, PIPELINE, run=place.folder / "run")
    assert [path.name for path in (place.folder / "data").iterdir()] == ["a.tar"]
    assert not [path for path in (place.folder / "run").rglob("*") if path.suffix == ".png"]


def test_imagenet_tar_and_devkit_as_downloaded_give_labels(place: Place) -> None:
    import tarfile

    from quantkit.data.devkit import GROUND_TRUTH, VALIDATION_IMAGES

    images = {f"ILSVRC2012_val_{number:08d}.JPEG": next(iter(place.pictures.values())) for number in (1, 2, 50_000)}
    tar = write_tar(place.folder / "ILSVRC2012_img_val.tar", images, tarfile.GNU_FORMAT)
    truth = ["490", "361", *(["1"] * (VALIDATION_IMAGES - 3)), "1000"]
    devkit = place.folder / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(devkit, "w:gz") as archive:
        add(archive, f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}", ("\n".join(truth) + "\n").encode())
    found = find_labelled_images(tar, devkit)
    assert found.labels is not None
    # The first image of ILSVRC 2012 is a sea snake, class 65; the second an alp, class 970.
    assert found.labels.tolist()[0] == 65
    assert found.labels.tolist()[1] == 970
    assert found.names == tuple(sorted(images))
    (place.folder / GROUND_TRUTH).write_text("\n".join(truth) + "\n")
    again = find_labelled_images(tar, place.folder / GROUND_TRUTH)
    assert again.labels is not None
    assert again.labels.tolist() == found.labels.tolist()


def test_calibrate_moved_set_and_archive_are_found(place: Place) -> None:
    (place.folder / "data").mkdir()
    tar = write_tar(place.folder / "data" / "a.tar", place.pictures)
    build_calibration_set(tar, count=8).save(place.folder / "data" / "set.csv")
    shutil.move(place.folder / "data", place.folder / "elsewhere")
    assert CalibrationSet.load(place.folder / "elsewhere" / "set.csv").verify() == ()


def test_quantize_and_sensitivity_take_arrays_again(place: Place) -> None:
    images, labels = place.arrays()
    given = (images[:24], labels[:24])
    run = calibrate(place.model, given, run=place.folder / "run").run
    with pytest.raises(CalibrationSetError, match="the calibration set of the run was never saved"):
        sensitivity(run, count=4)
    assert sensitivity(run, count=4, calibration_set=given).images == 4
    assert any("biases corrected" in note or "did harm" in note for note in quantize(run, calibration_set=given).notes)
    goal = Goal(max_drop=0.5)
    options = TuneOptions(goal=goal, budget=FloatBudget())
    tuned = tune(run, options, calibration_set=given, images=(images[24:], labels[24:]))
    assert tuned.path.is_file()
    with pytest.raises(CalibrationSetError, match="the calibration set is not the one of the run; give the images of"):
        tune(run, options, calibration_set=(images[:23], labels[:23]), images=(images[24:], labels[24:]))
