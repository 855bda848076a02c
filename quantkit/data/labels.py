"""Label files, which assign classes to images by name.

Supported formats, with one image per line: ``name label`` or ``label name`` separated by white space, a tab, a comma or
a semicolon, with or without a header line. A label is a class index, a WordNet id of ImageNet-1k, or a class name if
names are given.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quantkit.data.classes import WNID, imagenet_index
from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError

# Of several columns, the first in these orders has the names of the images, and the labels.
_NAME_HEADERS = ("filename", "filepath", "path", "file", "image", "images", "img", "imageid", "name", "id")
_LABEL_HEADERS = (
    "label", "labels", "classid", "classindex", "target", "class", "classname", "category", "wnid", "synset", "y",
)  # fmt: skip
# Kaggle's ImageNet solution file: a WordNet id followed by boxes.
_BOXES_HEADER = "predictionstring"
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
# Maximum number of digits of a class index; longer ones would not fit the label arrays.
_LONGEST_LABEL = 12
_FORMS = "write one image per line: name, then its class index"


@dataclass(frozen=True)
class LabelLine:
    """A line of a label file: the name of an image, its class index, and the line number from 1.

    ``wnid`` is True if the class was given as a WordNet id of ImageNet-1k.
    """

    name: str
    label: int
    number: int
    wnid: bool = False


@dataclass(frozen=True)
class Pairing:
    """Labels matched with images.

    Attributes:
        labels: int64 ``[N]``, the class index of each image; -1 for an image without one.
        unlabelled: images without a line, in the order of the images.
        unmatched: lines without an image.
        repeated: number of lines that repeat an earlier one.
    """

    labels: NDArray[np.int64]
    unlabelled: tuple[str, ...]
    unmatched: tuple[LabelLine, ...]
    repeated: int


def read_label_file(path: Path, class_names: Sequence[str] | None = None) -> tuple[LabelLine, ...]:
    """Read a label file.

    Args:
        path: the file, UTF-8 text; blank lines and lines that begin with ``#`` are skipped.
        class_names: names in class-index order, for files with names as labels.

    Raises:
        LabelError: the file cannot be read or has no labels; a line has no label, or one that is negative, not an
            integer, or not a known class. The message has the line.
    """
    numbered = [(number, line.strip()) for number, line in enumerate(read_lines(path), start=1)]
    numbered = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not numbered:
        raise LabelError("the label file is empty", where=path, fix=_FORMS)
    index_by_name = _index_by_name(class_names or ())
    shared_names = frozenset(name for name, count in Counter(class_names or ()).items() if count > 1)
    layout = _Layout.of(numbered[0][1], index_by_name)
    if layout is None:
        _refuse_layout(path, numbered)
    rows = numbered[1:] if layout.header else numbered
    if not rows:
        raise LabelError("the label file has a header and no labels", where=path, fix=_FORMS)
    return tuple(_parse(path, number, line, layout, index_by_name, shared_names) for number, line in rows)


def pair_labels(path: Path, lines: Sequence[LabelLine], images: Sequence[str]) -> Pairing:
    """Match the lines of a label file with images by name.

    A line can name an image by its path below the image folder, by any longer or shorter path with the same end, by its
    file name if that is unique, or by its file name without suffix.

    Args:
        path: the label file, for messages.
        lines: its lines.
        images: paths of the images below their folder, with forward slashes.

    Raises:
        LabelError: two lines have different labels for one image, a name matches several images, or no line matches an
            image.
    """
    finder = _ImageFinder(images, lines)
    labels = np.full(len(images), -1, np.int64)
    first: dict[int, LabelLine] = {}
    unmatched: list[LabelLine] = []
    for line in lines:
        position = finder.find(path, line)
        if position is None:
            unmatched.append(line)
            continue
        earlier = first.setdefault(position, line)
        check_same_label(line, earlier, path)
        labels[position] = line.label
    if not first:
        raise LabelError(
            f"none of its {len(lines)} names matches any of the {len(images)} images, such as {lines[0].name} and "
            f"{images[0]}",
            where=path,
            fix="give the label file of these images",
        )
    unlabelled = tuple(image for image, label in zip(images, labels, strict=True) if label < 0)
    return Pairing(labels, unlabelled, tuple(unmatched), len(lines) - len(unmatched) - len(first))


def check_same_label(line: LabelLine, earlier: LabelLine, where: object) -> None:
    """Check that two lines of one image have the same label.

    Raises:
        LabelError: they have not.
    """
    if earlier.label != line.label:
        raise LabelError(
            f"{line.name} has label {line.label}, and {earlier.label} on line {earlier.number}",
            where=f"{where}:{line.number}",
            fix="keep one of the two lines",
        )


def check_labels_fit(labels: NDArray[np.int64], outputs: int, where: object) -> None:
    """Check that every label is a class of the model.

    Raises:
        LabelError: a label is not below the number of outputs; the fix says if the labels seem to count from 1.
    """
    if not labels.size or labels.max() < outputs:
        return
    count = int((labels >= outputs).sum())
    hint = "give the labels of this model's classes"
    if labels.min() >= 1 and labels.max() == outputs:
        hint = "these labels seem to count from 1; subtract 1 from each"
    raise LabelError(
        f"{count} of {labels.size} labels are out of range for {outputs} model outputs (largest: {labels.max()})",
        where=where,
        fix=hint,
    )


@dataclass(frozen=True)
class _Layout:
    """Format of the lines of a file, detected from its first lines."""

    separator: str | None  # None: white space
    header: bool
    name_column: int
    label_column: int
    boxes: bool = False

    @classmethod
    def of(cls, line: str, index_by_name: dict[str, int]) -> "_Layout | None":
        for separator in ("\t", ",", ";", None):
            fields = _split(line, separator)
            if len(fields) < 2:
                continue
            headers = [re.sub(r"[\s_-]", "", field).lower() for field in fields]
            name = next((one for one in _NAME_HEADERS if one in headers), None)
            label = next((one for one in (*_LABEL_HEADERS, _BOXES_HEADER) if one in headers), None)
            if name is not None and label is not None:
                return cls(separator, True, headers.index(name), headers.index(label), label == _BOXES_HEADER)
            if separator is not None and sum(_is_label(field, index_by_name) for field in fields) > 1 < len(fields) - 1:
                return None  # nothing says which of these columns is the label
            if _is_label(fields[-1], index_by_name):
                return cls(separator, False, 0, -1)
            if _is_label(fields[0], index_by_name):
                return cls(separator, False, 1, 0)
        return None

    def fields(self, line: str) -> tuple[str, str] | None:
        """Return name and label of a line, or None if one is missing."""
        if self.separator is None and not self.header:
            # A file name may contain spaces, a label may not.
            parts = line.split(None, 1) if self.label_column == 0 else line.rsplit(None, 1)
        else:
            parts = _split(line, self.separator)
        if len(parts) <= max(self.name_column, self.label_column, 1):
            return None
        name, label = parts[self.name_column].strip(), parts[self.label_column].strip()
        if self.boxes:
            label = label.partition(" ")[0]
        return (name, label) if name else None


class _ImageFinder:
    """Finds the image that a line of a label file names."""

    def __init__(self, images: Sequence[str], lines: Sequence[LabelLine]) -> None:
        self._images = images
        self._by_path = {image: position for position, image in enumerate(images)}
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            name = PurePosixPath(image)
            self._by_name[name.name].append(position)
            self._by_stem[name.stem].append(position)
        self._lines_by_name = Counter(_file_name(line.name) for line in lines)

    def find(self, path: Path, line: LabelLine) -> int | None:
        name = line.name.replace("\\", "/").removeprefix("./")
        if name in self._by_path:
            return self._by_path[name]
        file_name = _file_name(name)
        candidates = self._by_name.get(file_name, [])
        if not candidates and PurePosixPath(file_name).suffix.lower() not in IMAGE_SUFFIXES:
            candidates = self._by_stem.get(file_name, [])
        matches = [position for position in candidates if _have_same_end(name, self._images[position])]
        if not matches and len(candidates) == 1 and self._lines_by_name[file_name] == 1:
            matches = candidates
        if len(matches) > 1:
            both = " and ".join(self._images[position] for position in matches[:2])
            raise LabelError(
                f"{line.name} matches {len(matches)} images, among them {both}",
                where=f"{path}:{line.number}",
                fix="name the images by their path below the image folder",
            )
        return matches[0] if matches else None


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    except csv.Error:  # a field beyond csv's limit, which no label file has
        return [line]


def _parse(
    path: Path,
    number: int,
    line: str,
    layout: _Layout,
    index_by_name: dict[str, int],
    shared_names: Collection[str],
) -> LabelLine:
    where = f"{path}:{number}"
    fields = layout.fields(line)
    if fields is None:
        raise LabelError(f"the line has no name or no label: {line!r}", where=where, fix=_FORMS)
    name, text = fields
    if text in index_by_name:
        return LabelLine(name, index_by_name[text], number, wnid=text in imagenet_index())
    if re.fullmatch(r"\+?[0-9]+", text):
        if len(text) > _LONGEST_LABEL:
            raise LabelError(f"label {text[:_LONGEST_LABEL]}... is larger than any class index", where=where)
        return LabelLine(name, int(text), number)
    if WNID.fullmatch(text):
        raise LabelError(f"{text} is not a class of ImageNet-1k", where=where, fix="give the class index instead")
    if _NUMBER.fullmatch(text):
        raise LabelError(f"label {text} is not a non-negative integer", where=where, fix="give the class index")
    if text in shared_names:
        raise LabelError(f"several classes are called {text!r}", where=where, fix="give the class index instead")
    raise LabelError(
        f"label {text!r} is neither a class index nor a known class", where=where, fix="check it, or give a names file"
    )


def _refuse_layout(path: Path, numbered: Sequence[tuple[int, str]]) -> NoReturn:
    number, line = numbered[0]
    if all(_NUMBER.fullmatch(line) for _, line in numbered):
        raise LabelError(
            f"has {len(numbered)} labels without image names, and labels are not paired by position",
            where=path,
            fix="if it is the ground truth of the ImageNet devkit, use quantkit imagenet prepare",
        )
    fix = f"{_FORMS}, or a header such as image,label"
    raise LabelError(f"neither a header nor a line with a label: {line!r}", where=f"{path}:{number}", fix=fix)


def _index_by_name(class_names: Sequence[str]) -> dict[str, int]:
    """Map every word that is unique to one class to its index; numeric words are ignored."""
    counts = Counter(class_names)
    names = {name: index for index, name in enumerate(class_names) if counts[name] == 1 and not _NUMBER.fullmatch(name)}
    return {**imagenet_index(), **names}


def _is_label(text: str, index_by_name: dict[str, int]) -> bool:
    return bool(_NUMBER.fullmatch(text)) or WNID.fullmatch(text) is not None or text in index_by_name


def _file_name(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _have_same_end(name: str, image: str) -> bool:
    """Return whether one path is the end of the other; file suffixes are ignored if the name has none."""
    if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        image = str(PurePosixPath(image).with_suffix(""))
    longer, shorter = (name, image) if len(name) > len(image) else (image, name)
    return longer == shorter or longer.endswith("/" + shorter)
