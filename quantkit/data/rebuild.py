"""Choose a calibration set from labels alone, and find a set's images again in another copy of the data.

A published manifest names images and digests but holds no images. Whoever has the same data set, in whatever folders,
rebuilds the very same set from it.
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
from quantkit.data.labels import LabelLine, check_labels_fit, read_label_file
from quantkit.data.parallel import map_in_order
from quantkit.data.selection import balanced_quotas, interleaved, queues_by_class
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import CalibrationSetError, LabelError, UsageError
from quantkit.progress import Progress, as_progress

_SHOWN = 5


def plan_from_file(labels: Path, names: Path | None = None, *, count: int, seed: int = 0) -> CalibrationSet:
    """Choose a set from a label file alone; see `plan_calibration_set`.

    Args:
        labels: label file, or the ImageNet devkit: its archive, or its ground truth.
        names: file of class names, one a line in class-index order; those of ImageNet-1k for its own label files.
        count: how many images to choose.
        seed: another seed chooses other images.

    Raises:
        LabelError: a file is malformed, or one image has two labels.
        CalibrationSetError: fewer images than asked for.
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
    lines: Sequence[LabelLine], class_names: dict[int, str], *, count: int, seed: int = 0, source: str = "label file"
) -> CalibrationSet:
    """Choose a set from labels alone, without images.

    The choice is the one `build_calibration_set` makes of the same images, as long as it finds none of them unusable.

    Args:
        lines: name and class index of each image.
        class_names: names of the classes, where known.
        count: how many images to choose.
        seed: another seed chooses other images.
        source: where the labels came from, in words.

    Returns:
        A set without digests; `rebuild_calibration_set` finds its images.

    Raises:
        LabelError: one image has two labels.
        CalibrationSetError: fewer images than asked for.
        UsageError: a count below one.
    """
    if count < 1:
        raise UsageError(f"cannot choose {count} images", where="--count", fix="give a number from 1 up")
    label_by_name: dict[str, LabelLine] = {}
    for line in lines:
        earlier = label_by_name.setdefault(line.name, line)
        if earlier.label != line.label:
            raise LabelError(
                f"{line.name} has label {line.label} on line {line.number}, {earlier.label} on line {earlier.number}",
                fix="keep one of the two lines",
            )
    if len(label_by_name) < count:
        raise CalibrationSetError(
            f"{len(label_by_name)} labelled images where {count} are asked for",
            fix=f"ask for {len(label_by_name)} or fewer",
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
    """Find the images of a set in another place, by file name and, where the set has them, by digest.

    Args:
        planned: the set, with digests or chosen from labels alone.
        images: a copy of the data: a folder, flat or with folders, an archive, parquet, shards or a URL.
        workers: number of threads that decode.
        progress: receives the progress.

    Returns:
        The same set with the paths of this copy, and the digests that were seen.

    Raises:
        CalibrationSetError: an image is not there, is another than the set's, or cannot be decoded. None is replaced:
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
        shown = ", ".join(problems[:_SHOWN]) + (", ..." if len(problems) > _SHOWN else "")
        raise CalibrationSetError(
            f"{len(problems)} of {len(planned)} images of the set cannot be used: {shown}",
            where=source.root,
            fix="give a whole copy of the data the set was made from",
        )
    return replace(planned, root=source.root, images=tuple(found), opened=source)


def _fault(choices: Sequence[str], right: Sequence[str]) -> str:
    if not choices:
        return "not there"
    if not right:
        return "another file of that name"
    if len(right) > 1 and len(choices) > 1:
        return f"{len(right)} files of that name"
    return ""


class _CopyFinder:
    """Files of a folder by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_name[PurePosixPath(name).name].append(name)
            self._by_stem[PurePosixPath(name).stem].append(name)

    def candidates(self, name: str) -> list[str]:
        """Return the files that may be the image of that name; the one whose whole path fits, if there is one."""
        path = PurePosixPath(name)
        found = self._by_name.get(path.name, [])
        if not found and path.suffix.lower() not in IMAGE_SUFFIXES:
            found = self._by_stem.get(path.name, [])
        alike = [other for other in found if other == name or other.endswith("/" + name) or name.endswith("/" + other)]
        return alike if len(alike) == 1 else found
