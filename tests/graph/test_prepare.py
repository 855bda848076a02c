"""The preparation as a whole: shapes, names and metadata kept, real checkpoints' oddities met."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_runs import optimized_ops, quantize, run, session, sqnr_db, text_model

from quantkit.errors import ModelError
from quantkit.graph.prepare import prepare

RNG = np.random.default_rng(16)


def f32(*shape, scale=1.0):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def norm(channels, name):
    values = {
        f"{name}_g": f32(channels),
        f"{name}_b": f32(channels),
        f"{name}_m": f32(channels),
        f"{name}_v": RNG.uniform(0.2, 2, channels).astype(np.float32),
    }
    return values, ", ".join(values)


def checkpoint(dims="N, 3, 16, 16", out="N, 10"):
    """What real checkpoints hold: a batch norm on the input, option-A shortcuts, a view by the batch size."""
    first, first_names = norm(3, "bn_in")
    second, second_names = norm(8, "bn_1")
    third, third_names = norm(16, "bn_2")
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{dims}] image) => (float[{out}] logits) {{
          n0 = BatchNormalization (image, {first_names})
          c1 = Conv <pads = [1, 1, 1, 1]> (n0, w1)
          n1 = BatchNormalization (c1, {second_names})
          r1 = Relu (n1)
          s = Slice (r1, from, to, axes, steps)
          p = Pad (s, pads)
          c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r1, w2)
          n2 = BatchNormalization (c2, {third_names})
          t = Add (n2, p)
          r2 = Relu (t)
          d = Dropout (r2)
          m = GlobalAveragePool (d)
          shape = Shape (m)
          n = Gather (shape, zero)
          u = Unsqueeze (n, first)
          target = Concat <axis = 0> (u, rest)
          v = Reshape (m, target)
          logits = Gemm <transB = 1, alpha = 0.5> (v, wf, bf)
        }}""",
        **{"from": np.array([0, 0])},
        to=np.array([1 << 40, 1 << 40]),
        axes=np.array([2, 3]),
        steps=np.array([2, 2]),
        pads=np.array([0, 4, 0, 0, 0, 4, 0, 0]),
        zero=np.array(0),
        first=np.array([0]),
        rest=np.array([-1]),
        w1=f32(8, 3, 3, 3, scale=0.3),
        w2=f32(16, 8, 3, 3, scale=0.2),
        wf=f32(10, 16),
        bf=f32(10),
        **first,
        **second,
        **third,
    )


@pytest.mark.parametrize("dims", ["N, 3, 16, 16", "1, 3, 16, 16", "4, 3, 16, 16", "N, 3, H, W"])
def test_prepare_keeps_sizes(dims, tmp_path):
    batch = dims.split(",")[0]
    model = checkpoint(dims, f"{batch}, 10")
    x = f32(4 if batch in "N4" else 1, 3, 16, 16)
    prepared = prepare(model).model
    assert [str(size) for size in prepared.graph.inputs[0].shape] == dims.split(", ")
    assert str(prepared.graph.outputs[0].shape[0]) == batch
    np.testing.assert_allclose(run(prepared, x), run(model, x), rtol=1e-4, atol=1e-4)
    int8, _, _ = quantize(model, x)
    assert [str(size) for size in int8.graph.inputs[0].shape] == dims.split(", ")
    assert int8.graph.outputs[0].dtype == ir.DataType.FLOAT
    left = optimized_ops(int8, tmp_path)
    assert left["QLinearConv"] == 3
    assert (left["QuantizeLinear"], left["DequantizeLinear"], left["BatchNormalization"]) == (1, 0, 0)
    assert sqnr_db(run(model, x), run(int8, x)) > 25


def test_quantize_dynamic_batch_runs_at_any_size():
    model = checkpoint()
    int8, _, _ = quantize(model, f32(8, 3, 16, 16))
    runner = session(int8)
    for batch in (1, 3, 7):
        x = f32(batch, 3, 16, 16)
        scores = runner.run(None, {"image": x})[0]
        assert scores.shape == (batch, 10)
        assert sqnr_db(run(model, x), scores) > 20


def test_prepare_keeps_names_and_metadata():
    model = checkpoint()
    model.metadata_props["classes"] = "ten"
    model.producer_name = "trainer"
    prepared = prepare(model).model
    assert prepared.metadata_props["classes"] == "ten"
    assert prepared.producer_name == "trainer"
    names = {value.name for node in prepared.graph for value in node.outputs}
    assert names == {"n0", "n1", "r1", "s", "p", "n2", "t", "r2", "m", "v", "logits"}


def test_prepare_twice_changes_nothing_more():
    once = prepare(checkpoint()).model
    twice = prepare(once).model
    assert [(node.name, node.op_type) for node in twice.graph] == [(node.name, node.op_type) for node in once.graph]
    x = f32(2, 3, 16, 16)
    np.testing.assert_array_equal(run(twice, x), run(once, x))


def test_prepare_notes_what_was_changed():
    (note,) = prepare(checkpoint()).notes
    assert note == "the batch norm 'n0' without a preceding layer became a depthwise convolution"


def test_prepare_fault_of_pass_reaches_user_unchanged():
    model = checkpoint()
    model.graph.initializers["bn_1_v"].const_value = ir.tensor(np.full(8, -2, np.float32), name="bn_1_v")
    with pytest.raises(ModelError, match=r"^the batch norm 'n1' has variance -2.0 in channel 0"):
        prepare(model)


def test_prepare_inlines_functions():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
          c = Conv (image, w)
          a = local.swish (c)
          p = GlobalAveragePool (a)
          logits = Flatten (p)
        }
        <domain: "local", opset_import: ["" : 17]>
        swish (x) => (y) { s = Sigmoid (x) y = Mul (x, s) }""",
        w=f32(4, 3, 3, 3),
    )
    prepared = prepare(model).model
    assert [node.op_type for node in prepared.graph] == ["Conv", "Sigmoid", "Mul", "GlobalAveragePool", "Flatten"]
    x = f32(2, 3, 8, 8)
    np.testing.assert_allclose(run(prepared, x), run(model, x), rtol=1e-6)
