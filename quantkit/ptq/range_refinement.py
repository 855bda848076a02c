"""Ranges refined for the scores: each tensor is rounded alone, and its range is what brings the scores nearest to fp32.

A method sets a range by what it does to the tensor itself. The scores see the tensor through what reads it: a ReLU
behind a sum cuts off most of what lies far below zero, a channel that nothing weighs may reach the furthest, and a
range that is right for the mean of all channels is then too wide for those that count. Here the ends of one range after
the other are moved, with all other tensors in float, so that no other noise hides what the move does:

    distance(lo, hi) = sqrt(KL * noise / signal) of the scores, as `quantkit.evaluation.selection` measures it

less the mean change of each score where the correction of biases takes it back. An end that moves must bring the
distance down by a share that chance does not, or it stays; a range whose rounding hardly shows in the scores stays as
it is, and so does one that others follow from.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.prefix_sharing import PrefixSharedRuns
from quantkit.engine.scores import scores_of
from quantkit.evaluation.predictions import Scores, kind_of_scores, log_probabilities
from quantkit.evaluation.selection import closeness
from quantkit.graph.analysis.values import add_constant, forget_names, insert_behind, name_of, node_name, unused_name
from quantkit.graph.qdq.edit import all_values
from quantkit.graph.qdq.plan import Plan
from quantkit.graph.qdq.sharing import RangeGroup
from quantkit.graph.qdq.write import activation_parameters
from quantkit.numerics import QParams, Range
from quantkit.types import Float32Array

# An end is moved inwards by this factor again and again, until that did not help twice in a row: where a tensor has but
# few levels, what a step less does is half chance. Where it never helps, the end is moved half as far, else outwards.
INWARDS, PATIENCE, HALF, OUTWARDS = 0.8, 2, 0.9, 1.1
# No end is moved further in: what so few images do not reach, others do.
LEAST_FACTOR = 0.2
# What a move has to bring the distance down to, and by how many standard errors the images gain.
EARNED, CERTAINTY = 0.95, 1.0
# Ranges that make less than this share of the distance of all together are left alone.
LEAST_SHARE = 0.003


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
    """Return the ranges of the observed tensors, some of them narrower or wider.

    Args:
        model: prepared.
        plan: made for it.
        ranges: at least one for every tensor of ``plan.observed``.
        images: a few dozen, ``[N, C, H, W]`` each.
        corrected: biases will be, so a change that is the same for all images does not count.
        threads: images run side by side.
        progress: called with the number of ranges looked at and of all.

    Raises:
        ModelError: the model cannot be run.
    """
    search = _Search(model, plan, ranges, images, corrected, threads)
    own = [group for group in plan.groups if _is_its_own(group, plan.groups)]
    for done, group in enumerate(own, start=1):
        search.refine(group)
        if progress is not None:
            progress(done, len(own))
    return search.ranges


def _is_its_own(group: RangeGroup, groups: Sequence[RangeGroup]) -> bool:
    """Tell whether a group's range follows from tensors that no other group's range follows from."""
    return not any(set(group.observed) & set(other.observed) for other in groups if other is not group)


class _Search:
    """The scores of the fp32 model with one tensor rounded, and the ranges found so far."""

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        ranges: Mapping[str, Range],
        images: Sequence[Float32Array],
        corrected: bool,
        threads: int,
    ) -> None:
        self.ranges = dict(ranges)
        self._model, self._plan, self._corrected = model, plan, corrected
        self._reference = scores_of(model, images, threads=threads)
        everything = rounded(model, plan, activation_parameters(plan, ranges))
        self._whole = self._effect_of(scores_of(everything, images, threads=threads)).distance
        self._variants = PrefixSharedRuns(model, images, threads=threads)

    def refine(self, group: RangeGroup) -> None:
        """Move the upper end of a group's range, then the lower one."""
        found = self._effect(group, self.ranges)
        if found.distance < LEAST_SHARE * self._whole:
            return
        symmetric = self._plan.target.activations.symmetric
        for ends in ((True, True),) if symmetric else ((False, True), (True, False)):
            found = self._move(group, ends, found)

    def _move(self, group: RangeGroup, ends: tuple[bool, bool], start: "_Effect") -> "_Effect":
        """Move these ends of a range (lower, upper) to where its rounding shows least, and return how much it does."""
        before, best = self.ranges, start

        def helps(factor: float) -> bool:
            nonlocal best
            moved = _scaled(before, group, *(factor if end else 1.0 for end in ends))
            if moved == before:
                return False
            found = self._effect(group, moved)
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

    def _effect(self, group: RangeGroup, ranges: Mapping[str, Range]) -> "_Effect":
        parameters = activation_parameters(self._plan, ranges)
        variant = rounded(self._model, self._plan, {tensor: parameters[tensor] for tensor in group.tensors})
        return self._effect_of(self._variants.scores(variant))

    def _effect_of(self, scores: Float32Array) -> "_Effect":
        return _Effect.of(self._reference, scores, corrected=self._corrected)


@dataclass(frozen=True, eq=False)
class _Effect:
    """What rounding does to the scores.

    Attributes:
        distance: of all images.
        log_noise: float64 ``[images]``, the logarithm of each image's noise.
    """

    distance: float
    log_noise: npt.NDArray[np.float64]

    @classmethod
    def of(cls, reference: Float32Array, scores: Float32Array, *, corrected: bool) -> "_Effect":
        if not np.isfinite(scores).all():
            return cls(math.inf, np.full(len(scores), math.inf))
        if kind_of_scores(reference) is Scores.PROBABILITIES:  # biases act before the softmax
            reference, scores = (
                log_probabilities(one, Scores.PROBABILITIES).astype(np.float32) for one in (reference, scores)
            )
        drift = (scores - reference).mean(axis=0, dtype=np.float64) if corrected else 0.0
        shifted = (scores - drift).astype(np.float32)
        noise = np.square(shifted.astype(np.float64) - reference).sum(axis=1)
        return cls(closeness(reference, shifted).distance, np.log(noise + np.finfo(np.float64).tiny))

    def is_less_than(self, other: "_Effect") -> bool:
        """Tell whether this is less, by more than images differ by chance."""
        if self.distance >= EARNED * other.distance or not math.isfinite(other.distance):
            return self.distance < other.distance == math.inf
        gains = other.log_noise - self.log_noise
        return float(gains.mean()) > CERTAINTY * float(gains.std()) / math.sqrt(gains.size)


def _scaled(ranges: Mapping[str, Range], group: RangeGroup, below: float, above: float) -> dict[str, Range]:
    moved = {name: Range(ranges[name].lo * below, ranges[name].hi * above) for name in group.observed if name in ranges}
    return {**ranges, **moved}


def rounded(model: ir.Model, plan: Plan, parameters: Mapping[str, QParams]) -> ir.Model:
    """Return a copy of a float model in which some tensors are rounded to integers and back.

    What reads integers in the int8 model reads the rounded values, and all else where no float value is there any more.

    Args:
        model: prepared.
        plan: made for it.
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
    """Put ``scale * clip(round(x / scale), qmin - zero_point, qmax - zero_point)`` between a value and its readers.

    In float operators: a layer between QuantizeLinear and DequantizeLinear would be quantized by onnxruntime itself.

    Args:
        graph: of the value.
        value: to round.
        readers: nodes that read what comes out, by name; None for all, and the outputs of the graph.
        qparams: of the value.
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
    insert_behind(graph, value.producer(), nodes)
