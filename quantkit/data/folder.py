"""Find the images of a folder, and their labels."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.data.classes import imagenet_classes, imagenet_index, leading_wnid, read_class_names
from quantkit.data.imagenet_names import follows_imagenet, imagenet_remarks
from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.labels import pair_labels, read_label_file
from quantkit.errors import CalibrationSetError, LabelError
from quantkit.files import reason

_LABEL_FILE_SUFFIXES = (".txt", ".csv", ".tsv")


@dataclass(frozen=True)
class ImageFolder:
    """Images of one folder, in the order of their names.

    Attributes:
        root: the folder.
        names: paths of the images below the folder, with forward slashes, sorted.
        labels: int64 ``[N]`` class indices, or None where the images have no labels.
        class_names: name of each class that has one, by class index.
        classes: how many classes there are, present or not; None where that is not known.
        numbering: what the class indices follow: ``imagenet`` (the sorted WordNet ids), ``folders`` (the class folders,
            sorted, or as the file of class names has them), ``file`` (a label file); None without labels.
        source: where the labels came from, in words.
        warnings: what was odd but did not matter enough to stop.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> quantkit.find_labelled_images("images/test").classes
        10
    """

    root: Path
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    classes: int | None = None
    numbering: Literal["imagenet", "folders", "file"] | None = None
    source: str = "no labels"
    warnings: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """The images' full paths, in the order of ``names``."""
        return [self.root / name for name in self.names]

    def only(self, positions: Sequence[int]) -> "ImageFolder":
        """Return the folder with the images at some positions alone."""
        return replace(
            self,
            names=tuple(self.names[position] for position in positions),
            labels=None if self.labels is None else self.labels[list(positions)],
        )


def find_images(folder: AnyPath) -> ImageFolder:
    """Find every image below a folder, by suffix; hidden files and folders are passed over.

    The order depends on the names alone, not on the file system. A folder reached twice through links is read once.

    Raises:
        CalibrationSetError: there is no such folder, it cannot be listed, or it holds no image; the message says what
            was found instead.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> len(quantkit.find_images("images/test").names)
        697
    """
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "there is no such folder"
        raise CalibrationSetError(what, where=folder, fix="give the folder that holds the images")
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in _walk(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others[suffix or "no suffix"] += 1
    if not names:
        instead = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3)) or "nothing"
        raise CalibrationSetError(
            f"no images found (looked for {' '.join(sorted(IMAGE_SUFFIXES))}; there is {instead})", where=folder
        )
    return ImageFolder(folder, tuple(sorted(names)))


def find_labelled_images(folder: AnyPath, labels: AnyPath | None = None, names: AnyPath | None = None) -> ImageFolder:
    """Find the images below a folder and the class of each.

    Labels come from the label file where one is given; else from folders that are named by WordNet ids of ImageNet-1k;
    else from file names that begin with such an id; else from class folders, one a class. A WordNet id has the class
    index that all ImageNet-1k models use, its position among the 1,000 sorted ids, however few of them are present.
    Other class folders are numbered as the file of class names has them, or in sorted order where it does not.

    Args:
        folder: the folder of images.
        labels: a label file (see `quantkit.data.labels`).
        names: a file of class names, one a line in class-index order.

    Raises:
        CalibrationSetError: see `find_images`.
        LabelError: no labels can be found, some images have none, or a file is malformed.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> quantkit.find_labelled_images("images/test").labels.shape
        (697,)
    """
    labels, names = optional_path(labels, "labels"), optional_path(names, "names")
    found = find_images(folder)
    given_names = read_class_names(names) if names is not None else None
    labelled = (
        _from_label_file(found, labels, given_names) if labels is not None else _from_names(found, given_names or ())
    )
    assert labelled.labels is not None
    if given_names is None:
        return labelled
    if labelled.labels.max() >= len(given_names):
        raise LabelError(
            f"it has {len(given_names)} names and the labels go up to {labelled.labels.max()}",
            where=names,
            fix="give one name a line for every class, in class-index order",
        )
    numbering, remarks = labelled.numbering, tuple[str, ...]()
    if numbering == "imagenet" or follows_imagenet(given_names):
        remarks = imagenet_remarks(given_names, names)
        numbering = "imagenet" if numbering == "file" else numbering
    return replace(
        labelled,
        class_names=dict(enumerate(given_names)),
        classes=len(given_names),
        numbering=numbering,
        warnings=(*labelled.warnings, *remarks),
    )


