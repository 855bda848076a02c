"""The candidate builder creates the int8 model of a recipe; results that recipes share are computed once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import onnx_ir as ir

from quantkit.files import sha256_json
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import Plan, PlanOptions, plan
from quantkit.graph.qdq.write import activation_parameters, write_qdq
from quantkit.numerics import Range
from quantkit.progress import ProgressCallback
from quantkit.ptq.bias_correction import estimate_shifts
from quantkit.ptq.channel_shift import shift_channels
from quantkit.ptq.channel_statistics import ChannelStatistics, channel_statistics
from quantkit.ptq.equalization import Equalization, equalize
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.input_folding import LEVELS, SPAN, Levels, holds_padding, levels_of, takes_levels, with_input_folding
from quantkit.ptq.range_refinement import refine_ranges, rounded
from quantkit.ptq.reconstruction import reconstruct
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve_observed
from quantkit.targets import Target
from quantkit.types import Float32Array

# Largest accepted change of the scores by shifted and rescaled channels, as a share of their span; well above float32
# rounding.
SAME_FUNCTION = 1e-4
# Images that the ranges of a preview are observed on.
PREVIEW_IMAGES = 96


class Observe(Protocol):
    """Returns the statistics of a prepared model's tensors that plans may need."""

    def __call__(self, model: ir.Model, images: int | None = None, before: Observed | None = None) -> Observed:
        """Observe the model on the calibration images, or on the first of them only.

        Args:
            model: prepared.
            images: number of images, from the first on; all by default.
            before: the observations of the first images, which are not run again.
        """


@dataclass(frozen=True)
class Product:
    """The models of a recipe.

    Attributes:
        int8: the quantized model.
        plan: of the int8 model.
        corrected_fp32: the fp32 model for a compiler that calibrates by itself; None if it is the original.
    """

    int8: ir.Model
    plan: Plan
    corrected_fp32: ir.Model | None


@dataclass(frozen=True)
class Preview:
    """The model of a recipe before weights and biases are corrected, built in a fraction of the time.

    Attributes:
        model: the model; weights to be rounded for the layer's output are left in float.
        digest: digest of model and ranges: recipes with equal digests and corrections have equal models.
    """

    model: ir.Model
    digest: str


@dataclass(frozen=True)
class _Base:
    """An fp32 model to quantize with its statistics, and its form for a compiler if it was rewritten."""

    model: ir.Model
    observed: Observed
    corrected_fp32: ir.Model | None = None


_BaseKey = tuple[Target, bool, float, bool]


