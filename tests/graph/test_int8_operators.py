"""Every operator between two convolutions: the kernel that runs it, how close the result is, and the arithmetic."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from graph_runs import optimized_ops, quantize, run, sqnr_db, text_model

from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions
from quantkit.targets import ORT, TENSORRT, VACC

RNG = np.random.default_rng(10)
FLOAT_MATH = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def f32(*shape, scale=1.0):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """An operator from ``a`` (8 channels, 12 x 12, also read as ``b``) to ``z``.

    Attributes:
        body: its nodes in ONNX text form.
        channels: of ``z``.
        kernel: what must be in the graph that onnxruntime runs.
        floats: what may be left of it in float.
        floor_db: SQNR that the class scores must keep.
        constants: its initializers.
        opset: of the model.
    """

    body: str
    kernel: str | None = None
    channels: int = 8
    floats: tuple[str, ...] = ()
    floor_db: float = 28.0
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 18


CASES = {
    "relu": Case("z = Relu (a)", "QLinearConv"),
    "relu6": Case(
        "z = Clip (a, zero, six)",
        "QLinearConv",
        constants={"zero": np.asarray(0, np.float32), "six": np.asarray(6, np.float32)},
    ),
    "relu on a sum": Case("s = Add (a, b) z = Relu (s)", "QLinearAdd"),
    "relu beside a shortcut": Case("r = Relu (a) z = Add (a, r)", "QLinearAdd"),
    "relu6 beside a shortcut": Case(
        "r = Clip (a, zero, six) z = Add (a, r)",
        "QLinearAdd",
        constants={"zero": np.asarray(0, np.float32), "six": np.asarray(6, np.float32)},
    ),
    "leaky relu": Case("z = LeakyRelu <alpha = 0.1> (a)", "QLinearLeakyRelu"),
    "add": Case("z = Add (a, b)", "QLinearAdd"),
    "sub": Case("z = Sub (a, shift)", "QLinearAdd", constants={"shift": f32(12, 12)}),
    "mul": Case("z = Mul (a, b)", "QLinearMul"),
    "squeeze and excite": Case(
        "p = GlobalAveragePool (a) c = Conv <kernel_shape = [1, 1]> (p, w1) s = Sigmoid (c) z = Mul (a, s)",
        "QLinearSigmoid",
        constants={"w1": f32(8, 8, 1, 1)},
    ),
    "hard squeeze and excite": Case(
        """p = ReduceMean <keepdims = 1> (a, axes) c = Conv <kernel_shape = [1, 1]> (p, w1)
           s = HardSigmoid (c) z = Mul (s, a)""",
        "QLinearGlobalAveragePool",
        constants={"w1": f32(8, 8, 1, 1), "axes": ints(2, 3)},
    ),
    "hard swish": Case("z = HardSwish (a)", "QLinearMul"),
    "hard swish of old exporters": Case(
        "p = Add (a, three) c = Clip (p, zero, six) m = Mul (a, c) z = Div (m, six)",
        "QLinearMul",
        constants={
            "zero": np.asarray(0, np.float32),
            "three": np.asarray(3, np.float32),
            "six": np.asarray(6, np.float32),
        },
    ),
    "silu": Case("s = Sigmoid (a) z = Mul (a, s)", "QLinearSigmoid"),
    "gelu": Case("z = Gelu (a)", opset=20, floats=("Gelu",)),
    "gelu of erf, behind a conv": Case(
        "d = Div (a, root) e = Erf (d) t = Add (e, one) h = Mul (half, t) z = Mul (a, h)",
        floats=("Div", "Erf", "Add", "Mul"),
        constants={
            "root": np.asarray(2**0.5, np.float32),
            "one": np.asarray(1, np.float32),
            "half": np.asarray(0.5, np.float32),
        },
    ),
    "gelu of erf, behind a linear layer": Case(
        """t = Transpose <perm = [0, 2, 3, 1]> (a) m = MatMul (t, w1) l = Add (m, b1)
           d = Div (l, root) e = Erf (d) u = Add (e, one) h = Mul (half, u) g0 = Mul (l, h)
           z = Transpose <perm = [0, 3, 1, 2]> (g0)""",
        floats=("Gelu",),
        constants={
            "root": np.asarray(2**0.5, np.float32),
            "one": np.asarray(1, np.float32),
            "half": np.asarray(0.5, np.float32),
            "w1": f32(8, 8, scale=0.4),
            "b1": f32(8),
        },
    ),
    "scale": Case("z = Mul (a, factor)", constants={"factor": np.asarray(0.125, np.float32)}),
    "concat": Case("z = Concat <axis = 1> (a, b)", "QLinearConcat", channels=16),
    "concat of other ranges": Case(
        "t = Mul (a, b) z = Concat <axis = 2> (a, t, plane)",
        "QLinearConcat",
        constants={"plane": f32(16, 8, 1, 12)},
    ),
    "average pool": Case("z = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)", "QLinearAveragePool"),
    "max pool": Case("z = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (a)", "NhwcMaxPool"),
    "global max pool": Case("z = GlobalMaxPool (a)", "ReduceMax"),
    "split": Case("p, q = Split <axis = 1, num_outputs = 2> (a) z = Add (p, q)", "Split", channels=4),
    "split, one part unused": Case("z, q = Split <axis = 1, num_outputs = 2> (a)", "Split", channels=4),
    "slice": Case(
        "z = Slice (a, from, to, axes, steps)",
        "Slice",
        constants={"from": ints(0), "to": ints(12), "axes": ints(2), "steps": ints(2)},
    ),
    "option-A shortcut": Case(
        "s = Slice (a, from, to, axes, steps) p = Pad (s, pads) z = Relu (p)",
        "Pad",
        channels=16,
        constants={
            "from": ints(0, 0),
            "to": ints(12, 12),
            "axes": ints(2, 3),
            "steps": ints(2, 2),
            "pads": ints(0, 4, 0, 0, 0, 4, 0, 0),
        },
    ),
    "reflected padding": Case(
        'z = Pad <mode = "reflect"> (a, pads)', "Pad", constants={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}
    ),
    "asymmetric padding": Case(
        "p = Pad (a, pads) z = Conv <kernel_shape = [3, 3]> (p, w1)",
        "QLinearConv",
        constants={"pads": ints(0, 0, 0, 1, 0, 0, 2, 1), "w1": f32(8, 8, 3, 3, scale=0.2)},
    ),
    "channel shuffle": Case(
        "r = Reshape (a, grouped) t = Transpose <perm = [0, 2, 1, 3, 4]> (r) z = Reshape (t, joined)",
        "Transpose",
        constants={"grouped": ints(0, 2, 4, 12, 12), "joined": ints(0, 8, 12, 12)},
    ),
    "gather": Case("z = Gather <axis = 1> (a, picks)", "Gather", channels=3, constants={"picks": ints(1, 5, 2)}),
    "space to depth": Case("z = SpaceToDepth <blocksize = 2> (a)", "SpaceToDepth", channels=32),
    "depth to space": Case("z = DepthToSpace <blocksize = 2> (a)", "DepthToSpace", channels=2),
    "nearest resize": Case(
        'z = Resize <mode = "nearest"> (a, , scales)',
        "Resize",
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "linear resize": Case(
        'z = Resize <mode = "linear"> (a, , scales)',
        floats=("Resize",),
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "grouped conv": Case(
        "z = Conv <kernel_shape = [3, 3], group = 2> (a, w1)", constants={"w1": f32(8, 4, 3, 3, scale=0.2)}
    ),
    "depthwise conv": Case(
        "z = Conv <kernel_shape = [3, 3], group = 8> (a, w1)", constants={"w1": f32(8, 1, 3, 3, scale=0.4)}
    ),
    "dilated conv": Case(
        "z = Conv <kernel_shape = [3, 3], dilations = [2, 2]> (a, w1)", constants={"w1": f32(8, 8, 3, 3, scale=0.2)}
    ),
    "same padding": Case(
        'z = Conv <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (a, w1)',
        constants={"w1": f32(8, 8, 3, 3, scale=0.2)},
    ),
    "transposed conv": Case(
        "z = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2], group = 2> (a, w1, b1)",
        floats=("ConvTranspose",),
        channels=6,
        constants={"w1": f32(8, 3, 2, 2), "b1": f32(6)},
    ),
    "batch norm": Case(
        "s = Add (a, b) n = BatchNormalization (s, gamma, beta, mean, var) z = Relu (n)",
        "QLinearConv",
        constants={"gamma": f32(8), "beta": f32(8), "mean": f32(8), "var": RNG.uniform(0.1, 2, 8).astype(np.float32)},
    ),
    "linear over channels": Case(
        """t = Transpose <perm = [0, 2, 3, 1]> (a) m = MatMul (t, w1) s = Add (m, b1)
           z = Transpose <perm = [0, 3, 1, 2]> (s)""",
        "QGemm",
        constants={"w1": f32(8, 8, scale=0.4), "b1": f32(8)},
    ),
    "product of two activations": Case("t = Transpose <perm = [0, 1, 3, 2]> (b) z = MatMul (a, t)", "QLinearMatMul"),
    "attention": Case(
        """q = Mul (a, factor) t = Transpose <perm = [0, 1, 3, 2]> (b) k = Mul (t, factor) s = MatMul (q, k)
           p = Softmax <axis = -1> (s) z = MatMul (p, a)""",
        "QLinearMatMul",
        floats=("Softmax", "MatMulIntegerToFloat"),
        constants={"factor": np.asarray(0.5, np.float32)},
    ),
    "layer norm": Case(
        """t = Transpose <perm = [0, 2, 3, 1]> (a) n = LayerNormalization (t, gamma, beta)
           z = Transpose <perm = [0, 3, 1, 2]> (n)""",
        floats=("LayerNormalization",),
        constants={"gamma": f32(8), "beta": f32(8)},
    ),
    "constant added": Case("z = Add (a, plane)", "QLinearAdd", constants={"plane": f32(1, 8, 12, 12)}),
    "dropout and identity": Case("d = Dropout (a) z = Identity (d)"),
}


def classifier(case):
    """Return the case's operator between convolutions, with class scores behind it."""
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : {case.opset}]>
        g (float[N, 3, 12, 12] image) => (float[N, 10] logits) {{
          a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w_in, b_in)
          b = Conv <kernel_shape = [1, 1]> (image, w_side, b_side)
          {case.body}
          y = Conv <kernel_shape = [1, 1]> (z, w_out, b_out)
          r_out = Relu (y)
          pooled = GlobalAveragePool (r_out)
          flat = Flatten (pooled)
          logits = Gemm <transB = 1> (flat, w_fc, b_fc)
        }}""",
        w_in=f32(8, 3, 3, 3, scale=0.4),
        b_in=f32(8),
        w_side=f32(8, 3, 1, 1),
        b_side=f32(8),
        w_out=f32(12, case.channels, 1, 1, scale=0.4),
        b_out=f32(12),
        w_fc=f32(10, 12),
        b_fc=f32(10),
        **case.constants,
    )


IMAGES = f32(16, 3, 12, 12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_operator_runs_on_integer_kernels(case, tmp_path):
    model = classifier(case)
    int8, _, _ = quantize(model, IMAGES)
    left = optimized_ops(int8, tmp_path)
    assert not [name for name in FLOAT_MATH if left[name]]
    if case.kernel is not None:
        assert left[case.kernel]
    integer = {"QuantizeLinear", "DequantizeLinear", "QGemm", "ReorderInput", "ReorderOutput"} | {
        name for name in left if name.startswith(("QLinear", "Nhwc"))
    }
    moved = {
        "Transpose",
        "Reshape",
        "Flatten",
        "Slice",
        "Split",
        "Pad",
        "Gather",
        "Resize",
        "ReduceMax",
        "SpaceToDepth",
        "DepthToSpace",
    }
    assert set(left) - integer - moved <= set(case.floats)
    if not case.floats:
        assert left["QuantizeLinear"] == 1
        assert left["DequantizeLinear"] == 0
    assert sqnr_db(run(model, IMAGES), run(int8, IMAGES)) > case.floor_db


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_operator_kernels_compute_what_graph_says(case):
    """QDQ in float against the fused kernels: they may round a half-way value differently, no more."""
    int8, _, _ = quantize(classifier(case), IMAGES)
    assert sqnr_db(run(int8, IMAGES, optimize=False), run(int8, IMAGES)) > 40


@pytest.mark.parametrize(
    "target",
    [VACC, TENSORRT, ORT.with_options(activation_type="int8")],
    ids=lambda t: f"{t.name}-{t.activations.dtype}",
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_operator_other_targets_stay_near_fp32(case, target):
    model = classifier(case)
    int8, _, _ = quantize(model, IMAGES, target=target)
    assert sqnr_db(run(model, IMAGES), run(int8, IMAGES)) > case.floor_db - 8


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_skipped_operator_is_left_in_float(case):
    """Whatever is around it, a node that is skipped computes on floats and the model still runs.

    An activation function that the range of its layer makes idle computes nothing, so there is nothing to leave out.
    """
    model = classifier(case)
    names = {value.name: node.name for node in prepare(model).model.graph for value in node.outputs}
    name = names.get("z", names["y"])
    options = PlanOptions(skip=(name,))
    int8, plan, _ = quantize(model, IMAGES, options=options)
    assert sqnr_db(run(model, IMAGES), run(int8, IMAGES)) > case.floor_db
    (row,) = [row for row in plan.explain() if row.name == name and row.kind == "operator"]
    assert (row.how == "float" and "left out" in row.why) or (row.how == "absorbed" and "replaced" in row.why)
