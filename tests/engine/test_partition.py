"""Where a graph may be cut, and what its pieces hold."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from quantkit.engine.partition import Piece, cut

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'
CHAIN = (
    HEADER
    + """chain (float[N, 8] x) => (float[N, 8] a, float[N, 8] c, float[N, 8] e) {
    a = Relu(x)
    b = Add(a, w)
    c = Mul(b, a)
    d = Neg(c)
    e = Add(d, w)
}"""
)


def parsed(text: str, weight: bool = True) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    if weight:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(8, dtype=np.float32), "w"))
    return model


def run(pieces: list[Piece], x: np.ndarray) -> dict[str, np.ndarray]:
    values = {"x": x}
    for piece in pieces:
        session = ort.InferenceSession(piece.model.SerializeToString(), providers=["CPUExecutionProvider"])
        computed = session.run(list(piece.outputs), {name: values[name] for name in piece.inputs})
        values |= dict(zip(piece.outputs, computed, strict=True))
    return values


def nodes(pieces: list[Piece]) -> list[list[str]]:
    return [[node.output[0] for node in piece.model.graph.node] for piece in pieces]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(7, [["a", "b"], ["c", "d"], ["e"]]), (16, [["a", "b", "c", "d"], ["e"]]), (24, [["a", "b", "c", "d", "e"]])],
)
def test_cut_piece_computes_as_many_elements_as_limit_allows(limit: int, expected: list[list[str]]) -> None:
    model = parsed(CHAIN)
    pieces = cut(model, {"a": 8, "c": 8, "e": 8}, limit)
    assert nodes(pieces) == expected
    x = np.array([[-1, 2, -3, 4, 5, -6, 7, 8]], np.float32)
    values = run(pieces, x)
    a = np.maximum(x, 0)
    c = (a + np.arange(8)) * a
    np.testing.assert_array_equal(values["a"], a)
    np.testing.assert_array_equal(values["c"], c)
    np.testing.assert_array_equal(values["e"], np.arange(8) - c)


def test_cut_piece_names_inputs_outputs_and_later_tensors() -> None:
    first, second, third = cut(parsed(CHAIN), {"a": 8, "c": 8, "e": 8}, 8)
    assert (first.inputs, first.outputs, first.later) == (("x",), ("a", "b"), frozenset("ab"))
    assert (second.inputs, second.outputs, second.later) == (("b", "a"), ("c", "d"), frozenset("d"))
    assert (third.inputs, third.outputs, third.later) == (("d",), ("e",), frozenset())
    assert [[tensor.name for tensor in piece.model.graph.initializer] for piece in (first, second, third)] == [
        ["w"],
        [],
        ["w"],
    ]


def test_cut_avoids_places_where_other_than_float32_crosses() -> None:
    text = (
        HEADER
        + """shapes (float[N, 8] x) => (float[N, 8] a, float[N, 8] b, float[M, K] c, float[M, K] d) {
        a = Relu(x)
        s = Shape(a)
        b = Neg(a)
        c = Reshape(b, s)
        d = Relu(c)
    }"""
    )
    pieces = cut(parsed(text, weight=False), dict.fromkeys("abcd", 8), 8)
    assert nodes(pieces) == [["a", "s", "b", "c"], ["d"]]


def test_cut_blocked_operators_are_known_as_float32() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft.nchwc": 1]>
    blocked (float[1, 16, 4, 4] x) => (float[1, 16, 4, 4] a, float[1, 16, 4, 4] b) {
        r = com.microsoft.nchwc.ReorderInput(x)
        a = Relu(r)
        p = com.microsoft.nchwc.GlobalAveragePool(a)
        q = Mul(a, p)
        b = Relu(q)
    }"""
    assert nodes(cut(parsed(text, weight=False), {"a": 256, "b": 256}, 256)) == [["r", "a", "p", "q"], ["b"]]


def test_cut_model_with_subgraphs_is_left_whole() -> None:
    model = parsed(
        HEADER
        + """branch (float[N, 8] x) => (float[N, 8] a, float[N, 8] b) {
        a = Relu(x)
        t = Constant <value = bool {1}> ()
        b = If (t) <
            then_branch = g1 () => (float[N, 8] y) { y = Add(a, w) },
            else_branch = g2 () => (float[N, 8] z) { z = Sub(a, w) }
        >
    }"""
    )
    (piece,) = cut(model, {"a": 8, "b": 8}, 8)
    values = run([piece], np.ones((1, 8), np.float32))
    np.testing.assert_array_equal(values["b"], np.arange(8)[None] + 1)
