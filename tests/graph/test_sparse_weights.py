"""Sparse weights of a file are read as the dense ones that they stand for."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import session
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.vendors.vacc.onnx_facts import read_facts

IMAGE = np.random.default_rng(5).normal(size=(2, 3, 8, 8)).astype(np.float32)


def sparse(dense, name, *, flat=False, **changed):
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = numpy_helper.from_array(dense[dense != 0], name)
    indices = numpy_helper.from_array(places.astype(np.int64), f"{name}_indices")
    given = {"values": values, "indices": indices, "dims": dense.shape} | changed
    return helper.make_sparse_tensor(given["values"], given["indices"], given["dims"])


def model_with(weight, *, constant=False, nested=False):
    nodes = [helper.make_node("Constant", [], ["w"], sparse_value=weight)] if constant else []
    nodes.append(helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]))
    inner = []
    if nested:
        value = helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)
        body = helper.make_graph(nodes, "body", [], [value], sparse_initializer=[] if constant else [weight])
        body.node[-1].output[0] = "inside"
        other = helper.make_graph([helper.make_node("Identity", ["image"], ["inside"])], "other", [], [value])
        nodes = [helper.make_node("If", ["always"], ["c"], then_branch=body, else_branch=other)]
        inner = [numpy_helper.from_array(np.array(True), "always")]
    nodes += [helper.make_node("GlobalAveragePool", ["c"], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "sparse",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 4])],
        inner,
        sparse_initializer=[] if constant or nested else [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "how", [{}, {"constant": True}, {"nested": True}], ids=["initializer", "constant", "in a branch"]
)
def test_sparse_weights_compute_what_onnxruntime_computes_with_dense_ones(how, flat, tmp_path, rng):
    dense = rng.normal(size=(4, 3, 3, 3)).astype(np.float32) * (rng.random((4, 3, 3, 3)) < 0.2)
    path = tmp_path / "sparse.onnx"
    onnx.save(model_with(sparse(dense, "w", flat=flat), **how), path)
    plain = onnx.load(path)
    plain.graph.ClearField("sparse_initializer")
    del plain.graph.node[:-2]
    plain.graph.node.insert(0, helper.make_node("Conv", ["image", "dense"], ["c"], pads=[1, 1, 1, 1]))
    plain.graph.initializer.append(numpy_helper.from_array(dense, "dense"))
    expected = session(ir.from_proto(plain)).run(None, {"image": IMAGE})[0]
    prepared = prepare(read_model(path)).model
    np.testing.assert_allclose(session(prepared).run(None, {"image": IMAGE})[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dims": (4, 3, 3, 2)}, "the sparse weight 'w' is not valid"),
        ({"dims": (4, -3, 3, 3)}, "a size is negative"),
        ({"dims": (1 << 20, 1 << 20, 3, 3)}, "the sparse weight 'w' has 9,895,604,649,984 values"),
        ({"indices": numpy_helper.from_array(np.array([-1], np.int64))}, "an index is negative"),
        ({"indices": numpy_helper.from_array(np.array([[0, 0]], np.int64))}, "is not valid"),
        ({"indices": numpy_helper.from_array(np.array([5, 6], np.int64))}, "is not valid"),
    ],
)
def test_damaged_sparse_weights_are_refused_in_one_line(changed, said, tmp_path):
    dense = np.zeros((4, 3, 3, 3), np.float32)
    dense[1, 2, 0, 2], dense[3, 1, 1, 1], dense[0, 0, 0, 0] = 1.0, 2.0, 3.0
    path = tmp_path / "sparse.onnx"
    onnx.save(model_with(sparse(dense, "w", **changed)), path)
    with pytest.raises(ModelError, match=said):
        read_model(path)


def test_sparse_weights_are_seen_by_the_check_of_build_files(tmp_path):
    dense = IMAGE[:1].repeat(4, axis=0)[:, :, :3, :3] * (IMAGE[:1, :, :3, :3] > 0)
    onnx.save(model_with(sparse(dense, "w")), tmp_path / "sparse.onnx")
    assert read_facts(tmp_path / "sparse.onnx").convolutions == 1
    onnx.save(model_with(sparse(dense, "w", dims=(-1, 3, 3, 3))), tmp_path / "damaged.onnx")
    with pytest.raises(ModelError, match=r"damaged.onnx: the sparse weight 'w' is not valid: a size is negative"):
        read_facts(tmp_path / "damaged.onnx")
