"""Equalization: channel factors that minimize rounding noise.

In a tensor quantized with one scale, a channel with a tenth of the tensor's range gets a tenth of the levels; the same
is true of a weight tensor. Since factors of channels can be moved from one layer to the next (Nagel et al., Data-Free
Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1, and Meller et al., Same, Same But
Different, ICML 2019), small channels can be enlarged without run-time cost. Those papers equalize the ranges of
weights; with per-channel weight scales this costs accuracy, since the next layer loses what a layer gains. Here
the factors minimize the noise that rounding adds, of activations and weights together, relative to each layer's signal:

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

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.optimize import minimize

from quantkit.graph.analysis.values import node_name
from quantkit.graph.qdq.plan import Layer, Plan
from quantkit.ptq.channel_groups import PINNED, ChannelGroups, find_channel_groups
from quantkit.ptq.channel_statistics import ChannelStatistics
from quantkit.ptq.noise_model import activation_costs, is_by_channel, layer_weights, relative_importance
from quantkit.ptq.rescale import rescaled

Vector = npt.NDArray[np.float64]
IntVector = npt.NDArray[np.int64]

# A channel with a reach below this share of its tensor's may reach more on other images.
LEAST_REACH = 0.05
# The largest factor, and the inverse of the smallest.
LARGEST_FACTOR = 32.0
# `quantkit.ptq.weight_rounding` removes most of the noise of weights rounded to nearest.
WEIGHT_NOISE = 0.3
# Sharpness of the smooth maximum: 40 puts it within 2 percent of the true one for two equal channels.
SHARPNESS = 40.0
# A rescaled channel stays this far below the limit of a Clip.
CAP_MARGIN = 0.5
# Values further below the maximum than this contribute less than e^-40.
NEGLIGIBLE = 40.0 / SHARPNESS
ITERATIONS = 200
# Factors this near to one, as logarithms, have no effect after rounding.
LEAST_LOG = 1e-3


@dataclass(frozen=True)
class Equalization:
    """Factors that minimize the predicted noise.

    Attributes:
        groups: channel classes of the factors.
        factors: float64 ``[classes]``.
        predicted_db: predicted reduction of the noise in dB.
    """

    groups: ChannelGroups
    factors: Vector
    predicted_db: float

    def apply(self, model: ir.Model, strength: float = 1.0) -> ir.Model:
        """Return the equalized copy of the model, with the factors raised to the power of ``strength``."""
        return rescaled(model, self.groups, self.factors**strength)


def equalize(
    model: ir.Model,
    plan: Plan,
    statistics: Mapping[str, ChannelStatistics],
    *,
    keep_capped: bool = False,
    start: Equalization | None = None,
) -> Equalization | None:
    """Return the factors that minimize the rounding noise of a plan; None if no channel can be rescaled.

    A channel limited by a Clip can be rescaled if it stays well below the limit on the images; on other images it may
    not. So the caller must compare the scores on other images, and if they differ use the factors found with
    ``keep_capped``.

    Args:
        model: prepared.
        plan: plan of the model; its target determines the scales of activations and weights.
        statistics: channel statistics of the model over a few dozen images.
        keep_capped: do not rescale channels limited by a Clip.
        start: initial factors, such as those found without ``keep_capped``.
    """
    groups = find_channel_groups(model)
    low, high = _bounds(groups, statistics, keep_capped)
    free = low < high
    objective = EqualizationNoise(model, plan, groups, statistics, ~free)
    if not free.any() or objective.is_empty:
        return None
    zeros = np.zeros(groups.count)

    def of_free(logs: Vector) -> tuple[float, Vector]:
        whole = zeros.copy()
        whole[free] = logs
        value, gradient = objective(whole)
        return value, gradient[free]

    first = zeros if start is None else np.clip(np.log(start.factors), low, high)
    bounds = list(zip(low[free].tolist(), high[free].tolist(), strict=True))
    found = minimize(of_free, first[free], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    gain_db = 10.0 / np.log(10.0) * (objective(zeros)[0] - float(found.fun))
    if np.abs(found.x).max() < LEAST_LOG or gain_db <= 0.0:
        return None
    logs = zeros
    logs[free] = found.x
    return Equalization(groups, np.exp(logs), float(gain_db))


def _bounds(
    groups: ChannelGroups, statistics: Mapping[str, ChannelStatistics], keep_capped: bool
) -> tuple[Vector, Vector]:
    """Return the smallest and the largest logarithm of each class' factor."""
    low, high = np.full(groups.count, -np.log(LARGEST_FACTOR)), np.full(groups.count, np.log(LARGEST_FACTOR))
    low[PINNED] = high[PINNED] = 0.0
    for cap in groups.caps:
        reach = np.maximum(statistics[cap.tensor].hi, 1e-12)
        room = np.log(CAP_MARGIN * cap.limit / reach)
        classes = groups.classes[cap.tensor]
        # If values reach the limit, a factor would change which values are clipped.
        np.minimum.at(high, classes, np.maximum(room, 0.0))
        np.maximum.at(low, classes, np.where(room > 0.0, low[classes], 0.0))
        if keep_capped:
            low[classes] = high[classes] = 0.0
    return low, high


@dataclass(frozen=True)
class _ActivationTerm:
    """A range group: the channels that determine its step, and the cost of a step in each channel."""

    classes: IntVector
    log_reach: Vector
    costs: Vector


@dataclass(frozen=True)
class _WeightTerm:
    """One layer.

    Attributes:
        log_weights: float64 ``[groups, out / groups, in / groups]``.
        classes: classes of the inputs, ``[groups, in / groups]``.
        energy: energy of the inputs, same shape.
        importance: importance of the outputs, ``[groups, out / groups]``.
        outputs: classes of the outputs, same shape.
        per_channel: one scale per output channel, or one per tensor.
    """

    log_weights: Vector
    classes: IntVector
    energy: Vector
    importance: Vector
    outputs: IntVector
    per_channel: bool


