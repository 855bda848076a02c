"""Which tensors of two models are computed alike: the same operators on the same constants, from the same input.

A model with another layer in float is the same up to that layer. Names do not say how far: a tensor that is rounded in
one of the models bears another name there, and a scale that two tensors share may change far ahead of the layer.
"""

import hashlib
from collections.abc import Hashable

import onnx_ir as ir

from quantkit.graph.values import array, is_constant, name_of


class Computations:
    """Numbers every computation of some models, so that equal numbers mean equal values, bit for bit.

    Graph inputs are told apart by their names. Digests of the constants of a model given to `remember` are kept, so
    that other models with the same constants are compared quickly.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._digests: dict[int, bytes] = {}
        self._held: list[ir.TensorProtocol] = []

    def remember(self, model: ir.Model) -> dict[str, int]:
        """Return the number of every computed value of a model, by name, and keep the digests of its constants."""
        for value in model.graph.initializers.values():
            if value.const_value is not None and id(value.const_value) not in self._digests:
                self._held.append(value.const_value)  # a digest is found by the tensor's identity, so it has to live on
                self._digests[id(value.const_value)] = _digest(value)
        return self.number(model)

    def number(self, model: ir.Model) -> dict[str, int]:
        """Return the number of every computed value of a model, by name."""
        found: dict[ir.Value | None, int] = {None: -1}
        for fed in model.graph.inputs:
            found[fed] = self._of(("input", fed.name))
        for node in model.graph:
            for value in node.inputs:
                if value is not None and value not in found:
                    found[value] = self._of(("constant", self._content(value)))
            made = (node.domain, node.op_type, _attributes(node), tuple(found[value] for value in node.inputs))
            for index, result in enumerate(node.outputs):
                found[result] = self._of((*made, index))
        return {
            name_of(value): number for value, number in found.items() if value is not None and not is_constant(value)
        }

    def _of(self, computation: Hashable) -> int:
        return self._numbers.setdefault(computation, len(self._numbers))

    def _content(self, value: ir.Value) -> bytes:
        known = None if value.const_value is None else self._digests.get(id(value.const_value))
        return _digest(value) if known is None else known


def _digest(value: ir.Value) -> bytes:
    content = array(value)
    if content is None:  # fed from outside of the graph, or by a graph around it
        return f"value {value.name}".encode()
    head = f"{content.dtype} {content.shape}".encode()
    return hashlib.blake2b(head + content.tobytes(), digest_size=16).digest()


def _attributes(node: ir.Node) -> Hashable:
    """Return what tells the attributes of two nodes apart; graphs inside of nodes are never taken for equal."""
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
