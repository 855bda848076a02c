"""Reads tensors of a running model at little more than the cost of inference.

A tensor is tapped by making it an output. The cost is in the layout: onnxruntime computes convolutions in blocks of
channels and reorders the channels of every output. A histogram does not depend on the order, so the outputs of the
optimized graph are moved before the reordering: on MobileNetV2 this reduces the time from 1.9 to 1.2 times that of
plain inference. The graph is then partitioned, so that a tensor is read while it is in the cache (see
`quantkit.engine.partition`), and its pieces share memory (see `quantkit.engine.bound_pieces`), which reduces the time
to 1.06 times.
"""

import contextlib
import itertools
import math
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.engine.bound_pieces import BoundPieces, OpenPiece, can_bind, run_pieces
from quantkit.engine.device import CPU, Device
from quantkit.engine.partition import cut
from quantkit.engine.placement import placement_of
from quantkit.engine.session import open_session
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import graphs_within
from quantkit.graph.model import save_model
from quantkit.types import Float32Array

# Blocks have 8 or 16 channels, by processor. If the channels of a tensor are not a multiple of both, it is padded with
# values that no layer computed, so its reordering is kept.
_LARGEST_BLOCK = 16

# Maximum elements of tapped tensors per piece: 4 MiB, about one or two second-level caches. Measured on MobileNetV2,
# ResNet-50 and SqueezeNet: half of it costs a little more in calls, and twice of it gains nothing.
PIECE_ELEMENTS = 1 << 20


class TappedSession:
    """A model that yields selected tensors in addition to its result.

    `run` and `tensors` are thread-safe; weights are shared.

    Args:
        model: a prepared model.
        tensors: names of the tensors to tap; the model's input and outputs are allowed.
        ordered: return every tensor in its own layout and shape; otherwise the elements of some are in another order.
        device: the device; on a device other than the CPU the model is not partitioned, runs one batch at a time, and
            is always ``ordered``.

    Attributes:
        names: the tapped tensors, as given.
        entry: name of the model's input.
        partitions: the pieces of the model.
        placement: where its layers really run.

    Raises:
        ModelError: a name is not a tensor of the model, or onnxruntime cannot run it.
        DeviceError: the device does not run it.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[str], *, ordered: bool = False, device: Device = CPU) -> None:
        self.names = tuple(tensors)
        self._inputs = [str(value.name) for value in model.graph.inputs if value.name in tensors]
        self._result = str(model.graph.outputs[0].name)
        wanted = [name for name in tensors if name not in self._inputs]
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            tapped = Path(folder) / "tapped.onnx"
            _save_tapped(model, wanted, tapped)
            # onnxruntime cannot always read back the subgraphs that it writes in an optimized model.
            nested = any(list(graphs_within(node)) for node in model.graph)
            if nested or not device.is_cpu:
                whole = _whole(tapped, [*wanted, self._result], device)
                self.partitions, tap_of = [whole], {name: name for name in wanted}
            else:
                self.partitions, tap_of = _open_pieces(tapped, _elements(model, wanted), ordered)
        self.placement = placement_of(self.partitions[0].session, device)
        self._tap_of = tap_of
        self.entry = str(model.graph.inputs[0].name)

    def run(self, x: Float32Array) -> tuple[Float32Array, Iterator[tuple[str, Float32Array]]]:
        """Run one batch ``[N, C, H, W]``; return the model's first output, and the tapped tensors by name."""
        values = dict(run_pieces(self.partitions, {self.entry: x}))
        tapped = ((name, values[output]) for output, name in self._tap_of.items())
        return values[self._result], itertools.chain(((name, x) for name in self._inputs), tapped)

    def tensors(self, x: Float32Array) -> Iterator[tuple[str, Float32Array]]:
        """Run one batch ``[N, C, H, W]``, and yield each tapped tensor by name soon after it is computed.

        If a tensor is released before the next one is requested, its memory, and its place in the cache, are reused.
        """
        return self.taps(x, run_pieces(self.partitions, {self.entry: x}))

    def taps(self, x: Float32Array, outputs: Iterable[tuple[str, Float32Array]]) -> Iterator[tuple[str, Float32Array]]:
        """Yield the tapped tensors among the outputs of the pieces for the input ``x``."""
        yield from ((name, x) for name in self._inputs)
        for output, value in outputs:
            if output in self._tap_of:
                yield self._tap_of[output], value


