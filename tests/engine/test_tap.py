import threading
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from models import tiny_model
from onnx.reference import ReferenceEvaluator

from quantkit.engine.tap import TappedSession
from quantkit.errors import ModelError
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.taps import observed_tensors

NAMES = ["input", "ar", "b", "sr", "p", "logits"]


def plain_values(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors by onnxruntime without any optimization."""
    model = onnx.load(path)
    for name in ("a", "ar", "b", "s", "sr", "p", "g"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    values = session.run(None, {"input": x})
    return {"input": x, **dict(zip([o.name for o in session.get_outputs()], values, strict=True))}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.mark.parametrize("ordered", [False, True])
def test_tapped_session_tensors_equal_plain_inference(model: Path, ordered: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = plain_values(model, x)
    logits, tapped = TappedSession(ir.load(model), NAMES, ordered=ordered).run(x)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    values = dict(tapped)
    assert set(values) == set(NAMES)
    for name, value in values.items():
        if ordered:
            np.testing.assert_allclose(value, expected[name], atol=1e-4)
        assert value.size == expected[name].size
        np.testing.assert_allclose(np.sort(value.ravel()), np.sort(expected[name].ravel()), atol=1e-4)


def test_tapped_session_in_partitions_gives_bits_of_whole_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    prepared = prepare(read_model(model)).model
    names = [str(value.name) for node in prepared.graph for value in node.outputs]
    whole = TappedSession(prepared, names)
    monkeypatch.setattr("quantkit.engine.tap.PIECE_ELEMENTS", 1)
    session = TappedSession(prepared, names)
    assert (len(whole.partitions), len(session.partitions)) == (1, 9)
    logits, tapped = session.run(x)
    expected_logits, expected = whole.run(x)
    np.testing.assert_array_equal(logits, expected_logits)
    values, expected_values = dict(tapped), dict(expected)
    streamed = {name: value.copy() for name, value in session.tensors(x)}
    assert set(values) == set(streamed) == set(names)
    for name in names:
        np.testing.assert_array_equal(values[name], expected_values[name])
        np.testing.assert_array_equal(streamed[name], expected_values[name])


def test_tapped_session_real_model_in_partitions_gives_bits_of_whole(
    shared_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(read_model(shared_assets / "squeezenet1_1.onnx"))
    names = observed_tensors(prepared.model).tapped
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    session = TappedSession(prepared.model, names)
    assert len(session.partitions) > 2
    monkeypatch.setattr("quantkit.engine.tap.PIECE_ELEMENTS", 1 << 40)
    whole = dict(TappedSession(prepared.model, names).tensors(x))
    for name, value in session.tensors(x):
        np.testing.assert_array_equal(value, whole.pop(name))
    assert not whole


def test_tapped_session_leaves_given_model_unchanged(model: Path) -> None:
    loaded = ir.load(model)
    TappedSession(loaded, NAMES)
    assert [value.name for value in loaded.graph.outputs] == ["logits"]


def test_tapped_session_is_run_by_several_threads(model: Path) -> None:
    session = TappedSession(ir.load(model), ["ar"])
    inputs = [np.full((1, 3, 8, 8), i, np.float32) for i in range(8)]
    alone = [session.run(x)[0] for x in inputs]
    together: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, session.run(inputs[i])[0])) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_array_equal(together[i], alone[i])


def test_tapped_session_unknown_tensor_is_named(model: Path) -> None:
    with pytest.raises(ModelError, match="there is no tensor 'nope'"):
        TappedSession(ir.load(model), ["nope"])


def test_tapped_session_taps_tensors_around_condition_with_layer() -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1, 3, 8, 8] input) => (float[1, 16, 8, 8] out) {
            a = Conv <pads = [1, 1, 1, 1]> (input, w1)
            ar = Relu(a)
            m = ReduceMean <keepdims = 0> (ar)
            c = Cast <to = 9> (m)
            b = If (c) <
                then_branch = yes () => (float[1, 16, 8, 8] y) { y = Conv (ar, w2) },
                else_branch = no () => (float[1, 16, 8, 8] n) { n = Identity (ar) }
            >
            out = Conv (b, w2)
        }
        """
    )
    rng = np.random.default_rng(3)
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 1, 1)}.items():
        weights = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    prepared = prepare(ir.from_proto(model)).model
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    [out] = ReferenceEvaluator(model).run(["out"], {"input": x})
    expected = np.asarray(out, np.float32)
    found = dict(TappedSession(prepared, ["ar", "out"]).tensors(x))
    np.testing.assert_allclose(found["out"], expected, atol=1e-4)
    assert found["ar"].min() == 0.0
