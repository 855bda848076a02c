"""Range refinement: moves the ends of a range to minimize the error of the scores with only that tensor rounded.

A method sets a range by the values of the tensor. The scores depend on the tensor through its consumers: a ReLU after a
sum cuts off most values far below zero, a channel with small weights may have the largest values, and a range that is
right for the mean of all channels is then too wide for the important ones. Here the ends of one range after the other
are moved, with all other tensors in float, so that no other noise hides the effect:

    distance(lo, hi) = sqrt(KL * noise / signal) of the scores, as `quantkit.evaluation.selection` measures it

less the mean change of each score if bias correction removes it. Only the tensors with the largest effect on the
scores, ranked on a few images, are refined. An end is moved if the distance decreases significantly. Ranges that
determine other ranges are not changed, and no range is changed if the total gain is negligible.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.prefix_sharing import PrefixSharedRuns
from quantkit.engine.scores import scores_of
from quantkit.evaluation.score_sqnr import as_logits
from quantkit.evaluation.selection import closeness, without_mean_change
from quantkit.graph.analysis.values import add_constant, forget_names, insert_after, name_of, node_name, unused_name
from quantkit.graph.qdq.edit import all_values
from quantkit.graph.qdq.plan import Plan
from quantkit.graph.qdq.sharing import RangeGroup
from quantkit.graph.qdq.write import activation_parameters
from quantkit.numerics import QParams, Range
from quantkit.types import Float32Array

# An end is moved inwards by this factor repeatedly, until that fails twice in a row: if a tensor has few levels, the
# effect of a single step is partly random. If it never helps, the end is moved half as far, then outwards.
INWARDS, PATIENCE, HALF, OUTWARDS = 0.8, 2, 0.9, 1.1
# A move runs this number of images first, and the others only if the distance over these does not rise by this factor.
PROBED, HOPELESS = 16, 1.25
# Limit of moves inwards, because other images reach values that these few images do not.
LEAST_FACTOR = 0.2
# The largest share of the distance after a move, and the minimum gain over the images in standard errors.
EARNED, CERTAINTY = 0.95, 1.0
# Ranges with less than this share of the total distance are not refined.
LEAST_SHARE = 0.003
# If there are more ranges than this, they are ranked on this number of images, and those with the largest effects,
# which together have this share of the noise, are refined.
RANKED_ABOVE, RANKING_IMAGES, RANKED_SHARE = 12, 12, 0.8
# The minimum share of the noise of all ranges that the refinement must remove.
LEAST_GAIN = 0.002


def refine_ranges(
    model: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    images: Sequence[Float32Array],
    *,
    corrected: bool = True,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Range]:
    """Return the ranges of the observed tensors, some of them refined; unchanged if the total gain is small.

    Args:
        model: prepared.
        plan: plan of the model.
        ranges: ranges by tensor, at least for ``plan.observed``.
        images: a few dozen inputs, ``[N, C, H, W]`` each.
        corrected: biases will be corrected, so a change that is equal for all images does not count.
        threads: number of images run in parallel.
        progress: called with the number of ranges ranked and refined, and with the total, also before each move.

    Raises:
        ModelError: the model cannot be run.
    """
    own = [group for group in plan.groups if _is_independent(group, plan.groups)]
    done, left = 0, (2 if len(own) > RANKED_ABOVE else 1) * len(own)

    def report() -> None:
        if progress is not None:
            progress(done, done + left)

    if len(own) > RANKED_ABOVE:
        ranking = _Search(model, plan, ranges, images[:RANKING_IMAGES], corrected, threads, report)
        noise = []
        for group in own:
            noise.append(ranking.noise(group))
            done, left = done + 1, left - 1
        own = _largest(own, noise)
        left = len(own)
    search = _Search(model, plan, ranges, images, corrected, threads, report)
    for group in own:
        search.refine(group)
        done, left = done + 1, left - 1
    report()
    return search.ranges if search.gain >= LEAST_GAIN else dict(ranges)


def _largest(groups: Sequence[RangeGroup], noise: Sequence[float]) -> list[RangeGroup]:
    """Return the smallest set of groups with `RANKED_SHARE` of the noise, in their order."""
    order = sorted(range(len(groups)), key=lambda index: -noise[index])
    wanted, chosen = RANKED_SHARE * sum(noise), set()
    for index in order:
        if wanted <= 0.0:
            break
        chosen.add(index)
        wanted -= noise[index]
    return [group for index, group in enumerate(groups) if index in chosen]


def _is_independent(group: RangeGroup, groups: Sequence[RangeGroup]) -> bool:
    """Return whether the tensors that determine a group's range determine no other group's range."""
    return not any(set(group.observed) & set(other.observed) for other in groups if other is not group)


class _Search:
    """The scores of the fp32 model with one tensor rounded, and the ranges found so far.

    Attributes:
        ranges: the ranges, refined so far.
        gain: share of the noise of all ranges removed so far.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        ranges: Mapping[str, Range],
        images: Sequence[Float32Array],
        corrected: bool,
        threads: int,
        report: Callable[[], None],
    ) -> None:
        self.ranges, self.gain = dict(ranges), 0.0
        self._report = report
        self._model, self._plan, self._corrected = model, plan, corrected
        self._reference = scores_of(model, images, threads=threads)
        everything = rounded(model, plan, activation_parameters(plan, ranges))
        self._whole = self._effect_of(scores_of(everything, images, threads=threads)).distance
        parts = (images[:PROBED], images[PROBED:])
        self._parts = [PrefixSharedRuns(model, part, threads=threads) for part in parts if part]

    def noise(self, group: RangeGroup) -> float:
        """Return the distance with a group rounded; 0 if it is negligible."""
        distance = self._effect(group, self.ranges).distance
        return 0.0 if distance < LEAST_SHARE * self._whole or not math.isfinite(distance) else distance

    def refine(self, group: RangeGroup) -> None:
        """Move the upper end of a group's range, then the lower one."""
        start = found = self._effect(group, self.ranges)
        if found.distance < LEAST_SHARE * self._whole:
            return
        symmetric = self._plan.target.activations.symmetric
        for ends in ((True, True),) if symmetric else ((False, True), (True, False)):
            found = self._move(group, ends, found)
        if found is not start:
            # If the distance was infinite, any finite one is the full gain.
            before = start.distance if math.isfinite(start.distance) else self._whole + found.distance
            self.gain += (before - found.distance) / max(self._whole, np.finfo(np.float64).tiny)

    def _move(self, group: RangeGroup, ends: tuple[bool, bool], start: "_Effect") -> "_Effect":
        """Move these ends of a range (lower, upper) to the smallest distance, and return its effect."""
        before, best = self.ranges, start

        def helps(factor: float) -> bool:
            nonlocal best
            moved = _scaled(before, group, *(factor if end else 1.0 for end in ends))
            if moved == before:
                return False
            found = self._effect(group, moved, best)
            better = found.is_less_than(best)
            if better:
                best, self.ranges = found, moved
            return better

        factor, failed = INWARDS, 0
        while factor > LEAST_FACTOR and failed < PATIENCE:
            failed = 0 if helps(factor) else failed + 1
            factor *= INWARDS
        if best is start and not helps(HALF):
            helps(OUTWARDS)
        return best

    def _effect(self, group: RangeGroup, ranges: Mapping[str, Range], best: "_Effect | None" = None) -> "_Effect":
        """Return the effect of rounding a group, on the first images only if it is far above the best there."""
        self._report()
        parameters = activation_parameters(self._plan, ranges)
        variant = rounded(self._model, self._plan, {tensor: parameters[tensor] for tensor in group.tensors})
        scores = self._parts[0].scores(variant)
        for part in self._parts[1:]:
            if best is not None and self._effect_of(scores).probed() >= HOPELESS * best.probed():
                break
            scores = np.concatenate([scores, part.scores(variant)])
        return self._effect_of(scores)

    def _effect_of(self, scores: Float32Array) -> "_Effect":
        return _Effect(self._reference[: len(scores)], scores, corrected=self._corrected)


