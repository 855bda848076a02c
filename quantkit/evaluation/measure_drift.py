"""Measures the accumulated and isolated drift of tensors between two models."""

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.batches import load_batch
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

# Runs both models on a batch, and yields pairs of tensors in the order of the accumulators.
_Run = Callable[[FloatArray], Iterable[tuple[FloatArray, FloatArray]]]


def measure_drift(
    reference: ir.Model,
    candidate: ir.Model,
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    threads: int = 1,
    device: Device = CPU,
) -> tuple[TensorDrift, ...]:
    """Return the accumulated drift of every quantized tensor of the candidate that the reference has, in graph order.

    The error is end to end: it includes the errors of all layers before a tensor. Values are clipped to the effective
    bounds of a tensor (`quantkit.graph.analysis.bounds.effective_bounds`). Memory does not grow with the number of
    images.

    Args:
        reference: the model to measure against: fp32, or quantized by any tool.
        candidate: a QDQ model.
        images: the images.
        pipeline: their preprocessing.
        threads: workers.
        device: where both models run, one image at a time.
    """
    prepared = reference if is_quantized(reference) else prepare(reference).model
    qparams = activation_qparams(candidate)
    producers = {str(value.name): node.op_type for node in prepared.graph for value in node.outputs}
    pairs = _pairs(prepared, candidate, [name for name in producers if name in qparams])
    if not pairs:
        return ()
    known = list(pairs)
    sessions = [
        TappedSession(model, list(dict.fromkeys(taps)), ordered=True, device=device)
        for model, taps in zip((prepared, candidate), zip(*pairs.values(), strict=True), strict=True)
    ]
    limits = _limits(prepared, qparams)

    def run(x: FloatArray) -> Iterable[tuple[FloatArray, FloatArray]]:
        one, other = (dict(session.run(x)[1]) for session in sessions)
        return (
            (_effective(one[mine], limits[name]), _effective(other[theirs], limits[name]))
            for name, (mine, theirs) in pairs.items()
        )

    accumulators = [DriftAccumulator(name, op_type=producers[name], qparams=qparams[name]) for name in known]
    batch = image_input(prepared).batch
    del prepared  # the sessions have their own copies of the weights
    return _measure(accumulators, run, batch, images, pipeline, threads)


def measure_local_drift(
    reference: ir.Model,
    candidate: ir.Model,
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    threads: int = 1,
    device: Device = CPU,
) -> tuple[TensorDrift, ...]:
    """Return the isolated drift of each integer layer of the candidate, in graph order.

    Every layer reads the tensors of the fp32 model, rounded as in the candidate, and its result is compared with that
    of the fp32 model: the error includes the rounding of its input, its weights, and the rounding and clipping of its
    result. Memory does not grow with the number of images. The result is empty for a model of another tool with other
    tensor names than the reference, and if the reference is quantized, because it has no fp32 tensors.

    Args:
        reference: the fp32 model.
        candidate: its QDQ model.
        images: the images.
        pipeline: their preprocessing.
        threads: workers.
        device: where the layers run, one image at a time.
    """
    if is_quantized(reference):
        return ()
    prepared = prepare(reference).model
    local = local_graph(prepared, candidate)
    layers = local.layers
    if not layers:
        return ()
    taps = [name for layer in layers for name in (layer.tensor, layer.alone)]
    session = TappedSession(local.model, taps, ordered=True, device=device)
    limits, batch = _limits(prepared, activation_qparams(candidate)), image_input(prepared).batch
    del prepared, local  # the session has its own copy of the weights

    def run(x: FloatArray) -> Iterable[tuple[FloatArray, FloatArray]]:
        tensors = dict(session.run(x)[1])
        return (
            (
                _effective(tensors[layer.tensor], limits[layer.tensor]),
                _effective(tensors[layer.alone], limits[layer.tensor]),
            )
            for layer in layers
        )

    accumulators = [DriftAccumulator(layer.tensor, op_type=layer.op_type, qparams=layer.qparams) for layer in layers]
    return _measure(accumulators, run, batch, images, pipeline, threads)


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
    pipeline: Pipeline,
    threads: int,
) -> tuple[TensorDrift, ...]:
    """Stream images through the models and accumulate the drift, one image per worker at a time."""
    load = partial(preprocess, pipeline=pipeline)

    def measure(image: ImageItem) -> list[list[ImageTerms]]:
        pairs = run(load_batch([image], load, batch or 1))
        return [
            accumulator.measure(reference[:1], candidate[:1])
            for accumulator, (reference, candidate) in zip(accumulators, pairs, strict=True)
        ]

    for measured in map_in_order(measure, images, threads):
        for accumulator, terms in zip(accumulators, measured, strict=True):
            accumulator.add(terms)
    return tuple(accumulator.result() for accumulator in accumulators) if images else ()
