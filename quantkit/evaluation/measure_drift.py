"""Measures the accumulated and isolated drift of tensors between two models."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.engine.batches import Load, load_batch
from quantkit.engine.device import CPU, Device
from quantkit.engine.tap import TappedSession
from quantkit.evaluation.drift import DriftAccumulator, TensorDrift
from quantkit.evaluation.drift_kernel import ImageTerms
from quantkit.graph.analysis.bounds import UNBOUNDED, Bounds, effective_bounds
from quantkit.graph.analysis.values import name_of
from quantkit.graph.image_input import image_input
from quantkit.graph.model import is_quantized
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.isolated import local_graph
from quantkit.graph.qdq.read import activation_qparams, seen_by_readers
from quantkit.types import FloatArray

# Runs both models on a batch, and yields the place of an accumulator with the tensors that it compares.
_Run = Callable[[FloatArray], Iterator[tuple[int, FloatArray, FloatArray]]]


@dataclass(frozen=True)
class Drifts:
    """Drift of a candidate's tensors.

    Attributes:
        accumulated: of every quantized tensor that the reference has, in graph order. The error is end to end: it
            includes the errors of all layers before a tensor.
        isolated: of each integer layer, in graph order. Every layer reads the tensors of the fp32 model, rounded as in
            the candidate, and its result is compared with that of the fp32 model: the error includes the rounding of
            its input, its weights, and the rounding and clipping of its result. Empty for a model of another tool with
            other tensor names than the reference, and if the reference is quantized, because it has no fp32 tensors.
    """

    accumulated: tuple[TensorDrift, ...] = ()
    isolated: tuple[TensorDrift, ...] = ()


@dataclass(frozen=True)
class _Comparison:
    """Two tensors that an accumulator compares.

    Attributes:
        tensor: tensor of the reference.
        other: what it is compared with: a tensor of the candidate, or of a layer alone.
        alone: the other is of a layer alone, which runs with the reference.
        limits: the effective bounds, to which values are clipped.
        drift: the accumulator.
    """

    tensor: str
    other: str
    alone: bool
    limits: Bounds
    drift: DriftAccumulator


def measure_drift(
    reference: ir.Model,
    candidate: ir.Model,
    images: Sequence[ImageItem],
    load: Load,
    threads: int = 1,
    device: Device = CPU,
) -> Drifts:
    """Return the accumulated and the isolated drift of a candidate.

    Values are clipped to the effective bounds of a tensor (`quantkit.graph.analysis.bounds.effective_bounds`). Memory
    does not grow with the number of images. The reference runs once for both.

    Args:
        reference: the model to measure against: fp32, or quantized by any tool.
        candidate: a QDQ model.
        images: the images.
        load: reads and preprocesses an image; called from any thread.
        threads: workers.
        device: where both models run, one image at a time.
    """
    is_fp32 = not is_quantized(reference)
    prepared = prepare(reference).model if is_fp32 else reference
    qparams = activation_qparams(candidate)
    producers = {name_of(value): node.op_type for node in prepared.graph for value in node.outputs}
    limits, batch = _limits(prepared, qparams), image_input(prepared).batch
    pairs = _pairs(prepared, candidate, [name for name in producers if name in qparams])
    compared = [
        _Comparison(
            mine,
            theirs,
            False,
            limits[name],
            DriftAccumulator(name, op_type=producers[name], qparams=qparams[name]),
        )
        for name, (mine, theirs) in pairs.items()
    ]
    if is_fp32:
        local = local_graph(prepared, candidate)
        prepared = local.model
        compared += [
            _Comparison(
                one.tensor,
                one.alone,
                True,
                limits[one.tensor],
                DriftAccumulator(one.tensor, op_type=one.op_type, qparams=one.qparams),
            )
            for one in local.layers
        ]
    if not compared or not images:
        return Drifts()
    _measure(
        [one.drift for one in compared], _both(prepared, candidate, compared, device), batch, images, load, threads
    )
    results = [one.drift.result() for one in compared]
    return Drifts(tuple(results[: len(pairs)]), tuple(results[len(pairs) :]))


def _both(prepared: ir.Model, candidate: ir.Model, compared: Sequence[_Comparison], device: Device) -> _Run:
    """Open both models with their taps; return what runs them.

    The candidate runs whole, the reference in pieces; a tensor is released after its last comparison.
    """
    theirs = list(dict.fromkeys(one.other for one in compared if not one.alone))
    names = (name for one in compared for name in ((one.tensor, one.other) if one.alone else (one.tensor,)))
    session = TappedSession(prepared, list(dict.fromkeys(names)), ordered=True, device=device)
    other = TappedSession(candidate, theirs, ordered=True, device=device) if theirs else None
    places: dict[str, list[int]] = {}
    for place, one in enumerate(compared):
        for name in {one.tensor, one.other} if one.alone else {one.tensor}:
            places.setdefault(name, []).append(place)

    def run(x: FloatArray) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        of_candidate = {} if other is None else dict(other.run(x)[1])
        held: dict[str, FloatArray] = {}
        left = [2 if one.alone else 1 for one in compared]
        for name, value in session.tensors(x):
            held[name] = value
            for place in places[name]:
                left[place] -= 1
                if left[place]:
                    continue
                one = compared[place]
                second = held[one.other] if one.alone else of_candidate[one.other]
                yield place, _effective(held[one.tensor], one.limits), _effective(second, one.limits)
            for done in [name for name in held if not any(left[place] for place in places[name])]:
                del held[done]

    return run


def _pairs(reference: ir.Model, candidate: ir.Model, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the tensors to compare in the two models, by their common name; each pair once, by its shortest name.

    The values that consumers read are compared, which are dequantized values if a model rounds. Integer tensors, and
    tensors with different declared shapes, are left out.
    """
    models = (reference, candidate)
    values = [{name_of(value): value for node in model.graph for value in node.outputs} for model in models]
    seen = [seen_by_readers(model) for model in models]
    found: dict[tuple[str, str], str] = {}
    for name in names:
        mine, theirs = (one.get(name, name) for one in seen)
        if _is_comparable(values[0].get(mine), values[1].get(theirs)):
            found[mine, theirs] = min(found.get((mine, theirs), name), name, key=len)
    return {name: pair for pair, name in found.items()}


