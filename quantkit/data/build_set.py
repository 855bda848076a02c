"""Builds calibration sets: selects images by class, checks them, and replaces unusable ones."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from quantkit.config.arguments import AnyPath, optional_path
from quantkit.data.calibration_set import CalibrationImage, CalibrationSet, LeftOut
from quantkit.data.examine import Examined, examine, lookalikes
from quantkit.data.folder import find_images, find_labelled_images
from quantkit.data.parallel import map_in_order
from quantkit.data.selection import DEFAULT_COUNT, NO_LABEL, balanced_quotas, interleaved, queues_by_class
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import CalibrationSetError, UsageError, first_of
from quantkit.progress import Progress, as_progress


def build_calibration_set(
    images: ImagesLike,
    labels: AnyPath | None = None,
    *,
    names: AnyPath | None = None,
    count: int | None = None,
    seed: int = 0,
    unlabelled: bool = False,
    skip_damaged: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CalibrationSet:
    """Select a class-balanced set of ``count`` images, and check that each can be decoded.

    Images that cannot be decoded, and duplicates, are left out, reported, and replaced by the next image of the class.
    The same images, labels and seed give the same set.

    Args:
        images: a folder, an archive, parquet, shards, a URL, arrays, ...; see `quantkit.data.sources.open.open_source`.
        labels: label file; by default the labels come from the names of folders or files (see `find_labelled_images`).
        names: file of class names, one per line in class-index order.
        count: number of images; by default 1000, or all usable images if there are fewer.
        seed: random seed of the selection.
        unlabelled: ignore labels, and draw uniformly from all images.
        skip_damaged: use the rest of a damaged source.
        workers: number of threads that decode.
        progress: receives the progress.

    Raises:
        CalibrationSetError: there is no such folder, or it has fewer usable images than requested.
        LabelError: labels are missing or malformed.
        UsageError: a count below one.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> chosen = quantkit.build_calibration_set("images/calibration", count=20)
        >>> len(chosen), chosen.per_class[0]
        (20, 2)
    """
    labels, names = optional_path(labels, "labels"), optional_path(names, "names")
    if unlabelled:
        found = find_images(images, skip_damaged=skip_damaged)
        found = replace(found, labels=None, class_names={}, source="no labels", numbering=None)
    else:
        found = find_labelled_images(images, labels, names, skip_damaged=skip_damaged)
    return choose_images(found, count=count, seed=seed, workers=workers, progress=progress)


def choose_images(
    found: ImageSource,
    *,
    count: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CalibrationSet:
    """Select from the images of a source; see `build_calibration_set`."""
    if count is not None and count < 1:
        raise UsageError(f"invalid number of images {count}", where="--count", fix="give a number from 1 up")
    selector = _Selector(found, count, seed)
    accepted = as_progress(progress).task("decoding", "images")
    while batch := selector.wanted():
        items = [found.items[position] for position in batch]
        for position, examined in zip(batch, map_in_order(examine, items, workers), strict=True):
            selector.evaluate(position, examined)
            accepted(min(selector.accepted, selector.count), selector.count)
    return selector.result()


# Position of an image in its source, and its examination.
_Taken = tuple[int, Examined]


class _Selector:
    """Takes images from the queues of the classes; a rejected image is replaced by the next."""

    def __init__(self, found: ImageSource, count: int | None, seed: int) -> None:
        self._found = found
        self._requested = count
        self._seed = seed
        self._labels = [NO_LABEL] * len(found.names) if found.labels is None else found.labels.tolist()
        self._queues = queues_by_class(found.names, self._labels, seed)
        self._usable = {label: len(queue) for label, queue in self._queues.items()}
        self._looked_at = dict.fromkeys(self._queues, 0)
        self._taken: dict[int, list[_Taken]] = {label: [] for label in self._queues}
        self._name_by_digest: dict[str, str] = {}
        self._left_out: list[LeftOut] = []

    @property
    def accepted(self) -> int:
        return len(self._name_by_digest)

    @property
    def count(self) -> int:
        """The number of images to accept; by default it falls with the number of usable images."""
        return min(DEFAULT_COUNT, max(sum(self._usable.values()), 1)) if self._requested is None else self._requested

    def wanted(self) -> list[int]:
        """Return the positions to examine next: the number that each class still lacks."""
        batch: list[int] = []
        for label, quota in balanced_quotas(self._usable, self.count, self._seed).items():
            start = self._looked_at[label]
            stop = start + quota - len(self._taken[label])
            batch.extend(self._queues[label][start:stop])
            self._looked_at[label] = max(start, stop)
        return batch

    def evaluate(self, position: int, examined: Examined) -> None:
        """Accept or reject an image."""
        label, name = self._labels[position], self._found.names[position]
        fault = examined.fault
        if not fault and examined.sha256 in self._name_by_digest:
            fault = f"the same bytes as {self._name_by_digest[examined.sha256]}"
        if fault:
            self._usable[label] -= 1
            self._left_out.append(LeftOut(name, fault))
            return
        self._name_by_digest[examined.sha256] = name
        self._taken[label].append((position, examined))

    def result(self) -> CalibrationSet:
        usable = sum(self._usable.values())
        if usable < self.count:
            raise CalibrationSetError(
                f"{usable} usable images, but {self.count} are requested"
                + (
                    f" ({len(self._left_out)} left out, the first: {_sentence(self._left_out[0])})"
                    if self._left_out
                    else ""
                ),
                where=self._found.root,
                fix=f"request {usable} or fewer" if usable else "give a folder of images that can be decoded",
            )
        quotas = balanced_quotas(self._usable, self.count, self._seed)
        taken = interleaved({label: images[: quotas[label]] for label, images in self._taken.items()}, self._seed)
        images = tuple(self._image(position, examined.sha256) for position, examined in taken)
        chosen = CalibrationSet(
            self._found.root, images, self._seed, self._found.source, tuple(self._left_out), opened=self._found
        )
        looks = _remarks_on_images([image.name for image in images], [examined for _, examined in taken])
        return replace(chosen, remarks=(*self._found.warnings, *_remarks_on_classes(chosen, self._found), *looks))

    def _image(self, position: int, sha256: str) -> CalibrationImage:
        label = self._labels[position]
        if label == NO_LABEL:
            return CalibrationImage(self._found.names[position], sha256)
        class_name = self._found.class_names.get(label, "")
        return CalibrationImage(self._found.names[position], sha256, label, class_name)


def _remarks_on_classes(chosen: CalibrationSet, found: ImageSource) -> list[str]:
    """Return remarks on missing classes, and on unequal numbers of images per class."""
    if found.labels is None:
        return []
    remarks = []
    present = set(found.labels.tolist())
    absent = sorted(set(range(found.classes or 0)) - present)
    if absent:
        remarks.append(f"{len(absent):,} of {found.classes:,} classes have no image: {_list(absent, found)}")
    lacking = sorted(present - set(chosen.per_class))
    if lacking:
        remarks.append(f"{len(lacking):,} of {len(present):,} classes are not in the set: {_list(lacking, found)}")
    counts = chosen.per_class.values()
    if max(counts) - min(counts) > 1:
        remarks.append(f"the classes have {min(counts)} to {max(counts)} images, because some have too few usable ones")
    return remarks


def _remarks_on_images(names: Sequence[str], examined: Sequence[Examined]) -> list[str]:
    """Return remarks on images that are not plain colour images, and on similar images."""
    special: dict[str, list[str]] = defaultdict(list)
    for name, one in zip(names, examined, strict=True):
        for note in one.notes:
            special[note].append(name)
        if one.one_colour:
            special["all of one colour"].append(name)
    remarks = [
        f"{note}: {len(those)} image{'s' if len(those) > 1 else ''}, the first {those[0]}"
        for note, those in sorted(special.items())
    ]
    pairs = lookalikes([one.look for one in examined])
    if pairs:
        first, second = pairs[0]
        count = "a pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        remarks.append(f"{count} of images that look alike: {names[first]} and {names[second]}")
    return remarks


def _list(labels: Sequence[int], found: ImageSource) -> str:
    return first_of([f"{label} {found.class_names.get(label, '').partition(',')[0]}".strip() for label in labels])


def _sentence(item: LeftOut) -> str:
    return f"{item.name}: {item.why}"
