"""Layouts of ImageNet's validation set: flat with a label file, or sorted into class folders."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantkit.data.calibration_set import LeftOut
from quantkit.data.classes import imagenet_classes, imagenet_index, leading_wnid
from quantkit.data.devkit import CLASSES, GROUND_TRUTH, VALIDATION_IMAGES, read_imagenet_labels
from quantkit.data.examine import examine
from quantkit.data.folder import find_images
from quantkit.data.images import Note
from quantkit.data.labels import LabelLine, check_same_label
from quantkit.data.parallel import map_in_order
from quantkit.data.source import Location
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import LabelError, OutputError, UsageError, first_of
from quantkit.files import make_folder, reason, sha256_file
from quantkit.progress import Progress, as_progress

# Usual locations of the labels of a flat folder, relative to the folder or its parent.
_USUAL_LABEL_FILES = (
    "val_label.txt",
    "val.txt",
    GROUND_TRUTH,
    f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}",
    "ILSVRC2012_devkit_t12.tar.gz",
    "LOC_val_solution.csv",
)


@dataclass(frozen=True)
class ImagenetReport:
    """Content of a folder of ImageNet.

    Attributes:
        images: number of images.
        source: description of the source of the labels.
        per_class: number of images of each class present, by WordNet id, sorted.
        corrupt: images that cannot be decoded, with the reason.
        notes: names of the images that are not plain colour images, by kind.
        warnings: parts of a damaged archive that were left out.
    """

    images: int
    source: str
    per_class: dict[str, int]
    corrupt: tuple[LeftOut, ...]
    notes: dict[Note, tuple[str, ...]]
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """WordNet ids of the classes without an image."""
        return tuple(wnid for wnid in imagenet_classes() if wnid not in self.per_class)

    @property
    def is_whole_validation_set(self) -> bool:
        """Whether there are fifty decodable images of each of the thousand classes."""
        each = VALIDATION_IMAGES // CLASSES
        return not self.corrupt and not self.missing and set(self.per_class.values()) == {each}


def check_imagenet(
    images: ImagesLike,
    labels: Path | None = None,
    *,
    skip_damaged: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImagenetReport:
    """Count a copy of ImageNet by class and decode every image.

    Args:
        images: images in class folders named by WordNet ids, or flat: a folder, or ``ILSVRC2012_img_val.tar``.
        labels: label file or the devkit's ground truth; by default searched in and near the folder, if needed.
        skip_damaged: skip damaged parts of an archive.
        workers: number of threads that decode.
        progress: receives the progress.

    Raises:
        CalibrationSetError: there is no such folder, or no image in it.
        LabelError: labels are missing, malformed or contradict the folders.
    """
    found_images = find_images(images, skip_damaged=skip_damaged)
    names = found_images.names
    wnids, source = _wnids(found_images.root, names, labels)
    corrupt: list[LeftOut] = []
    special: dict[Note, list[str]] = defaultdict(list)
    examined = map_in_order(examine, found_images.items, workers)
    count = as_progress(progress).task("checking", "images")
    for done, (name, found) in enumerate(zip(names, examined, strict=True), start=1):
        if found.fault:
            corrupt.append(LeftOut(name, found.fault))
        for note in found.notes:
            special[note].append(name)
        count(done, len(names))
    return ImagenetReport(
        images=len(names),
        source=source,
        per_class=dict(sorted(Counter(wnids).items())),
        corrupt=tuple(corrupt),
        notes={note: tuple(named) for note, named in special.items()},
        warnings=found_images.warnings,
    )


def prepare_imagenet(
    folder: Path, to: Path | None = None, labels: Path | None = None, *, progress: Progress | None = None
) -> Counter[str]:
    """Sort a flat validation set into class folders named by WordNet ids, as valprep.sh does.

    Everything is checked before the first file is changed. Each image is linked at its new location before the old one
    is removed, existing files are never overwritten, and an interrupted run can be resumed.

    Args:
        folder: the flat images, possibly partly moved by an earlier run.
        to: folder for class folders with links to the images; by default the images are moved into class folders in
            ``folder``.
        labels: label file or the devkit's ground truth; by default searched in and near the folder.
        progress: receives the progress.

    Returns:
        The number of images "placed" now, and the number "already there".

    Raises:
        CalibrationSetError: there is no such folder, or no image in it.
        LabelError: labels are missing, malformed or contradict existing class folders; nothing was changed.
        OutputError: a class folder cannot be written, or contains another file with the same name.
        UsageError: ``to`` is ``folder`` or inside it.
    """
    names = find_images(folder).names
    if to is not None and to.resolve().is_relative_to(folder.resolve()):
        raise UsageError("the links cannot be in the folder of the images", where=to, fix="give another, or move")
    wnids, _ = _wnids(folder, names, labels)
    done: Counter[str] = Counter()
    count = as_progress(progress).task("sorting", "images")
    for name, wnid in zip(names, wnids, strict=True):
        placed = _place(folder, name, (to or folder) / wnid / PurePosixPath(name).name, moving=to is None)
        done["placed" if placed else "already there"] += 1
        count(done.total(), len(names))
    return done


def _place(folder: Path, name: str, target: Path, *, moving: bool) -> bool:
    """Put an image at its location; return False if it was already there."""
    source = folder / name
    if moving and _class_folder(name) is not None:
        return False
    there = target.exists()
    make_folder(target.parent)
    try:
        (_move if moving else _link)(source, target)
    except FileExistsError as error:
        raise OutputError(
            f"there is another file with this name; {source} was not moved", where=target, fix="compare the two"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot place {source} ({reason(error)})", where=target) from error
    return not there


def _wnids(root: Location, names: Sequence[str], labels: Path | None) -> tuple[list[str], str]:
    """Return the WordNet id of each image and their source; folders and labels must not contradict each other."""
    from_folders = [_class_folder(name) for name in names]
    if labels is None and all(from_folders):
        return [wnid for wnid in from_folders if wnid is not None], "class folders"
    from_names = [leading_wnid(PurePosixPath(name).name) for name in names]
    if labels is None and all(from_names):
        return [wnid for wnid in from_names if wnid is not None], "file names that begin with WordNet ids"
    path = labels or _usual_label_file(root)
    wnid_by_name = _wnid_by_name(path)
    wnids: list[str] = []
    without: list[str] = []
    for name, in_folder in zip(names, from_folders, strict=True):
        file = PurePosixPath(name)
        wnid = wnid_by_name.get(file.name) or wnid_by_name.get(file.stem) or in_folder
        if wnid is None:
            without.append(name)
        elif in_folder not in (None, wnid):
            raise LabelError(
                f"{name} is in the folder of {in_folder} and has label {wnid}", where=path, fix="check the label file"
            )
        else:
            wnids.append(wnid)
    if without:
        raise LabelError(f"{len(without)} of {len(names)} images have no label: {first_of(without)}", where=path)
    return wnids, f"label file {path.name}"


def _class_folder(name: str) -> str | None:
    """Return the WordNet id of the class folder of an image."""
    return next((part for part in PurePosixPath(name).parts[:-1] if part in imagenet_index()), None)


def _wnid_by_name(path: Path) -> dict[str, str]:
    wnids = list(imagenet_classes())
    found: dict[str, LabelLine] = {}
    for line in read_imagenet_labels(path):
        name = line.name.replace("\\", "/").rpartition("/")[2]
        earlier = found.setdefault(name, line)
        check_same_label(line, earlier, path)
    return {name: wnids[line.label] for name, line in found.items()}


def _usual_label_file(root: Location) -> Path:
    around = root.resolve().parent if isinstance(root, Path) else Path()
    for candidate in _candidates(Path(root), around) if isinstance(root, Path) else ():
        if candidate.is_file():
            return candidate
    raise LabelError(
        "the images are not in class folders, their names do not begin with WordNet ids, and there is no label file "
        f"({', '.join(_USUAL_LABEL_FILES)} in it or in {around})",
        where=root,
        fix="give one with --labels",
    )


def _candidates(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for name in _USUAL_LABEL_FILES:
            yield folder / name


def _link(source: Path, target: Path) -> None:
    """Link an image: a hard link if the file system supports it, else a symbolic link."""
    if os.path.lexists(target):
        if not _same_content(source, target):
            raise FileExistsError
        return
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        target.symlink_to(source.resolve())


def _move(source: Path, target: Path) -> None:
    """Link an image at its new location, then remove the old one; nothing is overwritten."""
    try:
        if source.is_symlink():
            target.symlink_to(source.resolve())
        else:
            os.link(source, target)
    except FileExistsError:
        if not _can_replace(source, target):
            raise
    except OSError:  # no links on this file system
        if os.path.lexists(target):
            raise FileExistsError from None
        source.rename(target)
        return
    source.unlink()


def _can_replace(source: Path, target: Path) -> bool:
    """Return whether the source can be removed because the target has its content, as after a killed run."""
    if target.is_symlink():
        return source.is_symlink() and target.readlink() == source.resolve()
    return _same_content(source, target)


def _same_content(source: Path, target: Path) -> bool:
    return target.is_file() and (target.samefile(source) or sha256_file(target) == sha256_file(source))
