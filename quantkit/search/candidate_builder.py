"""Makes the int8 model of a recipe; what recipes have in common is made once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import Plan, PlanOptions, plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.progress import ProgressCallback
from quantkit.ptq.bias_correction import estimate_shifts
from quantkit.ptq.channel_shift import center
from quantkit.ptq.equalization import Equalization, equalize
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.input_folding import LEVELS, SPAN, Levels, holds_padding, levels_of, takes_levels, with_input_folding
from quantkit.ptq.range_refinement import refine_ranges
from quantkit.ptq.reconstruction import reconstruct
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve_observed
from quantkit.targets import Target
from quantkit.types import Float32Array

# Takes a prepared model and returns what the calibration images make of all tensors that a plan may need.
Observe = Callable[[ir.Model], Observed]
# Moved and rescaled channels may change the scores by this share of their span: far more than float32 rounding does.
SAME_FUNCTION = 1e-4


@dataclass(frozen=True)
class Product:
    """What a recipe makes.

    Attributes:
        int8: the quantized model.
        plan: of the int8 model.
        corrected_fp32: the fp32 model to hand to a compiler that calibrates by itself; None where that is the original.
    """

    int8: ir.Model
    plan: Plan
    corrected_fp32: ir.Model | None


@dataclass(frozen=True)
class _Base:
    """An fp32 model to quantize, with what was observed of it, and as a compiler gets it where it was rewritten."""

    model: ir.Model
    observed: Observed
    corrected_fp32: ir.Model | None = None


@dataclass
class CandidateBuilder:
    """Everything that recipes are made from.

    Attributes:
        prepared: the fp32 model.
        observed: of all its tensors that a plan may need.
        target: what will run the int8 model. Where its compiler takes ranges and rounds by itself, whatever is mended
            must stand in the fp32 model that it is handed.
        options: what the user leaves in float.
        images: a few dozen, ``[N, C, H, W]`` each, that correction and rounding look at.
        ranging: a few dozen that ranges are refined on, best none of the others.
        observe: observes a rewritten model.
        change: measures, on images that had no part in making it, how far a model's scores lie from those of fp32, as a
            share of their span.
        keep_outliers: set ranges for all images, also for the few that go far beyond all others.
        threads: images run side by side.
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
    _equalizations: dict[tuple[Target, bool], Equalization | None] = field(default_factory=dict, init=False)
    _bases: dict[tuple[Target, bool, float, bool], _Base] = field(default_factory=dict, init=False)
    _refined: dict[Recipe, dict[str, Range]] = field(default_factory=dict, init=False)

    @cached_property
    def levels(self) -> Levels | None:
        """How the first layer can read the levels of 8-bit images; None where it cannot, or the images hold none."""
        counted = bool(self.options.skip_convs)  # by indices that one more convolution would shift
        if self.target.compiler_calibrates or counted or not takes_levels(self.prepared, self.target):
            return None
        found = levels_of(self.images)
        if found is None or not holds_padding(self.prepared, found):
            return None
        return found if self.change(with_input_folding(self.prepared, found)) <= SAME_FUNCTION else None

    def make(self, recipe: Recipe, progress: ProgressCallback | None = None) -> Product:
        """Make the model of a recipe; the same recipe gives the same bits.

        Args:
            recipe: what to make.
            progress: called with the number of ranges refined and of all ranges, then likewise of layers mended.

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

    def ranged(self, recipe: Recipe, progress: ProgressCallback | None = None) -> tuple[ir.Model, dict[str, Range]]:
        """Return the fp32 model that a recipe quantizes, before anything is mended, and the ranges of its tensors."""
        base, target = self._base(recipe), recipe.target(self.target)
        ranges = solve_observed(base.observed, recipe.method, target, keep_outliers=self.keep_outliers)
        return base.model, ranges | self._set_otherwise(recipe, progress)

    def _planned(
        self, base: _Base, recipe: Recipe, progress: ProgressCallback | None = None
    ) -> tuple[Plan, dict[str, Range]]:
        """Return the plan of a recipe for a model, and the ranges that it needs."""
        target = recipe.target(self.target)
        made = plan(base.model, target, recipe.left_out(self.options))
        ranges = solve_observed(
            base.observed, recipe.method, target, keep_outliers=self.keep_outliers, needed=made.observed
        )
        return made, ranges | self._set_otherwise(recipe, progress)

    def _set_otherwise(self, recipe: Recipe, progress: ProgressCallback | None = None) -> dict[str, Range]:
        """Return the ranges of a recipe that its method does not set."""
        levels = {LEVELS: SPAN} if recipe.input_folding else {}
        return self._refine(recipe, progress) | levels if recipe.refined else levels

    def _refine(self, recipe: Recipe, progress: ProgressCallback | None) -> dict[str, Range]:
        """Return the refined ranges; neither layers in float nor the rounding of weights makes them others."""
        corrected = recipe.correction is not WeightCorrection.NONE
        correction = WeightCorrection.BIAS if corrected else WeightCorrection.NONE
        plain = recipe.changed(refined=False, input_folding=False, correction=correction, skip=())
        if plain not in self._refined:
            base = self._base(plain)
            made, ranges = self._planned(base, plain)
            self._refined[plain] = refine_ranges(
                base.model,
                made,
                ranges,
                self.ranging,
                corrected=corrected,
                threads=self.threads,
                progress=progress,
            )
        return self._refined[plain]

    def _base(self, recipe: Recipe) -> _Base:
        target = recipe.target(self.target)
        key = (target, recipe.channel_shift, recipe.equalization, recipe.input_folding)
        if key not in self._bases:
            model = self._rewritten(*key[:3])
            if recipe.input_folding and self.levels is not None:
                model = with_input_folding(model, self.levels)
            if model is self.prepared:
                return _Base(self.prepared, self.observed)
            corrected_fp32 = restore_batch_norms(model) if self.target.compiler_calibrates else None
            self._bases[key] = _Base(model, self.observe(model), corrected_fp32)
        return self._bases[key]

    def _rewritten(self, target: Target, channel_shift: bool, strength: float) -> ir.Model:
        """Return the model with its channels moved and rescaled; what would not keep the function is left out."""
        model = self._center(target) if channel_shift else self.prepared
        if not strength:
            return model
        key = (target, channel_shift)
        if key not in self._equalizations:
            self._equalizations[key] = self._equalize(model, target)
        equalization = self._equalizations[key]
        return model if equalization is None else equalization.apply(model, strength)

    def _center(self, target: Target) -> ir.Model:
        if target not in self._shifted:
            made = plan(self.prepared, target, self.options)
            found = center(self.prepared, made, self.images, threads=self.threads)
            same = found is not None and self.change(found) <= SAME_FUNCTION
            self._shifted[target] = found if found is not None and same else self.prepared
        return self._shifted[target]

    def _equalize(self, model: ir.Model, target: Target) -> Equalization | None:
        """Return the best factors that keep the function on other images too, None where none were found."""
        made = plan(model, target, self.options)
        for keep_capped in (False, True):
            found = equalize(model, made, self.images, keep_capped=keep_capped, threads=self.threads)
            if self.change(found.apply(model)) <= SAME_FUNCTION:
                return found
        return None

    def _corrected_base(self, base: _Base, recipe: Recipe, progress: ProgressCallback | None) -> _Base:
        """Return the fp32 model in which the mended weights and biases stand, prepared as a compiler would meet it."""
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
