"""What a plan says: nodes skipped, tensors observed and shared, and the reason for everything in float."""

import numpy as np
import pytest
from graph_runs import minmax_ranges, quantize, run, sqnr_db, text_model

from quantkit.errors import ModelError, UsageError
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.graph.qdq.write import activation_parameters, write_qdq
from quantkit.targets import ORT, TENSORRT, VACC

RNG = np.random.default_rng(14)


def f32(*shape, scale=1.0):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


NETWORK = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 3, 12, 12] image) => (float[N, 10] logits) {
  stem = Conv (image, w0, b0)
  stem_relu = Relu (stem)
  left = Conv (stem_relu, w1)
  left_relu = Relu (left)
  right = Conv <pads = [1, 1, 1, 1]> (stem_relu, w3)
  right_relu = Relu (right)
  joined = Concat <axis = 1> (left_relu, right_relu)
  pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (joined)
  main = Conv (pooled, w2)
  main2 = Conv (pooled, w2b)
  total = Add (main, main2)
  total_relu = Relu (total)
  mean = GlobalAveragePool (total_relu)
  flat = Flatten (mean)
  logits = Gemm <transB = 1> (flat, wf, bf)
}"""


def network():
    return text_model(
        NETWORK,
        w0=f32(8, 3, 3, 3, scale=0.4),
        b0=f32(8),
        w1=f32(8, 8, 1, 1, scale=0.4),
        w3=f32(8, 8, 3, 3, scale=0.2),
        w2=f32(12, 16, 1, 1, scale=0.4),
        w2b=f32(12, 16, 1, 1, scale=0.4),
        wf=f32(10, 12),
        bf=f32(10),
    )


X = f32(16, 3, 12, 12)


def test_plan_observes_only_what_is_computed():
    """Neither what passes a pool or a concatenation, nor what a ReLU hides, nor the class scores."""
    made = plan(prepare(network()).model, ORT)
    assert made.observed == ("image", "stem_relu", "left_relu", "right_relu", "main", "main2", "total_relu", "mean")


def test_plan_concatenation_and_pool_share_range_of_branches():
    made = plan(prepare(network()).model, ORT)
    group = made.group_of["joined"]
    assert group.tensors == ("left_relu", "right_relu", "joined", "pooled")
    assert group.observed == ("left_relu", "right_relu")
    prepared = prepare(network()).model
    ranges = minmax_ranges(prepared, made.observed, X)
    parameters = activation_parameters(plan(prepared, ORT), ranges)
    top = max(ranges["left_relu"].hi, ranges["right_relu"].hi)
    assert float(parameters["pooled"].scale) == pytest.approx(top / 255, rel=1e-6)


def test_plan_input_of_several_concatenations_keeps_own_range():
    """In a dense block later features reach further, and would take the levels of all earlier ones."""
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] scores) {
          f0 = Conv (image, w0)
          f1 = Conv (f0, w1)
          two = Concat <axis = 1> (f0, f1)
          f2 = Conv (two, w2)
          three = Concat <axis = 1> (f0, f1, f2)
          scores = Conv (three, w3)
        }""",
        w0=f32(4, 3, 1, 1),
        w1=f32(4, 4, 1, 1),
        w2=f32(4, 8, 1, 1, scale=20.0),
        w3=f32(4, 12, 1, 1),
    )
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    groups = {group.tensors: group.observed for group in made.groups}
    assert groups[("f0",)] == ("f0",)
    assert groups[("f1",)] == ("f1",)
    assert groups[("two",)] == ("f0", "f1")
    assert groups[("f2", "three")] == ("f2", "f0", "f1")
    parameters = activation_parameters(made, minmax_ranges(prepared, made.observed, f32(4, 3, 8, 8)))
    assert parameters["three"].scale > 5 * parameters["two"].scale


def test_plan_layers_have_convolution_indices():
    made = plan(prepare(network()).model, ORT)
    assert made.conv_index == {"stem": 0, "left": 1, "right": 2, "main": 3, "main2": 4}
    assert [(layer.node, layer.op_type, layer.channel_axis) for layer in made.layers][-1] == ("logits", "Gemm", 0)
    assert made.absorbed == {"stem_relu": "stem", "left_relu": "left", "right_relu": "right", "total_relu": "total"}


def test_plan_vacc_quantizes_only_what_layers_read():
    made = plan(prepare(network()).model, VACC)
    assert made.observed == ("image", "stem_relu", "pooled", "flat")
    assert {group.tensors for group in made.groups} == {(name,) for name in made.observed}
    assert made.absorbed == {}


def test_plan_tensorrt_adds_one_branch_in_accumulators():
    made = plan(prepare(network()).model, TENSORRT)
    assert "main2" in made.observed
    assert "main" not in made.observed


