"""Mixed precision: leaves layers in float one by one, each the best in addition to the previous ones.

The sensitivities of layers do not add up: noise partly cancels. So a list sorted once by sensitivity only selects the
candidates of a step. At each step the few layers with the largest gain for their multiply-adds are measured in addition
to those already in float, and the best of them is taken.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.analysis.values import node_name
from quantkit.graph.qdq.plan import Plan, plan
from quantkit.progress import ProgressCallback
from quantkit.ptq.bias_correction import estimate_shifts
from quantkit.search.budget import FloatBudget
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.search.recipe import Recipe
from quantkit.sensitivity.cache import LayerCostCache
from quantkit.sensitivity.measure import LayerScorer, NetworkCost, Quantization, layer_costs

# Number of layers measured per step.
TRIED = 4
# Number of images to measure the order of the layers on.
IMAGES = 24
# Cost of the conversions around a float layer, as a share of the network's multiply-adds.
CONVERSIONS = 0.005


class LayerCache(Protocol):
    """Keeps what layers cost in addition to a recipe, so that an interrupted search resumes."""

    def layer_costs(self, recipe: Recipe) -> LayerCostCache:
        """Return the cache of the layers' costs with a recipe."""

    def find_distance(self, recipe: Recipe) -> float | None:
        """Return the distance from fp32 of a recipe with its layers in float, None if it has not been measured."""

    def keep_distance(self, recipe: Recipe, distance: float) -> None:
        """Write the distance of a recipe."""


class MixedPrecision:
    """A greedy search from all layers in int8 towards more in float.

    Args:
        candidate_builder: builds the models.
        recipe: initial recipe.
        selection: compares the models.
        budget: limits on layers in float.
        input_shape: ``[N, C, H, W]``.
        cache: keeps the measurements.
        progress: called with the number of measured layers and of all layers.
    """

    def __init__(
        self,
        candidate_builder: CandidateBuilder,
        recipe: Recipe,
        selection: SelectionMetric,
        budget: FloatBudget,
        input_shape: Sequence[int],
        cache: LayerCache,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._builder, self._start, self._selection, self._budget = candidate_builder, recipe, selection, budget
        self._cache, self._progress, self._recipe = cache, progress, recipe
        self._target = recipe.target(candidate_builder.target)
        # The rewritten network has the same nodes, but for the one of input folding, which is in float in any case.
        plain = recipe.changed(input_folding=False).left_out(candidate_builder.options)
        self._macs = _shares(candidate_builder.prepared, input_shape)
        self._float = _in_float(self._macs, plan(candidate_builder.prepared, self._target, plain))
        self._promising = self._order()

    def next(self) -> Recipe | None:
        """Return the recipe with one more layer in float, None if no further layer fits or helps."""
        tried = [(self._distance(name), place, name) for place, name in enumerate(self._fitting()[:TRIED])]
        if not tried:
            return None
        _, _, best = min(tried)
        self._promising.remove(best)
        self._float += self._macs.get(best, 0.0)
        self._recipe = self._recipe.changed(skip=(*self._recipe.skip, best))
        return self._recipe

    @cached_property
    def _quantization(self) -> tuple[ir.Model, Quantization]:
        """The network of the initial recipe, and how it is quantized."""
        model, ranges = self._builder.ranged(self._start, self._progress)
        left_out, images = self._start.left_out(self._builder.options), self._builder.images
        made = plan(model, self._target, left_out)
        shifts = estimate_shifts(model, made, ranges, images, threads=self._builder.threads, progress=self._progress)
        return model, Quantization(target=self._target, ranges=ranges, left_out=left_out, bias_shift=shifts)

    def _order(self) -> list[str]:
        """Return the layers by their gain in float for their multiply-adds, the largest first."""
        costs = self._costs()
        layers = [one for one in costs.layers if not self._budget.convs_only or one.conv_index is not None]
        gains = {one.node: costs.share_saved(one) for one in layers}
        weighed = {name: gain / self._weight(name) for name, gain in gains.items() if gain > 0.0}
        return sorted(weighed, key=lambda name: -weighed[name])

    def _costs(self) -> NetworkCost:
        cache = self._cache.layer_costs(self._start)
        if cache.network is None:
            model, quantization = self._quantization
            scorer = LayerScorer(model, quantization, self._builder.images[:IMAGES], threads=self._builder.threads)
            try:
                found = layer_costs(scorer, known=cache.layers, found=cache.add, progress=self._progress)
            finally:
                cache.write()
            cache.finish(found)
        assert cache.network is not None
        return cache.network

    def _weight(self, name: str) -> float:
        return 1.0 if self._budget.layers is not None else self._macs.get(name, 0.0) + CONVERSIONS

    def _fitting(self) -> list[str]:
        if self._budget.layers is not None and len(self._recipe.skip) >= self._budget.layers:
            return []
        return [
            name for name in self._promising if 100.0 * (self._float + self._macs.get(name, 0.0)) <= self._budget.macs
        ]

    def _distance(self, name: str) -> float:
        recipe = self._recipe.changed(skip=(*self._recipe.skip, name))
        distance = self._cache.find_distance(recipe)
        if distance is None:
            distance = self._measured(recipe)
            self._cache.keep_distance(recipe, distance)
        return distance

    def _measured(self, recipe: Recipe) -> float:
        model, quantization = self._quantization
        try:
            made = plan(model, self._target, recipe.left_out(self._builder.options))
        except ModelError:  # at least one layer must be integer
            return float("inf")
        return self._selection.closeness(quantization.model(model, made)).distance


def float_share(model: ir.Model, made: Plan, input_shape: Sequence[int]) -> float:
    """Return the share of a network's multiply-adds in float, including products of activations.

    Args:
        model: prepared.
        made: plan of the model, or of a model with the same node names.
        input_shape: ``[N, C, H, W]``, for a model with free dimensions.
    """
    return _in_float(_shares(model, input_shape), made)


def _in_float(shares: Mapping[str, float], made: Plan) -> float:
    integer = {node_name(node) for node in made.placement.integer}
    return sum(share for name, share in shares.items() if name not in integer)


def _shares(model: ir.Model, input_shape: Sequence[int]) -> Mapping[str, float]:
    macs = multiply_adds(model, input_shape)
    total = sum(macs.values()) or 1
    return {name: count / total for name, count in macs.items()}
