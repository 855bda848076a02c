"""The sets of operator names, against the operators there are."""

import onnx
import pytest

from quantkit.graph import model
from quantkit.graph.analysis import bounds, ops

SETS = {name: value for name, value in vars(ops).items() if isinstance(value, frozenset)}
CONTRIB = {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool", "QGemm"}


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_ops_every_name_is_an_onnx_operator(names):
    """A missing comma between two strings makes one name of them."""
    assert names
    assert all(onnx.defs.has(name) for name in names)


def test_ops_names_with_reason_or_bounds_are_onnx_operators():
    assert all(onnx.defs.has(name) for name in ops.FLOAT_REASONS)
    assert all(onnx.defs.has(name) for name in bounds._OF_OPERATOR)


def test_ops_quantized_are_those_of_onnx_and_onnxruntime():
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    told = {name for name in standard if "Quantize" in name or name.startswith("QLinear") or name.endswith("Integer")}
    assert told <= model.QUANTIZED_OPS
    assert CONTRIB <= model.QUANTIZED_OPS


def test_ops_roles_do_not_overlap():
    parts = [ops.LAYERS, ops.ELEMENTWISE, ops.UNARY, ops.SATURATING, ops.ACTIVATIONS, ops.PASS_THROUGH]
    assert sum(map(len, parts)) == len(frozenset().union(*parts))
    assert ops.FLOAT_OUTPUT <= ops.LAYERS
    assert ops.UNARY_WITHOUT_TABLE <= ops.UNARY
    assert ops.WRITTEN_ON_INTEGERS <= ops.PASS_THROUGH
    assert frozenset(ops.FLOAT_REASONS).isdisjoint(frozenset().union(*parts))
