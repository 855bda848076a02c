"""Reading tensors out of a running model at little more than the cost of running it.

A tensor is tapped by making it an output. What that costs lies in the layout: onnxruntime keeps convolutions in
blocks of channels and, for every output, puts the channels back in order. A histogram does not ask for order, so the
optimized graph is taken and its outputs moved to before that step. On MobileNetV2 this is the difference between 1.9
and 1.3 times plain inference.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from quantkit.errors import ModelError
from quantkit.graph.model import save_model
from quantkit.run.session import open_session

# Blocks hold 8 or 16 channels, by processor. A tensor whose channels do not fill whole blocks of either is padded with
# values that no layer computed, so it keeps its reordering.
_LARGEST_BLOCK = 16

FloatArray = npt.NDArray[np.float32]


class TappedSession:
    """A model that yields chosen tensors besides its result.

    `run` may be called by several threads at once; weights are shared.

    Args:
        model: a prepared model.
        tensors: names of the tensors to tap; the model's input and outputs are allowed.
        ordered: give every tensor in its own layout and shape; otherwise the elements of some come in another order.

    Raises:
        ModelError: a name is no tensor of the model, or onnxruntime cannot run it.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[str], *, ordered: bool = False) -> None:
        self._inputs = [value.name for value in model.graph.inputs if value.name in tensors]
        self._model_outputs = [str(value.name) for value in model.graph.outputs]
        wanted = [name for name in tensors if name not in self._inputs]
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            tapped = Path(folder) / "tapped.onnx"
            _save_tapped(model, wanted, tapped)
            if ordered:
                self._session, self._output_of = open_session(tapped), {name: name for name in wanted}
            else:
                self._session, self._output_of = _open_blocked(tapped, wanted)
        self._input = self._session.get_inputs()[0].name
        self._fetched = list(dict.fromkeys([*self._output_of.values(), self._model_outputs[0]]))

    def run(self, x: FloatArray) -> tuple[FloatArray, Iterator[tuple[str, FloatArray]]]:
        """Run one batch ``[N, C, H, W]``; return the model's first output, and the tapped tensors by name."""
        values = dict(zip(self._fetched, self._session.run(self._fetched, {self._input: x}), strict=True))
        tapped = ((name, values[output]) for name, output in self._output_of.items())
        inputs = ((str(name), x) for name in self._inputs)
        return values[self._model_outputs[0]], (pair for pairs in (inputs, tapped) for pair in pairs)


def _save_tapped(model: ir.Model, tensors: Sequence[str], path: Path) -> None:
    """Write the model with the tensors among its outputs."""
    tapped = model.clone()
    values = {value.name: value for node in tapped.graph for value in node.outputs}
    outputs = {value.name for value in tapped.graph.outputs}
    for name in tensors:
        if name not in values:
            raise ModelError(f"there is no tensor {name!r} in the model")
        if name not in outputs:
            # onnxruntime infers types itself; an output only has to have one.
            values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
            tapped.graph.outputs.append(values[name])
    save_model(tapped, path)


def _open_blocked(tapped: Path, tensors: Sequence[str]) -> tuple[ort.InferenceSession, dict[str, str]]:
    """Open the tapped model as onnxruntime optimizes it, its taps moved before their reordering."""
    optimized = tapped.with_name("optimized.onnx")
    open_session(tapped, optimized=optimized)
    proto = onnx.load(optimized, load_external_data=False)
    moved = _move_taps(proto.graph, set(tensors))
    if moved:
        onnx.save(proto, optimized)
    return open_session(optimized), {name: moved.get(name, name) for name in tensors}


def _move_taps(graph: onnx.GraphProto, tensors: set[str]) -> dict[str, str]:
    """Make outputs of blocked tensors; return the new output of each tap that moved."""
    read = {name for node in graph.node for name in node.input}
    outputs = {output.name for output in graph.output}
    moved: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "ReorderOutput" and node.output[0] in tensors and _whole_blocks(node):
            moved[node.output[0]] = node.input[0]
            if node.output[0] not in read:
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for output in graph.output:
        if output.name in moved:
            output.name = moved[output.name]
            output.type.tensor_type.ClearField("shape")
    assert outputs >= moved.keys()
    return moved


def _whole_blocks(node: onnx.NodeProto) -> bool:
    channels = next((attribute.i for attribute in node.attribute if attribute.name == "channels"), 0)
    return channels > 0 and channels % _LARGEST_BLOCK == 0