@dataclass
class CandidateBuilder:
    """Builds the models of recipes.

    Attributes:
        prepared: the fp32 model.
        observed: statistics of its tensors that plans may need.
        target: runtime or compiler of the int8 model. If the compiler sets ranges and rounds by itself, every
            correction is applied to the fp32 model that it compiles.
        options: layers that the user leaves in float.
        images: a few dozen inputs, ``[N, C, H, W]`` each, to fit corrections and rounding on.
        ranging: a few dozen inputs to refine ranges on, preferably others.
        observe: observes a rewritten model.
        change: returns the largest difference of a model's scores from those of fp32 on held-back images, as a share of
            their span.
        keep_outliers: include outlier images when ranges are set.
        threads: number of images run in parallel.
    """

    prepared: ir.Model
    observed: Observed
    target: Target
    options: PlanOptions
    images: Sequence[Float32Array]
    ranging: Sequence[Float32Array]
    observe: Observe
    change: Callable[[ir.Model], float]
    keep_outliers: bool
    threads: int
    _shifted: dict[Target, ir.Model] = field(default_factory=dict, init=False)
    _statistics: dict[int, dict[str, ChannelStatistics]] = field(default_factory=dict, init=False)
    _equalizations: dict[tuple[Target, bool], Equalization | None] = field(default_factory=dict, init=False)
    _models: dict[_BaseKey, ir.Model] = field(default_factory=dict, init=False)
    _bases: dict[_BaseKey, _Base] = field(default_factory=dict, init=False)
    _observed: dict[_BaseKey, Observed] = field(default_factory=dict, init=False)
    _observed_first: dict[_BaseKey, Observed] = field(default_factory=dict, init=False)
    _refined: dict[Recipe, dict[str, Range]] = field(default_factory=dict, init=False)

    @cached_property
    def levels(self) -> Levels | None:
        """Levels of 8-bit images for the first layer; None if it cannot read them, or the images are not 8-bit."""
        counted = bool(self.options.skip_convs)  # an additional convolution would shift the indices
        if self.target.compiler_calibrates or counted or not takes_levels(self.prepared, self.target):
            return None
        found = levels_of(self.images)
        if found is None or not holds_padding(self.prepared, found):
            return None
        return found if self.change(with_input_folding(self.prepared, found)) <= SAME_FUNCTION else None

    def effective(self, recipe: Recipe, progress: ProgressCallback | None = None) -> Recipe:
        """Return the recipe without the steps that have no effect on this model.

        These are a channel shift or an equalization without channels that benefit, input folding if the first layer
        cannot read 8-bit levels, and range refinement that changes no range.

        Args:
            recipe: recipe of a stage.
            progress: called with the number of refined ranges and of all ranges.
        """
        target = recipe.target(self.target)
        if recipe.input_folding and self.levels is None:
            recipe = recipe.changed(input_folding=False)
        if recipe.channel_shift and self._center(target) is self.prepared:
            recipe = recipe.changed(channel_shift=False)
        if recipe.equalization and self._equalization(target, recipe.channel_shift) is None:
            recipe = recipe.changed(equalization=0.0)
        if recipe.refined and not self._refine(recipe, progress):
            recipe = recipe.changed(refined=False)
        return recipe

    def preview(self, recipe: Recipe, progress: ProgressCallback | None = None) -> Preview:
        """Return the model of a recipe before its corrections; a rewritten model is observed on few images.

        Args:
            recipe: from `effective`.
            progress: called with the number of refined ranges and of all ranges.

        Raises:
            UsageError: a layer to leave in float does not exist.
            ModelError: nothing is left to quantize, or the model cannot be run.
        """
        base = self._preview_base(recipe)
        made, ranges = self._planned(base, recipe, progress)
        kept = {name: [range_.lo, range_.hi] for name, range_ in sorted(ranges.items())}
        digest = sha256_json({**recipe.to_json(), "method": None, "refined": None, "correction": None, "ranges": kept})
        if recipe.correction is WeightCorrection.ROUNDING:
            return Preview(rounded(base.model, made, activation_parameters(made, ranges)), digest)
        return Preview(write_qdq(base.model, made, ranges), digest)

    def make(self, recipe: Recipe, progress: ProgressCallback | None = None) -> Product:
        """Build the model of a recipe; equal recipes give bit-identical models.

        Args:
            recipe: the recipe.
            progress: called with the number of refined ranges and of all ranges, then of corrected and of all layers.

        Raises:
            UsageError: a layer to leave in float does not exist.
            ModelError: nothing is left to quantize, or the model cannot be run.
        """
        base = self._base(recipe)
        if self.target.compiler_calibrates and recipe.correction is not WeightCorrection.NONE:
            base = self._corrected_base(base, recipe, progress)
            recipe = recipe.changed(correction=WeightCorrection.NONE)
        made, ranges = self._planned(base, recipe, progress)
        return Product(self._correct(base.model, made, ranges, recipe, progress), made, base.corrected_fp32)

    def rewritten(self, recipe: Recipe) -> ir.Model:
        """Return the fp32 model with shifted and rescaled channels, before its corrections."""
        return self._model(self._key(recipe))

    def ranged(self, recipe: Recipe, progress: ProgressCallback | None = None) -> tuple[ir.Model, dict[str, Range]]:
        """Return the fp32 model that a recipe quantizes, before its corrections, with the ranges of its tensors."""
        base, target = self._base(recipe), recipe.target(self.target)
        ranges = solve_observed(base.observed, recipe.method, target, keep_outliers=self.keep_outliers)
        return base.model, ranges | self._set_otherwise(recipe, progress)

    def _planned(
        self, base: _Base, recipe: Recipe, progress: ProgressCallback | None = None
    ) -> tuple[Plan, dict[str, Range]]:
        """Return the plan of a recipe for a model with the required ranges."""
        target = recipe.target(self.target)
        made = plan(base.model, target, recipe.left_out(self.options))
        ranges = solve_observed(
            base.observed, recipe.method, target, keep_outliers=self.keep_outliers, needed=made.observed
        )
        return made, ranges | self._set_otherwise(recipe, progress)

    def _set_otherwise(self, recipe: Recipe, progress: ProgressCallback | None = None) -> dict[str, Range]:
        """Return the ranges of a recipe that are not set by its method."""
        levels = {LEVELS: SPAN} if recipe.input_folding else {}
        return self._refine(recipe, progress) | levels if recipe.refined else levels

    def _refine(self, recipe: Recipe, progress: ProgressCallback | None) -> dict[str, Range]:
        """Return the ranges that refinement changes; they depend neither on layers in float nor on rounded weights."""
        corrected = recipe.correction is not WeightCorrection.NONE
        correction = WeightCorrection.BIAS if corrected else WeightCorrection.NONE
        plain = recipe.changed(refined=False, input_folding=False, correction=correction, skip=())
        if plain not in self._refined:
            base = self._base(plain)
            made, ranges = self._planned(base, plain)
            refined = refine_ranges(
                base.model,
                made,
                ranges,
                self.ranging,
                corrected=corrected,
                threads=self.threads,
                progress=progress,
            )
            self._refined[plain] = {name: moved for name, moved in refined.items() if moved != ranges.get(name)}
        return self._refined[plain]

    def _base(self, recipe: Recipe) -> _Base:
        key = self._key(recipe)
        if key not in self._bases:
            model = self._model(key)
            if model is self.prepared:
                return _Base(self.prepared, self.observed)
            corrected_fp32 = restore_batch_norms(model) if self.target.compiler_calibrates else None
            self._bases[key] = _Base(model, self._observations(key), corrected_fp32)
        return self._bases[key]

    def _preview_base(self, recipe: Recipe) -> _Base:
        """Return the base of a recipe, observed on few images if it has not been observed on all."""
        key = self._key(recipe)
        return self._base(recipe) if recipe.refined else _Base(self._model(key), self._observations(key, few=True))

    def _observations(self, key: _BaseKey, *, few: bool = False) -> Observed:
        """Return the statistics of a rewritten model, on the few images of a preview if those of all are not there.

        Input folding changes only what the first layer reads, and sets its range, so the model without it is observed.
        """
        key = (*key[:-1], False)
        model = self._model(key)
        if model is self.prepared:
            return self.observed
        if few and key not in self._observed:
            if key not in self._observed_first:
                self._observed_first[key] = self.observe(model, PREVIEW_IMAGES)
            return self._observed_first[key]
        if key not in self._observed:
            self._observed[key] = self.observe(model, before=self._observed_first.pop(key, None))
        return self._observed[key]

    def _key(self, recipe: Recipe) -> _BaseKey:
        return (recipe.target(self.target), recipe.channel_shift, recipe.equalization, recipe.input_folding)

    def _model(self, key: _BaseKey) -> ir.Model:
        """Return the rewritten fp32 model; rewrites that would change the scores are left out."""
        if key not in self._models:
            target, channel_shift, strength, input_folding = key
            model = self._center(target) if channel_shift else self.prepared
            equalization = self._equalization(target, channel_shift) if strength else None
            if equalization is not None:
                model = equalization.apply(model, strength)
            if input_folding and self.levels is not None:
                model = with_input_folding(model, self.levels)
            self._models[key] = model
        return self._models[key]

    def _center(self, target: Target) -> ir.Model:
        """Return the model with shifted channels, or the model itself if no channel can be shifted."""
        if target not in self._shifted:
            made = plan(self.prepared, target, self.options)
            found = shift_channels(self.prepared, made, self._channels(self.prepared))
            same = found is not None and self.change(found) <= SAME_FUNCTION
            self._shifted[target] = found if found is not None and same else self.prepared
        return self._shifted[target]

    def _equalization(self, target: Target, channel_shift: bool) -> Equalization | None:
        """Return the best factors that keep the scores on other images, None if there are none."""
        key = (target, channel_shift)
        if key not in self._equalizations:
            model = self._center(target) if channel_shift else self.prepared
            self._equalizations[key] = self._equalize(model, target)
        return self._equalizations[key]

    def _equalize(self, model: ir.Model, target: Target) -> Equalization | None:
        made, found = plan(model, target, self.options), None
        for keep_capped in (False, True):
            found = equalize(model, made, self._channels(model), keep_capped=keep_capped, start=found)
            if found is None or self.change(found.apply(model)) <= SAME_FUNCTION:
                return found
        return None

    def _channels(self, model: ir.Model) -> dict[str, ChannelStatistics]:
        """Return the channel statistics of a model that this object keeps."""
        if id(model) not in self._statistics:
            self._statistics[id(model)] = channel_statistics(model, self.images, threads=self.threads)
        return self._statistics[id(model)]

    def _corrected_base(self, base: _Base, recipe: Recipe, progress: ProgressCallback | None) -> _Base:
        """Return the fp32 model with corrected weights and biases, prepared again as for a compiler."""
        made, ranges = self._planned(base, recipe)
        int8 = self._correct(base.model, made, ranges, recipe, progress)
        corrected_fp32 = restore_batch_norms(export_corrected_fp32(base.model, made, int8, made.target.weights.qmax))
        model = prepare(corrected_fp32).model
        return _Base(model, self.observe(model), corrected_fp32)

    def _correct(
        self,
        model: ir.Model,
        made: Plan,
        ranges: Mapping[str, Range],
        recipe: Recipe,
        progress: ProgressCallback | None,
    ) -> ir.Model:
        if recipe.correction is WeightCorrection.NONE:
            return write_qdq(model, made, ranges)
        if recipe.correction is WeightCorrection.BIAS:
            shifts = estimate_shifts(model, made, ranges, self.images, threads=self.threads, progress=progress)
            return write_qdq(model, made, ranges, bias_shift=shifts)
        return reconstruct(
            model,
            made,
            ranges,
            self.images,
            keep_largest=self.target.compiler_calibrates,
            threads=self.threads,
            progress=progress,
        )
