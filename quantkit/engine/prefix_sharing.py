"""Runs variants of a model that differ in a part of the graph; common parts are loaded and run once."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from quantkit.engine.device import CPU, Device
from quantkit.engine.scores import scores_of
from quantkit.engine.segments import SegmentedRun, crossing
from quantkit.graph.analysis.ops import LAYERS
from quantkit.graph.analysis.value_numbering import Computations
from quantkit.graph.analysis.values import is_constant, is_op, name_of, node_name, reads
from quantkit.types import Float32Array


class VariantRuns(Protocol):
    """The scores of variants of a model, over a few images."""

    def scores(self, variant: ir.Model, *, walk_to: str | None = None) -> Float32Array:
        """Return the first output of a variant, ``[images, classes]``."""


class WholeRuns:
    """Every variant run whole, in batches: what a device is fast at. Pieces would each have to be compiled for it.

    Args:
        images: ``[n, C, H, W]`` each, as the model's input takes them.
        threads: images run side by side on the CPU.
        device: where the variants run.
    """

    def __init__(self, images: Sequence[Float32Array], *, threads: int, device: Device) -> None:
        self._images, self._threads, self._device = images, threads, device

    def scores(self, variant: ir.Model, *, walk_to: str | None = None) -> Float32Array:
        """Return the first output of a variant, ``[images, classes]``, as `quantkit.engine.scores.scores_of` does.

        Args:
            variant: the model.
            walk_to: has no effect.

        Raises:
            ModelError: onnxruntime cannot run the variant.
            DeviceError: the device does not run it.
        """
        return scores_of(variant, self._images, threads=self._threads, device=self._device)


def variant_runs(model: ir.Model, images: Sequence[Float32Array], *, threads: int, device: Device = CPU) -> VariantRuns:
    """Return what runs variants of a model: sharing what they have in common on the CPU, whole on another device."""
    if device.is_cpu:
        return PrefixSharedRuns(model, images, threads=threads)
    return WholeRuns(images, threads=threads, device=device)


class PrefixSharedRuns:
    """Computes the scores of variants of a model over a few images.

    One walk advances through the model; a variant starts from the last tensors that both compute identically. From
    there it runs separately, up to the first of a few cuts after which it is identical to the model again; the part
    after such a cut is loaded once for all variants that differ before it.

    The walk only advances, so variants should come in the order of their differences: a variant that differs before the
    current cut is run from the images on, with the same result.

    Memory: the images, and twice the tensors that cross a cut, for every image.

    Args:
        model: prepared or int8 model.
        images: model inputs, ``[n, C, H, W]`` each.
        threads: number of images run in parallel.
    """

    def __init__(self, model: ir.Model, images: Sequence[Float32Array], *, threads: int) -> None:
        self._model, self._images, self._threads = model, images, threads
        self._walk = SegmentedRun(model, images, threads=threads)
        self._computations = Computations()
        self._names = {number: name for name, number in self._computations.number(model).items()}
        layers = [node_name(node) for node in model.graph if is_op(node, *LAYERS)]
        # As many cuts as there are layers between two cuts, which minimizes the number and size of loaded models.
        spacing = max(2, math.isqrt(len(layers)))
        self._places = self._walk.cuts(layers[spacing::spacing])
        self._order = {node_name(node): index for index, node in enumerate(model.graph)}
        self._made_at = {name_of(value): index for index, node in enumerate(model.graph) for value in node.outputs}
        self._ending = SegmentedRun(model, (), threads=threads, settled=True)
        self._place = 0  # cut at which the last variant ended

    def scores(self, variant: ir.Model, *, walk_to: str | None = None) -> Float32Array:
        """Return the first output of a variant, ``[images, classes]``, as `quantkit.engine.scores.scores_of` does.

        Args:
            variant: the other model.
            walk_to: name of a node that the walk does not pass, because later variants need tensors before it. By
                default the walk advances to where this variant differs.

        Raises:
            ModelError: onnxruntime cannot run a part of the model or of the variant.
        """
        run = self._begin(variant, walk_to)
        place = self._rejoined(variant, run)
        if place is not None:
            columns = zip(*run.run(place), strict=True)
            self._ending.restart(dict(zip(place, columns, strict=True)))
            run = self._ending
        output = name_of(run.model.graph.outputs[0])
        return np.concatenate([scores[:1].reshape(1, -1) for (scores,) in run.run([output])]).astype(np.float32)

    def _begin(self, variant: ir.Model, walk_to: str | None) -> SegmentedRun:
        """Return a walk through a variant that starts where it differs, or at the images."""
        taken = self._shared_tensors(variant)
        if taken is None:
            return SegmentedRun(variant, self._images, threads=self._threads)
        limit = len(self._model.graph) if walk_to is None else self._order[walk_to]
        passed = [name for name in taken.values() if self._made_at.get(name, -1) < limit]
        self._walk.advance(passed, keep=passed)
        return self._walk.branch(variant, taken)

    def _shared_tensors(self, variant: ir.Model) -> dict[str, str] | None:
        """Return the last tensors that variant and model compute identically and the walk reaches, with their names."""
        numbers = self._computations.number(variant)
        found: dict[str, str] = {}
        seen: set[ir.Value] = set()
        pending = [crossing(variant.graph.outputs[0])]
        while pending:
            value = pending.pop()
            if value in seen or is_constant(value):
                continue
            seen.add(value)
            ours = self._names.get(numbers[name_of(value)])
            if ours is not None and self._walk.reaches([ours]):
                found[name_of(value)] = ours
                continue
            node = value.producer()
            if node is None:
                return None
            pending.extend(crossing(operand) for operand in reads(node))
        return found

    def _rejoined(self, variant: ir.Model, run: SegmentedRun) -> tuple[str, ...] | None:
        """Return the tensors of the first cut after which a variant is identical to the model, None if there is none.

        Cuts before the end of earlier variants are skipped.
        """
        names = {name_of(value) for node in variant.graph for value in node.outputs}
        for index in range(self._place, len(self._places)):
            place = self._places[index]
            if names.issuperset(place) and run.reaches(place) and self._is_equal_after(variant, place):
                if index > self._place:
                    self._place = index
                    self._ending = SegmentedRun(self._model, (), threads=self._threads, settled=True)
                return place
        return None

    def _is_equal_after(self, variant: ir.Model, place: tuple[str, ...]) -> bool:
        ours, theirs = (
            self._computations.number(model, fed=place)[name_of(model.graph.outputs[0])]
            for model in (self._model, variant)
        )
        return ours == theirs
