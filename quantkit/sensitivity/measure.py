"""Measures the cost of each layer: the error of the scores with only that layer in int8, and with all layers except it.

A layer in int8 has quantized weights, bias (with its bias correction) and input activation, and, on targets with
kernels that round their results, a quantized result after its activation function. The isolated model leaves every
other layer in float, and operators between layers as in a plan with those layers skipped. The leave-one-out model is
the int8 model
with the layer skipped: a tensor that other integer operators read is still rounded for them, and a sum, pool or
concatenation without a remaining benefit from integers is float as well.

The two measures differ: the isolated noise of a layer shows where the noise originates, the leave-one-out noise shows
the gain of leaving it in float. Noise of several layers partly cancels and is partly amplified by following layers, so
neither measure adds up to the noise of the full int8 model.

Each model is run from the layer on: the preceding part is that of the fp32 or the int8 model, and is computed once. On
average this is about half a pass per layer and measure, in addition to writing and loading the part of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.device import CPU, Device
from quantkit.engine.prefix_sharing import variant_runs
from quantkit.engine.scores import scores_of
from quantkit.errors import NumericError
from quantkit.evaluation.predictions import kind_of_scores, kl_divergence
from quantkit.evaluation.score_sqnr import mean_ratio_db, signal_and_noise
from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.values import node_name
from quantkit.graph.qdq.plan import Layer, Plan, PlanOptions, plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import Target
from quantkit.types import Float32Array

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Deviation:
    """Deviation of the scores of a model from those of fp32, by image.

    Attributes:
        noise: float64 ``[images]``, the squared difference of the logits summed over the classes.
        kl: float64 ``[images]``, ``KL(fp32 || model)`` of the softmaxed scores in nats.
        top1: int64 ``[images]``, the top class of the model, the lowest index of equals.
    """

    noise: Vector
    kl: Vector
    top1: npt.NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Sequence["Deviation"]) -> "Deviation":
        """Concatenate the images of several deviations."""
        joined = {key: np.concatenate([getattr(part, key) for part in parts]) for key in ("noise", "kl", "top1")}
        return cls(**joined)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerCost:
    """Cost of a layer.

    Attributes:
        node: name of the layer.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        conv_index: index of a 2-D convolution in VACC's ``skip_conv_layers``; None for other layers.
        macs: multiply-adds for one image, None if unknown.
        isolated: deviation of the model in which only this layer is int8.
        leave_one_out: deviation of the model in which all integer layers except this one are int8.
    """

    node: str
    op_type: str
    conv_index: int | None
    macs: int | None
    isolated: Deviation
    leave_one_out: Deviation


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkCost:
    """Cost of int8, in total and by layer, over the same images.

    Attributes:
        signal: float64 ``[images]``, the squared logits of fp32 summed over the classes.
        top1: int64 ``[images]``, the top class of fp32.
        macs: multiply-adds of the network for one image, in float or int8.
        whole: deviation of the full int8 model.
        layers: costs of the layers, in graph order.
    """

    signal: Vector
    top1: npt.NDArray[np.int64]
    macs: int
    whole: Deviation
    layers: tuple[LayerCost, ...]

    @classmethod
    def concatenate(cls, parts: Sequence["NetworkCost"]) -> "NetworkCost":
        """Concatenate the measurements of one network on several lots of images."""
        layers = (
            replace(
                same[0],
                isolated=Deviation.concatenate([layer.isolated for layer in same]),
                leave_one_out=Deviation.concatenate([layer.leave_one_out for layer in same]),
            )
            for same in zip(*(part.layers for part in parts), strict=True)
        )
        return cls(
            signal=np.concatenate([part.signal for part in parts]),
            top1=np.concatenate([part.top1 for part in parts]),
            macs=parts[0].macs,
            whole=Deviation.concatenate([part.whole for part in parts]),
            layers=tuple(layers),
        )

    def sqnr_db(self, deviation: Deviation) -> float:
        """Return the SQNR of the scores in dB, see `quantkit.evaluation.score_sqnr`; infinite without noise."""
        return mean_ratio_db(self.signal, deviation.noise)

    def share_made(self, layer: LayerCost) -> float:
        """Return the isolated noise of a layer as a share of the noise of the full int8 model."""
        return _share(float(layer.isolated.noise.sum()), float(self.whole.noise.sum()))

    def share_saved(self, layer: LayerCost) -> float:
        """Return the share of the noise removed when a layer is left in float; negative if the noise increases."""
        whole = float(self.whole.noise.sum())
        return _share(whole - float(layer.leave_one_out.noise.sum()), whole)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a network is quantized.

    Attributes:
        target: runtime or compiler of the int8 model.
        ranges: ranges of every tensor that a plan of the network for this target observes.
        left_out: layers in float in any case.
        bias_shift: bias shifts, as for `quantkit.graph.qdq.write.write_qdq`.
    """

    target: Target
    ranges: Mapping[str, Range]
    left_out: PlanOptions = field(default_factory=PlanOptions)
    bias_shift: Mapping[str, Float32Array] = field(default_factory=dict)

    def plan(self, prepared: ir.Model, *nodes: str) -> Plan:
        """Return the plan of a prepared model in which these nodes are also left in float."""
        return plan(prepared, self.target, replace(self.left_out, skip=(*self.left_out.skip, *nodes)))

    def model(self, prepared: ir.Model, made: Plan) -> ir.Model:
        """Return the int8 model of a plan."""
        return write_qdq(prepared, made, self.ranges, bias_shift=self.bias_shift)