class EqualizationNoise:
    """``log J`` and its gradient in the logarithms of the factors.

    Args:
        model: prepared.
        plan: made for it.
        groups: channel classes of the model.
        statistics: channel statistics of the model.
        fixed: bool ``[classes]``, classes with factor one; terms that depend only on them are computed once.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        groups: ChannelGroups,
        statistics: Mapping[str, ChannelStatistics],
        fixed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._channel_groups, self._statistics, self._plan = groups, statistics, plan
        self._fixed = np.arange(groups.count) == PINNED if fixed is None else fixed
        self._nodes = {node_name(node): node for node in model.graph}
        self._importance = relative_importance(model, statistics)
        layers = [layer for layer in plan.layers if {layer.input, layer.output} <= statistics.keys()]
        self._weights = [term for layer in layers if (term := self._weight_term(layer)) is not None]
        self._activations = self._activation_terms(activation_costs(plan, self._importance, statistics))

    @property
    def is_empty(self) -> bool:
        """Whether no rounding adds noise to the scores."""
        return self(np.zeros(self._channel_groups.count))[0] == -math.inf

    def __call__(self, logs: Vector) -> tuple[float, Vector]:
        """Return the objective and its gradient; minus infinity if no rounding adds noise."""
        total, gradient = 0.0, np.zeros(logs.size)
        for activation in self._activations:
            total += _add_activation(activation, logs, gradient)
        for weight in self._weights:
            total += _add_weight(weight, logs, gradient)
        if total <= 0.0:
            return -math.inf, np.zeros(logs.size)
        return float(np.log(total)), gradient / total

    def _weight_term(self, layer: Layer) -> _WeightTerm | None:
        node, scheme = self._nodes[layer.node], self._plan.target.weights
        weights = layer_weights(node)
        if not is_by_channel(node, weights, self._importance[layer.input].size, self._importance[layer.output].size):
            return None
        largest, taps = np.abs(weights).max(axis=2), weights.shape[2]
        outputs, inputs = largest.shape
        groups = node.attributes.get_int("group", 1)
        if scheme.per_channel and inputs == 1:
            return None  # a factor of its only input is absorbed by the channel's scale
        step = 1.0 / (12.0 * scheme.divisor**2)
        floor = 1e-9 * max(float(largest.max()), 1e-30)
        term = _WeightTerm(
            np.log(np.maximum(largest, floor)).reshape(groups, outputs // groups, inputs),
            self._channel_groups.classes[layer.input].reshape(groups, inputs),
            (self._statistics[layer.input].power * taps * step * WEIGHT_NOISE).reshape(groups, inputs),
            self._importance[layer.output].reshape(groups, -1),
            self._channel_groups.classes[layer.output].reshape(groups, -1),
            scheme.per_channel,
        )
        return _without_fixed_inputs(term, self._fixed)

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


def _without_fixed_inputs(term: _WeightTerm, fixed: npt.NDArray[np.bool_]) -> _WeightTerm:
    """Return a term with all inputs of fixed factor merged: their smooth maximum, and the sum of their energies."""
    inputs = fixed[term.classes[0]]
    if len(term.classes) > 1 or np.count_nonzero(inputs) < 2:
        return term
    maximum, _ = _smooth_maximum(term.log_weights[:, :, inputs])
    return replace(
        term,
        log_weights=np.concatenate([term.log_weights[:, :, ~inputs], maximum[:, :, None]], axis=2),
        classes=np.append(term.classes[:, ~inputs], [[PINNED]], axis=1),
        energy=np.append(term.energy[:, ~inputs], term.energy[:, inputs].sum(axis=1, keepdims=True), axis=1),
    )


def _add_weight(term: _WeightTerm, logs: Vector, gradient: Vector) -> float:
    """Add the gradient of one layer's noise, and return that noise.

    The noise is a sum over outputs of ``importance * step^2`` times a sum over inputs of their energy, group by group;
    so only the share of each weight in the maximum is as large as the weights are.
    """
    moved = logs[term.classes]
    energy = term.energy * np.exp(2.0 * moved)
    by_group = energy.sum(axis=1, keepdims=True)
    logs_out = np.zeros(()) if term.per_channel else logs[term.outputs]
    steps = term.log_weights - moved[:, None, :]
    if term.per_channel:
        maximum, share = _smooth_maximum(steps)
    else:
        maximum, share = _smooth_maximum((steps + logs_out[:, :, None]).reshape(1, -1))
        share = share.reshape(steps.shape)
    by_output = term.importance * np.exp(2.0 * (maximum - logs_out))
    value = float((by_output * by_group).sum())
    by_input = energy * by_output.sum(axis=1, keepdims=True)
    if term.per_channel:
        by_input -= ((by_output * by_group)[:, None, :] @ share)[:, 0]
    else:
        by_input -= value * share.sum(axis=1)
        np.add.at(gradient, term.outputs, 2.0 * (value * share.sum(axis=2) - by_output * by_group))
    np.add.at(gradient, term.classes, 2.0 * by_input)
    return value


def _smooth_maximum(values: Vector) -> tuple[Vector, Vector]:
    """Return the smooth maximum along the last axis, and its derivative: the share of each value in it."""
    greatest = values.max(axis=-1, keepdims=True)
    below = values - greatest
    weights = np.zeros(below.shape)
    counts = below > -NEGLIGIBLE
    weights[counts] = np.exp(SHARPNESS * below[counts])
    total = weights.sum(axis=-1, keepdims=True)
    weights /= total
    return (greatest + np.log(total) / SHARPNESS)[..., 0], weights
