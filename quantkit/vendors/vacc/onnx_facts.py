"""What a build file must agree with in the ONNX model it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.files import reason
from quantkit.graph.analysis.selection import conv2d_nodes
from quantkit.graph.analysis.values import dims

Dimensions = tuple[int | None, ...]


@dataclass(frozen=True)
class OnnxFacts:
    """Inputs, outputs and convolutions of a model of any kind.

    Attributes:
        inputs: shape of each input by its name; None stands for a free dimension, or for no shape at all.
        outputs: shape of each output by its name, likewise.
        convolutions: number of two-dimensional convolutions, which ``skip_conv_layers`` counts in graph order from 0.
        ends_in_softmax: an output comes straight from a Softmax.
        opset: version of the ONNX operator set, None where the model names none.
    """

    inputs: Mapping[str, Dimensions | None]
    outputs: Mapping[str, Dimensions | None]
    convolutions: int
    ends_in_softmax: bool
    opset: int | None = None

    @property
    def classes(self) -> int | None:
        """Number of classes, where the model has one output ``[batch, classes]``."""
        shapes = [shape for shape in self.outputs.values() if shape is not None]
        return shapes[0][1] if len(shapes) == len(self.outputs) == 1 and len(shapes[0]) == 2 else None


def read_facts(path: Path) -> OnnxFacts:
    """Read the graph of an ONNX model; its weights, and the files they may lie in, are not touched.

    Raises:
        ModelError: the file cannot be read or is no ONNX model.
    """
    try:
        model = ir.load(path)
    except OSError as error:
        raise ModelError(f"cannot read the model ({reason(error)})", where=path) from error
    except Exception as error:  # protobuf and its readers raise whatever damaged bytes lead them to
        raise ModelError("not an ONNX model, or a damaged one", where=path, fix="export it again") from error
    graph = model.graph
    if not graph.outputs:
        raise ModelError("the model has no outputs", where=path, fix="is it an ONNX model?")
    for index, node in enumerate(graph):
        node.name = node.name or f"node_{index}"  # convolutions are listed by name, which ONNX does not ask for
    producers = [value.producer() for value in graph.outputs]
    return OnnxFacts(
        inputs={str(value.name): dims(value) for value in graph.inputs if not value.is_initializer()},
        outputs={str(value.name): dims(value) for value in graph.outputs},
        convolutions=len(conv2d_nodes(graph)),
        ends_in_softmax=any(node is not None and node.op_type == "Softmax" for node in producers),
        opset=model.opset_imports.get(""),
    )
