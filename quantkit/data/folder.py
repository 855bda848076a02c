"""Finds images and labels of a folder or another source."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from quantkit.config.arguments import AnyPath, optional_path
from quantkit.data.classes import imagenet_classes, imagenet_index, read_class_names
from quantkit.data.devkit import is_devkit, read_imagenet_labels
from quantkit.data.imagenet_names import follows_imagenet, imagenet_remarks
from quantkit.data.label_sources import disagreement, folder_of, wnid_of_file
from quantkit.data.labels import pair_labels, read_label_file
from quantkit.data.source import ImageSource
from quantkit.data.sources.arrays import IN_MEMORY
from quantkit.data.sources.open import ImagesLike, open_source
from quantkit.errors import LabelError, first_of

# Folders that are parts of a data set where the classes are below them.
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_LABEL_FILE_SUFFIXES = (".txt", ".csv", ".tsv")


def find_images(images: ImagesLike, *, skip_damaged: bool = False, own_labels: bool = False) -> ImageSource:
    """Find the images of a source; see `quantkit.data.sources.open.open_source`.

    In a folder, images are found by suffix; hidden files and folders are skipped, a folder reached twice through links
    is read once, and images are sorted by name.

    Args:
        images: the source.
        skip_damaged: use the rest of a damaged source.
        own_labels: read labels stored in the source.

    Raises:
        CalibrationSetError: there is no such source, it is damaged, or it has no images; the message says what was
            found instead.
        LabelError: its labels are incomplete or malformed.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> len(quantkit.find_images("images/test").names)
        697
    """
    return open_source(images, skip_damaged=skip_damaged, own_labels=own_labels)


def find_labelled_images(
    images: ImagesLike,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    *,
    skip_damaged: bool = False,
) -> ImageSource:
    """Find the images of a source with their classes.

    Labels come from the label file if one is given; else from the source if it has labels (WebDataset's ``.cls``, the
    column ``label`` of parquet, labels of arrays); else from folders named by WordNet ids of ImageNet-1k; else from
    file names that begin with such an id; else from class folders. A WordNet id has the class index that all
    ImageNet-1k models use, its position among the 1,000 sorted ids, even if only some are present. Other class folders
    are numbered as in the file of class names, or in sorted order. Folders and file names that group the images into
    other classes than the labels give a warning.

    Args:
        images: a folder, an archive, a URL, arrays, ...; see `quantkit.data.sources.open.open_source`.
        labels: a label file (see `quantkit.data.labels`), or the ILSVRC 2012 devkit: its ground truth, or its
            ``.tar.gz``.
        names: a file of class names, one per line in class-index order.
        skip_damaged: use the rest of a damaged source.

    Raises:
        CalibrationSetError: see `find_images`.
        LabelError: no labels can be found, some images have none, or a file is malformed.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> quantkit.find_labelled_images("images/test").labels.shape
        (697,)
    """
    labels, names = optional_path(labels, "labels"), optional_path(names, "names")
    found = find_images(images, skip_damaged=skip_damaged, own_labels=labels is None)
    given_names = read_class_names(names) if names is not None else None
    if labels is not None:
        labelled = _from_label_file(found, labels, given_names)
    else:
        labelled = _with_own_labels(found) if found.labels is not None else _from_names(found, given_names or ())
    if warning := disagreement(labelled, by_names=labels is None and found.labels is None):
        labelled = replace(labelled, warnings=(*labelled.warnings, warning))
    assert labelled.labels is not None
    if given_names is None:
        return labelled
    if labelled.labels.max() >= len(given_names):
        raise LabelError(
            f"it has {len(given_names)} names, and the labels go up to {labelled.labels.max()}",
            where=names,
            fix="give one name per line for every class, in class-index order",
        )
    numbering, remarks = labelled.numbering, tuple[str, ...]()
    if numbering == "imagenet" or follows_imagenet(given_names):
        remarks = imagenet_remarks(given_names, names)
        numbering = "imagenet" if numbering in ("file", None) else numbering
    return replace(
        labelled,
        class_names=dict(enumerate(given_names)),
        classes=len(given_names),
        numbering=numbering,
        warnings=(*labelled.warnings, *remarks),
    )


def _with_own_labels(found: ImageSource) -> ImageSource:
    """Return a source with stored labels, and their numbering."""
    names = [found.class_names.get(label, "") for label in range(len(found.class_names))]
    if found.numbering is None and follows_imagenet(names):
        return replace(found, numbering="imagenet")
    return found


def _from_label_file(found: ImageSource, path: Path, given_names: tuple[str, ...] | None) -> ImageSource:
    lines = read_imagenet_labels(path) if is_devkit(path) else read_label_file(path, given_names)
    pairing = pair_labels(path, lines, found.names)
    if pairing.unlabelled:
        raise LabelError(
            f"{len(pairing.unlabelled)} of {len(found.names)} images have no label: {first_of(pairing.unlabelled)}",
            where=path,
            fix="add them to the label file, or remove them",
        )
    warnings = list(found.warnings)
    if pairing.repeated:
        warnings.append(f"{path}: {pairing.repeated} lines repeat an earlier one")
    if pairing.unmatched:
        missing = first_of([f"{line.name} (line {line.number})" for line in pairing.unmatched])
        warnings.append(f"{path}: {len(pairing.unmatched)} labels have no image here: {missing}")
    return replace(
        found,
        labels=pairing.labels,
        numbering="imagenet" if all(line.wnid for line in lines) else "file",
        source=f"label file {path.name}",
        warnings=tuple(warnings),
    )


def _from_names(found: ImageSource, given_names: tuple[str, ...]) -> ImageSource:
    tops = [folder_of(name) for name in found.names]
    if all(top in imagenet_index() for top in tops):
        return _from_wnids(found, [top for top in tops if top is not None], "folders named by WordNet ids")
    wnids = [wnid_of_file(name) for name in found.names]
    if all(wnids):
        return _from_wnids(
            found, [wnid for wnid in wnids if wnid is not None], "file names that begin with WordNet ids"
        )
    if all(tops):
        return _from_class_folders(found, [top for top in tops if top is not None], given_names)
    _refuse_unlabelled(found, tops)


def _from_wnids(found: ImageSource, wnids: list[str], source: str) -> ImageSource:
    labels = np.array([imagenet_index()[wnid] for wnid in wnids], np.int64)
    class_names = dict(enumerate(imagenet_classes().values()))
    return replace(
        found,
        labels=labels,
        class_names=class_names,
        classes=len(class_names),
        numbering="imagenet",
        source=source,
    )


def _from_class_folders(found: ImageSource, tops: list[str], given_names: tuple[str, ...]) -> ImageSource:
    classes = sorted(set(tops))
    if len(classes) == 1 and all(name.count("/") > 1 for name in found.names):
        raise LabelError(
            f"all images are in one folder {classes[0]}, which has subfolders",
            where=found.root,
            fix=f"give {found.root}/{classes[0]} if those are the classes",
        )
    if all(name.lower() in _SPLITS for name in classes) and all(name.count("/") > 1 for name in found.names):
        raise LabelError(
            f"the folders {', '.join(classes)} are parts of a data set, not classes",
            where=found.root,
            fix=f"give one of them, such as {found.root}/{classes[-1]}",
        )
    in_file = all(given_names.count(name) == 1 for name in classes)
    if given_names and not in_file:
        _check_named_otherwise(found, classes, given_names)
    index = {name: given_names.index(name) if in_file else position for position, name in enumerate(classes)}
    labels = np.array([index[top] for top in tops], np.int64)
    source = f"{len(classes)} class folders" + (", numbered by the file of class names" if in_file else "")
    class_names = {position: name for name, position in index.items()}
    remark = None if in_file else _remark_on_numbers(classes)
    if len(classes) == 1:
        remark = f"all images are in the folder {classes[0]}, so of one class; if it is no class, give --labels"
    warnings = found.warnings if remark is None else (*found.warnings, remark)
    return replace(
        found,
        labels=labels,
        class_names=class_names,
        classes=len(classes),
        numbering="folders",
        source=source,
        warnings=warnings,
    )


def _check_named_otherwise(found: ImageSource, classes: list[str], given_names: tuple[str, ...]) -> None:
    """Check that class folders with names that are not in the file of class names can be numbered in sorted order.

    Raises:
        LabelError: only some are in the file, one is in it twice, or there are fewer folders than names.
    """
    fix = "name the folders as the file does, or give a label file with --labels"
    if shared := [name for name in classes if given_names.count(name) > 1]:
        lines = " and ".join(str(line) for line, name in enumerate(given_names, start=1) if name == shared[0])
        raise LabelError(f"lines {lines} of the class names are both {shared[0]!r}", where=found.root, fix=fix)
    unknown = [name for name in classes if name not in given_names]
    if len(unknown) < len(classes):
        raise LabelError(
            f"{len(unknown)} of {len(classes)} class folders are not among the class names: {first_of(unknown)}",
            where=found.root,
            fix=fix,
        )
    if len(classes) < len(given_names):
        raise LabelError(
            f"there are {len(classes)} class folders and {len(given_names)} class names, and no folder has such a name",
            where=found.root,
            fix=fix,
        )


def _remark_on_numbers(classes: list[str]) -> str | None:
    """Return a warning if folders are named by numbers that differ from their class indices."""
    if not all(name.isdecimal() for name in classes):
        return None
    for position, name in enumerate(classes):
        if int(name) != position:
            return (
                "class folders named by numbers are numbered as text, as torchvision's ImageFolder does "
                f"(folder {name} is class {position}); if the numbers are class indices, give a label file"
            )
    return None


def _refuse_unlabelled(found: ImageSource, tops: list[str | None]) -> NoReturn:
    loose = [name for name, top in zip(found.names, tops, strict=True) if top is None]
    if len(loose) < len(tops):
        raise LabelError(
            f"{len(loose)} of {len(tops)} images are outside the class folders: {first_of(loose)}",
            where=found.root,
            fix="move them into the folder of their class, or give a label file with --labels",
        )
    if str(found.root).startswith(IN_MEMORY):
        raise LabelError(
            "the images have no labels",
            where=found.root,
            fix="give (images, labels), or each image with its class index",
        )
    entries = sorted(found.root.iterdir()) if isinstance(found.root, Path) and found.root.is_dir() else []
    candidates = [path.name for path in entries if path.suffix.lower() in _LABEL_FILE_SUFFIXES]
    there = f" (such as {', '.join(candidates[:3])} near the images)" if candidates else ""
    raise LabelError(
        "no labels: the images are not in class folders, and their names do not begin with WordNet ids of ImageNet-1k",
        where=found.root,
        fix=f"give a label file with --labels{there}",
    )
