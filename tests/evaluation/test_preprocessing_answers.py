"""Answers of a model under one preprocessing after the other: the right ones, and each computed once."""

from pathlib import Path

import numpy as np
import pytest
from colour_model import IMAGENET, colours, values

from quantkit.config.pipeline import Pipeline, Resize
from quantkit.data.folder import find_images, find_labelled_images
from quantkit.data.preprocess import preprocess
from quantkit.engine.classifier import read_classifier
from quantkit.engine.predict import Classifier
from quantkit.evaluation.predictions import log_probabilities
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline, random_sample
from quantkit.runs.cache import ResultCache

START = values("RGB", 255)
OTHERS = [
    values("BGR", 255),
    values("RGB", 1),
    values("RGB", 255, IMAGENET),
    Pipeline(ops=(START.decode, Resize(size=(8, 8), interpolation="nearest", antialias=False), START.ops[-1])),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return colours(tmp_path, START)


def test_answers_are_those_of_the_model_on_preprocessed_images(model: Path) -> None:
    source = find_labelled_images(model.parent / "images", model.parent / "labels.txt")
    file = read_classifier(model)
    answers, alone = AnswersByPipeline(file, source, threads=2), Classifier(file)
    for pipeline in (START, *OTHERS):
        found = answers(pipeline, 20)
        scores = np.concatenate([alone.scores(preprocess(item, pipeline)[None]) for item in source.items[:20]])
        assert np.array_equal(found.log_p, log_probabilities(scores))
        assert source.labels is not None
        assert np.array_equal(found.correct, scores.argmax(axis=1) == source.labels[:20])


def test_answers_are_computed_once_for_each_pipeline_and_image(model: Path) -> None:
    answers = AnswersByPipeline(read_classifier(model), find_images(model.parent / "images"))
    for count in (10, 5, 10, 25):
        answers(START, count)
        answers(OTHERS[0], count)
    assert answers.computed == 50


def test_answers_in_the_cache_are_not_computed_again(model: Path, tmp_path: Path) -> None:
    cache, source = ResultCache(tmp_path / "cache"), find_images(model.parent / "images")
    first = AnswersByPipeline(read_classifier(model), source, cache=cache)
    found = [first(pipeline, 30).log_p for pipeline in OTHERS]
    again = AnswersByPipeline(read_classifier(model), source, cache=cache)
    assert all(np.array_equal(again(pipeline, 30).log_p, one) for pipeline, one in zip(OTHERS, found, strict=True))
    assert (first.computed, again.computed) == (120, 0)
    again(OTHERS[0], 40)
    assert again.computed == 10


def test_answers_without_a_folder_for_the_cache_are_computed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    answers = AnswersByPipeline(
        read_classifier(model), find_images(model.parent / "images"), cache=ResultCache(tmp_path / "cache")
    )
    assert len(answers(START, 12)) == 12


def test_random_sample_is_the_same_each_time_and_holds_each_image_once(model: Path) -> None:
    source = find_labelled_images(model.parent / "images", model.parent / "labels.txt")
    sample = random_sample(source, 40)
    assert sample.names == random_sample(source, 40).names
    assert len(set(sample.names)) == 40
    assert sample.names != source.names[:40]
    labels = dict(zip(source.names, source.labels.tolist(), strict=True)) if source.labels is not None else {}
    assert sample.labels is not None
    assert [labels[name] for name in sample.names] == sample.labels.tolist()
