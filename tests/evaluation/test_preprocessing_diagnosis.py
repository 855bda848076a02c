"""A model that is fed otherwise than it was trained: what it wants is found, and named only where that is certain."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from quantkit.config.pipeline import IMAGENET_MEAN, IMAGENET_STD, Decode, Normalize, Pipeline, ToTensor
from quantkit.data.preprocess import preprocess
from quantkit.engine.classifier import read_classifier
from quantkit.engine.predict import Classifier
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import evaluate

_MODEL = """
<ir_version: 8, opset_import: ["": 17]>
colours (float[N, 3, 8, 8] image) => (float[N, 16] logits) {
    g = GlobalAveragePool (image)
    f = Flatten (g)
    logits = Gemm (f, w, b)
}
"""


def colours(folder: Path, right: Pipeline) -> Path:
    """Write a model that tells sixteen colours apart, and pictures that it names right with one preprocessing."""
    rng = np.random.default_rng(3)
    made = onnx.parser.parse_model(_MODEL)
    for name, values in (("w", rng.standard_normal((3, 16))), ("b", 2 * rng.standard_normal(16))):
        made.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(made, folder / "colours.onnx")
    session = Classifier(read_classifier(folder / "colours.onnx"))
    (folder / "images").mkdir()
    lines = []
    for number in range(60):
        path = folder / "images" / f"{number:02d}.png"
        Image.fromarray(np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (8, 8, 3)).copy()).save(path)
        lines.append(f"{path.name} {session.scores(preprocess(path, right)[None]).argmax()}\n")
    (folder / "labels.txt").write_text("".join(lines))
    return folder / "colours.onnx"


def of(mode: str, divisor: float, *normalize: Normalize) -> Pipeline:
    return Pipeline(ops=(Decode(mode=mode), ToTensor(divisor=divisor), *normalize))


IMAGENET = Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.mark.parametrize(
    ("right", "given", "words"),
    [
        (
            of("RGB", 255),
            of("BGR", 255),
            r"with colours in the order RGB; set mode of decode RGB, divisor of to_tensor 255",
        ),
        (of("BGR", 255), of("RGB", 255), r"with colours in the order BGR; set mode of decode BGR"),
        (
            of("RGB", 255, IMAGENET),
            of("RGB", 1),
            r"with ImageNet's mean and std; set .* mean of normalize \[0\.485, ",
        ),
        (
            of("RGB", 1),
            of("RGB", 255, IMAGENET),
            r"with pixels from 0 to 255; set .* divisor of to_tensor 1, without norm",
        ),
    ],
    ids=["BGR given", "RGB given", "0..255 given", "normalized given"],
)
def test_what_the_model_wants_is_found_by_eval_and_compare(
    right: Pipeline, given: Pipeline, words: str, tmp_path: Path
) -> None:
    model = colours(tmp_path, right)
    options = {"images": tmp_path / "images", "labels": tmp_path / "labels.txt"}
    said = evaluate(model, pipeline=given, cache=tmp_path / "keep", **options).warnings  # type: ignore[arg-type]
    [doubt] = [warning for warning in said if warning.startswith("the preprocessing seems wrong")]
    assert re.search(words, doubt)
    compared = compare(
        [model, shutil.copyfile(model, tmp_path / "copy.onnx")], pipeline=given, drift_images=0, **options
    )
    assert f"colours: {doubt}" in compared.warnings
    fine = evaluate(model, pipeline=right, cache=tmp_path / "keep", **options)  # type: ignore[arg-type]
    assert not [warning for warning in fine.warnings if "preprocessing" in warning]


def test_nothing_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = colours(tmp_path, of("RGB", 255))
    asked: list[int] = []
    scores = Classifier.scores
    counted: Callable[..., object] = lambda self, x: (asked.append(1), scores(self, x))[1]  # noqa: E731
    monkeypatch.setattr(Classifier, "scores", counted)
    options = {"images": tmp_path / "images", "labels": tmp_path / "labels.txt", "cache": tmp_path / "cache"}
    first = evaluate(model, pipeline=of("BGR", 255), **options).warnings  # type: ignore[arg-type]
    before = len(asked)
    assert evaluate(model, pipeline=of("BGR", 255), **options).warnings == first  # type: ignore[arg-type]
    assert len(asked) == before


def test_a_poor_model_is_not_blamed_on_its_preprocessing(tmp_path: Path) -> None:
    model = colours(tmp_path, of("RGB", 255))
    rng = np.random.default_rng(0)
    (tmp_path / "labels.txt").write_text("".join(f"{number:02d}.png {rng.integers(16)}\n" for number in range(60)))
    said = evaluate(
        model,
        pipeline=of("RGB", 255),
        images=tmp_path / "images",
        labels=tmp_path / "labels.txt",
        cache=tmp_path / "keep",
    ).warnings
    assert not [warning for warning in said if "preprocessing seems" in warning]
