"""Which tensors a pass has to read, and which statistics follow from those of others."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.qdq.plan import plan
from quantkit.targets import TARGETS


@dataclass(frozen=True)
class Taps:
    """The tensors of a model whose statistics are wanted, and how each is come by.

    Attributes:
        wanted: all of them, in graph order.
        tapped: those that have to be read from the running model.
        merged: for a concatenation of wanted tensors, its inputs: it holds their values and no others.
        rectified: for the ReLU of a wanted tensor, that tensor: its negative values become zeros.
    """

    wanted: tuple[str, ...]
    tapped: tuple[str, ...]
    merged: dict[str, tuple[str, ...]]
    rectified: dict[str, str]


def taps(model: ir.Model, wanted: Iterable[str]) -> Taps:
    """Return how the statistics of the wanted tensors of a prepared model are come by at least cost."""
    asked = set(wanted)
    merged: dict[str, tuple[str, ...]] = {}
    rectified: dict[str, str] = {}
    order = [str(value.name) for value in model.graph.inputs if value.name in asked]
    for node in model.graph:
        order.extend(str(value.name) for value in node.outputs if value.name in asked)
        result = str(node.outputs[0].name)
        sources = tuple(str(value.name) for value in node.inputs if value is not None)
        if result in asked and asked.issuperset(sources):
            if node.op_type == "Concat":
                merged[result] = sources
            elif node.op_type == "Relu":
                rectified[result] = sources[0]
    tapped = tuple(name for name in order if name not in merged and name not in rectified)
    return Taps(tuple(order), tapped, merged, rectified)


def observed_tensors(prepared_model: ir.Model) -> Taps:
    """Return the tensors of a prepared model whose ranges any target needs, so that one pass serves all targets."""
    wanted = {name for target in TARGETS.values() for name in plan(prepared_model, target).observed}
    return taps(prepared_model, wanted)
