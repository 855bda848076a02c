"""A model that is fed otherwise than it was trained: what it wants is found, and named only where that is certain."""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_model import IMAGENET, colours, values
from counting import counted
from onnx import load, save

from quantkit.config.pipeline import Pipeline
from quantkit.data.folder import find_labelled_images
from quantkit.data.given_set import whole_source
from quantkit.engine.predict import Classifier
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline
from quantkit.evaluation.preprocessing_diagnosis import MOST, diagnose_preprocessing
from quantkit.runs.cache import ResultCache
from quantkit.runs.inputs import read_scored
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import evaluate

WRONG = "the preprocessing seems wrong"


@pytest.mark.parametrize(
    ("right", "given", "words"),
    [
        (
            values("RGB", 255),
            values("BGR", 255),
            r"with colours in the order RGB; set mode of decode RGB, divisor of to_tensor 255",
        ),
        (values("BGR", 255), values("RGB", 255), r"with colours in the order BGR; set mode of decode BGR"),
        (
            values("RGB", 255, IMAGENET),
            values("RGB", 1),
            r"with ImageNet's mean and std; set .* mean of normalize \[0\.485, ",
        ),
        (
            values("RGB", 1),
            values("RGB", 255, IMAGENET),
            r"with pixels from 0 to 255; set .* divisor of to_tensor 1, without norm",
        ),
    ],
    ids=["BGR given", "RGB given", "0..255 given", "normalized given"],
)
def test_wrong_preprocessing_is_named_by_eval_and_compare(
    right: Pipeline, given: Pipeline, words: str, tmp_path: Path
) -> None:
    model = colours(tmp_path, right)
    options: dict[str, Any] = {"images": tmp_path / "images", "labels": tmp_path / "labels.txt"}
    said = evaluate(model, pipeline=given, cache=tmp_path / "keep", **options).warnings
    [doubt] = [warning for warning in said if warning.startswith("the preprocessing seems wrong")]
    assert re.search(words, doubt)
    compared = compare(
        [model, shutil.copyfile(model, tmp_path / "copy.onnx")], pipeline=given, drift_images=0, **options
    )
    assert f"colours: {doubt}" in compared.warnings
    fine = evaluate(model, pipeline=right, cache=tmp_path / "keep", **options)
    assert not [warning for warning in fine.warnings if "preprocessing" in warning]


def test_check_repeated_computes_no_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = colours(tmp_path, values("RGB", 255))
    asked = counted(Classifier, "scores", monkeypatch)
    options: dict[str, Any] = {
        "images": tmp_path / "images",
        "labels": tmp_path / "labels.txt",
        "cache": tmp_path / "cache",
    }
    first = evaluate(model, pipeline=values("BGR", 255), **options).warnings
    before = len(asked)
    assert evaluate(model, pipeline=values("BGR", 255), **options).warnings == first
    assert len(asked) == before


def test_check_of_poor_model_gives_no_warning(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255))
    rng = np.random.default_rng(0)
    (tmp_path / "labels.txt").write_text("".join(f"{number:03d}.png {rng.integers(16)}\n" for number in range(60)))
    said = evaluate(
        model,
        pipeline=values("RGB", 255),
        images=tmp_path / "images",
        labels=tmp_path / "labels.txt",
        cache=tmp_path / "keep",
    ).warnings
    assert not [warning for warning in said if WRONG in warning]


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, Any]:
    """A model, images that it names right as RGB, and preprocessing that gives it BGR."""
    colours(tmp_path, values("RGB", 255), images=80)
    return {
        "images": tmp_path / "images",
        "labels": tmp_path / "labels.txt",
        "pipeline": values("BGR", 255),
    }


def test_eval_warning_has_the_command_that_writes_the_preset(wrong: dict[str, Any], tmp_path: Path) -> None:
    [warning] = [one for one in evaluate(tmp_path / "colours.onnx", **wrong).warnings if WRONG in one]
    expected = (
        f"quantkit preprocess guess {tmp_path}/colours.onnx --images {tmp_path}/images --labels {tmp_path}/labels"
    )
    assert expected in warning


def test_eval_without_the_check_says_nothing(wrong: dict[str, Any], tmp_path: Path) -> None:
    said = evaluate(tmp_path / "colours.onnx", check_preprocessing=False, **wrong).warnings
    assert not [one for one in said if WRONG in one]


def test_check_changes_no_answer(wrong: dict[str, Any], tmp_path: Path) -> None:
    with_check = evaluate(tmp_path / "colours.onnx", cache=tmp_path / "a", **wrong)
    without = evaluate(tmp_path / "colours.onnx", cache=tmp_path / "b", check_preprocessing=False, **wrong)
    assert np.array_equal(with_check.predictions.top, without.predictions.top)
    assert with_check.origin == without.origin


