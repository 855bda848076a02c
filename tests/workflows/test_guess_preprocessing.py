"""``guess_preprocessing``: the preprocessing of a model found on labelled and unlabelled images, and none made up."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_model import IMAGENET, colours, values
from PIL import Image

import quantkit
from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRESETS,
    CenterCrop,
    Decode,
    Normalize,
    Pipeline,
    Resize,
    ToTensor,
)
from quantkit.data.folder import find_labelled_images
from quantkit.data.given_set import whole_source
from quantkit.demo.digits import MODEL, unpack_digits
from quantkit.engine.classifier import read_classifier
from quantkit.errors import CalibrationSetError, LabelError, ModelError, UsageError
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline, random_sample
from quantkit.evaluation.preprocessing_diagnosis import diagnose_preprocessing
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.guess_preprocessing import guess_preprocessing, guessed_preset
from quantkit.workflows.presets import load_preset


def labelled(folder: Path) -> dict[str, Any]:
    return {"images": folder / "images", "labels": folder / "labels.txt"}


def test_guess_finds_scaling_and_order_together(tmp_path: Path) -> None:
    model = colours(tmp_path, values("BGR", 255, IMAGENET), images=120)
    guess = guess_preprocessing(model, pipeline=values("RGB", 1), **labelled(tmp_path))
    # The model was trained on BGR images with the mean and std of RGB as they are listed.
    assert guess.best.ops[:2] == values("BGR", 255, IMAGENET).ops[:2]
    assert guess.overall is not None
    assert guess.overall.value > 80.0
    assert "colours in the order BGR" in guess.verdict
    corrected = max(one.p for one in guess.tried if one.chosen)
    assert f"p = {corrected:.2g}, corrected for all alternatives" in guess.verdict
    assert guess.evidence == "labels"


def test_guess_from_the_right_preset_keeps_it(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255), images=120)
    guess = guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))
    assert (guess.found_better, guess.best, guess.overall) == (False, values("RGB", 255), None)
    assert "no alternative is better beyond chance on 120 images" in guess.verdict
    assert not any(one.better or one.chosen for one in guess.tried)
    assert "right on at least 11 more of 120 images (9.2 points)" in guess.notes[0]


def test_guess_is_the_same_twice_and_runs_nothing_the_second_time(tmp_path: Path) -> None:
    model = colours(tmp_path, values("BGR", 255))
    first, again = (guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path)) for _ in range(2))
    assert first.computed > 0
    assert again.computed == 0
    assert first.tried == again.tried
    assert first.best == again.best


def test_guess_without_a_preset_starts_from_the_usual_one(tmp_path: Path) -> None:
    model = colours(tmp_path, Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor(), IMAGENET)))
    guess = guess_preprocessing(model, **labelled(tmp_path))
    assert guess.start == guess.best == Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor(), IMAGENET))
    assert any("no preset was given; the search starts from decode, resize" in note for note in guess.notes)


def test_guess_of_images_without_labels_says_that_the_evidence_is_weaker(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255), images=40)
    guess = guess_preprocessing(model, images=tmp_path / "images", pipeline=values("RGB", 255))
    assert guess.evidence == "scores"
    assert any("the scores are compared instead" in note for note in guess.notes)
    assert any("weaker evidence than accuracy" in note for note in guess.notes)
    assert not guess.found_better or "more information" in guess.verdict


def test_guess_with_labels_of_other_classes_is_refused(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255))
    text = (tmp_path / "labels.txt").read_text()
    (tmp_path / "labels.txt").write_text(re.sub(r" (\d+)$", r" 9\1", text, flags=re.MULTILINE))
    with pytest.raises(LabelError, match=r"the labels go up to 9\d\d?, and the model has 16 classes"):
        guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))


def test_guess_with_labels_in_another_order_says_so(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255), images=120)
    lines = [line.split() for line in (tmp_path / "labels.txt").read_text().splitlines()]
    renamed = np.random.default_rng(0).permutation(16)
    (tmp_path / "labels.txt").write_text("".join(f"{name} {renamed[int(label)]}\n" for name, label in lines))
    guess = guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))
    assert any("labels" in note and "--unlabelled compares the scores alone" in note for note in guess.notes)


def test_guess_of_a_run_takes_its_images_and_preprocessing(tmp_path: Path) -> None:
    model = colours(tmp_path, values("BGR", 255))
    whole_source(find_labelled_images(tmp_path / "images", tmp_path / "labels.txt")).save(tmp_path / "set.csv")
    calibrate(model, tmp_path / "set.csv", values("RGB", 255), run=tmp_path / "run")
    guess = guess_preprocessing(model, run=tmp_path / "run")
    assert guess.evidence == "labels"
    assert guess.start == values("RGB", 255)
    assert guess.best == values("BGR", 255)


def test_guess_of_a_quantized_model_is_refused(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255))
    source = find_labelled_images(tmp_path / "images", tmp_path / "labels.txt")
    done = calibrate(model, source, values("RGB", 255), run=tmp_path / "run")
    with pytest.raises(ModelError, match="quantized"):
        guess_preprocessing(done.run / "int8.onnx", pipeline=values("RGB", 255), **labelled(tmp_path))


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({"limit": 5}, "5 images show nothing", UsageError),
        ({"images": None, "labels": None}, "nothing says which images", UsageError),
        ({"unlabelled": True}, "labels are given and not to be used", UsageError),
        ({"images": np.zeros((20, 3, 8, 8), np.float32), "labels": None}, "ready arrays", UsageError),
    ],
    ids=["limit", "no images", "unlabelled", "arrays"],
)
def test_guess_with_unusable_arguments_is_refused(
    options: dict[str, Any], message: str, error: type[Exception], tmp_path: Path
) -> None:
    model = colours(tmp_path, values("RGB", 255), images=20)
    with pytest.raises(error, match=message):
        guess_preprocessing(model, pipeline=values("RGB", 255), **{**labelled(tmp_path), **options})


def test_guess_on_few_images_is_refused(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255), images=9)
    with pytest.raises(CalibrationSetError, match="there are 9 images, and at least 10 are needed"):
        guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))


def test_guess_rows_and_json_hold_plain_data(tmp_path: Path) -> None:
    model = colours(tmp_path, values("BGR", 255))
    guess = guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))
    content = json.loads(json.dumps(guess.to_json()))
    assert content["found_better"] is True
    assert content["best"]["ops"][0]["mode"] == "BGR"
    assert len(content["tried"]) == len(guess.tried) == len(guess.rows())
    assert {row["dimension"] for row in content["tried"]} == {"scaling", "channel order"}
    assert content["overall"]["ci95"]["lo"] > 0.0
    assert "<table>" in guess._repr_html_()


def test_guessed_preset_is_a_preset_file_that_says_what_it_rests_on(tmp_path: Path) -> None:
    model = colours(tmp_path, values("BGR", 255))
    guess = guess_preprocessing(model, pipeline=values("RGB", 255), **labelled(tmp_path))
    path = tmp_path / "preset.yaml"
    path.write_text(guessed_preset(guess))
    assert load_preset(path) == guess.best
    assert "on 60 labelled images" in path.read_text().splitlines()[0]


def _photographs(size: int = 224, **values: Any) -> Pipeline:
    decode, divisor = Decode(mode=values.get("mode", "RGB")), ToTensor(divisor=values.get("divisor", 1.0))
    scaled = () if values.get("normalize") is None else (values["normalize"],)
    resize = Resize(size=256, interpolation=values.get("interpolation", "bilinear"))
    return Pipeline(ops=(decode, resize, CenterCrop(size=(size, size)), divisor, *scaled))


IMAGENET_START = _photographs(divisor=255.0, normalize=Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("network", "start", "expected"),
    [
        ("efficientnet_lite0", _photographs(interpolation="bicubic"), "with pixels from -1 to 1"),
        ("squeezenet1_1", _photographs(), "with ImageNet's mean and std"),
        ("squeezenet1_1", IMAGENET_START, None),
    ],
    ids=["lite0 from 0 to 255", "squeezenet from 0 to 255", "squeezenet as trained"],
)
def test_check_of_real_networks_on_labelled_photographs(
    network: str, start: Pipeline, expected: str | None, shared_assets: Path
) -> None:
    photographs = random_sample(find_labelled_images(shared_assets / "imagenet_samples"), 64)
    file = read_classifier(shared_assets / f"{network}.onnx")
    found = diagnose_preprocessing(file, photographs, start, partial(AnswersByPipeline, file, threads=2))
    assert found is None if expected is None else expected in str(found)


@pytest.mark.shared
def test_guess_without_labels_is_not_misled_by_confidence(shared_assets: Path) -> None:
    # Without the division by 255 SqueezeNet is far more confident than when fed as in training.
    photographs = random_sample(find_labelled_images(shared_assets / "imagenet_samples"), 40)
    guess = guess_preprocessing(
        shared_assets / "squeezenet1_1.onnx", pipeline=IMAGENET_START, images=photographs, unlabelled=True, limit=40
    )
    assert not guess.found_better, guess.verdict


@pytest.mark.shared
def test_guess_of_a_network_of_small_images_keeps_its_preset(shared_assets: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(shared_assets / "cifar10_train2k.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::20]
        archive.extractall(tmp_path, names)
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    guess = guess_preprocessing(shared_assets / "cifar_resnet20.onnx", images=folder, limit=100)
    assert guess.start == PRESETS["cifar10"]
    assert not guess.found_better, guess.verdict
    assert {one.alternative.dimension for one in guess.tried} == {
        "scaling",
        "channel order",
        "resize and crop",
        "interpolation",
    }


def test_guess_of_a_grey_network_tries_no_channel_order(tmp_path: Path) -> None:
    images = unpack_digits(tmp_path / "images") / "test"
    start = Pipeline(ops=(Decode(mode="L"), Resize(size=(8, 8)), ToTensor(divisor=1.0)))
    guess = guess_preprocessing(Path(quantkit.__file__).parent / "demo" / MODEL, images=images, pipeline=start)
    assert guess.best == PRESETS["digits"]
    assert "channel order" not in {one.alternative.dimension for one in guess.tried}


def test_guess_of_a_model_of_two_classes(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> two (float[N, 3, 4, 4] image) => (float[N, 2] logits) {'
        " g = GlobalAveragePool (image) f = Flatten (g) logits = Gemm (f, w, b) }"
    )
    # Red or blue: the first channel against the third.
    weights = {"w": np.array([[4.0, -4.0], [0.0, 0.0], [-4.0, 4.0]], np.float32), "b": np.zeros(2, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, tmp_path / "two.onnx")
    rng = np.random.default_rng(0)
    for number in range(60):
        colour = rng.integers(0, 256, 3, np.uint8)
        folder = tmp_path / "images" / ("blue" if colour[2] > colour[0] else "a red")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(colour, (4, 4, 3)).copy()).save(folder / f"{number}.png")
    guess = guess_preprocessing(tmp_path / "two.onnx", images=tmp_path / "images", pipeline=values("BGR", 255))
    assert guess.best == values("RGB", 255)
