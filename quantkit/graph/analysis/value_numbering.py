"""Finds tensors of two models with the same computation: equal operators and constants, from the same input.

Two models that differ in one layer in float have equal tensors before that layer and again soon after it. Names do not
show this: a tensor that is rounded in only one of the models has another name there, and a scale that two tensors share
may change far before the layer.
"""

import hashlib
from collections.abc import Collection, Hashable

import onnx_ir as ir

from quantkit.graph.analysis.values import array, name_of

# Attribute of a constant for its cached digest, together with the hashed tensor.
_DIGEST = "quantkit.digest"


class Computations:
    """Numbers every computation of some models, so that equal numbers mean equal values, bit for bit.

    Graph inputs are identified by their names.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, model: ir.Model, fed: Collection[str] = ()) -> dict[str, int]:
        """Return the number of every input and computed value of a model, by name.

        Args:
            model: the model; it is not changed.
            fed: computed tensors to treat as inputs: equal numbers of later tensors mean equal functions of them.
        """
        found: dict[ir.Value | None, int] = {None: -1}
        for value in model.graph.inputs:
            found[value] = self._of(("input", value.name))
        for node in model.graph:
            for operand in node.inputs:
                if operand is not None and operand not in found:
                    found[operand] = self._of(("constant", _digest(operand)))
            made = (node.domain, node.op_type, _attributes(node), tuple(found[operand] for operand in node.inputs))
            for index, result in enumerate(node.outputs):
                found[result] = self._of(("input", result.name) if result.name in fed else (*made, index))
        computed = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
        return {name_of(value): found[value] for value in computed}

    def _of(self, computation: Hashable) -> int:
        return self._numbers.setdefault(computation, len(self._numbers))


def _digest(value: ir.Value) -> bytes:
    """Return a digest of a constant; it is cached at the value, and so at its copies, while its tensor is the same."""
    tensor, digest = value.meta.get(_DIGEST, (None, b""))
    if digest and tensor is value.const_value:
        return bytes(digest)
    content = array(value)
    if content is None:  # an input of the graph, or a value of an outer graph
        return f"value {value.name}".encode()
    head = f"{content.dtype} {content.shape}".encode()
    digest = hashlib.blake2b(head + content.tobytes(), digest_size=16).digest()
    value.meta[_DIGEST] = (value.const_value, digest)
    return digest


def _attributes(node: ir.Node) -> Hashable:
    """Return a key of the attributes of a node; subgraphs are never equal."""
    parts: list[Hashable] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            parts.append((name, object()))
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            parts.append((name, str(tensor.dtype), tuple(tensor.shape), tensor.tobytes()))
        else:
            parts.append((name, repr(attribute.value)))
    return tuple(parts)