def test_calibrate_notes_a_wrong_preprocessing_of_a_labelled_set(wrong: dict[str, Any], tmp_path: Path) -> None:
    source = find_labelled_images(wrong["images"], wrong["labels"])
    model, run = tmp_path / "colours.onnx", tmp_path / "run"
    whole_source(source).save(tmp_path / "set.csv")
    done = calibrate(model, tmp_path / "set.csv", wrong["pipeline"], run=run)
    [note] = [one for one in done.notes if WRONG in one]
    assert "colours in the order RGB" in note
    assert f"quantkit preprocess guess {model} --run {run} --out preset.yaml" in note
    silent = calibrate(model, source, wrong["pipeline"], run=tmp_path / "other", check_preprocessing=False)
    assert not [one for one in silent.notes if WRONG in one]
    assert done.quantized.ranges == silent.quantized.ranges


def test_calibrate_says_nothing_of_the_right_preprocessing(wrong: dict[str, Any], tmp_path: Path) -> None:
    source = find_labelled_images(wrong["images"], wrong["labels"])
    done = calibrate(tmp_path / "colours.onnx", source, values("RGB", 255), run=tmp_path / "run")
    assert not [one for one in done.notes if WRONG in one]


def test_calibrate_says_nothing_where_the_labels_are_no_classes_of_the_model(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    text = (tmp_path / "labels.txt").read_text()
    (tmp_path / "labels.txt").write_text(re.sub(r" (\d+)$", r" 9\1", text, flags=re.MULTILINE))
    source = find_labelled_images(wrong["images"], wrong["labels"])
    done = calibrate(tmp_path / "colours.onnx", source, wrong["pipeline"], run=tmp_path / "run")
    assert not [one for one in done.notes if WRONG in one]


def _diagnosis(folder: Path, model: Path, pipeline: Pipeline, count: int = 80) -> tuple[str | None, int]:
    found = find_labelled_images(folder / "images", folder / "labels.txt").only(range(count))
    runs: list[int] = []
    file, cache = read_scored(model, None, None, None), ResultCache(folder / "cache")
    answers = partial(AnswersByPipeline, file, cache=cache, progress=lambda done, total: runs.append(done))
    said = diagnose_preprocessing(file, found, pipeline, answers)
    return said, len(runs)


def test_check_of_a_quantized_model_runs_nothing(wrong: dict[str, Any], tmp_path: Path) -> None:
    source = find_labelled_images(wrong["images"], wrong["labels"])
    done = calibrate(tmp_path / "colours.onnx", source, wrong["pipeline"], run=tmp_path / "run")
    assert _diagnosis(tmp_path, done.run / "int8.onnx", wrong["pipeline"]) == (None, 0)


def test_check_of_few_images_runs_nothing(wrong: dict[str, Any], tmp_path: Path) -> None:
    assert _diagnosis(tmp_path, tmp_path / "colours.onnx", wrong["pipeline"], count=39) == (None, 0)


def test_check_of_a_model_that_is_nearly_always_right_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = colours(tmp_path, values("RGB", 255), images=80)
    ran = counted(Classifier, "scores", monkeypatch)
    options: dict[str, Any] = {"images": tmp_path / "images", "labels": tmp_path / "labels.txt"}
    evaluate(model, pipeline=values("RGB", 255), **options)
    assert len(ran) == 80


def test_check_of_the_right_preprocessing_takes_one_look(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255), images=2 * MOST)
    said, runs = _diagnosis(tmp_path, model, values("RGB", 255), count=2 * MOST)
    assert said is None
    assert runs <= 6 * 32  # the given one and five others


def test_check_of_a_small_job_takes_a_few_images_of_each_alternative(tmp_path: Path) -> None:
    model = colours(tmp_path, values("RGB", 255, IMAGENET), images=100)
    said, runs = _diagnosis(tmp_path, model, values("RGB", 255, IMAGENET), count=100)
    assert said is None
    assert runs <= 6 * 8 + 2 * 92


def test_check_while_another_process_keeps_scores_works_without_them(wrong: dict[str, Any], tmp_path: Path) -> None:
    from quantkit.graph.model import model_digest
    from quantkit.runs.score_cache import cached_scores, scores_key

    model = tmp_path / "colours.onnx"
    file = read_scored(model, None, None, None)
    key = scores_key(model_digest(model), wrong["pipeline"], file.signature)
    with cached_scores(ResultCache(tmp_path / "cache"), [key], find_labelled_images(wrong["images"], wrong["labels"])):
        said, _ = _diagnosis(tmp_path, model, wrong["pipeline"])
    assert said is not None
    assert WRONG in said


def test_check_of_a_model_that_overflows_ends_quietly(wrong: dict[str, Any], tmp_path: Path) -> None:
    model = load(tmp_path / "colours.onnx")
    weights = next(one for one in model.graph.initializer if one.name == "w")
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * np.float32(3e36)).tobytes()
    save(model, tmp_path / "huge.onnx")
    said, runs = _diagnosis(tmp_path, tmp_path / "huge.onnx", values("RGB", 255))
    assert said is None
    assert runs
