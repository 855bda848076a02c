"""Operators between integer layers: whatever their attributes, the int8 model loads in onnxruntime and agrees.

The limits of onnxruntime's integer kernels in `quantkit.graph.analysis.roles` are checked here against onnxruntime.
"""

import itertools

import numpy as np
import pytest
from graph.builder import Builder, Outcome

POOLS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "dilations": [2, 2]},
]


def between(build, opset=19):
    """Return a model of three convolutions with the operator after the first and the second."""
    b = Builder()
    x = build(b, b.op("Relu", b.conv("image", 3, 8)))
    x = build(b, b.op("Relu", b.conv(x, 8, 8)))
    return b.model(b.head(b.conv(x, 8, 8), 8), opset=opset, ir_version=9)


def check(build, tmp_path, opset=19):
    outcome = Outcome(between(build, opset), tmp_path)
    assert outcome.layers == ["Conv", "Conv", "Conv", "Gemm"]
    assert outcome.prepared_db > 100
    assert outcome.int8_db > 20
    return outcome


@pytest.mark.parametrize("attributes", POOLS, ids=str)
@pytest.mark.parametrize("op_type", ["AveragePool", "MaxPool"])
def test_limits_pool_of_any_attributes_loads_and_agrees(op_type, attributes, tmp_path):
    outcome = check(lambda b, x: b.op(op_type, x, **attributes), tmp_path)
    how, why = outcome.row(op_type)
    if op_type == "AveragePool" and "dilations" in attributes:
        assert (how, why) == ("float", "it has dilations; onnxruntime's CPU provider has no integer kernel for it")
    else:
        assert how == ("int8" if op_type == "AveragePool" else "passed on")


SIZES = {
    "scales": lambda b: (["", b.const([1, 1, 2, 1.5])], {}),
    "sizes": lambda b: (["", "", b.const([2, 8, 20, 24], np.int64)], {}),
    "scales of axes": lambda b: (["", b.const([1.5, 2])], {"axes": [3, 2]}),
    "sizes of axes": lambda b: (["", "", b.const([24, 20], np.int64)], {"axes": [2, 3]}),
    "aspect ratio": lambda b: (
        ["", "", b.const([24, 20], np.int64)],
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
    ),
}


@pytest.mark.parametrize(
    ("mode", "transformation"),
    list(itertools.product(["nearest", "linear", "cubic"], ["half_pixel", "asymmetric", "align_corners"])),
)
@pytest.mark.parametrize("given", SIZES.values(), ids=SIZES.keys())
def test_limits_resize_of_any_mode_loads_and_agrees(mode, transformation, given, tmp_path):
    def build(b, x):
        operands, attributes = given(b)
        return b.op("Resize", x, *operands, mode=mode, coordinate_transformation_mode=transformation, **attributes)

    outcome = check(build, tmp_path)
    how, why = outcome.row("Resize")
    assert how == "passed on" or why


def test_limits_resize_with_axes_of_fixed_batch_passes_integers(tmp_path):
    outcome = check(lambda b, x: b.op("Resize", x, "", b.const([2.0, 2.0]), axes=[2, 3], mode="nearest"), tmp_path)
    assert outcome.row("Resize")[0] == "passed on"


def test_limits_resize_to_run_time_sizes_loads_in_every_mode(tmp_path):
    def build(mode):
        def add(b, x):
            leading = b.op("Slice", b.op("Shape", x), b.const([0], np.int64), b.const([2], np.int64))
            sizes = b.op("Concat", leading, b.const([20, 20], np.int64), axis=0)
            return b.op("Resize", x, "", "", sizes, mode=mode)

        return add

    for mode in ("nearest", "linear", "cubic"):
        check(build(mode), tmp_path)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("LeakyRelu", {"alpha": -0.2}),
        ("LeakyRelu", {"alpha": 1.5}),
        ("HardSigmoid", {"alpha": -0.2}),
        ("HardSigmoid", {"alpha": 0.2, "beta": 1.4}),
        ("HardSwish", {}),
        ("Gelu", {}),
        ("Mish", {}),
        ("LpPool", {"kernel_shape": [2, 2]}),
        ("LRN", {"size": 3}),
        ("MeanVarianceNormalization", {}),
        ("Softmax", {"axis": 1}),
    ],
)
def test_limits_activation_function_loads_and_agrees(op_type, attributes, tmp_path):
    check(lambda b, x: b.op(op_type, x, **attributes), tmp_path, opset=20)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize(
    "constant", [1.5, -0.5, np.linspace(0.5, 2, 8).reshape(8, 1, 1)], ids=["1.5", "-0.5", "channels"]
)
def test_limits_arithmetic_with_constant_loads_and_agrees(op_type, constant, tmp_path):
    check(lambda b, x: b.op(op_type, x, b.const(constant)), tmp_path)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_limits_min_and_max_by_number_become_clip(op_type, tmp_path):
    outcome = check(lambda b, x: b.op(op_type, b.const(0.7), x), tmp_path)
    assert outcome.ops().count("Clip") == 2
    assert op_type not in outcome.ops()
