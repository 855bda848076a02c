"""A model run piece by piece over a few images: what crosses a cut is kept, so no layer is computed twice.

Correcting or rounding layer by layer needs each layer's input as the layers before it, already corrected, make it.
Running the model anew for each of L layers costs L passes; running only what lies between one layer and the next costs
one. A cut through an int8 model goes through its integers, so what lies on either side still runs in integer kernels.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from quantkit.data.parallel import map_in_order
from quantkit.engine.session import first_line, open_session
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import is_constant, name_of, reads

Array = npt.NDArray[np.floating | np.integer]


class SegmentedRun:
    """A walk through a model, from its input towards its outputs, with several images at once.

    Memory: the tensors that cross the present cut, for every image. Nodes may be edited ahead of the cut at any time.

    Args:
        model: prepared or int8; edited by the caller, never here.
        images: ``[n, C, H, W]`` each, as the model's input takes them.
        threads: images run side by side.
        settled: the model is not edited any more, so a piece that was opened stays open.
    """

    def __init__(self, model: ir.Model, images: Sequence[Array], *, threads: int, settled: bool = False) -> None:
        self.model = model
        self._opened: dict[tuple[str, ...], ort.InferenceSession] | None = {} if settled else None
        self._threads = threads
        self._nodes = [node for node in model.graph if not _is_free(node)]
        self._values = {name_of(value): value for node in model.graph for value in node.outputs}
        self._values |= {name_of(value): value for value in model.graph.inputs}
        self._done: set[ir.Node] = set()
        self._live: dict[str, list[Array]] = {name_of(model.graph.inputs[0]): list(images)}

    @property
    def kept(self) -> tuple[str, ...]:
        """The tensors that are in memory at the present cut."""
        return tuple(self._live)

    def run(self, tensors: Sequence[str]) -> Iterator[tuple[Array, ...]]:
        """Yield these tensors image by image, computed from the cut; the cut stays where it is.

        Raises:
            ModelError: onnxruntime cannot run this piece of the model.
        """
        computed = [name for name in tensors if name not in self._live]
        session = self._piece(computed) if computed else None

        def one(index: int) -> tuple[Array, ...]:
            values = {name: self._live[name][index] for name in tensors if name in self._live}
            if session is not None:
                values |= dict(zip(computed, self._call(session, index, computed), strict=True))
            return tuple(values[name] for name in tensors)

        count = len(next(iter(self._live.values())))
        return map_in_order(one, range(count), self._threads)

    def advance(self, tensors: Sequence[str], *, keep: Sequence[str] = ()) -> None:
        """Move the cut behind these tensors: compute what lies before it, keep what the rest of the model reads.

        Args:
            tensors: of the model.
            keep: those of them to have in memory until the next cut, whoever reads them.

        Raises:
            ModelError: onnxruntime cannot run this piece of the model.
        """
        done = self._done | self._missing([self._values[name] for name in tensors])
        needed = list(dict.fromkeys([*self._frontier(done), *keep]))
        kept = [list(column) for column in zip(*self.run(needed), strict=True)]
        self._done, self._live = done, dict(zip(needed, kept, strict=True))

    def reaches(self, tensors: Sequence[str]) -> bool:
        """Tell whether these tensors lie at or behind the cut, so that they can be computed from what is kept."""
        missing = self._missing([self._values[name] for name in tensors])
        read = {crossing(self._values[name]) for name in tensors}
        read |= {crossing(value) for node in missing for value in reads(node)}
        return all(is_constant(value) or name_of(value) in self._live or value.producer() in missing for value in read)

    def cuts(self, nodes: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the tensors that cross a cut before each of these nodes, by name, in graph order."""
        places = [index for index, node in enumerate(self._nodes) if node.name in set(nodes)]
        return [tuple(self._frontier(set(self._nodes[:index]))) for index in places]

    def branch(self, model: ir.Model, tensors: Mapping[str, str]) -> "SegmentedRun":
        """Return a walk through another model that begins at the present cut of this one.

        Args:
            model: the other.
            tensors: its tensors that are taken from this walk, by their names there, with the names that they have
                here; all that it needs must follow from them.

        Raises:
            ModelError: onnxruntime cannot run a piece of this model.
        """
        other = SegmentedRun(model, (), threads=self._threads)
        other.restart(dict(zip(tensors, zip(*self.run(list(tensors.values())), strict=True), strict=True)))
        return other

    def restart(self, tensors: Mapping[str, Sequence[Array]]) -> None:
        """Begin at a cut that these tensors cross, image by image; what was computed before is forgotten."""
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
            value.shape = None  # sizes are those of the images; onnxruntime needs none
        piece = ir.Model(graph, ir_version=self.model.ir_version)
        return open_session(ir.serde.serialize_model(piece).SerializeToString())

    def _call(self, session: ort.InferenceSession, index: int, computed: Sequence[str]) -> list[Array]:
        feeds = {entry.name: self._live[entry.name][index] for entry in session.get_inputs()}
        try:
            values: list[Array] = session.run(list(computed), feeds)
        except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
            raise ModelError(f"onnxruntime cannot run a part of the model ({first_line(error)})") from error
        return values

    def _inputs_of(self, tensors: Sequence[str]) -> list[str]:
        """Return the live tensors that these are computed from."""
        missing = self._missing([self._values[name] for name in tensors])
        read = {name_of(crossing(value)) for node in missing for value in reads(node)}
        read |= {name_of(crossing(self._values[name])) for name in tensors}
        return [name for name in self._live if name in read]

    def _missing(self, values: Sequence[ir.Value]) -> set[ir.Node]:
        """Return the nodes not yet computed that these values depend on."""
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
        """Return the tensors that nodes not among those done read, or that are the model's outputs."""
        read = {name_of(crossing(value)) for node in self._nodes if node not in done for value in reads(node)}
        read |= {name_of(crossing(value)) for value in self.model.graph.outputs}
        computed = [*self._live, *(name_of(value) for node in self._nodes if node in done for value in node.outputs)]
        return [name for name in dict.fromkeys(computed) if name in read]


def _is_free(node: ir.Node) -> bool:
    """Tell whether a node belongs to its readers, so that a cut passes before it and integers cross."""
    return node.op_type == "DequantizeLinear"


def crossing(value: ir.Value) -> ir.Value:
    """Return what crosses a cut in place of this value."""
    node = value.producer()
    while node is not None and _is_free(node):
        source = node.inputs[0]
        assert source is not None
        value, node = source, source.producer()
    return value
