"""Preprocessing inside the graph: factor and offset are those that onnxruntime computes."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from quantkit.engine.session import open_session
from quantkit.graph.inner_preprocessing import InnerPreprocessing, inner_preprocessing

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def network(steps: list[tuple], dtype: int = TensorProto.FLOAT, shape: tuple = ("N", 3, 4, 4)) -> onnx.ModelProto:
    """Return a model with steps (operator, constant or None, attributes) behind its input ``x``, then a Relu."""
    nodes, constants, name = [], [], "x"
    for index, (kind, constant, attributes) in enumerate(steps):
        inputs = [name]
        if constant is not None:
            constants.append(numpy_helper.from_array(np.asarray(constant, np.float32), f"c{index}"))
            inputs = [f"c{index}", name] if attributes.pop("swapped", False) else [name, f"c{index}"]
        nodes.append(helper.make_node(kind, inputs, [f"v{index}"], **attributes))
        name = f"v{index}"
    nodes.append(helper.make_node("Relu", [name], ["y"]))
    given_input = helper.make_tensor_value_info("x", dtype, shape)
    wanted = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tap = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given_input], [wanted, tap] if steps else [wanted], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def found(steps: list[tuple], **options: Any) -> InnerPreprocessing | None:
    model = network(steps, **options)
    del model.graph.output[1:]
    return inner_preprocessing(ir.from_proto(model).graph.inputs[0])


def column(values: object) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def test_inner_preprocessing_plain_network_has_none() -> None:
    assert found([]) is None


def test_inner_preprocessing_bytes_with_imagenet_normalization() -> None:
    steps: list[Any] = [("Div", 255.0, {}), ("Sub", column(MEAN), {}), ("Div", column(STD), {})]
    inner = found(steps)
    assert inner.takes_bytes
    np.testing.assert_allclose(inner.mean, 255 * MEAN, atol=1e-4)
    np.testing.assert_allclose(inner.std, 255 * STD, atol=1e-4)
    assert inner.steps == ("Div 255", "Sub [0.485, 0.456, 0.406]", "Div [0.229, 0.224, 0.225]")


def test_inner_preprocessing_normalization_of_unit_range_does_not_take_bytes() -> None:
    inner = found([("Sub", column(MEAN), {}), ("Div", column(STD), {})])
    assert inner.normalizes
    assert not inner.takes_bytes
    np.testing.assert_allclose(inner.std, STD, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "takes_bytes"),
    [
        ([("Sub", column([103.94, 116.78, 123.68]), {})], True),
        ([("Mul", 1 / 127.5, {}), ("Sub", 1.0, {})], True),
        ([("Mul", 2.0, {}), ("Sub", 1.0, {})], False),
        ([("Sub", 0.5, {}), ("Div", 0.5, {})], False),
    ],
    ids=["caffe mean", "tensorflow", "unit range doubled", "shifted"],
)
def test_inner_preprocessing_tells_bytes_from_unit_range(steps: list[tuple], takes_bytes: bool) -> None:
    assert found(steps).takes_bytes == takes_bytes


def test_inner_preprocessing_cast_and_transpose_are_named() -> None:
    steps = [("Cast", None, {"to": TensorProto.FLOAT}), ("Transpose", None, {"perm": [0, 3, 1, 2]}), ("Div", 255.0, {})]
    inner = found(steps, dtype=TensorProto.UINT8, shape=("N", 4, 4, 3))
    assert inner.steps == ("Cast to float32", "Transpose [0, 3, 1, 2]", "Div 255")
    assert inner.takes_bytes


def test_inner_preprocessing_stops_at_a_large_constant_and_at_a_second_reader() -> None:
    assert found([("Mul", np.ones((1, 1, 4, 4)), {})]) is None
    model = network([("Div", 255.0, {})])
    model.graph.node.append(helper.make_node("Abs", ["x"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    assert inner_preprocessing(ir.from_proto(model).graph.inputs[0]) is None


VALUES = st.floats(0.25, 4.0, width=32).map(lambda value: round(value, 3))
CONSTANTS = st.one_of(VALUES, st.lists(VALUES, min_size=3, max_size=3).map(column))
STEPS = st.tuples(st.sampled_from(["Add", "Sub", "Mul", "Div"]), CONSTANTS, st.booleans()).filter(
    lambda step: step[0] != "Div" or not step[2]
)


@given(st.lists(STEPS, min_size=1, max_size=5))
def test_inner_preprocessing_factor_and_offset_are_what_onnxruntime_computes(chain: list[tuple]) -> None:
    steps = [(kind, constant, {"swapped": swapped}) for kind, constant, swapped in chain]
    model = network([(kind, constant, dict(options)) for kind, constant, options in steps])
    inner = found([(kind, constant, dict(options)) for kind, constant, options in steps])
    x = np.linspace(-2.0, 2.0, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    computed = open_session(model.SerializeToString()).run([model.graph.output[1].name], {"x": x})[0]
    factor, offset = (np.asarray(one).reshape(-1, 1, 1) for one in (inner.factor, inner.offset))
    expected = factor * x + offset
    # float32 rounds each of at most five steps; the largest number on the way bounds the error.
    span = 4.0**5 * 8
    assert np.abs(computed - expected).max() <= 8 * np.finfo(np.float32).eps * span


def test_inner_preprocessing_batch_norm_is_what_onnxruntime_computes() -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2.0, 3).astype(np.float32) for name in ("s", "b", "m", "v")}
    model = network([])
    norm = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"], epsilon=1e-3)
    model.graph.node[0].input[0] = "n"
    model.graph.node.insert(0, norm)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    inner = inner_preprocessing(ir.from_proto(model).graph.inputs[0])
    model.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, None))
    x = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    computed = open_session(model.SerializeToString()).run(["n"], {"x": x})[0]
    np.testing.assert_allclose(computed, column(inner.factor) * x + column(inner.offset), atol=1e-5)
