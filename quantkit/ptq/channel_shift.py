"""Channel shifting: offsets of channels that narrow the ranges of tensors with signed values.

The range of a tensor quantized with one scale spans all of its channels, and each channel with a mean far from zero
widens it. Outputs of a layer without an activation function can be shifted without run-time cost: the offset is
subtracted from the layer's bias and added, times their weights, to the biases of the layers that read it. Nagel et al.
(Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1.4) shift the outputs of
a ReLU that way; Wei et al. (Outlier Suppression+, EMNLP 2023) shift the inputs of linear layers. Here the offsets of
all layers are found together, since a sum is shifted by the offsets of its terms:

    J(v) = sum over range groups g of  cost_g * (width_g(v)^2 + PULL * mean over channels of (middle_c - m_c)^2)

    m = M v           offsets of a tensor's channels, M: which layers' offsets reach it
    width_g           max_c(hi_c - m_c) - min_c(lo_c - m_c), zero included; for a symmetric scheme twice the reach
    cost_g            the cost of noise of a unit step, as in `quantkit.ptq.equalization`

J is convex. A tensor that is padded with zeros cannot be shifted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.optimize import minimize
from scipy.sparse import csr_array, vstack

from quantkit.graph.qdq.plan import Plan
from quantkit.ptq.channel_statistics import ChannelStatistics
from quantkit.ptq.noise_model import activation_costs, relative_importance
from quantkit.ptq.shift_groups import ShiftGroups, find_shift_groups, shifted

Vector = npt.NDArray[np.float64]

# Weight of the term that centers channels which do not reach the ends of their tensor.
PULL = 0.1
# Sharpness of the smooth maximum, of values between 0 and 1.
SHARPNESS = 40.0
ITERATIONS = 200
# Offsets below this share of the narrowest span that they change are ignored.
LEAST_SHIFT = 1e-3


def shift_channels(model: ir.Model, plan: Plan, statistics: Mapping[str, ChannelStatistics]) -> ir.Model | None:
    """Return an equivalent copy of a model with the narrowest ranges; None if no range can be narrowed.

    Args:
        model: prepared.
        plan: made for it.
        statistics: of the model's channels, over a few dozen images.
    """
    found = find_shift_groups(model)
    shifts = best_channel_shifts(model, plan, found, statistics)
    return shifted(model, found, shifts) if shifts is not None else None


def best_channel_shifts(
    model: ir.Model, plan: Plan, found: ShiftGroups, statistics: Mapping[str, ChannelStatistics]
) -> Vector | None:
    """Return the offsets that minimize ``J``, float64 ``[count]``; None if they would not change any range."""
    objective = ChannelShiftNoise(model, plan, found, statistics)
    free = objective.units > 0.0
    if not free.any():
        return None
    shifts = np.zeros(found.free.size)

    def of_free(units: Vector) -> tuple[float, Vector]:
        shifts[free] = units
        value, gradient = objective(shifts)
        return value, gradient[free]

    start = np.zeros(np.count_nonzero(free))
    result = minimize(of_free, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    if np.abs(result.x).max() < LEAST_SHIFT:
        return None
    shifts[free] = result.x
    return np.asarray(shifts * objective.units)


class ChannelShiftNoise:
    """``log J`` and its gradient.

    Args:
        model: prepared.
        plan: made for it.
        found: the channels that can be shifted.
        statistics: channel statistics of the model.

    Attributes:
        units: float64 ``[count]``, the unit of each offset: the span of the narrowest group that it reaches.
    """

    def __init__(
        self, model: ir.Model, plan: Plan, found: ShiftGroups, statistics: Mapping[str, ChannelStatistics]
    ) -> None:
        costs = activation_costs(plan, relative_importance(model, statistics), statistics)
        self._terms = []
        for group in plan.groups:
            names = [name for name in group.tensors if name in statistics]
            cost = sum(float(costs[name].sum()) for name in names)
            if cost > 0.0 and any(found.arriving[name][:, found.free].nnz for name in names):
                symmetric = plan.target.activations.symmetric
                self._terms.append(_Term.of(found, names, statistics, cost, symmetric=symmetric))
        self.units = self._units(found)

    def __call__(self, shifts: Vector) -> tuple[float, Vector]:
        """Return the objective and its gradient at offsets in `units`."""
        total, gradient = 0.0, np.zeros(shifts.size)
        for term in self._terms:
            value, slope = term(shifts * self.units)
            total += value
            gradient += slope
        return (float(np.log(total)), gradient * self.units / total) if self._terms else (0.0, gradient)

    def _units(self, found: ShiftGroups) -> Vector:
        units = np.full(found.free.size, np.inf)
        for term in self._terms:
            reached = np.unique(term.arriving.tocoo().coords[1])
            units[reached] = np.minimum(units[reached], term.width)
        return np.where(np.isfinite(units) & found.free, units, 0.0)


@dataclass(frozen=True)
class _Term:
    """A range group: the offsets that reach its channels, and the smallest and largest values of these."""

    arriving: csr_array
    lo: Vector
    hi: Vector
    cost: float
    symmetric: bool

    @classmethod
    def of(
        cls,
        found: ShiftGroups,
        names: Sequence[str],
        statistics: Mapping[str, ChannelStatistics],
        cost: float,
        *,
        symmetric: bool,
    ) -> "_Term":
        arriving = csr_array(vstack([found.arriving[name] for name in names])) * found.free[None, :]
        lo, hi = (np.concatenate([getattr(statistics[name], end) for name in names]) for end in ("lo", "hi"))
        return cls(csr_array(arriving), lo, hi, cost, symmetric)

    @property
    def width(self) -> float:
        """The span of the group without offsets."""
        return max(float(np.maximum(self.hi, -self.lo).max()), 1e-30)

    def __call__(self, shifts: Vector) -> tuple[float, Vector]:
        offsets, width = self.arriving @ shifts, self.width
        above, below = (self.hi - offsets) / width, (offsets - self.lo) / width
        if self.symmetric:
            reach, share = _smooth_maximum(np.concatenate([above, below]))
            span, slope = 2.0 * reach, 2.0 * (share[above.size :] - share[: above.size])
        else:
            (top, top_share), (bottom, bottom_share) = _smooth_maximum(above), _smooth_maximum(below)
            span, slope = top + bottom, bottom_share - top_share
        off = (below - above) / 2.0
        value = self.cost * width**2 * (span**2 + PULL * float(np.mean(off**2)))
        by_offset = self.cost * width * (2.0 * span * slope + PULL * 2.0 * off / off.size)
        return value, np.asarray(self.arriving.T @ by_offset)


def _smooth_maximum(values: Vector) -> tuple[float, Vector]:
    greatest = float(values.max())
    weights = np.exp(SHARPNESS * (values - greatest))
    total = float(weights.sum())
    return greatest + np.log(total) / SHARPNESS, weights / total
