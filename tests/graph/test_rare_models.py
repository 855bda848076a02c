"""Legal but rare models: what is prepared computes what onnxruntime makes of the file, and the int8 model is near."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph.builder import FLOAT, Builder, Outcome
from onnx import helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.prepare import prepare
from quantkit.targets import ORT, TENSORRT, VACC


def integers(*values):
    return np.array(values, np.int64)


def gemm_with_a_bias_for_each_row(b):
    pooled = b.op("Flatten", b.op("GlobalAveragePool", b.conv("image", 3, 8)))
    column = b.const(np.arange(4.0).reshape(4, 1))
    result = b.op("Gemm", pooled, b.const(b.weights(4, 8)), column, transB=1, alpha=2.0)
    return b.model(b.op("Mul", result, b.const(np.arange(1.0, 5.0))), image=(4, 3, 8, 8))


def product_with_a_number_of_more_axes(b):
    pooled = b.op("Flatten", b.op("GlobalAveragePool", b.conv("image", 3, 8)))
    hidden = b.op("Relu", b.op("Gemm", pooled, b.const(b.weights(8, 8)), b.const(np.zeros(8)), transB=1))
    scaled = b.op("Mul", hidden, b.const(np.full((1, 1, 1, 1), 2.0)))
    return b.model(b.op("MatMul", scaled, b.const(b.weights(8, 5))))


def shape_with_another_axis(b):
    source = b.conv("image", 3, 4)
    row = b.op("Unsqueeze", b.op("Shape", source), b.const([0], np.int64))
    total = b.op("ReduceSum", b.op("Cast", row, to=FLOAT), b.const([1], np.int64), keepdims=0)
    return b.model(b.op("Div", b.head(source, 4), total), image=(2, 3, 16, 16))


def shapes_side_by_side(b):
    source = b.conv("image", 3, 4)
    column = b.op("Unsqueeze", b.op("Shape", source), b.const([1], np.int64))
    both = b.op("Gather", b.op("Concat", column, column, axis=1), b.const([2], np.int64))
    total = b.op("ReduceSum", b.op("Cast", both, to=FLOAT), b.const([0, 1], np.int64), keepdims=0)
    return b.model(b.op("Div", b.head(source, 4), total), image=(2, 3, 16, 16))


def division_by_a_denormal(b):
    small = b.op("Mul", b.op("Tanh", b.conv("image", 3, 4)), b.const(np.float32(1e-38)))
    return b.model(b.head(b.conv(b.op("Div", small, b.const(np.float32(1e-39))), 4, 8), 8))


def sum_over_all_axes_of_a_channels_last_tensor(b):
    last = b.op("Transpose", b.conv("image", 3, 4), perm=[0, 2, 3, 1])
    total = b.op("ReduceSum", last, b.const([], np.int64), keepdims=0)
    first = b.op("Transpose", b.op("Add", last, total), perm=[0, 3, 1, 2])
    return b.model(b.head(b.conv(first, 4, 8), 8))


def region_beyond_the_image(b):
    region, size = b.const([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5]), b.const([1, 4, 20, 20], np.int64)
    resized = b.op(
        "Resize",
        b.conv("image", 3, 4),
        region,
        "",
        size,
        mode="nearest",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.0,
    )
    return b.model(b.head(b.conv(resized, 4, 8), 8), image=(1, 3, 16, 16))


def average(b, pads, size=3):
    pooled = b.op(
        "AveragePool",
        b.op("Relu", b.conv("image", 3, 4)),
        kernel_shape=[size, size],
        strides=[size, size],
        pads=pads,
        ceil_mode=1,
        count_include_pad=1,
    )
    return b.model(b.head(b.conv(pooled, 4, 8, size=1), 8))


def average_beyond_the_image(b):
    return average(b, [0, 0, 0, 0])


def average_beyond_the_padding(b):
    return average(b, [1, 1, 0, 0])


@pytest.mark.parametrize("target", [ORT, VACC, TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "build",
    [
        gemm_with_a_bias_for_each_row,
        product_with_a_number_of_more_axes,
        shape_with_another_axis,
        shapes_side_by_side,
        division_by_a_denormal,
        sum_over_all_axes_of_a_channels_last_tensor,
        region_beyond_the_image,
        average_beyond_the_image,
        average_beyond_the_padding,
    ],
    ids=lambda build: build.__name__,
)
def test_prepare_rare_operand_keeps_result(build, target, tmp_path):
    outcome = Outcome(build(Builder(seed=3)), tmp_path, target=target)
    assert outcome.prepared_db > 100
    assert outcome.int8_db > 30


def test_quantize_average_pool_without_padding_stays_int8(tmp_path):
    assert Outcome(average_beyond_the_image(Builder(seed=3)), tmp_path).row("AveragePool") == ("int8", "")


def test_prepare_padded_weight_of_conv_keeps_size():
    b = Builder(seed=3)
    part = b.op("Slice", b.conv("image", 3, 4), b.const([0, 0, 0, 0], np.int64), b.const([1, 4, 3, 3], np.int64))
    kernel = b.op("Pad", part, b.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    proto = b.model(b.op("Conv", b.conv("image", 3, 4), kernel), image=(1, 3, 16, 16))
    assert "Pad" in [node.op_type for node in prepare(ir.from_proto(proto)).model.graph]


def test_prepare_transpose_of_unknown_rank_is_kept():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[2, 3, 4, 5] x, bool[4] kept) => (float[M, K] y) {
            sizes = Shape(x)
            some = Compress(sizes, kept)
            free = Reshape(x, some)
            turned = Transpose(free)
            there = Transpose<perm = [0, 2, 3, 1]>(x)
            positive = Relu(there)
            back = Transpose<perm = [0, 3, 1, 2]>(positive)
            flat = Flatten(back)
            y = MatMul(turned, flat)
        }"""
    )
    assert [node.op_type for node in prepare(ir.from_proto(model)).model.graph].count("Transpose") == 1


