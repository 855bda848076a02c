"""Plots of results with matplotlib: ``quantkit.plots.drift(comparison)``.

Every function draws into ``ax``, or into the axes of a new figure, and returns the axes. Matplotlib is required:
``pip install 'quantkit[notebooks]'``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantkit.errors import UsageError
from quantkit.evaluation.compare_models import EvaluatedModel
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.numerics import Range
from quantkit.sensitivity.result import Sensitivity
from quantkit.stats.bins import signed_edges
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.cut_ranges import expected_sqnr_db as expected_sqnr_db
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ORT, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST = 3
_BINS = 160
_STYLES = ("-", "--", "-.", ":")
_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}


def drift(comparison: Comparison, model: str | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the SQNR of each layer of a candidate: accumulated as a line, isolated as points, the worst marked.

    Args:
        comparison: from `quantkit.compare`.
        model: name of the candidate; the first one by default.
        ax: axes to draw into; those of a new figure by default.

    Raises:
        UsageError: there is no such candidate, or its drift was not measured.
    """
    result = _candidate(comparison, model)
    accumulated, isolated = _by_name(result.tensors), _by_name(result.layers)
    names = [name for name in isolated if name in accumulated]
    if not names:
        raise UsageError(f"the drift of {result.name} was not measured", fix="compare with drift_images of 1 or more")
    ax = _axes(ax)
    ax.plot([accumulated[name].sqnr_db for name in names], color="tab:gray", label="accumulated")
    ax.plot([isolated[name].sqnr_db for name in names], "o", color="tab:blue", label="isolated")
    worst = [one.name for one in result.worst_layers if one.name in accumulated][:_WORST]
    for rank, name in enumerate(worst, start=1):
        at, sqnr = names.index(name), isolated[name].sqnr_db
        ax.plot(at, sqnr, "o", color="tab:red", label=f"{rank}. {name}")
        ax.annotate(str(rank), (at, sqnr), xytext=(0, -14), textcoords="offset points", ha="center")
    ax.set(xlabel="layer, in the order of the network", ylabel="SQNR, dB", title=f"Drift of {result.name}")
    ax.legend(**_BESIDE)
    return ax


def isolated_drift(comparison: Comparison, models: Sequence[str] = (), *, ax: "Axes | None" = None) -> "Axes":
    """Plot the isolated SQNR of the layers that several candidates have in common.

    Args:
        comparison: from `quantkit.compare`.
        models: names of candidates; by default all whose drift was measured.
        ax: axes to draw into; those of a new figure by default.
    """
    chosen = [_candidate(comparison, name) for name in models] or [one for one in comparison.candidates if one.layers]
    if not chosen:
        raise UsageError("the drift of no candidate was measured", fix="compare with drift_images of 1 or more")
    layers = [_by_name(one.layers) for one in chosen]
    names = [name for name in layers[0] if all(name in of for of in layers)]
    ax = _axes(ax)
    for one, of in zip(chosen, layers, strict=True):
        ax.plot([of[name].sqnr_db for name in names], "o-", markersize=4, linewidth=1, label=one.name)
    ax.set(xlabel="layer, in the order of the network", ylabel="isolated SQNR, dB", title="Isolated SQNR of the layers")
    ax.legend(**_BESIDE)
    return ax