class _Effect:
    """The effect of rounding on the scores.

    Args:
        reference: scores of fp32, ``[images, classes]``.
        scores: those with rounded tensors, of the same shape.
        corrected: a change that is equal for all images does not count.

    Attributes:
        distance: distance over all images; infinite if a score is not finite.
    """

    def __init__(self, reference: Float32Array, scores: Float32Array, *, corrected: bool) -> None:
        self._reference, self._scores, self._corrected = reference, scores, corrected
        self.distance = self._distance(len(scores)) if np.isfinite(scores).all() else math.inf
        self._probed: float | None = None

    def probed(self) -> float:
        """Return the distance over the first `PROBED` images; infinite if any score is not finite."""
        if self._probed is None:
            self._probed = self._distance(PROBED) if math.isfinite(self.distance) else math.inf
        return self._probed

    def is_less_than(self, other: "_Effect") -> bool:
        """Return whether this effect is significantly smaller; that of fewer images is not."""
        if len(self._scores) < len(other._scores):
            return False
        if self.distance >= EARNED * other.distance or not math.isfinite(other.distance):
            return self.distance < other.distance == math.inf
        gains = other._log_noise() - self._log_noise()
        return float(gains.mean()) > CERTAINTY * float(gains.std()) / math.sqrt(gains.size)

    def _distance(self, count: int) -> float:
        return closeness(*self._compared(count)).distance

    def _compared(self, count: int) -> tuple[Float32Array, Float32Array]:
        reference, scores = self._reference[:count], self._scores[:count]
        if self._corrected:
            return without_mean_change(reference, scores)
        return as_logits(reference, scores)

    def _log_noise(self) -> npt.NDArray[np.float64]:
        """Return the logarithm of each image's noise, float64 ``[images]``."""
        reference, scores = self._compared(len(self._scores))
        noise = np.square(scores.astype(np.float64) - reference).sum(axis=1)
        return np.asarray(np.log(noise + np.finfo(np.float64).tiny))


