"""Which input is the image, in what layout and type, and which output holds the class scores."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import session
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError, UsageError
from quantkit.graph.fixed_inputs import fixed_values, parse_inputs, to_json
from quantkit.graph.image_input import image_input
from quantkit.graph.interface import from_core, to_core
from quantkit.graph.signature import read_signature

FLOAT, HALF, INT, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8
IMAGE = [("image", FLOAT, [1, 3, 8, 8])]
FREE = [("image", FLOAT, ["N", 3, 8, 8])]
SCORES = [("y", FLOAT, ["N", 10])]


def graph_of(inputs, outputs, nodes=(), weights=()):
    given, returned = ([helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs))
    tensors = [numpy_helper.from_array(content, name) for name, content in weights]
    graph = helper.make_graph(list(nodes), "g", given, returned, tensors)
    return ir.from_proto(helper.make_model(graph, ir_version=8))


def parsed(text, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    for name, content in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(content, np.float32), name))
    return ir.from_proto(model)


def scores_of(outputs, inputs=IMAGE, **options):
    return read_signature(graph_of(inputs, outputs), **options).scores


def test_image_input_nchw_names_every_axis():
    found = image_input(graph_of([("image", FLOAT, ["N", 3, 224, 192])], SCORES))
    assert (found.name, found.channels, found.height, found.width, found.batch) == ("image", 3, 224, 192, None)
    fixed = image_input(graph_of([("image", FLOAT, [1, 1, "H", "W"])], SCORES))
    assert (fixed.channels, fixed.height, fixed.width, fixed.batch) == (1, None, None, 1)


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        (["N", 224, 224, 3], "NHWC", 3),
        (["N", "H", "W", 3], "NHWC", 3),
        (["N", 3, "H", "W"], "NCHW", 3),
        ([1, 6, 3, 3], "NCHW", 6),  # six channels of 3 x 3, not 6 x 3 pixels
        ([1, 3, 3, 3], "NCHW", 3),
        ([1, 4, 4, 4], "NCHW", 4),
        ([1, 8, 8, 1], "NHWC", 1),
        ([1, 1, 8, 1], "NCHW", 1),
        ([1, 2, 32, 32], "NCHW", 2),
        ([1, 12, 32, 32], "NCHW", 12),
    ],
)
def test_image_layout_from_shape_alone(shape, layout, channels):
    found = image_input(graph_of([("image", FLOAT, shape)], SCORES))
    assert (found.layout, found.channels) == (layout, channels)


def test_image_layout_from_first_convolution_beats_shape():
    model = parsed("(float[1, 6, 8, 3] x) => (float[1, 4, 6, 1] y) { y = Conv (x, w) }", w=np.zeros((4, 6, 3, 3)))
    assert image_input(model).layout == "NCHW"


def test_image_layout_from_transpose_behind_arithmetic():
    nodes = "c = Sub (x, m)  t = Transpose <perm = [0, 3, 1, 2]> (c)  y = Relu (t)"
    text = f"(float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{ {nodes} }}"
    found = image_input(parsed(text, m=np.zeros(8)))
    assert (found.layout, found.channels, found.height, found.width) == ("NHWC", 8, 3, 8)


def test_image_channels_from_convolution_where_axis_is_dynamic():
    model = parsed(
        "(float[N, C, H, W] x) => (float[N, K, Y, X] y) { y = Conv <group = 2> (x, w) }", w=np.zeros((4, 3, 3, 3))
    )
    assert image_input(model).channels == 6


def test_image_channels_of_focus_stem_are_those_of_the_input():
    nodes = """
        a = Slice (x, even, end, axis, two)
        b = Slice (x, odd, end, axis, two)
        c = Concat <axis = 1> (a, b)
        y = Conv (c, w)
    """
    sizes = {"even": [0], "odd": [1], "end": [8], "axis": [3], "two": [2]}
    model = parsed(
        f"(float[N, 3, 8, 8] x) => (float[N, K, Y, X] y) {{ {nodes} }}",
        w=np.zeros((4, 6, 3, 3)),
        **{name: np.array(value, np.int64) for name, value in sizes.items()},
    )
    found = image_input(model)
    assert (found.layout, found.channels) == ("NCHW", 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no input at all: the model has no image input"),
        ([("tokens", INT, ["N", 128])], "has no image input"),
        ([("image", TensorProto.STRING, ["N", 3, 8, 8])], "has no image input"),
        (
            [("a", FLOAT, [1, 3, 8, 8]), ("b", FLOAT, [1, 3, 8, 8])],
            "several inputs could be the image; fix all others with --input",
        ),
        (
            [*IMAGE, ("keep", FLOAT, [])],
            r"input 'keep' \(not the image 'image'\) has no value; give --input keep=VALUE",
        ),
        ([("image", FLOAT, ["N", "C", 8, 8])], "number of channels of the image input is unknown; export"),
    ],
)
def test_image_input_refused_by_name(inputs, message):
    with pytest.raises(ModelError, match=message):
        image_input(graph_of(inputs, SCORES))


@pytest.mark.parametrize(
    ("shape", "classes", "is_matrix"),
    [
        ([10], 10, False),
        ([1, 10], 10, True),
        ([1, 1, 1, 10], 10, False),
        ([1, 10, 1, 1], 10, False),
        ([1, 1, 10], 10, False),
        ([10, 1], 10, False),
        ([1, 1], 1, True),
    ],
)
def test_scores_one_image_any_axis(shape, classes, is_matrix):
    found = scores_of([("y", FLOAT, shape)])
    assert (found.classes, found.is_matrix) == (classes, is_matrix)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        (["N", 10], 10),
        (["N", 1, 1, 10], 10),
        ([1, "N", 10], 10),
        (["N", 10, 1, 1], 10),
        (["N", 1, 10], 10),
        (["N", "C"], None),
    ],
)
def test_scores_dynamic_batch_any_axis(shape, classes):
    assert scores_of([("y", FLOAT, shape)], FREE).classes == classes


@pytest.mark.parametrize("shape", [[4, 10], [4, 1, 1, 10], [4, 10, 1, 1], [1, 4, 10]])
def test_scores_fixed_batch_any_axis(shape):
    assert scores_of([("y", FLOAT, shape)], [("image", FLOAT, [4, 3, 8, 8])]).classes == 10


def test_scores_behind_integers_and_feature_maps():
    outputs = [("pred", INT, [1]), ("maps", FLOAT, [1, 8, 7, 7]), ("y", FLOAT, [1, 10])]
    found = scores_of(outputs)
    assert (found.name, found.reason) == ("y", "the only one with one score per class")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("logits", "aux"), "logits"),
        (("aux_logits", "logits"), "logits"),
        (("output", "aux1", "aux2"), "output"),
        (("embedding", "prob"), "prob"),
        (("a", "class_scores", "b"), "class_scores"),
    ],
)
def test_scores_among_several_by_name(names, chosen):
    assert scores_of([(name, FLOAT, [1, 10]) for name in names]).name == chosen


def test_scores_several_alike_are_refused_by_name():
    outputs = [("left", FLOAT, [1, 10]), ("right", FLOAT, [1, 4])]
    with pytest.raises(ModelError, match="2 outputs could be the class scores: left, right; name one with --output"):
        scores_of(outputs)
    assert scores_of(outputs, output="right").classes == 4


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("maps", "'maps' cannot be the class scores: more than one axis"),
        ("pred", "not floating point"),
        ("z", "no output 'z'"),
    ],
)
def test_scores_wanted_output_must_be_scores(output, message):
    with pytest.raises(ModelError, match=message):
        scores_of([("maps", FLOAT, [1, 8, 7, 7]), ("pred", INT, [1]), ("y", FLOAT, [1, 10])], output=output)


def test_scores_none_is_refused_with_all_outputs():
    with pytest.raises(
        ModelError, match=r"maps \[N, 8, 7, 7\] float32 \(more than one axis .*no output looks like class"
    ):
        scores_of([("maps", FLOAT, ["N", 8, 7, 7])], FREE)


HEAD = "(float[N, 3, 1, 1] x) => ({outputs}) {{ f = Flatten (x)  {nodes} }}"


@pytest.mark.parametrize("order", [("prob", "y"), ("y", "prob")])
def test_scores_logits_are_taken_before_their_softmax(order):
    outputs = ", ".join(f"float[N, 10] {name}" for name in order)
    nodes = "y = Gemm (f, w)  t = Div (y, two)  prob = Softmax (t)"
    found = read_signature(parsed(HEAD.format(outputs=outputs, nodes=nodes), w=np.zeros((3, 10)), two=2.0)).scores
    assert (found.name, found.reason) == ("y", "the scores before the softmax")


def test_scores_are_computed_from_the_features():
    nodes = "e = Gemm (f, w)  r = Relu (e)  y = Gemm (r, v)"
    text = HEAD.format(outputs="float[N, 20] e, float[N, 10] y", nodes=nodes)
    found = read_signature(parsed(text, w=np.zeros((3, 20)), v=np.zeros((20, 10)))).scores
    assert (found.name, found.reason) == ("y", "computed from the others")


def test_scores_largest_of_others_are_not_taken():
    nodes = "y = Gemm (f, w)  values, places = TopK (y, k)"
    text = HEAD.format(outputs="float[N, 5] values, int64[N, 5] places, float[N, 10] y", nodes=nodes)
    model = parsed(text, w=np.zeros((3, 10)))
    model.graph.register_initializer(ir.Value(name="k", const_value=ir.tensor(np.array([5]), name="k")))
    assert read_signature(model).scores.name == "y"


def test_scores_auxiliary_head_branches_off_earlier():
    nodes = "a = Gemm (f, w)  y1 = Gemm (a, v)  b = Gemm (a, u)  c = Gemm (b, u)  y2 = Gemm (c, v)"
    text = HEAD.format(outputs="float[N, 10] y1, float[N, 10] y2", nodes=nodes)
    found = read_signature(parsed(text, w=np.zeros((3, 20)), u=np.zeros((20, 20)), v=np.zeros((20, 10)))).scores
    assert (found.name, found.reason) == ("y2", "the deepest; the others branch off earlier")


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=0.5", 0.5), ("a=true", True), ("a=False", False), ("a=-2e3", -2000.0)],
)
def test_input_option_numbers(text, value):
    assert parse_inputs([text]) == {"a": value}


@pytest.mark.parametrize(
    ("text", "message"), [("a", "not NAME=VALUE"), ("=1", "not NAME=VALUE"), ("a=b", "neither a number")]
)
def test_input_option_of_another_form_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_inputs([text])


def test_fixed_inputs_take_type_and_shape_of_the_input(tmp_path):
    inputs = [
        *IMAGE,
        ("keep", HALF, []),
        ("flag", TensorProto.BOOL, [1]),
        ("mask", FLOAT, ["N", 4]),
        ("idle", FLOAT, []),
    ]
    nodes = [helper.make_node("Identity", [name], [f"{name}.read"]) for name in ("image", "keep", "flag", "mask")]
    model = graph_of(inputs, SCORES, nodes)
    np.save(tmp_path / "mask.npy", np.arange(4))
    found = fixed_values(model, {"keep": 0.5, "flag": True, "mask": tmp_path / "mask.npy"})
    assert found["keep"] == np.float16(0.5)
    assert found["keep"].dtype == np.float16
    np.testing.assert_array_equal(found["flag"], [True])
    np.testing.assert_array_equal(found["mask"], np.arange(4, dtype=np.float32)[None])
    assert found["idle"] == 0  # nothing reads it
    again = fixed_values(model, to_json(found))
    assert all(again[name].dtype == found[name].dtype and (again[name] == found[name]).all() for name in found)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": 1}, "has no input 'z'; its inputs are image, mask"),
        ({"mask": np.zeros(3)}, r"'mask' has shape \[3\], and the input is mask \[N, 4\] float32"),
        ({"mask": "gone.npy"}, "'mask' cannot be read from gone.npy"),
        ({"mask": "text"}, "'mask' cannot be read from text"),
    ],
)
def test_fixed_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(UsageError, match=message):
        fixed_values(graph_of([*IMAGE, ("mask", FLOAT, ["N", 4])], SCORES), inputs)


def test_scores_beside_a_sequence_are_the_tensor():
    nodes = "f = Flatten (x)  all = SequenceConstruct (f)  y = Gemm (f, w)"
    text = f"(float[N, 3, 1, 1] x) => (seq(float[N, 3]) all, float[N, 10] y) {{ {nodes} }}"
    found = read_signature(parsed(text, w=np.zeros((3, 10))))
    assert (found.scores.name, found.outputs[0].fault) == ("y", "not a tensor")


def test_transposed_image_among_the_outputs_keeps_its_axes():
    model = parsed(
        """(float[N, 8, 8, 3] image) => (float[N, 3, 8, 8] turned, float[N, 5] logits) {
            turned = Transpose<perm = [0, 3, 1, 2]>(image)  layer = Conv(turned, w)
            pooled = GlobalAveragePool(layer)  logits = Flatten(pooled)
        }""",
        w=np.random.default_rng(0).normal(size=(5, 3, 3, 3)),
    )
    signature = read_signature(model)
    assert signature.image.layout == "NHWC"
    written, images = (
        from_core(to_core(model, signature), signature),
        np.random.default_rng(1).normal(size=(2, 8, 8, 3)),
    )
    feeds = {"image": images.astype(np.float32)}
    before, after = (session(one).run(None, feeds) for one in (model, written))
    assert np.array_equal(after[0], before[0])
    assert np.allclose(after[1], before[1], atol=1e-5)
