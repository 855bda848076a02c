"""Equalization: the factors of the channels that lose least when everything is rounded.

A tensor quantized with one scale gives a channel that reaches a tenth of its range a tenth of the levels, and so does
a weight tensor. Since factors of channels can be moved from one layer to the next (Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1, and Meller et al., Same, Same But Different,
ICML 2019), small channels can be made large at no cost at run time. Those papers equalize the ranges of weights; with a
scale for each weight channel that costs accuracy, since what one layer gains its successor loses. Here the factors
minimize the noise that rounding adds, of activations and weights together, relative to each layer's signal:

    J(s) = sum over tensors    D_t(s)^2 / 12 * sum over channels c of  a_tc e_tc / s_c^2
         + sum over layers     sum over outputs o of  v_o d_o(s)^2 / 12 * sum over inputs c of  m_c s_c^2

    D_t = max_c(s_c r_tc) / levels      step of a tensor, r its reach
    d_o = max_c(|W_oc| / s_c) / levels  step of an output channel's weights; with one scale for the whole tensor
                                        the maximum of |W_oc| s_o / s_c over o and c, divided by s_o
    a, m                                share of non-zero values, mean square
    e_tc = sum over readers of v_o W_oc^2, with v_o the importance of output o, scaled so that sum v_o power_o = 1

In ``log s`` every term is an exponential of a maximum of affine functions, so J is convex; L-BFGS finds its minimum,
with a smooth maximum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.optimize import minimize

from quantkit.graph.analysis.values import attribute_int, node_name
from quantkit.graph.qdq.plan import Layer, Plan
from quantkit.ptq.channel_groups import PINNED, ChannelGroups, find_channel_groups
from quantkit.ptq.channel_statistics import ChannelStatistics, channel_statistics
from quantkit.ptq.noise_model import activation_costs, is_by_channel, layer_weights, relative_importance
from quantkit.ptq.rescale import rescaled
from quantkit.types import Float32Array

Vector = npt.NDArray[np.float64]
IntVector = npt.NDArray[np.int64]

# A channel that reaches less than this share of its tensor may reach more on other images.
LEAST_REACH = 0.05
# No factor beyond this either way: what was never seen to matter is not blown up.
LARGEST_FACTOR = 32.0
# `quantkit.ptq.weight_rounding` removes most of the noise of weights rounded to nearest.
WEIGHT_NOISE = 0.3
# Sharpness of the smooth maximum: 40 puts it within 2 percent of the true one for two equal channels.
SHARPNESS = 40.0
# A rescaled channel stays this far below the limit of a Clip.
CAP_MARGIN = 0.5
ITERATIONS = 200


@dataclass(frozen=True)
class Equalization:
    """Factors that minimize the predicted noise.

    Attributes:
        groups: the classes of channels they belong to.
        factors: float64 ``[classes]``.
        predicted_db: by how much less noise is predicted.
    """

    groups: ChannelGroups
    factors: Vector
    predicted_db: float

    def apply(self, model: ir.Model, strength: float = 1.0) -> ir.Model:
        """Return the equalized copy of the model: the same function with the factors to the power of ``strength``."""
        return rescaled(model, self.groups, self.factors**strength)


def equalize(
    model: ir.Model, plan: Plan, images: Sequence[Float32Array], *, keep_capped: bool = False, threads: int
) -> Equalization:
    """Return the factors that minimize the noise a plan's rounding adds.

    A channel that a Clip limits can be rescaled where the images leave it well below the limit; whether others do, they
    cannot say. So the function has to be looked at on others, and where it changed the factors found with
    ``keep_capped``.

    Args:
        model: prepared.
        plan: made for it; its target says how activations and weights are scaled.
        images: a few dozen, ``[N, C, H, W]`` each.
        keep_capped: leave every channel as it is that a Clip limits.
        threads: images run side by side.
    """
    groups = find_channel_groups(model)
    statistics = channel_statistics(model, images, threads=threads)
    bounds = _bounds(groups, statistics, keep_capped)
    objective = EqualizationNoise(model, plan, groups, statistics)
    start = np.zeros(groups.count)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    gain_db = 10.0 / np.log(10.0) * (objective(start)[0] - float(found.fun))
    return Equalization(groups, np.exp(found.x), float(gain_db))


def _bounds(
    groups: ChannelGroups, statistics: Mapping[str, ChannelStatistics], keep_capped: bool
) -> list[tuple[float, float]]:
    """Return the least and greatest logarithm of each class' factor."""
    low, high = np.full(groups.count, -np.log(LARGEST_FACTOR)), np.full(groups.count, np.log(LARGEST_FACTOR))
    low[PINNED] = high[PINNED] = 0.0
    for cap in groups.caps:
        reach = np.maximum(statistics[cap.tensor].hi, 1e-12)
        room = np.log(CAP_MARGIN * cap.limit / reach)
        classes = groups.classes[cap.tensor]
        # Where the limit is felt, a factor would change what it cuts off.
        np.minimum.at(high, classes, np.maximum(room, 0.0))
        np.maximum.at(low, classes, np.where(room > 0.0, low[classes], 0.0))
        if keep_capped:
            low[classes] = high[classes] = 0.0
    return list(zip(low.tolist(), high.tolist(), strict=True))


@dataclass(frozen=True)
class _ActivationTerm:
    """One range group: whose channels set its step, and what a step costs in each."""

    classes: IntVector
    log_reach: Vector
    costs: Vector


