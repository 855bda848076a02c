"""Repairs models that onnxruntime loads although they violate the ONNX format."""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import graphs_within
from quantkit.graph.open_unoptimized import open_unoptimized
from quantkit.graph.passes.opset import ForeignDomain
from quantkit.graph.passes.types import infer_types

# Exporters write these names for sizes that need not be equal.
_NO_NAMES = frozenset({"", "?", "-1", "None", "unknown"})
# Before this IR version every initializer had to be an input, too.
_FREE_INITIALIZERS_IR = 4


def free_sizes(model: ir.Model) -> None:
    """Make sizes below 0 free, as onnxruntime does, and remove names that stand for any size.

    PaddlePaddle's exporter writes ``[-1, 3, ?, ?]``, with height and width independent of each other.
    """
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)):
            if value.shape is not None and any(_is_nameless(size) for size in value.shape):
                value.shape = ir.Shape([None if _is_nameless(size) else size for size in value.shape])


def repair(model: ir.Model) -> None:
    """Sort nodes topologically, import the domains in use, and set the types of outputs, in place.

    Raises:
        ModelError: the graph has a cycle.
    """
    if not model.graph.name:
        model.graph.name = "graph"
    if model.ir_version > 0 and any(not value.is_graph_input() for value in model.graph.initializers.values()):
        model.ir_version = max(model.ir_version, _FREE_INITIALIZERS_IR)
    _import_domains(model)
    if not _is_sorted(model.graph, set()):
        try:
            model.graph.sort()
        except ValueError as error:
            raise ModelError("the graph has a cycle") from error
    if any(value.shape is None or value.type is None for value in model.graph.outputs):
        infer_types(model)


@contextmanager
def as_checked(model: ir.Model) -> Iterator[None]:
    """Context manager that hides unknown ranks and onnxruntime's operators from ONNX's checker."""
    open_outputs = [value for value in model.graph.outputs if value.shape is None and value.type is not None]
    for value in open_outputs:
        value.shape = ir.Shape([])  # the checker requires a shape, but does not check it
    try:
        with ForeignDomain(model):
            yield
    finally:
        for value in open_outputs:
            value.shape = None


def _is_nameless(size: int | ir.SymbolicDim) -> bool:
    return size < 0 if isinstance(size, int) else size.value in _NO_NAMES


def _import_domains(model: ir.Model) -> None:
    """Import the domains that the model uses but does not import, in the versions that onnxruntime assumes."""
    used = {node.domain for node in model.graph.all_nodes()} | {
        function.domain for function in model.functions.values()
    }
    for domain in sorted(used - set(model.opset_imports)):
        assumed = _assumed_opsets().get(domain)
        if assumed is not None:
            model.opset_imports[domain] = assumed


@functools.cache
def _assumed_opsets() -> dict[str, int]:
    """Return the version of each domain that onnxruntime assumes if a model does not import it."""
    text = """<ir_version: 8, opset_import: ["com.microsoft": 1]>
    imports (float[1] x) => (float[1] y) { y = com.microsoft.Gelu(x) }"""
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        path = Path(folder) / "imports.onnx"
        open_unoptimized(onnx.parser.parse_model(text), path)
        written = onnx.load(path)
    return {entry.domain: entry.version for entry in written.opset_import}


def _is_sorted(graph: ir.Graph, known: set[ir.Value]) -> bool:
    """Return whether nodes are in topological order, including subgraphs."""
    made = {value for node in graph for value in node.outputs}
    seen = set(known)
    for node in graph:
        if any(value in made and value not in seen for value in node.inputs if value is not None):
            return False
        if not all(_is_sorted(inner, seen) for inner in graphs_within(node)):
            return False
        seen.update(node.outputs)
    return True
