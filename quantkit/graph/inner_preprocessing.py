"""Detects preprocessing inside a model, directly after its image input: casts, transposes, normalization."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    array,
    dtype_name,
    is_op,
    operand,
    sole_consumer,
)
from quantkit.types import Float64Array

_ARITHMETIC = ("Sub", "Add", "Mul", "Div")
_FORWARDED = ("Identity", "Cast", "Transpose", "Resize", "Pad")
_MOST_CHANNELS = 4
# Pixels of 0..255 are scaled to a few units, by a factor of about 1 / 255 to 1 / 40; pixels of 0..1 by 1 to 10.
_FACTOR_OF_BYTES = 0.1
_MEAN_OF_BYTES = 2.0


@dataclass(frozen=True)
class InnerPreprocessing:
    """Preprocessing by the nodes directly after an image input.

    Attributes:
        steps: description of each node, in order.
        factor: factor of each channel, one value if it is the same for all.
        offset: offset of each channel, added after the multiplication.
    """

    steps: tuple[str, ...]
    factor: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def normalizes(self) -> bool:
        """Whether pixel values are changed."""
        return any(one != 1.0 for one in self.factor) or any(one != 0.0 for one in self.offset)

    @property
    def takes_bytes(self) -> bool:
        """Whether the arithmetic fits pixels of 0..255 and not of 0..1."""
        return self.normalizes and (
            max(map(abs, self.factor)) < _FACTOR_OF_BYTES or max(map(abs, self.mean), default=0.0) > _MEAN_OF_BYTES
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that the graph subtracts, in the units of its input."""
        return tuple(float(one) for one in 0.0 - np.divide(self.offset, self.factor))

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation that the graph divides by, in the units of its input."""
        return tuple(float(one) for one in np.divide(1.0, self.factor))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "steps": list(self.steps),
            "takes_bytes": self.takes_bytes,
            "mean": list(self.mean) if self.normalizes else None,
            "std": list(self.std) if self.normalizes else None,
        }


def inner_preprocessing(image: ir.Value) -> InnerPreprocessing | None:
    """Return the preprocessing of an image input before the first layer, None if there is none.

    Args:
        image: input of an unprepared model; `quantkit.graph.prepare.prepare` folds such arithmetic into a layer.
    """
    steps: list[str] = []
    factor, offset = np.ones(1), np.zeros(1)
    value = image
    while (node := sole_consumer(value)) is not None:
        affine = _affine(node, value)
        if affine is not None:
            by, plus = affine
            if not np.all(by):
                break
            factor, offset = factor * by, offset * by + plus
        elif not (is_op(node, *_FORWARDED) and operand(node, 0) is value):
            break
        if node.op_type != "Identity":
            steps.append(_text(node, value))
        value = node.outputs[0]
    if not steps:
        return None
    return InnerPreprocessing(tuple(steps), _tuple(factor), _tuple(offset))


def _affine(node: ir.Node, value: ir.Value) -> tuple[Float64Array, Float64Array] | None:
    """Return factor and offset of a node that computes ``factor * x + offset`` for each channel, else None."""
    if is_op(node, "BatchNormalization"):
        return _batch_norm(node)
    constant = _constant(node, value)
    if not is_op(node, *_ARITHMETIC) or constant is None:
        return None
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    first = operand(node, 0) is value
    match node.op_type:
        case "Add":
            return one, constant
        case "Sub":
            return (one, -constant) if first else (-one, constant)
        case "Mul":
            return constant, zero
        case _:
            return (1.0 / constant, zero) if first and np.all(constant) else None


def _constant(node: ir.Node, value: ir.Value) -> Float64Array | None:
    """Return the constant operand of a node if it is one value, or one per channel of a few channels."""
    others = [one for one in node.inputs if one is not value]
    content = array(others[0]) if len(others) == 1 else None
    if content is None or content.size > _MOST_CHANNELS or (content.size > 1 and max(content.shape) != content.size):
        return None
    return np.atleast_1d(content.astype(np.float64).reshape(-1))


def _batch_norm(node: ir.Node) -> tuple[Float64Array, Float64Array] | None:
    held = [array(operand(node, index)) for index in range(1, 5)]
    if any(one is None or one.size > _MOST_CHANNELS for one in held):
        return None
    scale, bias, mean, variance = (np.asarray(one, np.float64) for one in held)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return factor, bias - mean * factor


def _text(node: ir.Node, value: ir.Value) -> str:
    constant = _constant(node, value) if is_op(node, *_ARITHMETIC) else None
    if constant is not None:
        return f"{node.op_type} {numbers(constant)}"
    match node.op_type:
        case "Cast":
            return f"Cast to {dtype_name(ir.DataType(node.attributes['to'].as_int()))}"
        case "Transpose":
            return f"Transpose {list(node.attributes.get_ints('perm') or ())}"
        case kind:
            return kind


def numbers(values: Sequence[float] | Float64Array) -> str:
    """Return one value, or several in brackets, with four digits."""
    texts = [f"{float(value):.4g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"


def _tuple(values: Float64Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