def _is_comparable(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Return whether declared types and shapes allow an element-wise comparison of two tensors."""
    if one is None or other is None or any(value.dtype not in (ir.DataType.FLOAT, None) for value in (one, other)):
        return False
    if one.shape is None or other.shape is None:
        return True
    return len(one.shape) == len(other.shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(one.shape, other.shape, strict=True)
    )


def _limits(prepared: ir.Model, rounded: Container[str]) -> dict[str, Bounds]:
    """Return the effective bounds of each tensor of a prepared model, given the names of the rounded tensors."""
    values = [value for node in prepared.graph for value in node.outputs]
    among = {value for value in values if name_of(value) in rounded}
    return {name_of(value): effective_bounds(value, among) for value in values}


def _effective(values: FloatArray, limits: Bounds) -> FloatArray:
    """Return values clipped to their effective bounds, because saturation without an effect is not drift."""
    return values if limits == UNBOUNDED else np.clip(values, np.float32(limits.lo), np.float32(limits.hi))


def _measure(
    accumulators: Sequence[DriftAccumulator],
    run: _Run,
    batch: int | None,
    images: Sequence[ImageItem],
    load: Load,
    threads: int,
) -> None:
    """Stream images through the models and accumulate the drift, one image per worker at a time."""

    def measure(image: ImageItem) -> list[tuple[int, list[ImageTerms]]]:
        x = load_batch([image], load, batch or 1)
        return [(place, accumulators[place].measure(one[:1], other[:1])) for place, one, other in run(x)]

    for measured in map_in_order(measure, images, threads):
        for place, terms in measured:
            accumulators[place].add(terms)
