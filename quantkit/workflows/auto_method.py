"""Method ``auto`` within a run: which methods are compared on which images, and what is used where none can be."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

from quantkit.config.method import Auto, Method, method_json, method_words
from quantkit.data.calibration_set import CalibrationImage
from quantkit.data.item import ImageItem
from quantkit.data.overlap import digest_of
from quantkit.data.parallel import available_cpus, map_in_order
from quantkit.errors import QuantkitError
from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.qdq.weights import WeightIntegers
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.progress import Progress, begun_when_called
from quantkit.ptq.bias_correction import HELD_BACK
from quantkit.ptq.run_correction import IMAGES
from quantkit.runs.cache import CacheEntry, CacheKey
from quantkit.runs.inputs import ModelInputs
from quantkit.search.method_selection import CANDIDATES, FIRST_IMAGES, MethodSelection, select_method
from quantkit.stats.solve import solve_observed
from quantkit.types import Float32Array
from quantkit.workflows.backends import backend_of
from quantkit.workflows.quantize_task import QuantizeTask

_Item = TypeVar("_Item")
KIND, FORMAT = "method-selection", 1
# The set must have so many times the images that methods are compared on.
SET_TIMES = 4
# Methods are compared on as many images as this number of multiply-adds allows, within limits.
MACS, LEAST, MOST = 48e9, 12, 128


def resolve_method(
    method: Method | Auto, task: QuantizeTask, progress: Progress
) -> tuple[Method, MethodSelection | None]:
    """Return a method as it is, and for `Auto` the method that it chooses, with the comparison.

    The comparison is cached in the run. Where there are no images to compare on, the first candidate is chosen and the
    reason says what is missing.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
        OutputError: the run folder cannot be written.
    """
    if not isinstance(method, Auto):
        return method, None
    selection = _selection(task, progress)
    return selection.method, selection


def selection_note(selection: MethodSelection | None) -> tuple[str, ...]:
    """Return the note on a choice of ``auto``; none where the method was named."""
    return () if selection is None else (f"method auto: {selection.reason}",)


def _selection(task: QuantizeTask, progress: Progress) -> MethodSelection:
    methods = _methods(task)
    key, cache = _key(task, methods), task.run.folder.cache
    if (known := cache.load(key)) is not None and (found := _loaded(known)) is not None:
        return found
    if task.images is None:
        return _unmeasured(
            methods[0], "the calibration images are not found; put them back, or run quantkit relink RUN"
        )
    pool = _usable(task)
    if len(pool) < SET_TIMES * FIRST_IMAGES:
        return _unmeasured(
            methods[0],
            f"comparing methods takes {SET_TIMES * FIRST_IMAGES} calibration images without outliers, "
            f"and there are {len(pool)}",
        )
    images = _held_back(task, pool)
    if images is None:
        return _unmeasured(methods[0], "calibration images are missing or changed; put them back")
    selection = _compare(task, methods, images, progress)
    cache.store(key, CacheEntry(selection.to_json()))
    return selection


def _methods(task: QuantizeTask) -> tuple[Method, ...]:
    """Return the candidates, for a target whose compiler calibrates those that the compiler has."""
    given = (task.backends or {}).get(task.target.name)
    backend = given or backend_of(task.target, task.run.folder)
    return CANDIDATES if backend is None else backend.methods(CANDIDATES)


def _unmeasured(method: Method, why: str) -> MethodSelection:
    return MethodSelection(method=method, reason=f"{method_words(method)}, without a comparison: {why}")


def _usable(task: QuantizeTask) -> list[tuple[CalibrationImage, ImageItem]]:
    """Return the images of the set, without outliers unless they set ranges."""
    assert task.images is not None
    chosen = task.images.chosen
    return [
        (image, item)
        for image, item in zip(chosen.images, chosen.items, strict=True)
        if image.sha256 not in task.outliers
    ]


def _held_back(task: QuantizeTask, pool: Sequence[tuple[CalibrationImage, ImageItem]]) -> ModelInputs | None:
    """Return the images to compare on, as the model takes them; None where one is gone or changed.

    They are the last of the set, which the correction of biases does not use; where it uses nearly all, those that it
    is not fitted on. How many there are depends on the cost of an image.
    """
    assert task.images is not None
    model, images = task.run.prepared.model, task.images
    if not _unchanged(pool[-1:]):
        return None
    first = ModelInputs(model, [pool[-1][1]], images.load)[0]
    macs = sum(multiply_adds(model, first.shape).values()) * len(first)
    count = min(max(int(MACS / max(macs, 1)), LEAST), MOST, len(pool) // SET_TIMES)
    taken = _last_or_held_back(pool, count)
    return ModelInputs(model, [item for _, item in taken], images.load) if _unchanged(taken) else None


def images_read_again(items: Sequence[ImageItem], method: Method | Auto, *, corrected: bool) -> list[ImageItem]:
    """Return the images of a set that are read after the pass: to correct biases, and to compare methods."""
    again = list(items[:IMAGES]) if corrected else []
    if isinstance(method, Auto):
        again += _last_or_held_back(items, min(MOST, max(len(items) // SET_TIMES, 1)))
    return again


def _last_or_held_back(items: Sequence[_Item], count: int) -> Sequence[_Item]:
    """Return the last items, or those that biases are not fitted on where fewer are left behind the ones for biases."""
    behind = items[IMAGES:]
    return behind[-count:] if len(behind) >= count else items[::HELD_BACK][:count]


def _unchanged(taken: Sequence[tuple[CalibrationImage, ImageItem]]) -> bool:
    if not all(item.exists() for _, item in taken):
        return False
    digests = map_in_order(digest_of, [item for _, item in taken])
    return all(image.sha256 == digest for (image, _), digest in zip(taken, digests, strict=True))


def _compare(
    task: QuantizeTask, methods: Sequence[Method], images: Sequence[Float32Array], progress: Progress
) -> MethodSelection:
    model, made, weights = task.run.prepared.model, task.plan, WeightIntegers()
    assert task.images is not None

    def solve(method: Method) -> dict[str, Range]:
        observed, keep = task.run.statistics, task.options.keep_outliers
        return solve_observed(observed, method, task.target, keep_outliers=keep, needed=made.observed)

    return select_method(
        model,
        methods,
        solve,
        lambda solved: write_qdq(model, made, solved, known_weights=weights),
        images,
        corrected=task.options.bias_correction,
        threads=task.images.threads or available_cpus(),
        progress=begun_when_called(progress, "comparing methods", "models"),
    )


def _key(task: QuantizeTask, methods: Sequence[Method]) -> CacheKey:
    """Return all that the choice depends on."""
    inputs = {
        **task.run.identity,
        "target": asdict(task.target),
        "skipped": asdict(task.left_out),
        "bias_correction": task.options.bias_correction,
        "keep_outliers": task.options.keep_outliers,
        "methods": [method_json(method) for method in methods],
    }
    return CacheKey(KIND, FORMAT, inputs)


def _loaded(entry: CacheEntry) -> MethodSelection | None:
    try:
        return MethodSelection.from_json(entry.values)
    except (KeyError, TypeError, ValueError, QuantkitError):
        return None
