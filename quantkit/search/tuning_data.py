"""The tuning data: a run's calibration images by use, and statistics of rewritten models over them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.decoded import DecodedImages
from quantkit.data.item import ImageItem
from quantkit.engine.batches import Batching, Load
from quantkit.engine.device import CPU, Device
from quantkit.engine.observe import complete, observe
from quantkit.engine.tap import TappedSession
from quantkit.errors import CalibrationSetError
from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.image_input import image_input
from quantkit.graph.qdq.taps import observed_tensors
from quantkit.runs.inputs import model_inputs
from quantkit.search.deadline import Deadline
from quantkit.stats.observed import Observed
from quantkit.types import Float32Array

# Every third image of the set is in the selection split; corrections are fitted on the other images.
SELECTION_STRIDE = 3
# The images that corrections are fitted on are in memory with the tensors of a layer, so their number is bounded by
# this number of multiply-adds.
FIT_IMAGES, MAX_FIT_IMAGES, FIT_MACS = 96, 256, 20e9
SELECTION_IMAGES = 128
# A range is refined by running the network a few times on this number of images, again bounded by multiply-adds.
LEAST_RANGING, RANGING, RANGING_MACS = 16, 64, 60e9
# Ranges of a rewritten model are observed on this number of images: a few hundred, or a hundred for a large network.
LEAST_OBSERVED, OBSERVED, OBSERVED_MACS = 96, 512, 400e9
LEAST_IMAGES = 6


@dataclass(frozen=True)
class TuningData:
    """The images of a calibration set by use.

    Attributes:
        work: images to fit corrections and rounding on, ``[N, C, H, W]`` each.
        ranging: images to refine ranges on. They overlap with ``work`` only if the set has no others: equalization
            gives the channels of a tensor the same reach on ``work``, so the gain of a narrower range is overestimated
            there.
        selection: the selection split, ``[N, C, H, W]`` each, disjoint from the others.
        observed: images to observe ranges on.
        outliers: positions in ``observed`` of outlier images of the original model; ``work`` does not contain them.
        load: reads an image of ``observed``.
        input_shape: ``[N, C, H, W]``.
        fixed_batch: the model's fixed batch size, None if it is dynamic.
        device: device of the models that are observed.
        threads: number of worker threads.
    """

    work: Sequence[Float32Array]
    ranging: Sequence[Float32Array]
    selection: Sequence[Float32Array]
    observed: Sequence[ImageItem]
    outliers: tuple[int, ...]
    load: Load
    input_shape: tuple[int, ...]
    fixed_batch: int | None
    device: Device
    threads: int

    def within(self, deadline: Deadline) -> Self:
        """Return the same images; taking one of them checks the time limit."""
        return replace(
            self,
            work=deadline.images(self.work),
            ranging=deadline.images(self.ranging),
            selection=deadline.images(self.selection),
            load=deadline.each(self.load),
        )

    def observe(self, model: ir.Model, images: int | None = None, before: Observed | None = None) -> Observed:
        """Return the statistics of a prepared model's tensors that plans may need.

        Args:
            model: prepared.
            images: use the first of ``observed`` only, this many; by default all.
            before: the statistics of the first of these, which are not run again.

        Raises:
            ModelError: the model cannot be run.
            NumericError: a tensor contains NaN or infinity.
        """
        wanted, used = observed_tensors(model), self.observed[:images]
        rest = used if before is None else used[len(before.extremes) :]
        found = before
        if rest:
            session = TappedSession(model, wanted.tapped, device=self.device)
            batching = Batching.of(self.fixed_batch, self.device)
            *_, last = observe(session, rest, self.load, batching, threads=self.threads)
            found = complete(last.observed(), wanted)
            found = found if before is None else before.joined(found)
        assert found is not None
        outliers = tuple(place for place in self.outliers if place < len(used))
        return replace(found, known_outliers=outliers)


def tuning_data(
    prepared: ir.Model,
    chosen: CalibrationSet,
    outliers: Collection[str],
    pipeline: Pipeline,
    threads: int,
    load: DecodedImages | None = None,
    device: Device = CPU,
) -> TuningData:
    """Read the images of a calibration set.

    Args:
        prepared: the model.
        chosen: the set, classes mixed.
        outliers: sha256 of its outlier images.
        pipeline: preprocessing.
        threads: workers.
        load: reads images with this preprocessing; created if missing.
        device: device of the rewritten models that are observed.

    Raises:
        CalibrationSetError: there are too few.
        ImageError: an image cannot be decoded.
    """
    items, load = chosen.items, load or DecodedImages(pipeline)
    if len(items) < LEAST_IMAGES:
        raise CalibrationSetError(
            f"tuning needs at least {LEAST_IMAGES} calibration images, and the set has {len(items)}",
            fix="build a larger set with quantkit calib-set build",
        )

    def inputs(wanted: Sequence[ImageItem]) -> list[Float32Array]:
        return model_inputs(prepared, wanted, pipeline, threads, load=load)

    far = tuple(place for place, image in enumerate(chosen.images) if image.sha256 in outliers)
    selection = items[SELECTION_STRIDE - 1 :: SELECTION_STRIDE][:SELECTION_IMAGES]
    others = (place for place in range(len(items)) if place % SELECTION_STRIDE != SELECTION_STRIDE - 1)
    usable = [items[place] for place in others if place not in far]
    first = inputs(usable[:1])
    macs = sum(multiply_adds(prepared, first[0].shape).values()) * len(first[0]) if first else 0
    ranging_count = _affordable(macs, RANGING_MACS, LEAST_RANGING, RANGING)
    observed_count = _affordable(macs, OBSERVED_MACS, LEAST_OBSERVED, OBSERVED)
    work_count = min(
        _affordable(macs, FIT_MACS, FIT_IMAGES, MAX_FIT_IMAGES), max(len(usable) - ranging_count, FIT_IMAGES)
    )
    work, ranging = inputs(usable[:work_count]), inputs(usable[work_count:][:ranging_count])
    return TuningData(
        work=work,
        ranging=[*ranging, *work][:ranging_count],
        selection=inputs(selection),
        observed=items[:observed_count],
        outliers=tuple(place for place in far if place < observed_count),
        load=load,
        input_shape=work[0].shape,
        fixed_batch=image_input(prepared).batch,
        device=device,
        threads=threads,
    )


def _affordable(macs: int, budget: float, least: int, most: int) -> int:
    """Return the number of images that a budget of multiply-adds allows, within limits."""
    return min(max(int(budget / max(macs, 1)), least), most)
