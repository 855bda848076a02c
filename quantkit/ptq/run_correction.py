"""Bias correction of a run: estimated if the images are available, and cached in the run folder."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.decoded import DecodedImages
from quantkit.data.overlap import digest_of
from quantkit.data.parallel import available_cpus, map_in_order
from quantkit.engine.batches import Load
from quantkit.errors import CalibrationSetError
from quantkit.graph.prepare import Prepared
from quantkit.graph.qdq.plan import Plan, PlanOptions
from quantkit.numerics import Range
from quantkit.progress import ProgressCallback
from quantkit.ptq.bias_correction import LEAST_IMAGES, BiasCorrection, correct_bias
from quantkit.runs.cache import CacheEntry, CacheKey, ResultCache
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.inputs import ModelInputs
from quantkit.runs.location import find_set, set_of_run

KIND = "bias"
FORMAT = 1
# A few dozen images suffice; each of them is in memory with the tensors of a layer.
IMAGES = 96
# Accuracy is lost if the noise of the scores is large: measured at 16 dB, the top class of every fifteenth image
# changes, and near 0 dB that of all images.
LOW_DB = 12.0


@dataclass(frozen=True)
class Correction:
    """The result of `correction`.

    Attributes:
        shifts: bias shifts for `quantkit.graph.qdq.write.write_qdq`.
        notes: the effect, or the reason why nothing was corrected.
    """

    shifts: dict[str, npt.NDArray[np.float32]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """Calibration images for a correction.

    Attributes:
        chosen: the set.
        pipeline: its preprocessing.
        load: reads an image and preprocesses it; images are read several times.
        threads: number of images run in parallel; one per processor by default.
        progress: called with the number of layers done and of all layers.
    """

    chosen: CalibrationSet
    pipeline: Pipeline
    load: Load
    threads: int | None = None
    progress: ProgressCallback | None = None


def images_of(record: RunRecord, given: CalibrationSet | None = None) -> Images | None:
    """Return the images of a run's set, None if the set or a required image is missing or has changed.

    Args:
        record: record of the run.
        given: the set, if the run does not know its location, as for arrays.

    Raises:
        CalibrationSetError: the given set is not that of the run.
    """
    chosen = find_set(record) if given is None else set_of_run(record, given)
    if chosen is None:
        return None
    try:
        needed = list(zip(chosen.images, chosen.items, strict=True))[:IMAGES]
    except CalibrationSetError:  # the images have been moved or removed
        return None
    if not all(item.exists() for _, item in needed):
        return None
    digests = map_in_order(digest_of, (item for _, item in needed))
    same = all(image.sha256 == digest for (image, _), digest in zip(needed, digests, strict=True))
    return Images(chosen, record.pipeline, DecodedImages(record.pipeline)) if same else None


def correction(
    folder: RunFolder,
    prepared: Prepared,
    plan: Plan,
    options: PlanOptions,
    ranges: Mapping[str, Range],
    images: Images | None,
    outliers: Collection[str],
) -> Correction:
    """Return the correction of a quantized model: the cached one if it applies, else a new one.

    Args:
        folder: run folder with an existing ``run.json``.
        prepared: prepared fp32 model.
        plan: plan of the model.
        options: layers left in float by the plan.
        ranges: ranges of the observed tensors.
        images: calibration images, None if they are not available.
        outliers: sha256 of images to leave out, because outlier images would dominate the correction.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: the model cannot be run.
        OutputError: the run folder cannot be written.
    """
    key = _key(folder.read(), plan, options, ranges, outliers)
    found = _load(folder.cache, key)
    if found is None and images is not None:
        threads = images.threads or available_cpus()
        looked_at = zip(images.chosen.images[:IMAGES], images.chosen.items, strict=False)
        items = [item for image, item in looked_at if image.sha256 not in outliers]
        if len(items) < LEAST_IMAGES:
            return Correction({}, (f"biases are not corrected: that takes {LEAST_IMAGES} calibration images or more",))
        inputs = ModelInputs(prepared.model, items, images.load)
        found = correct_bias(prepared.model, plan, ranges, inputs, threads=threads, progress=images.progress)
        folder.cache.store(key, _entry(found))
    if found is None:
        why = "biases are not corrected for these ranges: no image was used (see quantkit quantize --bias-correction)"
        return Correction({}, (why,))
    return Correction(found.shifts, _notes(found))


def _notes(found: BiasCorrection) -> tuple[str, ...]:
    change = f"SQNR of the scores {found.before_db:.1f} -> {found.after_db:.1f} dB"
    change += f" on {found.images} calibration images held back"
    beyond = " beyond chance" if found.after_db > found.before_db else ""
    did = "biases corrected" if found.kept else f"biases are not corrected, as that gains nothing{beyond}"
    left_db = found.after_db if found.kept else found.before_db
    far = (
        f"the scores are far from those of fp32 (SQNR {left_db:.1f} dB): expect a loss of accuracy; "
        "quantkit compare measures it, quantkit tune reduces it"
    )
    return (f"{did}: {change}", *([far] if left_db < LOW_DB else []))


def _key(
    record: RunRecord, plan: Plan, options: PlanOptions, ranges: Mapping[str, Range], outliers: Collection[str]
) -> CacheKey:
    """Return the key of everything that the shifts depend on."""
    inputs = {
        "model": record.model.key,
        "output": record.model.output,
        "set": record.set.digest,
        "pipeline": record.pipeline.model_dump(mode="json"),
        "target": asdict(plan.target),
        "skipped": asdict(options),
        "ranges": {tensor: [range_.lo, range_.hi] for tensor, range_ in ranges.items()},
        "outliers": sorted(outliers),  # minmax has the same ranges with them and without
    }
    return CacheKey(KIND, FORMAT, inputs)


def _load(cache: ResultCache, key: CacheKey) -> BiasCorrection | None:
    entry = cache.load(key)
    if entry is None:
        return None
    try:
        values = entry.values
        before_db, after_db = float(values["before_db"]), float(values["after_db"])
        return BiasCorrection(dict(entry.arrays), before_db, after_db, int(values["images"]))
    except (KeyError, TypeError, ValueError):
        return None


def _entry(found: BiasCorrection) -> CacheEntry:
    return CacheEntry({"before_db": found.before_db, "after_db": found.after_db, "images": found.images}, found.shifts)