def channel_bias(isolated: TensorDrift, accumulated: TensorDrift | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the mean error of each channel in quantization steps, or in real units if the tensor has no scale.

    Args:
        isolated: isolated drift of a tensor.
        accumulated: its accumulated drift, drawn in the background.
        ax: axes to draw into; those of a new figure by default.
    """
    ax = _axes(ax)
    step, channel = isolated.scale or 1.0, np.arange(len(isolated.channel_bias))
    if accumulated is not None:
        label = "accumulated"
        ax.bar(channel, accumulated.channel_bias / step, width=0.9, color="tab:gray", alpha=0.5, label=label)
    ax.bar(channel, isolated.channel_bias / step, width=0.45, color="tab:blue", label="isolated")
    ax.axhline(0, color="black", linewidth=0.8)
    unit = "mean error" if isolated.scale is None else "mean error, steps"
    ax.set(xlabel="channel", ylabel=unit, title=f"Bias of {isolated.name}")
    ax.legend(frameon=False)
    return ax


def channel_sqnr(isolated: TensorDrift, accumulated: TensorDrift | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the SQNR of each channel in dB; the arguments are those of `channel_bias`."""
    ax = _axes(ax)
    if accumulated is not None:
        ax.plot(accumulated.channel_sqnr_db, "o", color="tab:gray", label="accumulated")
    ax.plot(isolated.channel_sqnr_db, "o", color="tab:blue", label="isolated")
    ax.set(xlabel="channel", ylabel="SQNR, dB", title=f"SQNR of each channel of {isolated.name}")
    ax.legend(frameon=False)
    return ax


def histogram(
    tensor: TensorStatistics, ranges: Mapping[str, Range] | None = None, *, title: str = "", ax: "Axes | None" = None
) -> "Axes":
    """Plot the values of a tensor on a logarithmic axis of counts, with the range of each method.

    Args:
        tensor: statistics of the tensor.
        ranges: range by name of the method.
        title: title of the axes.
        ax: axes to draw into; those of a new figure by default.
    """
    ax = _axes(ax)
    lower, upper = signed_edges(tensor.bins)
    span = (tensor.lo, tensor.hi) if tensor.hi > tensor.lo else (tensor.lo - 0.5, tensor.hi + 0.5)
    # The center of an outermost bin can be beyond the extremes.
    values = np.clip((lower + upper) / 2, tensor.lo, tensor.hi)
    counts, edges = np.histogram(values, bins=_BINS, range=span, weights=tensor.counts)
    ax.stairs(np.maximum(counts, 0.5), edges, fill=True, color="tab:gray", alpha=0.4, baseline=0.5)
    for place, (name, chosen) in enumerate((ranges or {}).items()):
        colour, style = f"C{place}", _STYLES[place % len(_STYLES)]
        label = f"{name}: [{chosen.lo:.3g}, {chosen.hi:.3g}]"
        ax.axvline(chosen.lo, color=colour, linestyle=style, label=label)
        ax.axvline(chosen.hi, color=colour, linestyle=style)
    ax.set(yscale="log", xlabel="value", ylabel="count", title=title)
    if ranges:
        ax.legend(**_BESIDE)
    return ax


def range_widths(
    ranges: Mapping[str, Mapping[str, Range]], *, relative_to: str = "minmax", ax: "Axes | None" = None
) -> "Axes":
    """Plot the width of every tensor's range by method, relative to one of the methods.

    Args:
        ranges: range by tensor, by name of the method, as `quantkit.solve_all` returns them for each.
        relative_to: name of the reference method. Tensors with a range of width 0 by it are left out.
        ax: axes to draw into; those of a new figure by default.

    Raises:
        UsageError: there are no ranges of that method.
    """
    if relative_to not in ranges:
        raise UsageError(f"there are no ranges of {relative_to!r}", fix=f"choose one of {', '.join(ranges)}")
    ax = _axes(ax)
    tensors = [name for name, one in ranges[relative_to].items() if one.hi > one.lo]
    whole = np.array([ranges[relative_to][name].hi - ranges[relative_to][name].lo for name in tensors])
    for method, of in ranges.items():
        width = np.array([of[name].hi - of[name].lo for name in tensors])
        ax.plot(width / whole, "o-", markersize=3, linewidth=1, label=method)
    ax.set(xlabel="tensor, in the order of the network", ylabel=f"width / {relative_to}", title="Width of the ranges")
    ax.set_ylim(bottom=0)
    ax.legend(**_BESIDE)
    return ax


def expected_sqnr(
    tensors: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Mapping[str, Range]],
    *,
    target: Target = ORT,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot the expected SQNR of every tensor by method, in dB relative to the best method.

    Args:
        tensors: statistics by tensor; constant tensors are left out.
        ranges: range by tensor, by name of the method.
        target: target that defines the integers.
        ax: axes to draw into; those of a new figure by default.
    """
    ax = _axes(ax)
    names = [name for name, one in tensors.items() if one.hi > one.lo]
    sqnr = {
        method: np.array([expected_sqnr_db(tensors[name], of[name], target) for name in names])
        for method, of in ranges.items()
    }
    best = np.max(list(sqnr.values()), axis=0)
    for method, values in sqnr.items():
        ax.plot(values - best, "o-", markersize=3, linewidth=1, label=method)
    ax.set(xlabel="tensor, in the order of the network", ylabel="dB relative to the best method")
    ax.set_title("Expected SQNR of each tensor")
    ax.set_yscale("symlog", linthresh=2)  # fine near the best, coarse far from it
    ax.set_yticks([0, -0.5, -1, -2, -6, -12, -24], ["0", "−0.5", "−1", "−2", "−6", "−12", "−24"])
    ax.minorticks_off()
    ax.legend(**_BESIDE)
    return ax


def accuracy(comparison: Comparison, models: Sequence[str] = (), *, ax: "Axes | None" = None) -> "Axes":
    """Plot the difference in top-1 to the reference with its 95 % interval, one row per candidate.

    Args:
        comparison: from `quantkit.compare`, with labels.
        models: names of candidates; by default all.
        ax: axes to draw into; those of a new figure by default.

    Raises:
        UsageError: there is no such candidate, or the images have no labels.
    """
    chosen = [_candidate(comparison, name) for name in models] or list(comparison.candidates)
    ax = _axes(ax)
    for row, model in enumerate(chosen):
        delta = None if model.versus is None else model.versus.top1
        if delta is None:
            raise UsageError("the difference in top-1 needs labels", fix="compare on labelled images")
        ax.plot([delta.ci95.lo, delta.ci95.hi], [row, row], color=f"C{row}", linewidth=2)
        ax.plot(delta.value, row, "o", color=f"C{row}")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(chosen)), [model.name for model in chosen])
    ax.set_ylim(len(chosen) - 0.5, -0.5)
    label = f"top-1 minus that of {comparison.reference.name}, points, with the 95 % interval"
    ax.set(xlabel=label, title=f"{comparison.images:,} images")
    return ax


def convergence(points: Sequence[ConvergencePoint], *, ax: "Axes | None" = None) -> "Axes":
    """Plot the largest change of any range by the number of calibration images.

    Args:
        points: ``convergence`` of the statistics.
        ax: axes to draw into; those of a new figure by default.

    Raises:
        UsageError: there are no points.
    """
    if not points:
        raise UsageError("the statistics contain no convergence points", fix="calibrate on more images")
    ax = _axes(ax)
    for method in dict.fromkeys(name for point in points for name in point.movement):
        known = [point for point in points if method in point.movement]
        moved = [100 * point.movement[method] for point in known]
        ax.plot([point.images for point in known], moved, "o-", alpha=0.7, label=method)
    ax.axhline(0.5, color="black", linewidth=0.8, linestyle="--", label="0.5 %")
    ax.set(xlabel="calibration images", ylabel="largest change, % of the width", yscale="log")
    ax.set_title("Convergence of the ranges")
    ax.legend(**_BESIDE)
    return ax


def agreement(models: Sequence[EvaluatedModel], *, ax: "Axes | None" = None) -> "Axes":
    """Plot the agreement of each pair of models in percent.

    Args:
        models: ``answers`` of `quantkit.compare`.
        ax: axes to draw into; those of a new figure by default.
    """
    names = [model.name for model in models]
    first = models[0].predictions
    top1 = np.stack([model.predictions.ordered_like(first.names).top1 for model in models])
    shares = 100 * (top1[:, None] == top1[None, :]).mean(axis=2)
    ax = _axes(ax)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(shares):
        colour = "white" if value > 60 else "black"
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_title("Agreement, %")
    ax.grid(visible=False)
    return ax


def confidence(reference: EvaluatedModel, candidate: EvaluatedModel, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the confidence of two models on every image; images with different classes are marked.

    Args:
        reference: one of the ``answers`` of `quantkit.compare`.
        candidate: another of them.
        ax: axes to draw into; those of a new figure by default.
    """
    first = reference.predictions
    other = candidate.predictions.ordered_like(first.names)
    same: npt.NDArray[np.bool_] = first.top1 == other.top1
    ax = _axes(ax)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for where, mark, colour, name in ((same, ".", "tab:blue", "same class"), (~same, "x", "tab:red", "another class")):
        label = f"{name} ({int(where.sum()):,})"
        ax.plot(first.confidence[where], other.confidence[where], mark, color=colour, alpha=0.6, label=label)
    ax.set(xlabel=f"confidence of {reference.name}", ylabel=f"confidence of {candidate.name}")
    ax.legend(loc="lower left", frameon=True)
    return ax


def sensitivity(found: Sensitivity, *, count: int = 20, ax: "Axes | None" = None) -> "Axes":
    """Plot the noise that each layer adds in int8, and the noise removed by leaving it in float.

    Args:
        found: from `quantkit.sensitivity`.
        count: maximum number of layers, in the order of the result.
        ax: axes to draw into; those of a new figure by default.
    """
    layers = found.layers[:count]
    ax = _axes(ax)
    rows = np.arange(len(layers))
    ax.barh(
        rows - 0.2, [100 * one.isolated.share for one in layers], height=0.4, color="tab:orange", label="noise added"
    )
    ax.barh(
        rows + 0.2,
        [100 * one.leave_one_out.share for one in layers],
        height=0.4,
        color="tab:blue",
        label="noise removed",
    )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(rows, [f"{one.skip} {one.node}" if one.conv_index is not None else one.node for one in layers])
    ax.invert_yaxis()
    ax.set(xlabel="share of the noise of the full int8 model, %", title=f"Sensitivity of {found.model}")
    ax.legend(frameon=False)
    return ax


def _axes(ax: "Axes | None") -> "Axes":
    """Return the axes to draw into.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UsageError("plots need matplotlib", fix="pip install 'quantkit[notebooks]'") from None
    return plt.subplots()[1]


def _candidate(comparison: Comparison, name: str | None) -> ModelResult:
    if name is None:
        return comparison.candidates[0]
    found = next((model for model in comparison.candidates if model.name == name), None)
    if found is None:
        names = ", ".join(model.name for model in comparison.candidates)
        raise UsageError(f"the comparison has no candidate {name!r}", fix=f"choose one of {names}")
    return found


def _by_name(drifts: Sequence[TensorDrift]) -> dict[str, TensorDrift]:
    return {one.name: one for one in drifts}
