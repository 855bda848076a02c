"""Ranges that cut so much of a tensor that the model cannot be near fp32 any more, whatever its other tensors do."""

from collections.abc import Iterator, Mapping

import numpy as np

from quantkit.config.method import Method, Mse, method_name
from quantkit.notes import Note, NoteKind
from quantkit.numerics import Range
from quantkit.stats.bins import signed_edges
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ORT, Target

# A tensor with less than this, in dB, costs accuracy; it is worth a note where the best range gives so much more.
LOW_DB = 12.0
_GAIN_DB = 10.0


def expected_sqnr_db(tensor: TensorStatistics, chosen: Range, target: Target = ORT) -> float:
    """Return the SQNR in dB of a tensor quantized to a range, from its histogram; infinite without any error.

    Args:
        tensor: statistics of the tensor.
        chosen: the range.
        target: gives the integers.
    """
    lower, upper = signed_edges(tensor.bins)
    x = np.where(tensor.bins == 0, 0.0, (lower + upper) / 2)
    qparams = target.activations.qparams(chosen)
    zero, scale = int(qparams.zero_point), float(qparams.scale)
    q = np.clip(np.rint(x / scale) + zero, qparams.qmin, qparams.qmax)
    error = scale * (q - zero) - x
    noise = float((tensor.counts * error**2).sum())
    return float("inf") if noise == 0.0 else float(10 * np.log10(float((tensor.counts * x**2).sum()) / noise))


def cut_range_notes(
    observed: Observed, ranges: Mapping[str, Range], method: Method, target: Target, *, keep_outliers: bool = False
) -> Iterator[Note]:
    """Yield a note for every tensor whose range cuts away most of its signal, where another method would not.

    Args:
        observed: statistics of a pass.
        ranges: range of each tensor, set by the method.
        method: how they were set.
        target: gives the integers.
        keep_outliers: the ranges are set for all images; see `Observed.for_ranges`.
    """
    tensors = observed.for_ranges(method, target, keep_outliers=keep_outliers)
    for name, chosen in ranges.items():
        one = tensors[name]
        if one.count == 0 or one.constant or chosen.threshold == 0.0:
            continue
        left_db = expected_sqnr_db(one, chosen, target)
        if left_db >= LOW_DB:
            continue
        best_db = expected_sqnr_db(one, solve(one, Mse(), target), target)
        if best_db < left_db + _GAIN_DB:
            continue
        share = 100.0 * chosen.threshold / one.range.threshold
        yield Note(
            f"{method_name(method)} cuts the range of {name} to {share:.2g} % of its values' reach, an SQNR of "
            f"{left_db:.1f} dB where mse has {best_db:.1f} dB: use --method mse or percentile",
            NoteKind.CUT_RANGE,
            severity=best_db - left_db,
        )
