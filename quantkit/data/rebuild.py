"""Selects a calibration set from labels alone, and finds its images in another copy of the data.

A published manifest contains names and digests, but no images. The same set can be rebuilt from any copy of the data
set, in any folder layout.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from quantkit.data.calibration_set import CalibrationImage, CalibrationSet
from quantkit.data.classes import imagenet_classes, read_class_names
from quantkit.data.devkit import CLASSES, is_devkit, read_imagenet_labels
from quantkit.data.examine import Examined, examine
from quantkit.data.folder import find_images
from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.labels import LabelLine, check_labels_fit, check_same_label, read_label_file
from quantkit.data.parallel import map_in_order
from quantkit.data.selection import DEFAULT_COUNT, balanced_quotas, interleaved, queues_by_class
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import CalibrationSetError, UsageError, first_of
from quantkit.progress import Progress, as_progress


def plan_from_file(
    labels: Path, names: Path | None = None, *, count: int | None = None, seed: int = 0
) -> CalibrationSet:
    """Select a set from a label file alone; see `plan_calibration_set`.

    Args:
        labels: label file, or the ImageNet devkit: its archive, or its ground truth.
        names: file of class names, one per line in class-index order; by default those of ImageNet-1k for its label
            files.
        count: number of images; by default 1000, or all if there are fewer.
        seed: random seed of the selection.

    Raises:
        LabelError: a file is malformed, or an image has two labels.
        CalibrationSetError: there are fewer images than requested.
        UsageError: a count below one.
    """
    class_names = read_class_names(names) if names is not None else None
    lines = read_imagenet_labels(labels) if is_devkit(labels) else read_label_file(labels, class_names)
    if class_names is None and all(PurePosixPath(line.name).name.startswith("ILSVRC2012_val_") for line in lines):
        check_labels_fit(np.array([line.label for line in lines], np.int64), CLASSES, labels)
        class_names = tuple(imagenet_classes().values())
    name_by_label = dict(enumerate(class_names or ()))
    return plan_calibration_set(lines, name_by_label, count=count, seed=seed, source=f"label file {labels.name}")


def plan_calibration_set(
    lines: Sequence[LabelLine],
    class_names: dict[int, str],
    *,
    count: int | None = None,
    seed: int = 0,
    source: str = "label file",
) -> CalibrationSet:
    """Select a set from labels alone, without images.

    The selection is that of `build_calibration_set` for the same images, if all of them are usable.

    Args:
        lines: name and class index of each image.
        class_names: names of the classes, as far as known.
        count: number of images; by default 1000, or all if there are fewer.
        seed: random seed of the selection.
        source: description of the source of the labels.

    Returns:
        A set without digests; `rebuild_calibration_set` finds its images.

    Raises:
        LabelError: one image has two labels.
        CalibrationSetError: there are fewer images than requested.
        UsageError: a count below one.
    """
    if count is not None and count < 1:
        raise UsageError(f"invalid number of images {count}", where="--count", fix="give a number from 1 up")
    label_by_name: dict[str, LabelLine] = {}
    for line in lines:
        earlier = label_by_name.setdefault(line.name, line)
        check_same_label(line, earlier, source)
    count = min(DEFAULT_COUNT, len(label_by_name)) if count is None else count
    if len(label_by_name) < count:
        raise CalibrationSetError(
            f"{len(label_by_name)} labelled images, but {count} are requested",
            fix=f"request {len(label_by_name)} or fewer",
        )
    names = sorted(label_by_name)
    queues = queues_by_class(names, [label_by_name[name].label for name in names], seed)
    quotas = balanced_quotas({label: len(queue) for label, queue in queues.items()}, count, seed)
    taken = {label: [names[position] for position in queue[: quotas[label]]] for label, queue in queues.items()}
    images = tuple(
        CalibrationImage(name, "", label_by_name[name].label, class_names.get(label_by_name[name].label, ""))
        for name in interleaved(taken, seed)
    )
    return CalibrationSet(Path(), images, seed, source)


def rebuild_calibration_set(
    planned: CalibrationSet, images: ImagesLike, *, workers: int | None = None, progress: Progress | None = None
) -> CalibrationSet:
    """Find the images of a set at another location, by file name and, if the set has them, by digest.

    Args:
        planned: the set, with digests or selected from labels alone.
        images: a copy of the data: a folder, flat or with subfolders, an archive, parquet, shards or a URL.
        workers: number of threads that decode.
        progress: receives the progress.

    Returns:
        The same set with the paths of this copy, and digests.

    Raises:
        CalibrationSetError: an image is missing, has changed, or cannot be decoded. Images are not replaced, because
            that would be another set.
    """
    source = find_images(images, skip_damaged=True)  # every image of the set is looked up and compared
    finder = _CopyFinder(source.names)
    candidates = [finder.candidates(image.name) for image in planned.images]
    names = [name for names in candidates for name in names]
    examined = map_in_order(examine, [source.by_name[name] for name in names], workers)
    seen: dict[str, Examined] = {}
    count = as_progress(progress).task("decoding", "images")
    for done, (name, one) in enumerate(zip(names, examined, strict=True), start=1):
        seen[name] = one
        count(done, len(names))
    found, problems = [], []
    for image, choices in zip(planned.images, candidates, strict=True):
        right = [name for name in choices if image.sha256 in ("", seen[name].sha256)]
        fault = _fault(choices, right) or seen[right[0]].fault
        if fault:
            problems.append(f"{image.name} ({fault})")
        else:
            found.append(replace(image, name=right[0], sha256=seen[right[0]].sha256))
    if problems:
        raise CalibrationSetError(
            f"{len(problems)} of {len(planned)} images of the set cannot be used: {first_of(problems)}",
            where=source.root,
            fix="give a complete copy of the data set",
        )
    return replace(planned, root=source.root, images=tuple(found), opened=source)


def _fault(choices: Sequence[str], right: Sequence[str]) -> str:
    if not choices:
        return "missing"
    if not right:
        return "another file with this name"
    if len(right) > 1 and len(choices) > 1:
        return f"{len(right)} files with this name"
    return ""


class _CopyFinder:
    """Files of a source by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_name[PurePosixPath(name).name].append(name)
            self._by_stem[PurePosixPath(name).stem].append(name)

    def candidates(self, name: str) -> list[str]:
        """Return the candidate files for a name; only the one with the same path, if it exists."""
        path = PurePosixPath(name)
        found = self._by_name.get(path.name, [])
        if not found and path.suffix.lower() not in IMAGE_SUFFIXES:
            found = self._by_stem.get(path.name, [])
        candidates = [
            other for other in found if other == name or other.endswith("/" + name) or name.endswith("/" + other)
        ]
        return candidates if len(candidates) == 1 else found