def layer_costs(
    scorer: "LayerScorer",
    *,
    known: Mapping[str, LayerCost] | None = None,
    found: Callable[[LayerCost], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NetworkCost:
    """Measure every integer layer isolated (only it in int8) and left out (all except it in int8).

    The result does not depend on the number of threads.

    Args:
        scorer: runs the models.
        known: costs of layers on these images, by node name; they are not measured again.
        found: called with each layer's cost as soon as it is measured.
        progress: called with the number of finished layers and of all layers.

    Raises:
        ModelError: onnxruntime cannot run a model.
        NumericError: scores are NaN or infinite.
    """
    network = EvaluatedNetwork(scorer.conv_index, scorer.macs, scorer.reference, scorer.int8)
    costs = []
    for layer in scorer.layers:
        cost = None if known is None else known.get(layer.node)
        if cost is None:
            cost = network.layer(layer, *scorer.scores(layer))
            if found is not None:
                found(cost)
        costs.append(cost)
        if progress is not None:
            progress(len(costs), len(scorer.layers))
    return network.cost(costs)


class LayerScorer:
    """Runs the models that tell what layers cost.

    Every image is run by itself, so that its scores do not depend on the others.

    Args:
        prepared: model from `quantkit.graph.prepare.prepare`.
        quantization: how it is quantized.
        images: a few dozen inputs, ``[N, C, H, W]``; of an image repeated to fill a fixed batch, the first result is
            used.
        threads: number of images run in parallel.
        device: device of all models, fp32 included, so that the rounding of the device is not a cost of a layer.

    Attributes:
        layers: the integer layers, in graph order, which `scores` is to be called in.
        conv_index: of 2-D convolutions, by node name.
        macs: multiply-adds for one image, by node name.
        reference: float32 ``[images, classes]``, the scores of fp32.
        int8: those of the whole int8 model.

    Raises:
        UsageError: a layer to leave in float does not exist.
        ModelError: nothing is left to quantize, a tensor has no range, or onnxruntime cannot run a model.
        DeviceError: the device does not run a model.
        NumericError: scores of fp32 are NaN or infinite.
    """

    def __init__(
        self,
        prepared: ir.Model,
        quantization: Quantization,
        images: Sequence[Float32Array],
        *,
        threads: int,
        device: Device = CPU,
    ) -> None:
        self._prepared, self._quantization = prepared, quantization
        self._made = quantization.plan(prepared)
        int8 = quantization.model(prepared, self._made)
        self.layers: tuple[Layer, ...] = tuple(self._made.layers)
        self.conv_index = self._made.conv_index
        self.macs = multiply_adds(prepared, images[0].shape)
        self.reference = scores_of(prepared, images, threads=threads, device=device)
        _check_finite(self.reference)
        self.int8 = scores_of(int8, images, threads=threads, device=device)
        self._floats, self._integers = (
            variant_runs(model, images, threads=threads, device=device) for model in (prepared, int8)
        )

    def scores(self, layer: Layer) -> tuple[Float32Array, Float32Array]:
        """Return the scores with this layer alone in int8, and with all but it in int8."""
        isolated = self._model(*self._others(layer))
        return self._floats.scores(isolated, walk_to=layer.node), self.leave_one_out(layer)

    def leave_one_out(self, layer: Layer) -> Float32Array:
        """Return the scores with all layers but this one in int8."""
        # Without another layer no operator is left to quantize.
        model = self._model(layer.node) if self._others(layer) else self._prepared
        return self._integers.scores(model, walk_to=layer.node)

    def _others(self, layer: Layer) -> list[str]:
        return [name for name in _multiplying(self._made) if name != layer.node]

    def _model(self, *in_float: str) -> ir.Model:
        return self._quantization.model(self._prepared, self._quantization.plan(self._prepared, *in_float))


class EvaluatedNetwork:
    """A network whose layers are being measured.

    Args:
        conv_index: of 2-D convolutions, by node name.
        macs: multiply-adds for one image, by node name.
        reference: float32 ``[images, classes]``, the scores of fp32.
        int8: those of the whole int8 model.

    Raises:
        NumericError: scores are NaN or infinite.
    """

    def __init__(
        self, conv_index: Mapping[str, int], macs: Mapping[str, int], reference: Float32Array, int8: Float32Array
    ) -> None:
        _check_finite(reference)
        self._conv_index, self._macs, self._reference = conv_index, macs, reference
        self._kind = kind_of_scores(reference)
        self._whole = self._deviation(int8)

    def layer(self, layer: Layer, isolated: Float32Array, leave_one_out: Float32Array) -> LayerCost:
        """Return the cost of a layer from the scores with it alone in int8, and with all but it in int8."""
        return LayerCost(
            node=layer.node,
            op_type=layer.op_type,
            conv_index=self._conv_index.get(layer.node),
            macs=self._macs.get(layer.node),
            isolated=self._deviation(isolated),
            leave_one_out=self._deviation(leave_one_out),
        )

    def cost(self, layers: Sequence[LayerCost]) -> NetworkCost:
        """Return the cost of the network with that of its layers."""
        return NetworkCost(
            signal=signal_and_noise(self._reference, self._reference)[0],
            top1=np.asarray(self._reference.argmax(axis=1), np.int64),
            macs=sum(self._macs.values()),
            whole=self._whole,
            layers=tuple(layers),
        )

    def _deviation(self, scores: Float32Array) -> Deviation:
        _check_finite(scores)
        return Deviation(
            noise=signal_and_noise(self._reference, scores)[1],
            kl=kl_divergence(self._reference, scores, kind=self._kind),
            top1=np.asarray(scores.argmax(axis=1), np.int64),
        )


def _multiplying(made: Plan) -> Iterator[str]:
    """Yield the integer nodes with multiply-adds."""
    for node in made.placement.graph:
        if node in made.placement.integer and made.placement.roles[node] in (Role.LAYER, Role.ACTIVATION_MATMUL):
            yield node_name(node)


def _check_finite(scores: Float32Array) -> None:
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        raise NumericError(
            "the scores contain NaN or infinity", where=f"image {int(np.argmin(finite))}", fix="check this image"
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else 0.0