def _from_label_file(found: ImageFolder, path: Path, given_names: tuple[str, ...] | None) -> ImageFolder:
    lines = read_label_file(path, given_names)
    pairing = pair_labels(path, lines, found.names)
    if pairing.unlabelled:
        raise LabelError(
            f"{len(pairing.unlabelled)} of {len(found.names)} images have no label: {_first(pairing.unlabelled)}",
            where=path,
            fix="add them to the label file, or move them away",
        )
    warnings = []
    if pairing.repeated:
        warnings.append(f"{path}: {pairing.repeated} lines repeat an earlier one")
    if pairing.unmatched:
        missing = _first([f"{line.name} (line {line.number})" for line in pairing.unmatched])
        warnings.append(f"{path}: {len(pairing.unmatched)} labels have no image here: {missing}")
    return replace(
        found,
        labels=pairing.labels,
        numbering="imagenet" if all(line.wnid for line in lines) else "file",
        source=f"label file {path.name}",
        warnings=tuple(warnings),
    )


def _from_names(found: ImageFolder, given_names: tuple[str, ...]) -> ImageFolder:
    tops = [name.partition("/")[0] if "/" in name else None for name in found.names]
    if all(top in imagenet_index() for top in tops):
        return _from_wnids(found, [top for top in tops if top is not None], "folders named by WordNet ids")
    wnids = [leading_wnid(PurePosixPath(name).name) for name in found.names]
    if all(wnids):
        return _from_wnids(
            found, [wnid for wnid in wnids if wnid is not None], "file names that begin with WordNet ids"
        )
    if all(tops):
        return _from_class_folders(found, [top for top in tops if top is not None], given_names)
    _refuse_unlabelled(found, tops)


def _from_wnids(found: ImageFolder, wnids: list[str], source: str) -> ImageFolder:
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


def _from_class_folders(found: ImageFolder, tops: list[str], given_names: tuple[str, ...]) -> ImageFolder:
    classes = sorted(set(tops))
    if len(classes) == 1 and all(name.count("/") > 1 for name in found.names):
        raise LabelError(
            f"all images lie in the one folder {classes[0]}, which holds folders of its own",
            where=found.root,
            fix=f"give {found.root / classes[0]} if those are the classes",
        )
    in_file = all(given_names.count(name) == 1 for name in classes)
    if given_names and not in_file:
        _check_named_otherwise(found, classes, given_names)
    index = {name: given_names.index(name) if in_file else position for position, name in enumerate(classes)}
    labels = np.array([index[top] for top in tops], np.int64)
    source = f"{len(classes)} class folders" + (", numbered by the file of class names" if in_file else "")
    class_names = {position: name for name, position in index.items()}
    remark = None if in_file else _remark_on_numbers(classes)
    warnings = () if remark is None else (remark,)
    return replace(
        found,
        labels=labels,
        class_names=class_names,
        classes=len(classes),
        numbering="folders",
        source=source,
        warnings=warnings,
    )


def _check_named_otherwise(found: ImageFolder, classes: list[str], given_names: tuple[str, ...]) -> None:
    """Check that class folders whose names are not in the file of class names can be numbered in sorted order.

    Raises:
        LabelError: some are in the file and others are not, one is in it twice, or there are fewer folders than names.
    """
    fix = "name the folders as the file does, or give a label file with --labels"
    if shared := [name for name in classes if given_names.count(name) > 1]:
        lines = " and ".join(str(line) for line, name in enumerate(given_names, start=1) if name == shared[0])
        raise LabelError(f"lines {lines} of the class names are both {shared[0]!r}", where=found.root, fix=fix)
    unknown = [name for name in classes if name not in given_names]
    if len(unknown) < len(classes):
        raise LabelError(
            f"{len(unknown)} of {len(classes)} class folders are not among the class names: {_first(unknown)}",
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
    """Return a warning where folders are named by numbers and those are not the class indices they get."""
    if not all(name.isdecimal() for name in classes):
        return None
    for position, name in enumerate(classes):
        if int(name) != position:
            return (
                "class folders named by numbers are numbered as text, as torchvision's ImageFolder does "
                f"(folder {name} is class {position}); if the numbers are class indices, give a label file"
            )
    return None


def _refuse_unlabelled(found: ImageFolder, tops: list[str | None]) -> NoReturn:
    loose = [name for name, top in zip(found.names, tops, strict=True) if top is None]
    if len(loose) < len(tops):
        raise LabelError(
            f"{len(loose)} of {len(tops)} images lie outside the class folders: {_first(loose)}",
            where=found.root,
            fix="move them into the folder of their class, or give a label file with --labels",
        )
    candidates = [path.name for path in sorted(found.root.iterdir()) if path.suffix.lower() in _LABEL_FILE_SUFFIXES]
    there = f" ({', '.join(candidates[:3])} lies beside the images)" if candidates else ""
    raise LabelError(
        "no labels: the images are in no class folders and their names begin with no WordNet id of ImageNet-1k",
        where=found.root,
        fix=f"give a label file with --labels{there}",
    )


def _first(names: list[str] | tuple[str, ...], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _walk(folder: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, with forward slashes, links followed but never in a circle."""
    seen: set[tuple[int, int]] = set()
    pending = [(folder, "")]
    while pending:
        path, prefix = pending.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise CalibrationSetError(f"cannot list the folder ({reason(error)})", where=path) from error
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append((path / entry.name, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
