"""Which tensors of two models are computed alike, whatever they are called."""

import numpy as np
import pytest
from graph_runs import text_model

from quantkit.graph.analysis.value_numbering import Computations

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N, 2, 4, 4] input) => (float[N, 2, 4, 4] y) {
    a = Conv (input, w1)
    b = Relu (a)
    c = Conv (b, w2)
    d = Clip (c, lo)
    y = Add (d, b)
}
"""
WEIGHTS = {
    "w1": np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1),
    "w2": np.ones((2, 2, 1, 1), np.float32),
    "lo": np.float32(0.5),
}


def alike(text: str, other: str, **changed) -> set[str]:
    """Return the tensors of another model that are computed as some tensor of the first."""
    computations = Computations()
    known = set(computations.number(text_model(text, **WEIGHTS)).values())
    numbers = computations.number(text_model(other, **WEIGHTS | changed))
    return {name for name, number in numbers.items() if number in known}


def test_value_numbering_copy_is_alike_throughout() -> None:
    assert alike(TEXT, TEXT) == {"input", "a", "b", "c", "d", "y"}


def test_value_numbering_ignores_names() -> None:
    assert alike(TEXT, TEXT.replace("b", "other")) == {"input", "a", "other", "c", "d", "y"}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"w2": np.full((2, 2, 1, 1), 2, np.float32)}, {"input", "a", "b"}),
        ({"w1": np.ones((2, 2, 1, 1), np.float32)}, {"input"}),
        ({"lo": np.float32(0.25)}, {"input", "a", "b", "c"}),
    ],
)
def test_value_numbering_constant_changes_all_behind_it(changed, same: set[str]) -> None:
    assert alike(TEXT, TEXT, **changed) == same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Conv (b, w2)", "Conv <strides = [1, 1]> (b, w2)", {"input", "a", "b"}),
        ("Relu (a)", "Sigmoid (a)", {"input", "a"}),
        ("Add (d, b)", "Add (b, d)", {"input", "a", "b", "c", "d"}),
        ("Add (d, b)", "Add (c, b)", {"input", "a", "b", "c", "d"}),
    ],
)
def test_value_numbering_operator_changes_all_behind_it(old: str, new: str, same: set[str]) -> None:
    assert alike(TEXT, TEXT.replace(old, new)) == same


def test_value_numbering_outputs_of_one_node_differ() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] input) => (float[N, 2] y) {
        a, b = Split <axis = 1> (input, parts)
        y = Relu (a)
    }
    """
    weights = {"parts": np.array([2, 2], np.int64)}
    computations = Computations()
    computations.number(text_model(text, **weights))
    first = computations.number(text_model(text, **weights))
    second = computations.number(text_model(text.replace("Relu (a)", "Relu (b)"), **weights))
    assert first["a"] == second["a"] != first["b"]
    assert first["y"] != second["y"]