def parsed(text, **constants):
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(content), name) for name, content in constants.items()
    )
    return model


def weights(*shape):
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return np.random.default_rng(len(shape)).normal(0, scale, shape).astype(np.float32)


BRANCHES = {
    "linear layer": (
        "y = MatMul(f, w)",
        "float[2, 4]",
        "a = Add(y, bias)",
        "d = Identity(y)",
        "logits = Identity(o)",
    ),
    "transposition": (
        "t = Transpose<perm = [0, 2, 3, 1]>(r)",
        "float[2, 8, 8, 4]",
        "a = Add(t, bias)",
        "d = Identity(t)",
        "back = Transpose<perm = [0, 3, 1, 2]>(o) c2 = Conv(back, w2) g2 = GlobalAveragePool(c2) logits = Flatten(g2)",
    ),
    "padding": (
        "p = Pad(r, pads)",
        "float[2, 4, 8, 8]",
        "a = Conv(p, w3)",
        "d = Identity(r)",
        "c2 = Conv(o, w2) g2 = GlobalAveragePool(c2) logits = Flatten(g2)",
    ),
}


@pytest.mark.parametrize("target", [ORT, VACC, TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize("case", BRANCHES)
def test_prepare_value_read_only_inside_condition_keeps_result(case, target, tmp_path):
    before, kind, yes, no, after = BRANCHES[case]
    model = parsed(
        f"""<ir_version: 8, opset_import: ["": 17]>
        agraph (float[2, 3, 8, 8] image) => (float[2, 4] logits) {{
            c = Conv<pads = [1, 1, 1, 1]>(image, w1) r = Relu(c)
            g = GlobalAveragePool(r) f = Flatten(g)
            {before}
            total = ReduceSum<keepdims = 0>(f) above = Greater(total, least)
            o = If(above) <then_branch = yes () => ({kind} a) {{ {yes} }}, else_branch = no () => ({kind} d) {{ {no} }}>
            {after}
        }}""",
        w1=weights(4, 3, 3, 3),
        w=weights(4, 4),
        w2=weights(4, 4, 1, 1),
        w3=weights(4, 4, 3, 3),
        bias=weights(4),
        least=np.float32(-1000),
        pads=integers(0, 0, 1, 1, 0, 0, 1, 1),
    )
    outcome = Outcome(model, tmp_path, target=target)
    assert outcome.prepared_db > 100
    assert outcome.int8_db > 30


OLD_RESIZES = [
    (8, "Upsample<mode = 'nearest', scales = [1.0, 1.0, 1.6, 1.6]>(c)"),
    (8, "Upsample<mode = 'linear', scales = [1.0, 1.0, 2.0, 2.0]>(c)"),
    (9, "Upsample<mode = 'nearest'>(c, larger)"),
    (9, "Upsample<mode = 'linear'>(c, larger)"),
    (9, "Upsample<mode = 'nearest'>(c, computed)"),
    (10, "Resize<mode = 'nearest'>(c, computed)"),
    (10, "Resize<mode = 'nearest'>(c, larger)"),
    (10, "Resize<mode = 'nearest'>(c, smaller)"),
    (10, "Resize<mode = 'linear'>(c, larger)"),
    (10, "Resize<mode = 'linear'>(c, smaller)"),
]


def old_resize(opset, node):
    return parsed(
        f"""<ir_version: 7, opset_import: ["": {opset}]>
        agraph (float[2, 3, 16, 16] image) => (float[2, 4] logits) {{
            c = Conv<pads = [1, 1, 1, 1]>(image, w1)
            computed = Mul(larger, ones)
            u = {node.replace("'", chr(34))}
            c2 = Conv(u, w2) g = GlobalAveragePool(c2) logits = Flatten(g)
        }}""",
        w1=weights(4, 3, 3, 3),
        w2=weights(4, 4, 3, 3),
        larger=np.array([1, 1, 1.6, 1.6], np.float32),
        smaller=np.array([1, 1, 0.6, 0.45], np.float32),
        mixed=np.array([1, 1, 1.6, 0.6], np.float32),
        ones=np.ones(4, np.float32),
    )


@pytest.mark.parametrize(("opset", "node"), OLD_RESIZES)
def test_prepare_resize_of_old_opset_reads_same_pixels(opset, node, tmp_path):
    assert Outcome(old_resize(opset, node), tmp_path).prepared_db > 100


def test_prepare_old_nearest_resize_in_both_directions_is_refused():
    model = ir.from_proto(old_resize(10, "Resize<mode = 'nearest'>(c, mixed)"))
    with pytest.raises(ModelError, match="enlarges one axis and shrinks another"):
        prepare(model)


@pytest.mark.parametrize("smaller", [np.array([1, 1, 0.6, 0.45]), np.array([1, 1, 0.3, 0.7])])
@pytest.mark.parametrize("inner", [False, True], ids=["outer scales", "inner scales"])
def test_prepare_old_nearest_resize_in_condition_reads_same_pixels(smaller, inner, tmp_path):
    scales = numpy_helper.from_array(smaller.astype(np.float32), "scales")

    def branch(name):
        constants = [helper.make_node("Constant", [], [f"{name}_scales"], value=scales)] if inner else []
        resize = helper.make_node("Resize", ["c", f"{name}_scales" if inner else "scales"], [name], mode="nearest")
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return helper.make_graph([*constants, resize], name, [], [value])

    model = old_resize(10, "Resize<mode = 'nearest'>(c, smaller)")
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    if not inner:
        model.graph.initializer.append(scales)
    place = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Resize")
    choose = helper.make_node("If", ["always"], ["u"], then_branch=branch("one"), else_branch=branch("two"))
    model.graph.node[place].CopyFrom(choose)
    assert Outcome(model, tmp_path).prepared_db > 100
