"""What tuning works on: the images of a run's calibration set, and the statistics of a model rewritten on the way."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.engine.observe import complete, observe
from quantkit.engine.tap import TappedSession
from quantkit.errors import CalibrationSetError
from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.image_input import image_input
from quantkit.graph.qdq.taps import observed_tensors
from quantkit.runs.inputs import model_inputs
from quantkit.stats.observed import Observed

FloatArray = npt.NDArray[np.float32]

# Every third image of the set chooses, the others are worked on.
CHOOSING_STRIDE = 3
# All images worked on are in memory with what a layer makes of them, so there are more of them only where the network
# is small: as many as it takes for so many multiply-adds.
FIT_IMAGES, MAX_FIT_IMAGES, WORK_MACS = 96, 256, 20e9
CHOOSING = 128
# A range is refined by running the network a few times on images like these, again bounded by multiply-adds.
LEAST_RANGING, RANGING, RANGING_MACS = 32, 96, 100e9
# Ranges of a rewritten model are found anew on so many images of the set; they stand after a few hundred.
OBSERVED = 512
LEAST_IMAGES = 6


@dataclass(frozen=True)
class TuningData:
    """The images of a calibration set, by what they are for.

    Attributes:
        work: images that corrections and roundings are estimated on, ``[N, C, H, W]`` each.
        ranging: images that ranges are refined on. Those worked on are among them only where the set has no others:
            equalization brings the channels of a tensor to one reach on the images worked on, and so cutting into it
            looks better there than it is.
        selection: images that choose between recipes; none of them is among the others.
        observed: images that ranges are found on.
        outliers: places in ``observed`` of those whose activations lie far beyond those of all others in the original
            model; none of these is worked on.
        pipeline: their preprocessing.
        batch: the model's fixed batch size, 1 where it is dynamic.
        threads: workers.
    """

    work: Sequence[FloatArray]
    ranging: Sequence[FloatArray]
    selection: Sequence[FloatArray]
    observed: Sequence[ImageItem]
    outliers: tuple[int, ...]
    pipeline: Pipeline
    batch: int
    threads: int

    def observe(self, model: ir.Model) -> Observed:
        """Return what the images make of a prepared model's tensors that any plan may need.

        Raises:
            ModelError: the model cannot be run.
            NumericError: a tensor is NaN or infinite.
        """
        wanted = observed_tensors(model)
        load = partial(preprocess, pipeline=self.pipeline)
        session = TappedSession(model, wanted.tapped)
        *_, last = observe(session, wanted.tapped, self.observed, load, batch=self.batch, threads=self.threads)
        return replace(complete(last.observed(), wanted), known_outliers=self.outliers)


def tuning_data(
    prepared: ir.Model, chosen: CalibrationSet, outliers: Collection[str], pipeline: Pipeline, threads: int
) -> TuningData:
    """Read the images of a calibration set.

    Args:
        prepared: the model.
        chosen: the set, classes mixed.
        outliers: sha256 of its outlier images.
        pipeline: preprocessing.
        threads: workers.

    Raises:
        CalibrationSetError: there are too few.
        ImageError: an image cannot be decoded.
    """
    items = chosen.items
    if len(items) < LEAST_IMAGES:
        raise CalibrationSetError(
            f"tuning needs at least {LEAST_IMAGES} calibration images, and the set has {len(items)}",
            fix="build a larger set with quantkit calib-set build",
        )
    far = tuple(place for place, image in enumerate(chosen.images) if image.sha256 in outliers)
    selection = items[CHOOSING_STRIDE - 1 :: CHOOSING_STRIDE][:CHOOSING]
    others = (place for place in range(len(items)) if place % CHOOSING_STRIDE != CHOOSING_STRIDE - 1)
    usable = [items[place] for place in others if place not in far]
    first = model_inputs(prepared, usable[:1], pipeline, threads)
    macs = sum(multiply_adds(prepared, first[0].shape).values()) * len(first[0]) if first else 0
    ranging_count = _affordable(macs, RANGING_MACS, LEAST_RANGING, RANGING)
    work_count = min(
        _affordable(macs, WORK_MACS, FIT_IMAGES, MAX_FIT_IMAGES), max(len(usable) - ranging_count, FIT_IMAGES)
    )
    work = model_inputs(prepared, usable[:work_count], pipeline, threads)
    ranging = model_inputs(prepared, usable[work_count:][:ranging_count], pipeline, threads)
    return TuningData(
        work=work,
        ranging=[*ranging, *work][:ranging_count],
        selection=model_inputs(prepared, selection, pipeline, threads),
        observed=items[:OBSERVED],
        outliers=tuple(place for place in far if place < OBSERVED),
        pipeline=pipeline,
        batch=image_input(prepared).batch or 1,
        threads=threads,
    )


def _affordable(macs: int, budget: float, least: int, most: int) -> int:
    """Return for how many images a budget of multiply-adds lasts, within limits."""
    return min(max(int(budget / max(macs, 1)), least), most)