class TapReader:
    """Reads the tapped tensors of a session in memory that is used again for every batch; for one thread."""

    def __init__(self, session: TappedSession) -> None:
        self._session = session
        self._shape: tuple[int, ...] | None = None
        self._outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._bound: BoundPieces | None = None

    def tensors(self, x: Float32Array) -> Iterator[tuple[str, Float32Array]]:
        """Do what `TappedSession.tensors` does; a tensor is valid until the next one is requested."""
        return self._session.taps(x, self._walk(np.ascontiguousarray(x)))

    def _walk(self, x: Float32Array) -> Iterator[tuple[str, Float32Array]]:
        pieces, entry = self._session.partitions, self._session.entry
        if x.shape != self._shape:
            self._bound = None
        elif self._bound is None and can_bind(pieces, self._outputs):
            self._bound = BoundPieces(pieces, entry, self._outputs)
        if self._bound is not None:
            yield from self._bound.run(x)
            return
        outputs = {}
        for name, value in run_pieces(pieces, {entry: x}):
            outputs[name] = value.shape, value.dtype
            yield name, value
        self._shape, self._outputs = x.shape, outputs


def _save_tapped(model: ir.Model, tensors: Sequence[str], path: Path) -> None:
    """Write the model with the tensors as additional outputs."""
    tapped = model.clone()
    values = {value.name: value for node in tapped.graph for value in node.outputs}
    outputs = {value.name for value in tapped.graph.outputs}
    for name in tensors:
        if name not in values:
            raise ModelError(f"there is no tensor {name!r} in the model")
        if name not in outputs:
            # onnxruntime infers types itself, but an output must have one.
            values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
            tapped.graph.outputs.append(values[name])
    save_model(tapped, path)


def _elements(model: ir.Model, tensors: Sequence[str]) -> dict[str, int]:
    """Return the number of elements per image of each tensor, 0 if its shape is unknown."""
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    sizes = {name: [size for size in shapes.get(name) or [0] if isinstance(size, int)] for name in tensors}
    return {name: math.prod(known) for name, known in sizes.items()}


def _whole(tapped: Path, outputs: Sequence[str], device: Device) -> OpenPiece:
    session = open_session(tapped, device=device)
    # The tensors of a batch take much of a device's memory, and running two batches in parallel gains nothing.
    turn = contextlib.nullcontext() if device.is_cpu else threading.Lock()
    return OpenPiece(session, (session.get_inputs()[0].name,), tuple(dict.fromkeys(outputs)), turn=turn)


def _open_pieces(tapped: Path, elements: Mapping[str, int], ordered: bool) -> tuple[list[OpenPiece], dict[str, str]]:
    """Open the tapped model in pieces, optimized by onnxruntime, with taps before their reordering if they may be.

    Args:
        tapped: the model.
        elements: number of elements of each tapped tensor.
        ordered: leave the taps behind their reordering.

    Returns:
        The pieces, and the tap of each of their outputs.
    """
    optimized = tapped.with_name("optimized.onnx")
    open_session(tapped, optimized=optimized)
    proto = onnx.load(optimized, load_external_data=False)
    moved = {} if ordered else _move_taps(proto.graph, set(elements))
    output_of = {name: moved.get(name, name) for name in elements}
    partitions = []
    for piece in cut(proto, {output_of[name]: size for name, size in elements.items()}, PIECE_ELEMENTS):
        path = tapped.with_name("piece.onnx")
        onnx.save(piece.model, path)
        # The model is already optimized, so it is run without further optimization.
        session = open_session(path, fuse=False)
        partitions.append(OpenPiece(session, piece.inputs, piece.outputs, piece.later))
    return partitions, {output: name for name, output in output_of.items()}


def _move_taps(graph: onnx.GraphProto, tensors: set[str]) -> dict[str, str]:
    """Make blocked tensors outputs; return the new output of each moved tap."""
    read = {name for node in graph.node for name in node.input}
    outputs = {output.name for output in graph.output}
    moved: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "ReorderOutput" and node.output[0] in tensors and _whole_blocks(node):
            moved[node.output[0]] = node.input[0]
            if node.output[0] not in read:
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for output in graph.output:
        if output.name in moved:
            output.name = moved[output.name]
            output.type.tensor_type.ClearField("shape")
    assert outputs >= moved.keys()
    return moved


def _whole_blocks(node: onnx.NodeProto) -> bool:
    channels = next((attribute.i for attribute in node.attribute if attribute.name == "channels"), 0)
    return channels > 0 and channels % _LARGEST_BLOCK == 0
