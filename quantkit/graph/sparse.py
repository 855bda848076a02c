"""Sparse weights of a file as dense ones, before the file is parsed further: onnx_ir reads no sparse tensors."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx

from quantkit.errors import ModelError

# A protobuf message is limited to 2 GiB, and so were the weights if they were stored as dense ones.
_LIMIT_BYTES = 1 << 31


def make_dense(model: onnx.ModelProto) -> None:
    """Replace sparse initializers and sparse constants, those in subgraphs included, by dense ones of the same values.

    Raises:
        ModelError: a sparse tensor is not valid, or too large as a dense one.
    """
    for graph in _graphs(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                    dense = _dense(attribute.sparse_tensor)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, dims = sparse.values.name, tuple(sparse.dims)
    fault = f"the sparse weight {name!r} is not valid"
    if min(dims, default=1) < 0:
        raise ModelError(f"{fault}: a size is negative")
    if any(onnx.external_data_helper.uses_external_data(part) for part in (sparse.values, sparse.indices)):
        raise ModelError(f"the sparse weight {name!r} is in an external file", fix="export it as a dense one")
    try:
        values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
        if math.prod(dims) * values.itemsize > _LIMIT_BYTES:
            raise ModelError(f"the sparse weight {name!r} has {math.prod(dims):,} values", fix="give a smaller model")
        dense = np.zeros(math.prod(dims), values.dtype)
        dense[_positions(indices, dims)] = values.reshape(-1)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"{fault}: {error}") from error
    tensor = onnx.numpy_helper.from_array(dense.reshape(dims), name)
    tensor.data_type = sparse.values.data_type
    return tensor


def _positions(indices: npt.NDArray[np.int64], dims: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return positions in the flat dense tensor; the file has these, or one coordinate for each axis."""
    positions = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)
    if positions.size and positions.min() < 0:
        raise ValueError("an index is negative")
    return positions
