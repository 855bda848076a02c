"""Results of the card: output files paired with the datalist, class scores, and true classes.

``vamp --datalist L --path_output DIR`` writes one ``.npz`` per line of the list, with the class scores as ``output_0``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quantkit.data.classes import WNID, imagenet_classes, imagenet_index, read_class_names
from quantkit.data.imagenet_names import follows_imagenet, imagenet_remarks
from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError, VendorFileError
from quantkit.files import reason
from quantkit.vendors.vacc.tensors import read_npz

OUTPUT_KEY = "output_0"
TOP = 5

_NUMBERED = re.compile(r"(.*?)(\d+)")
_TRUTH_LINE = re.compile(r"(\S+)\s+(\d{1,12})")


@dataclass(frozen=True)
class DeviceOutput:
    """An output file with its line of the datalist."""

    path: Path
    line: str

    @property
    def name(self) -> str:
        """The image as ``CLASS/NAME`` without a suffix."""
        return str(PurePosixPath(*PurePosixPath(self.line).parts[-2:]).with_suffix(""))


@dataclass(frozen=True)
class Classes:
    """The classes of results.

    Attributes:
        names: class names in class-index order; None if only the true class of each image is known.
        truth: class index by image name without suffix, with its folder and, if unambiguous, without; from a label
            file. None if folders are the classes.
        notes: differences of the names from the classes of ImageNet-1k.
    """

    names: tuple[str, ...] | None
    truth: dict[str, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """The top classes of an image.

    Attributes:
        output: the file and its line.
        label: the true class index.
        classes: the top five class indices, best first; of equal scores the lower index.
        scores: their scores.
        names: their names, as in the vendor's text file; empty if unknown.
    """

    output: DeviceOutput
    label: int
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    names: tuple[str, ...] = ()


def pair_outputs(results: Path, datalist: Path) -> tuple[DeviceOutput, ...]:
    """Pair output files with the lines of a datalist.

    By name, if every output has the name of one line; by number, if the names are numbered; else in the order of the
    names. Names are sorted by number, so ``output_10`` follows ``output_9`` with or without leading zeros.

    Raises:
        VendorFileError: the list or the folder cannot be read or is empty, a line is repeated, or the numbers of lines
            and outputs differ; the message has the missing ones.
    """
    lines = _read_datalist(datalist)
    try:
        outputs = sorted(path for path in results.iterdir() if path.suffix == ".npz" and path.name[0] != ".")
    except OSError as error:
        raise VendorFileError(f"cannot list the results ({reason(error)})", where=results) from error
    if not outputs:
        raise VendorFileError("there are no .npz results", where=results, fix="give the folder of vamp --path_output")
    by_stem = {path.stem: path for path in outputs}
    stems = [PurePosixPath(line).stem for line in lines]
    if len(set(stems)) == len(stems) and set(by_stem) <= set(stems):
        missing = [line for line, stem in zip(lines, stems, strict=True) if stem not in by_stem]
        _refuse_missing(missing, len(outputs), len(lines), results)
        return tuple(DeviceOutput(by_stem[stem], line) for stem, line in zip(stems, lines, strict=True))
    numbers = _numbers(outputs)
    if numbers is not None:
        outputs = [path for _, path in sorted(zip(numbers, outputs, strict=True))]
        first = min(min(numbers), 1)
        present = set(numbers)
        missing = [f"number {first + i} ({line})" for i, line in enumerate(lines) if first + i not in present]
        if len(outputs) < len(lines):
            _refuse_missing(missing, len(outputs), len(lines), results)
    if len(outputs) != len(lines):
        raise VendorFileError(
            f"there are {len(outputs)} results for the {len(lines)} lines of {datalist}",
            where=results,
            fix="give the datalist of that run, and a folder with only the results of that run",
        )
    return tuple(DeviceOutput(path, line) for path, line in zip(outputs, lines, strict=True))


def read_classes(path: Path | None, outputs: Sequence[DeviceOutput]) -> Classes:
    """Read the classes from a file of class names, one per line (``imagenet.txt``), or of ``IMAGE INDEX`` lines.

    Args:
        path: the file; None for the classes of ImageNet-1k, if the folders of the datalist are its WordNet ids.
        outputs: the results; a label file has their images.

    Raises:
        LabelError: the file cannot be read, has neither format, has two classes for one image, or has ImageNet's names
            in another order; or there is no file and the folders are not WordNet ids.
    """
    of_imagenet = all(_folder(output) in imagenet_index() for output in outputs)
    if path is None:
        if not of_imagenet:
            raise LabelError("the classes are unknown", where="--labels", fix="give imagenet.txt")
        return Classes(tuple(imagenet_classes().values()))
    names = read_class_names(path)
    matches = [match for name in names if (match := _TRUTH_LINE.fullmatch(name)) is not None]
    if len(matches) == len(names):
        truth = _truth(path, matches)
        if any(_label_of(output, truth) is not None for output in outputs):
            return Classes(None, truth)
    return Classes(names, notes=imagenet_remarks(names, path) if of_imagenet or follows_imagenet(names) else ())


def true_labels(outputs: Sequence[DeviceOutput], classes: Classes) -> NDArray[np.int64]:
    """Return the true class of each result.

    From the label file if there is one; else from the folder of each line of the datalist: a WordNet id of ImageNet-1k,
    a class name, a class index, or (if there are as many WordNet ids as classes) its position among the sorted ones.

    Raises:
        LabelError: an image has no label, the folders are not classes, or are different classes by name and by index.
    """
    if classes.truth is not None:
        labels = [_label_of(output, classes.truth) for output in outputs]
        missing = [output.line for output, label in zip(outputs, labels, strict=True) if label is None]
        if missing:
            raise LabelError(f"{len(missing)} images have no label, for example {missing[0]}")
        return np.array(labels, np.int64)
    folders = [_folder(output) for output in outputs]
    index = _index_of_folders(sorted(set(folders)), classes.names or ())
    return np.array([index[folder] for folder in folders], np.int64)


def read_scores(output: DeviceOutput, classes: int | None = None) -> NDArray[np.float32]:
    """Read the class scores of a result, float32 ``[classes]``.

    Raises:
        VendorFileError: the file is damaged, does not have ``classes`` scores, or contains NaN or infinity.
    """
    scores = np.squeeze(read_npz(output.path, OUTPUT_KEY))
    if scores.ndim != 1 or scores.dtype.kind not in "fiu":
        raise VendorFileError(f"`{OUTPUT_KEY}` is {scores.dtype} {list(scores.shape)}, not scores", where=output.path)
    if classes is not None and scores.size != classes:
        raise VendorFileError(
            f"there are {scores.size} scores and {classes} class names",
            where=output.path,
            fix="give the class names of this model",
        )
    with np.errstate(over="ignore"):  # overflows of float32 become infinite, and are rejected
        wide = scores.astype(np.float32)
    if not np.isfinite(wide).all():
        raise VendorFileError("the scores contain NaN or infinity", where=output.path)
    return wide


def rank(outputs: Sequence[DeviceOutput], classes: Classes) -> Iterator[Ranking | VendorFileError]:
    """Yield the top classes of each result in order, or the error of its file. One file is read at a time.

    Raises:
        LabelError: the true class of an image is unknown.
    """
    truth = true_labels(outputs, classes)
    count = None if classes.names is None else len(classes.names)
    for output, label in zip(outputs, truth, strict=True):
        try:
            scores = read_scores(output, count)
        except VendorFileError as error:
            yield error
            continue
        count = scores.size
        best = np.argsort(-scores, kind="stable")[:TOP]
        ids = tuple(int(i) for i in best)
        names = () if classes.names is None else tuple(classes.names[i] for i in ids)
        yield Ranking(output, int(label), ids, tuple(float(scores[i]) for i in best), names)


def _read_datalist(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_lines(path)]
    except LabelError as error:
        raise VendorFileError(error.what, where=path) from error
    lines = [line for line in lines if line]
    if not lines:
        raise VendorFileError("the datalist is empty", where=path)
    twice = [line for line, count in Counter(lines).items() if count > 1]
    if twice:
        raise VendorFileError(f"{twice[0]} occurs more than once", where=path, fix="write the datalist again")
    return lines


def _numbers(outputs: Sequence[Path]) -> list[int] | None:
    """Return the number at the end of each name, if the names are otherwise equal."""
    matches = [_NUMBERED.fullmatch(path.stem) for path in outputs]
    if not all(matches) or len({m[1] for m in matches if m is not None}) != 1:
        return None
    return [int(m[2]) for m in matches if m is not None]


def _refuse_missing(missing: Sequence[str], found: int, wanted: int, results: Path) -> None:
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise VendorFileError(
            f"there are {found} results for {wanted} lines; missing: {', '.join(missing[:5])}{more}",
            where=results,
            fix="run vamp again for these, or shorten the datalist",
        )


def _folder(output: DeviceOutput) -> str:
    return PurePosixPath(output.line).parent.name


def _truth(path: Path, lines: Sequence[re.Match[str]]) -> dict[str, int]:
    """Return the class of each image by ``CLASS/NAME``, and by ``NAME`` if all images with that name have one class.

    Raises:
        LabelError: an image has two classes.
    """
    truth: dict[str, int] = {}
    shared: set[str] = set()
    for number, line in enumerate(lines, start=1):
        image, label = PurePosixPath(line[1]), int(line[2])
        name = image.name.partition(".")[0]
        in_class = f"{image.parent.name}/{name}" if image.parent.name else name
        if truth.setdefault(in_class, label) != label:
            raise LabelError(
                f"{line[1]} has class {label}, and {truth[in_class]} on an earlier line",
                where=f"{path}:{number}",
                fix="keep one of the two lines",
            )
        if truth.setdefault(name, label) != label:
            shared.add(name)
    return {key: label for key, label in truth.items() if key not in shared}


def _label_of(output: DeviceOutput, truth: dict[str, int]) -> int | None:
    name = PurePosixPath(output.line).name.partition(".")[0]
    return truth.get(f"{_folder(output)}/{name}", truth.get(name))


def _index_of_folders(folders: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    if len(names) == len(imagenet_index()) and all(folder in imagenet_index() for folder in folders):
        return {folder: imagenet_index()[folder] for folder in folders}
    by_name = {folder: names.index(folder) for folder in folders if names.count(folder) == 1}
    by_index = {folder: int(folder) for folder in folders if folder.isdecimal() and int(folder) < len(names)}
    whole = [reading for reading in (by_name, by_index) if len(reading) == len(folders)]
    if len(whole) == 2 and by_name != by_index:
        folder = next(folder for folder in folders if by_name[folder] != by_index[folder])
        raise LabelError(
            f"the folder {folder} of the datalist is the name of class {by_name[folder]} and the index of another",
            fix="give a file of IMAGE INDEX lines",
        )
    if whole:
        return whole[0]
    if len(folders) == len(names) and all(WNID.fullmatch(folder) for folder in folders):
        return {folder: place for place, folder in enumerate(folders)}
    _refuse_folders(folders, names)


def _refuse_folders(folders: Sequence[str], names: Sequence[str]) -> NoReturn:
    fix = "name each image's folder by its WordNet id or class index, or give a file of IMAGE INDEX lines"
    if shared := next((folder for folder in folders if names.count(folder) > 1), None):
        raise LabelError(f"{names.count(shared)} classes have the name of the datalist's folder {shared}", fix=fix)
    unknown = next((f for f in folders if f not in imagenet_index() and f not in names), folders[0])
    raise LabelError(f"the folder {unknown} of the datalist is not one of the {len(names)} classes", fix=fix)
