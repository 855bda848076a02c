"""Selection of the nodes to leave in float by name, pattern or the vendor's convolution index."""

import difflib
import fnmatch
import re
from collections.abc import Sequence

import onnx_ir as ir

from quantkit.errors import UsageError
from quantkit.graph.analysis.values import ORIGIN, array, is_op, node_name, operand

REGEX_PREFIX = "re:"


def skipped_nodes(graph: ir.Graph, patterns: Sequence[str], conv_indices: Sequence[int]) -> dict[str, str]:
    """Return the nodes to leave in float, each with the rule that selected it.

    Args:
        graph: main graph of the prepared model.
        patterns: node names; globs (``*`` and ``?``); or ``re:`` and a regular expression that must match in full.
        conv_indices: positions in `conv2d_nodes`.

    Raises:
        UsageError: a pattern matches no node or is not a valid regular expression, or an index is out of range.
    """
    names = [node_name(node) for node in graph]
    skipped: dict[str, str] = {}
    for pattern in patterns:
        matched = _matches(pattern, names)
        if not matched:
            raise UsageError(f"no node of the model matches {pattern!r}", where="--skip", fix=_nearest(pattern, names))
        skipped |= dict.fromkeys(matched, f"left out by the rule {pattern!r}")
    convs = conv2d_nodes(graph)
    for index in conv_indices:
        if not 0 <= index < len(convs):
            raise UsageError(
                f"there is no conv {index}", where="--skip-conv", fix=f"the model's are 0 to {len(convs) - 1}"
            )
        skipped[convs[index]] = f"left out as conv {index}"
    return skipped


def conv2d_nodes(graph: ir.Graph) -> list[str]:
    """Return the names of the model's 2-D convolutions in graph order, as VACC's ``skip_conv_layers`` counts them.

    Convolutions that quantkit created from a batch norm are not counted: the vendor's compiler does not see them.
    """
    return [
        node_name(node) for node in graph if is_op(node, "Conv") and ORIGIN not in node.metadata_props and _is_2d(node)
    ]


def _is_2d(node: ir.Node) -> bool:
    weight = operand(node, 1)
    if weight is not None and weight.shape is not None:
        return len(weight.shape) == 4
    content = array(weight)
    return content is not None and content.ndim == 4


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    if pattern in names:
        return [pattern]
    if pattern.startswith(REGEX_PREFIX):
        try:
            expression = re.compile(pattern.removeprefix(REGEX_PREFIX))
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a regular expression ({error})", where="--skip") from error
        return [name for name in names if expression.fullmatch(name)]
    return fnmatch.filter(names, pattern) if any(sign in pattern for sign in "*?[") else []


def _nearest(pattern: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(pattern.removeprefix(REGEX_PREFIX), names, n=3, cutoff=0.0)
    return "the nearest names are " + ", ".join(repr(name) for name in near)
