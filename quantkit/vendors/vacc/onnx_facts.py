"""Properties of an ONNX model that a build file must match."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import ModelError
from quantkit.files import reason
from quantkit.graph.analysis.selection import conv2d_nodes
from quantkit.graph.analysis.values import dims
from quantkit.graph.model import parse_file
from quantkit.graph.repair import free_sizes

Dimensions = tuple[int | None, ...]


@dataclass(frozen=True)
class OnnxFacts:
    """Inputs, outputs and convolutions of a model of any kind.

    Attributes:
        inputs: shape of each input by name; None for a free dimension, or for an unknown shape.
        outputs: shape of each output by name, likewise.
        convolutions: number of 2-D convolutions, which ``skip_conv_layers`` counts in graph order from 0.
        ends_in_softmax: whether an output is the direct result of a Softmax.
        opset: version of the ONNX operator set, None if the model has none.
    """

    inputs: Mapping[str, Dimensions | None]
    outputs: Mapping[str, Dimensions | None]
    convolutions: int
    ends_in_softmax: bool
    opset: int | None = None

    @property
    def classes(self) -> int | None:
        """Number of classes, if the model has one output ``[batch, classes]``."""
        shapes = [shape for shape in self.outputs.values() if shape is not None]
        return shapes[0][1] if len(shapes) == len(self.outputs) == 1 and len(shapes[0]) == 2 else None


def read_facts(path: Path) -> OnnxFacts:
    """Read the graph of an ONNX model, without its weights and external files.

    Raises:
        ModelError: the file cannot be read or is not an ONNX model.
    """
    try:
        model = parse_file(path)
    except ModelError as error:
        raise ModelError(error.what, where=path, fix=error.fix) from error
    except OSError as error:
        raise ModelError(f"cannot read the model ({reason(error)})", where=path) from error
    except Exception as error:  # protobuf and its readers raise any class for damaged bytes
        raise ModelError("not an ONNX model, or a damaged one", where=path, fix="export it again") from error
    free_sizes(model)
    graph = model.graph
    if not graph.outputs:
        raise ModelError("the model has no outputs", where=path, fix="give an ONNX model")
    for index, node in enumerate(graph):
        node.name = node.name or f"node_{index}"  # convolutions are listed by name, which is optional in ONNX
    producers = [value.producer() for value in graph.outputs]
    return OnnxFacts(
        inputs={str(value.name): dims(value) for value in graph.inputs if not value.is_initializer()},
        outputs={str(value.name): dims(value) for value in graph.outputs},
        convolutions=len(conv2d_nodes(graph)),
        ends_in_softmax=any(node is not None and node.op_type == "Softmax" for node in producers),
        opset=model.opset_imports.get(""),
    )
