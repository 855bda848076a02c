"""Selects the tensors that a pass reads; the statistics of other tensors follow from them."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.qdq.plan import plan
from quantkit.targets import TARGETS


@dataclass(frozen=True)
class Taps:
    """The tensors of a model that need statistics, and how these are obtained.

    Attributes:
        wanted: all tensors, in graph order.
        tapped: those to read from the running model.
        merged: inputs of each concatenation of wanted tensors; its statistics are merged from theirs.
        rectified: input of each ReLU of a wanted tensor; its negative values become zeros.
    """

    wanted: tuple[str, ...]
    tapped: tuple[str, ...]
    merged: dict[str, tuple[str, ...]]
    rectified: dict[str, str]


def taps(model: ir.Model, wanted: Iterable[str]) -> Taps:
    """Return how to obtain the statistics of the wanted tensors of a prepared model at the lowest cost."""
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
    """Return the tensors with ranges that any target needs, so that one pass serves all targets."""
    wanted = {name for target in TARGETS.values() for name in plan(prepared_model, target).observed}
    return taps(prepared_model, wanted)
