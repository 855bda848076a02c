"""What the demo ships: real digits, honestly divided, and a network that is as accurate on them as is said."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from quantkit.config.pipeline import PRESETS
from quantkit.data.preprocess import preprocess
from quantkit.demo import digits as demo_digits
from quantkit.demo.digits import Digits, load_digits, unpack_digits
from quantkit.errors import OutputError
from quantkit.files import sha256_file

FOLDER = Path(demo_digits.__file__).parent
MODEL = FOLDER / demo_digits.MODEL


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return json.loads((FOLDER / "mini_iresnet.json").read_text())


def test_demo_parts_are_disjoint_complete_and_balanced(digits: Digits) -> None:
    parts = (digits.train, digits.calibration, digits.test)
    assert [len(part) for part in parts] == [900, 200, 697]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert set(Counter(digits.labels[digits.train].tolist()).values()) == {90}
    assert set(Counter(digits.labels[digits.calibration].tolist()).values()) == {20}


def test_demo_images_are_those_of_scikit_learn(digits: Digits) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn, where the digits come from")
    source = datasets.load_digits()
    np.testing.assert_array_equal(digits.labels, source.target)
    # The way back that the README states.
    np.testing.assert_array_equal((16 * digits.images.astype(int) + 127) // 255, source.images)


def test_demo_images_have_seventeen_grey_values(digits: Digits) -> None:
    assert np.unique(digits.images).tolist() == [(255 * value + 8) // 16 for value in range(17)]


def test_demo_model_is_what_its_json_says(digits: Digits, facts: dict[str, Any]) -> None:
    assert facts["onnx_sha256"] == sha256_file(MODEL)
    assert facts["digits_sha256"] == sha256_file(FOLDER / "digits.npz")
    assert MODEL.stat().st_size <= 300_000
    images = (digits.images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"input": images[:, np.newaxis]})[0]
    right = logits.argmax(1) == digits.labels
    parts = {"train": digits.train, "calibration": digits.calibration, "test": digits.test}
    found = {name: round(100.0 * float(right[part].mean()), 3) for name, part in parts.items()}
    assert found == facts["fp32_top1_percent"]
    assert 98.0 <= found["test"] < 100.0


def test_demo_model_has_batch_norms_without_preceding_convolution() -> None:
    graph = onnx.load(MODEL).graph
    kind_by_output = {output: node.op_type for node in graph.node for output in node.output}
    before = Counter(kind_by_output[node.input[0]] for node in graph.node if node.op_type == "BatchNormalization")
    assert before == {"Conv": 21, "Add": 6}


def test_demo_unpacked_files_give_the_training_input(digits: Digits, tmp_path: Path) -> None:
    folder = unpack_digits(tmp_path / "deep" / "digits")
    assert sorted(path.name for path in tmp_path.glob("deep/*")) == ["digits"]
    paths = sorted(folder.rglob("*.png"))
    assert len(paths) == 897
    assert {path.parent.parent.name for path in paths} == {"calibration", "test"}
    for path in paths[::50]:
        index = int(path.stem)
        assert digits.labels[index] == int(path.parent.name)
        assert index in getattr(digits, path.parent.parent.name)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), digits.images[index])
        expected = (digits.images[index].astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        np.testing.assert_array_equal(preprocess(path, PRESETS["digits"])[0], expected)


def test_demo_unpacking_again_does_nothing(tmp_path: Path) -> None:
    folder = unpack_digits(tmp_path / "digits")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert unpack_digits(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


def test_demo_unpacking_into_other_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"digits: cannot unpack the digits here .*; remove it, or choose another"):
        unpack_digits(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["digits", "mine.txt"]


def test_demo_failed_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"cannot unpack the digits here .no space left on device."):
        unpack_digits(tmp_path / "digits")
    assert not list(tmp_path.iterdir())
