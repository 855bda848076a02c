"""Runs a model piece by piece over a few images; tensors that cross a cut are kept, so no layer is computed twice.

Layer-wise correction needs each layer's input computed by the already corrected layers before it. Running the model
again for each of L layers takes L passes; running only the part between one layer and the next takes one. A cut through
an int8 model is made at its integers, so both sides still run in integer kernels.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from quantkit.data.parallel import map_in_order
from quantkit.engine.session import first_line, open_model
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import is_constant, name_of, reads

Array = npt.NDArray[np.floating | np.integer]


class SegmentedRun:
    """A walk through a model, from its input towards its outputs, with several images.

    Memory: the tensors that cross the current cut, for every image. Nodes after the cut may be modified at any time.

    Args:
        model: prepared or int8 model; only the caller modifies it.
        images: model inputs, ``[n, C, H, W]`` each.
        threads: number of images run in parallel.
        settled: the model is not modified any more, so sessions of pieces are reused.
    """

    def __init__(self, model: ir.Model, images: Sequence[Array], *, threads: int, settled: bool = False) -> None:
        self.model = model
        self._opened: dict[tuple[str, ...], ort.InferenceSession] | None = {} if settled else None
        self._threads = threads
        self._nodes = [node for node in model.graph if not _is_free(node)]
        self._values = {name_of(value): value for node in model.graph for value in node.outputs}
        self._values |= {name_of(value): value for value in model.graph.inputs}
        self._done: set[ir.Node] = set()
        self._live: dict[str, Sequence[Array]] = {name_of(model.graph.inputs[0]): images}

    @property
    def kept(self) -> tuple[str, ...]:
        """The tensors in memory at the current cut."""
        return tuple(self._live)

    def run(self, tensors: Sequence[str]) -> Iterator[tuple[Array, ...]]:
        """Yield these tensors image by image, computed from the cut; the cut is not moved.

        Raises:
            ModelError: onnxruntime cannot run this piece of the model.
        """
        computed = [name for name in tensors if name not in self._live]
        session = self._piece(computed) if computed else None
        entries = [] if session is None else [entry.name for entry in session.get_inputs()]

        def one(index: int) -> tuple[Array, ...]:
            values = {name: self._live[name][index] for name in tensors if name in self._live}
            if session is not None:
                feeds = {name: self._live[name][index] for name in entries}
                values |= dict(zip(computed, _call(session, feeds, computed), strict=True))
            return tuple(values[name] for name in tensors)

        count = len(next(iter(self._live.values())))
        return map_in_order(one, range(count), self._threads)

    def advance(self, tensors: Sequence[str], *, keep: Sequence[str] = ()) -> None:
        """Move the cut after these tensors: compute the part before it, and keep the tensors that the rest reads.

        Args:
            tensors: tensors of the model.
            keep: tensors among them to keep in memory until the next cut in any case.

        Raises:
            ModelError: onnxruntime cannot run this piece of the model.
        """
        done = self._done | self._missing([self._values[name] for name in tensors])
        needed = list(dict.fromkeys([*self._frontier(done), *keep]))
        kept = [list(column) for column in zip(*self.run(needed), strict=True)]
        self._done, self._live = done, dict(zip(needed, kept, strict=True))

    def reaches(self, tensors: Sequence[str]) -> bool:
        """Return whether these tensors are at or after the cut, so that they can be computed from the kept ones."""
        missing = self._missing([self._values[name] for name in tensors])
        read = {crossing(self._values[name]) for name in tensors}
        read |= {crossing(value) for node in missing for value in reads(node)}
        return all(is_constant(value) or name_of(value) in self._live or value.producer() in missing for value in read)

    def cuts(self, nodes: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the tensors that cross a cut before each of these nodes, by name, in graph order."""
        places = [index for index, node in enumerate(self._nodes) if node.name in set(nodes)]
        return [tuple(self._frontier(set(self._nodes[:index]))) for index in places]

    def branch(self, model: ir.Model, tensors: Mapping[str, str]) -> "SegmentedRun":
        """Return a walk through another model that starts at the current cut of this one.

        Args:
            model: the other model.
            tensors: names of its tensors that are taken from this walk, with their names here; they must determine
                all tensors after them.

        Raises:
            ModelError: onnxruntime cannot run a piece of this model.
        """
        other = SegmentedRun(model, (), threads=self._threads)
        other.restart(dict(zip(tensors, zip(*self.run(list(tensors.values())), strict=True), strict=True)))
        return other

    def restart(self, tensors: Mapping[str, Sequence[Array]]) -> None:
        """Start at a cut that these tensors cross, image by image; earlier results are dropped."""
        self._done = set()
        self._live = {name: list(column) for name, column in tensors.items()}

    def _piece(self, computed: Sequence[str]) -> ort.InferenceSession:
        if self._opened is None:
            return self._open(computed)
        key = (*self._live, *computed)
        if key not in self._opened:
            self._opened[key] = self._open(computed)
        return self._opened[key]

    def _open(self, computed: Sequence[str]) -> ort.InferenceSession:
        graph = ir.convenience.extract(self.model.graph, self._inputs_of(computed), list(computed))
        for value in [*graph.inputs, *graph.outputs]:
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            value.shape = None  # sizes depend on the images; onnxruntime does not need them
        if any(node.op_type == "MaxPool" for node in graph):
            # With the number of axes onnxruntime moves the channels behind, where it has a fast kernel for integers;
            # for layers alone this costs more than it gains.
            for value in graph.inputs:
                value.shape = ir.Shape([None] * self._live[name_of(value)][0].ndim)
        piece = ir.Model(graph, ir_version=self.model.ir_version)
        return open_model(piece)

    def _inputs_of(self, tensors: Sequence[str]) -> list[str]:
        """Return the live tensors that these are computed from."""
        missing = self._missing([self._values[name] for name in tensors])
        read = {name_of(crossing(value)) for node in missing for value in reads(node)}
        read |= {name_of(crossing(self._values[name])) for name in tensors}
        return [name for name in self._live if name in read]

    def _missing(self, values: Sequence[ir.Value]) -> set[ir.Node]:
        """Return the nodes after the cut that these values depend on."""
        found: set[ir.Node] = set()
        pending = list(values)
        while pending:
            value = crossing(pending.pop())
            node = value.producer()
            if node is None or node in self._done or node in found or name_of(value) in self._live:
                continue
            found.add(node)
            pending.extend(reads(node))
        return found

    def _frontier(self, done: set[ir.Node]) -> list[str]:
        """Return the computed tensors that other nodes read, or that are outputs of the model."""
        read = {name_of(crossing(value)) for node in self._nodes if node not in done for value in reads(node)}
        read |= {name_of(crossing(value)) for value in self.model.graph.outputs}
        computed = [*self._live, *(name_of(value) for node in self._nodes if node in done for value in node.outputs)]
        return [name for name in dict.fromkeys(computed) if name in read]


def _call(session: ort.InferenceSession, feeds: Mapping[str, Array], computed: Sequence[str]) -> list[Array]:
    try:
        values: list[Array] = session.run(list(computed), feeds)
    except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
        raise ModelError(f"onnxruntime cannot run a part of the model ({first_line(error)})") from error
    return values


def _is_free(node: ir.Node) -> bool:
    """Return whether a cut is made before a node instead of after it, so that integers cross it."""
    return node.op_type == "DequantizeLinear"


def crossing(value: ir.Value) -> ir.Value:
    """Return the value that crosses a cut instead of this value."""
    node = value.producer()
    while node is not None and _is_free(node):
        source = node.inputs[0]
        assert source is not None
        value, node = source, source.producer()
    return value