def _scaled(ranges: Mapping[str, Range], group: RangeGroup, below: float, above: float) -> dict[str, Range]:
    moved = {name: Range(ranges[name].lo * below, ranges[name].hi * above) for name in group.observed if name in ranges}
    return {**ranges, **moved}


def rounded(model: ir.Model, plan: Plan, parameters: Mapping[str, QParams]) -> ir.Model:
    """Return a copy of a float model in which the given tensors are rounded to integers and back.

    Nodes that read integers in the int8 model read the rounded values; other nodes do if the int8 model has no float
    value.

    Args:
        model: prepared.
        plan: plan of the model.
        parameters: scale and zero point by tensor.
    """
    copy = model.clone()
    forget_names(copy.graph)
    placement, values = plan.placement, {name_of(value): value for value in all_values(copy.graph)}
    for value in all_values(placement.graph):
        name = name_of(value)
        if name in parameters:
            nodes = [use.node for use in value.uses() if placement.reads_integers(use.node, value)]
            readers = None if placement.exists_as_integers_only(value) else {node_name(node) for node in nodes}
            _round(copy.graph, values[name], readers, parameters[name])
    return copy


def _round(graph: ir.Graph, value: ir.Value, readers: Set[str] | None, qparams: QParams) -> None:
    """Insert ``scale * clip(round(x / scale), qmin - zero_point, qmax - zero_point)`` between a value and its readers.

    Float operators are used, because onnxruntime would quantize a layer between QuantizeLinear and DequantizeLinear.

    Args:
        graph: graph of the value.
        value: value to round.
        readers: names of the nodes that read the rounded value; None for all nodes and graph outputs.
        qparams: quantization parameters of the value.
    """
    name, zero = name_of(value), float(qparams.zero_point)
    ends = {"scale": qparams.scale, "least": qparams.qmin - zero, "greatest": qparams.qmax - zero}
    scale, *limits = (
        add_constant(graph, f"{name}.{word}", np.asarray(held, np.float32)) for word, held in ends.items()
    )
    nodes: list[ir.Node] = []
    for op_type, operands in (("Div", [scale]), ("Round", []), ("Clip", limits), ("Mul", [scale])):
        source = nodes[-1].outputs[0] if nodes else value
        nodes.append(ir.node(op_type, [source, *operands], name=unused_name(graph, f"{name}.{op_type}")))
        result = nodes[-1].outputs[0]
        result.name, result.type, result.shape = nodes[-1].name, value.type, value.shape
    if readers is None:
        value.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)
        nodes[0].replace_input_with(0, value)
    else:
        for use in [use for use in value.uses() if use.node.name in readers]:
            use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
    insert_after(graph, value.producer(), nodes)