@dataclass(frozen=True)
class _WeightTerm:
    """One layer: ``log_weights`` and ``classes`` are ``[out, in / groups]``, ``energy`` the inputs' likewise."""

    log_weights: Vector
    classes: IntVector
    energy: Vector
    importance: Vector
    outputs: IntVector
    per_channel: bool


class EqualizationNoise:
    """``log J`` and its gradient in the logarithms of the factors."""

    def __init__(
        self, model: ir.Model, plan: Plan, groups: ChannelGroups, statistics: Mapping[str, ChannelStatistics]
    ) -> None:
        self._channel_groups, self._statistics, self._plan = groups, statistics, plan
        self._nodes = {node_name(node): node for node in model.graph}
        self._importance = relative_importance(model, statistics)
        layers = [layer for layer in plan.layers if {layer.input, layer.output} <= statistics.keys()]
        self._weights = [term for layer in layers if (term := self._weight_term(layer)) is not None]
        self._activations = self._activation_terms(activation_costs(plan, self._importance, statistics))

    def __call__(self, logs: Vector) -> tuple[float, Vector]:
        """Return the objective and its gradient."""
        total, gradient = 0.0, np.zeros(logs.size)
        for activation in self._activations:
            total += _add_activation(activation, logs, gradient)
        for weight in self._weights:
            total += _add_weight(weight, logs, gradient)
        if total <= 0.0:  # nothing is known to matter for the scores
            return 0.0, np.zeros(logs.size)
        return float(np.log(total)), gradient / total

    def _weight_term(self, layer: Layer) -> _WeightTerm | None:
        node, scheme = self._nodes[layer.node], self._plan.target.weights
        weights = layer_weights(node)
        if not is_by_channel(node, weights, self._importance[layer.input].size, self._importance[layer.output].size):
            return None
        largest, taps = np.abs(weights).max(axis=2), weights.shape[2]
        outputs, inputs = largest.shape
        groups = attribute_int(node, "group", 1)
        if scheme.per_channel and inputs == 1:
            return None  # a factor of its one input goes into the channel's own scale
        columns = np.repeat(np.arange(groups * inputs).reshape(groups, inputs), outputs // groups, axis=0)
        step = 1.0 / (12.0 * scheme.divisor**2)
        return _WeightTerm(
            np.log(np.maximum(largest, 1e-9 * max(float(largest.max()), 1e-30))),
            self._channel_groups.classes[layer.input][columns],
            self._statistics[layer.input].power[columns] * taps * step * WEIGHT_NOISE,
            self._importance[layer.output],
            self._channel_groups.classes[layer.output],
            scheme.per_channel,
        )

    def _activation_terms(self, costs: Mapping[str, Vector]) -> list[_ActivationTerm]:
        terms = []
        for group in self._plan.groups:
            tensors = [name for name in group.tensors if name in self._statistics]
            reach = [self._statistics[name].reach for name in tensors]
            greatest = max((float(one.max()) for one in reach), default=0.0)
            if greatest > 0.0:
                terms.append(
                    _ActivationTerm(
                        np.concatenate([self._channel_groups.classes[name] for name in tensors]),
                        np.log(np.maximum(np.concatenate(reach), LEAST_REACH * greatest)),
                        np.concatenate([costs[name] * self._step(name) for name in tensors]),
                    )
                )
        return terms

    def _step(self, name: str) -> float:
        """Return the square of a tensor's step over 12, for a reach of one."""
        held, scheme = self._statistics[name], self._plan.target.activations
        reach = float(held.reach.max())
        if scheme.symmetric or reach == 0.0:
            return 1.0 / (12.0 * scheme.divisor**2)
        width = max(float(held.hi.max()), 0.0) - min(float(held.lo.min()), 0.0)
        return (width / reach / (scheme.qmax - scheme.qmin)) ** 2 / 12.0


def _add_activation(term: _ActivationTerm, logs: Vector, gradient: Vector) -> float:
    maximum, share = _smooth_maximum(term.log_reach + logs[term.classes])
    noise = term.costs * np.exp(2.0 * (maximum - logs[term.classes]))
    value = float(noise.sum())
    np.add.at(gradient, term.classes, 2.0 * (value * share - noise))
    return value


def _add_weight(term: _WeightTerm, logs: Vector, gradient: Vector) -> float:
    moved = logs[term.classes]
    energy = term.energy * np.exp(2.0 * moved)
    if term.per_channel:
        maximum, share = _smooth_maximum(term.log_weights - moved)
        noise = term.importance[:, None] * np.exp(2.0 * maximum)[:, None] * energy
        values = noise.sum(axis=1)
        np.add.at(gradient, term.classes, 2.0 * (noise - values[:, None] * share))
        return float(values.sum())
    out = logs[term.outputs][:, None]
    maximum, share = _smooth_maximum((term.log_weights - moved + out).reshape(1, -1))
    share = share.reshape(moved.shape)
    noise = term.importance[:, None] * np.exp(2.0 * (maximum - out)) * energy
    value = float(noise.sum())
    np.add.at(gradient, term.classes, 2.0 * (noise - value * share))
    np.add.at(gradient, term.outputs, 2.0 * (value * share.sum(axis=1) - noise.sum(axis=1)))
    return value


def _smooth_maximum(values: Vector) -> tuple[Vector, Vector]:
    """Return the smooth maximum along the last axis, and its derivative: the share of each value in it."""
    greatest = values.max(axis=-1, keepdims=True)
    weights = np.exp(SHARPNESS * (values - greatest))
    total = weights.sum(axis=-1, keepdims=True)
    return (greatest + np.log(total) / SHARPNESS)[..., 0], weights / total