@pytest.mark.parametrize(
    ("options", "skipped"),
    [
        (PlanOptions(skip=("left",)), {"left"}),
        (PlanOptions(skip=("main*",)), {"main", "main2"}),
        (PlanOptions(skip=("re:(left|right)",)), {"left", "right"}),
        (PlanOptions(skip_convs=(0, 3)), {"stem", "main"}),
        (PlanOptions(skip=("stem",), skip_convs=(1,)), {"stem", "left"}),
    ],
    ids=["name", "glob", "regex", "conv index", "both"],
)
@pytest.mark.parametrize("target", [ORT, VACC, TENSORRT], ids=lambda target: target.name)
def test_plan_skipped_layers_stay_in_float(options, skipped, target):
    model = network()
    int8, made, _ = quantize(model, X, target=target, options=options)
    assert skipped.isdisjoint(layer.node for layer in made.layers)
    weights = {name for name in int8.graph.initializers if name.startswith("w") and "." not in name}
    assert len(weights) == len(skipped)
    assert sqnr_db(run(model, X), run(int8, X)) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PlanOptions(skip=("steem",)), r"no node of the model matches 'steem'; the nearest names are 'stem'"),
        (PlanOptions(skip=("layer4.*",)), r"no node of the model matches 'layer4\.\*'"),
        (PlanOptions(skip=("re:(",)), r"'re:\(' is not a regular expression"),
        (PlanOptions(skip_convs=(5,)), r"there is no conv 5; the model's are 0 to 4"),
        (PlanOptions(skip_convs=(-1,)), r"there is no conv -1"),
    ],
)
def test_plan_rule_that_matches_nothing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        plan(prepare(network()).model, ORT, options)


def test_plan_without_quantized_operator_is_refused():
    everything = PlanOptions(skip=("*",))
    with pytest.raises(ModelError, match="no operator is left to quantize"):
        plan(prepare(network()).model, ORT, everything)


def test_plan_explain_has_row_for_all_and_reason_for_float():
    prepared = prepare(network()).model
    rows = plan(prepared, ORT, PlanOptions(skip=("right",))).explain()
    operators = [row for row in rows if row.kind == "operator"]
    assert [row.name for row in operators] == [node.name for node in prepared.graph]
    tensors = [row.name for row in rows if row.kind == "tensor"]
    assert tensors == ["image", *(value.name for node in prepared.graph for value in node.outputs)]
    assert all(row.why for row in rows if row.how in ("float", "absorbed"))
    by_name = {(row.kind, row.name): row for row in rows}
    assert by_name["operator", "right"].why == "left out by the rule 'right'"
    assert by_name["operator", "left_relu"].how == "absorbed"
    assert by_name["tensor", "left"].how == "absorbed"
    assert by_name["operator", "pooled"].how == "passed on"
    assert by_name["tensor", "pooled"].why == "range of left_relu, right_relu"


def test_plan_class_scores_are_not_rounded():
    """Eight bits over the range of the scores would tie classes that fp32 tells apart."""
    int8, made, _ = quantize(network(), X)
    assert "logits" not in made.group_of
    assert len(np.unique(run(int8, X))) > 100


def test_write_qdq_missing_range_is_named():
    prepared = prepare(network()).model
    made = plan(prepared, ORT)
    ranges = minmax_ranges(prepared, made.observed, X)
    del ranges["stem_relu"], ranges["mean"]
    with pytest.raises(ModelError, match="stem_relu, mean: 2 tensors have no range; calibrate this model again"):
        write_qdq(prepared, made, ranges)


def test_plan_skipped_moving_operator_needs_no_new_statistics():
    """The concatenation then leaves the integers; the range of its result is still that of its inputs."""
    model = network()
    prepared = prepare(model).model
    ranges = minmax_ranges(prepared, plan(prepared, ORT).observed, X)
    other = plan(prepared, ORT, PlanOptions(skip=("joined", "pooled")))
    assert "pooled" in other.observed
    assert other.sharing.missing(ranges) == ()
    assert sqnr_db(run(model, X), run(write_qdq(prepared, other, ranges), X)) > 25


def test_plan_nodes_inside_a_condition_stay_float_and_are_listed():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 12, 12] image) => (float[N, 4] logits) {
          c = Conv (image, w)
          t = If (yes) <
            then_branch = t_branch () => (float[N, 4, 10, 10] a) { a = Relu (c) },
            else_branch = e_branch () => (float[N, 4, 10, 10] b) { b = Identity (c) }>
          d = Conv (t, v)
          p = GlobalAveragePool (d)
          logits = Flatten (p)
        }""",
        w=f32(4, 3, 3, 3),
        v=f32(4, 4, 1, 1),
        yes=np.array(True),
    )
    int8, made, _ = quantize(model, X)
    (row,) = [row for row in made.explain() if row.kind == "operator" and row.name == "t"]
    assert (row.how, row.why) == ("float", "nodes inside a condition are not quantized")
    assert sqnr_db(run(model, X), run(int8, X)) > 25
