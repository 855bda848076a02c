"""How far the tensors of two models lie apart, and what each layer adds."""

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.observe import load_batch
from quantkit.engine.tap import TappedSession
from quantkit.evaluation.drift import DriftAccumulator, TensorDrift
from quantkit.evaluation.drift_kernel import ImageTerms
from quantkit.graph.analysis.bounds import UNBOUNDED, Bounds, effective_bounds
from quantkit.graph.analysis.values import name_of
from quantkit.graph.model import image_input
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.isolated import local_graph
from quantkit.graph.qdq.read import activation_qparams
from quantkit.numerics import FloatArray

# Runs both models on a batch and yields each tensor of the one with that of the other, in the accumulators' order.
_Run = Callable[[FloatArray], Iterable[tuple[FloatArray, FloatArray]]]


def measure_drift(
    reference: ir.Model, candidate: ir.Model, images: Sequence[ImageItem], pipeline: Pipeline, threads: int = 1
) -> tuple[TensorDrift, ...]:
    """Return the drift of every quantized tensor of the candidate that the prepared reference has too, in graph order.

    The error is end to end: each tensor differs by all that happened before it. Beyond the limits of what a tensor's
    readers tell apart (`quantkit.graph.analysis.bounds.effective_bounds`) nothing differs. Memory does not grow with
    the images.

    Args:
        reference: the fp32 model.
        candidate: its QDQ model.
        images: the images.
        pipeline: their preprocessing.
        threads: workers.
    """
    prepared = prepare(reference).model
    qparams = activation_qparams(candidate)
    producers = {str(value.name): node.op_type for node in prepared.graph for value in node.outputs}
    known = [name for name in producers if name in qparams]
    if not known:
        return ()
    sessions = [TappedSession(model, known, ordered=True) for model in (prepared, candidate)]
    limits = _limits(prepared, qparams)

    def run(x: FloatArray) -> Iterable[tuple[FloatArray, FloatArray]]:
        one, other = (dict(session.run(x)[1]) for session in sessions)
        return ((_effective(one[name], limits[name]), _effective(other[name], limits[name])) for name in known)

    accumulators = [DriftAccumulator(name, op_type=producers[name], qparams=qparams[name]) for name in known]
    return _measure(accumulators, run, image_input(prepared).batch, images, pipeline, threads)


def measure_local_drift(
    reference: ir.Model, candidate: ir.Model, images: Sequence[ImageItem], pipeline: Pipeline, threads: int = 1
) -> tuple[TensorDrift, ...]:
    """Return what each integer layer of the candidate adds by itself, in graph order.

    Every layer reads the tensors of the fp32 model, rounded as the candidate rounds them, and its result is compared
    with the fp32 model's: the error of its input's rounding, its weights, and its result's rounding and clipping, and
    of nothing before it. Memory does not grow with the images. Empty for a model of another tool whose tensors do not
    bear the names of the reference's.

    Args:
        reference: the fp32 model.
        candidate: its QDQ model.
        images: the images.
        pipeline: their preprocessing.
        threads: workers.
    """
    prepared = prepare(reference).model
    local = local_graph(prepared, candidate)
    if not local.layers:
        return ()
    session = TappedSession(
        local.model, [name for layer in local.layers for name in (layer.tensor, layer.alone)], ordered=True
    )

    limits = _limits(prepared, activation_qparams(candidate))

    def run(x: FloatArray) -> Iterable[tuple[FloatArray, FloatArray]]:
        tensors = dict(session.run(x)[1])
        return (
            (
                _effective(tensors[layer.tensor], limits[layer.tensor]),
                _effective(tensors[layer.alone], limits[layer.tensor]),
            )
            for layer in local.layers
        )

    accumulators = [
        DriftAccumulator(layer.tensor, op_type=layer.op_type, qparams=layer.qparams) for layer in local.layers
    ]
    return _measure(accumulators, run, image_input(prepared).batch, images, pipeline, threads)


def _limits(prepared: ir.Model, rounded: Container[str]) -> dict[str, Bounds]:
    """Return what is felt of each tensor of a prepared model, by the names of those that are rounded."""
    values = [value for node in prepared.graph for value in node.outputs]
    among = {value for value in values if name_of(value) in rounded}
    return {name_of(value): effective_bounds(value, among) for value in values}


def _effective(values: FloatArray, limits: Bounds) -> FloatArray:
    """Return values as their readers can tell them apart: what saturates unfelt is no drift."""
    return values if limits == UNBOUNDED else np.clip(values, np.float32(limits.lo), np.float32(limits.hi))


def _measure(
    accumulators: Sequence[DriftAccumulator],
    run: _Run,
    batch: int | None,
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    threads: int,
) -> tuple[TensorDrift, ...]:
    """Stream images through the models and sum up, one image a worker at a time."""
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
