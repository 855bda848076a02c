"""Calibration sets: lists of images with digests and labels, independent of the location of the images."""

import csv
import hashlib
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantkit import __version__
from quantkit.config.arguments import AnyPath, as_path
from quantkit.data.examine import examine
from quantkit.data.item import FileItem, ImageItem, MissingItem
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource, Location, is_url
from quantkit.data.sources.arrays import IN_MEMORY
from quantkit.data.sources.open import ARCHIVE_SUFFIXES, PARQUET_SUFFIXES, ImagesLike, open_source
from quantkit.data.sources.shards import has_pattern
from quantkit.errors import CalibrationSetError
from quantkit.files import reason, write_bytes
from quantkit.progress import Progress, as_progress
from quantkit.records import Records

FORMAT = 1
_TITLE = "quantkit calibration set"
_COLUMNS = ("path", "sha256", "label", "class_name")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CalibrationImage:
    """An image of a set.

    Attributes:
        name: path below the set's image folder, with forward slashes.
        sha256: hex digest of the file; empty in a set that was selected from labels alone.
        label: class index, or None.
        class_name: name of the class, or empty.

    Example:
        >>> import quantkit
        >>> quantkit.CalibrationImage(name="cat/1.png", sha256="", label=0).label
        0
    """

    name: str
    sha256: str
    label: int | None = None
    class_name: str = ""


@dataclass(frozen=True)
class LeftOut:
    """An image that was left out, with the reason."""

    name: str
    why: str


@dataclass(frozen=True)
class CalibrationSet(Records):
    """A list of selected and checked images.

    Every prefix of the list is balanced over the classes, so the first hundred images of a set of a thousand are a
    valid smaller set.

    Attributes:
        root: location of the images: a folder, an archive, a pattern of shards, or a URL.
        images: the images.
        seed: random seed of the selection.
        source: description of the source of the labels.
        left_out: unusable images, with the reasons.
        remarks: remarks for the user, such as classes without images.
        opened: the source, if it is already open; required for arrays.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> len(quantkit.CalibrationSet.load("calibration.csv"))
        200
    """

    root: Location
    images: tuple[CalibrationImage, ...]
    seed: int = 0
    source: str = "no labels"
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()
    opened: ImageSource | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def items(self) -> tuple[ImageItem, ...]:
        """The images, in the set's order; reading a missing one raises an `ImageError`.

        Raises:
            CalibrationSetError: the location of the images is missing or cannot be read.
        """
        if self.opened is None and isinstance(self.root, Path) and self._in_folder(self.root):
            return tuple(FileItem(self.root / image.name, image.name) for image in self.images)
        # Damaged parts are ignored if the set's images are available; their digests are compared.
        there = (self.opened or open_source(self.root, skip_damaged=True, own_labels=False)).by_name
        return tuple(
            there.get(image.name) or MissingItem(image.name, self.root, "there is no such image in it")
            for image in self.images
        )

    def _in_folder(self, root: Path) -> bool:
        """Return whether the images are files in a folder, not members of archives in it."""
        if not root.is_dir():
            return not (root.exists() or has_pattern(str(root)))
        return any((root / image.name).exists() for image in self.images[:1]) or not _has_archives(root)

    def source_of_images(self) -> ImageSource:
        """Return all images of the source that the set was drawn from.

        Raises:
            CalibrationSetError: the source is missing or cannot be read.
        """
        return self.opened or open_source(self.root)

    @property
    def array_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` if the images are arrays, which are not preprocessed; None for encoded images."""
        return None if self.opened is None else self.opened.array_shape

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 ``[N]`` class indices, or None without labels."""
        labels = [image.label for image in self.images if image.label is not None]
        return np.array(labels, np.int64) if len(labels) == len(self.images) else None

    @property
    def per_class(self) -> dict[int, int]:
        """Number of images by class index; empty without labels."""
        counts = Counter(image.label for image in self.images if image.label is not None)
        return dict(sorted(counts.items()))

    @property
    def is_rebuilt(self) -> bool:
        """Whether the set has digests of its images, not only names and labels."""
        return all(image.sha256 for image in self.images)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the sorted digests and labels of the images, independent of location and order.

        Raises:
            CalibrationSetError: the set was selected from labels alone, so there are no digests.
        """
        self.require_digests()
        lines = sorted(f"{image.sha256} {'-' if image.label is None else image.label}\n" for image in self.images)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def require_digests(self, where: Path | None = None) -> None:
        """Check that the set has digests of its images.

        Raises:
            CalibrationSetError: it was selected from labels alone.
        """
        if not self.is_rebuilt:
            raise CalibrationSetError(
                "the set was selected from labels alone and has no digests",
                where=where,
                fix="find them with quantkit calib-set rebuild",
            )

    def save(self, path: AnyPath) -> None:
        """Write the manifest: comment lines about the set, then one CSV row per image.

        The location of the images is recorded relative to the manifest, unless it is a URL or both have only the root
        of the file system in common.

        Raises:
            OutputError: the file cannot be written.
            CalibrationSetError: the name of an image, or of their folder, contains a line break.
        """
        path = as_path(path, "path")
        root = _relative_root(self.root, path.parent) if isinstance(self.root, Path) else self.root
        for name in (root, *(image.name for image in self.images)):
            if name != _one_line(name):
                raise CalibrationSetError("the name contains a line break", where=repr(name), fix="rename it")
        facts = [
            ("format", str(FORMAT)),
            ("written by", f"quantkit {__version__}"),
            *([("images", root)] if self.is_rebuilt else []),
            ("labels", self.source),
            ("seed", str(self.seed)),
            ("count", str(len(self.images))),
            ("classes", str(len(self.per_class))),
            *([("digest", self.digest)] if self.is_rebuilt else []),
            *(("left out", f"{json.dumps(item.name, ensure_ascii=False)} {item.why}") for item in self.left_out),
            *(("remark", remark) for remark in self.remarks),
        ]
        text = io.StringIO()
        text.write(f"# {_TITLE}\n")
        text.writelines(f"# {key}: {_one_line(value)}\n" for key, value in facts)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for image in self.images:
            label = "" if image.label is None else image.label
            writer.writerow((image.name, image.sha256, label, _one_line(image.class_name)))
        write_bytes(path, text.getvalue().encode(errors="surrogateescape"))

    @classmethod
    def load(cls, path: AnyPath, images: ImagesLike | None = None) -> Self:
        """Read a manifest.

        Args:
            path: the manifest.
            images: the location of the images, if it is not the recorded one.

        Raises:
            CalibrationSetError: the file cannot be read, is not a manifest, or is damaged; the message has the line.
                Use `verify` to check that the images are present and unchanged.
        """
        path = as_path(path, "path")
        facts, rows = _read_manifest(path)
        root, opened = _root_of(path, facts.get("images", ["."])[0]), None
        if isinstance(images, os.PathLike) or (isinstance(images, str) and not is_url(images)):
            images = Path(images)
        if isinstance(images, Path) and not images.is_file():
            root = images
        elif images is not None:
            opened = open_source(images, skip_damaged=True, own_labels=False)
            root = opened.root
        loaded = cls(
            root=root,
            opened=opened,
            images=rows,
            seed=_whole_number(path, facts, "seed"),
            source=facts.get("labels", ["no labels"])[0],
            left_out=tuple(_parse_left_out(path, line) for line in facts.get("left out", [])),
            remarks=tuple(facts.get("remark", [])),
        )
        if "count" in facts and _whole_number(path, facts, "count") != len(rows):
            raise CalibrationSetError(
                f"it has {len(rows)} images and declares {facts['count'][0]}", where=path, fix="build the set again"
            )
        if "digest" in facts and (not loaded.is_rebuilt or facts["digest"][0] != loaded.digest):
            raise CalibrationSetError(
                "its rows were changed since it was written",
                where=path,
                fix="build the set again, or delete its digest line if the change is intended",
            )
        return loaded

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per image: name, class and digest."""
        return [vars(image).copy() for image in self.images]

    def verify(self, workers: int | None = None, progress: Progress | None = None) -> tuple[LeftOut, ...]:
        """Return the images that are missing, changed or not decodable, with the reasons.

        Args:
            workers: number of threads.
            progress: receives the progress.
        """
        count = as_progress(progress).task("checking", "images")
        problems = []
        examined = map_in_order(examine, self.items, workers)
        for done, (image, found) in enumerate(zip(self.images, examined, strict=True), start=1):
            fault = found.fault
            if not fault and image.sha256 and found.sha256 != image.sha256:
                fault = "the file has changed (other digest)"
            if fault:
                problems.append(LeftOut(image.name, fault))
            count(done, len(self.images))
        return tuple(problems)


def _root_of(path: Path, recorded: str) -> Location:
    """Return the location of the images in a manifest; a location that is not a path is kept."""
    if "://" in recorded or recorded.startswith(IN_MEMORY):
        return recorded
    return Path(os.path.normpath(path.parent / recorded))


def _has_archives(folder: Path) -> bool:
    return any(path.name.endswith((*ARCHIVE_SUFFIXES, *PARQUET_SUFFIXES)) for path in folder.rglob("*"))


def _relative_root(root: Path, folder: Path) -> str:
    root, folder = root.resolve(), folder.resolve()
    shared = Path(os.path.commonpath([root, folder])) if root.drive == folder.drive else Path(root.anchor)
    if shared == Path(root.anchor):
        return root.as_posix()
    return PurePosixPath(os.path.relpath(root, folder)).as_posix()


def _read_manifest(path: Path) -> tuple[dict[str, list[str]], tuple[CalibrationImage, ...]]:
    try:
        with path.open("rb") as file:
            start = file.read(100)
            content = start + (file.read() if _TITLE.encode() in start else b"")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CalibrationSetError(
            f"cannot read the calibration set ({reason(error)})",
            where=path,
            fix=f"write it with quantkit calib-set build --images FOLDER --out {shlex.quote(str(path))}"
            if missing
            else None,
        ) from error
    if _TITLE.encode() not in start:
        raise CalibrationSetError(
            "not a calibration set of quantkit", where=path, fix="write one with quantkit calib-set build"
        )
    text = content.decode("utf-8-sig", errors="surrogateescape")
    lines = io.StringIO(text, newline="").readlines()
    if lines and not lines[-1].endswith(("\n", "\r")):
        raise CalibrationSetError(
            "the file is truncated: the last line has no end", where=path, fix="download it again"
        )
    head = 0
    facts: dict[str, list[str]] = {}
    while head < len(lines) and lines[head].startswith("#"):
        key, _, value = lines[head].lstrip("# ").rstrip("\r\n").partition(": ")
        facts.setdefault(key, []).append(value)
        head += 1
    if _whole_number(path, facts, "format") != FORMAT:
        raise CalibrationSetError(
            f"format {facts['format'][0]} is not known to quantkit {__version__}", where=path, fix="update quantkit"
        )
    reader = csv.reader(io.StringIO("".join(lines[head:]), newline=""), strict=True)
    try:
        rows = [(head + reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise CalibrationSetError(f"not readable as CSV ({error})", where=f"{path}:{head + reader.line_num}") from error
    if not rows or tuple(rows[0][1]) != _COLUMNS:
        raise CalibrationSetError(f"the columns are not {','.join(_COLUMNS)}", where=f"{path}:{head + 1}")
    if len(rows) == 1:
        raise CalibrationSetError("the calibration set is empty", where=path, fix="build it again")
    images = tuple(_parse_row(path, number, row) for number, row in rows[1:])
    _refuse_contradictions(path, images)
    return facts, images


def _parse_row(path: Path, number: int, row: Sequence[str]) -> CalibrationImage:
    where = f"{path}:{number}"
    if len(row) != len(_COLUMNS):
        raise CalibrationSetError(f"the row has {len(row)} columns, not {len(_COLUMNS)}", where=where)
    name, sha256, label, class_name = row
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CalibrationSetError(f"{name!r} is not a path below the image folder", where=where)
    if sha256 and not _SHA256.fullmatch(sha256):
        raise CalibrationSetError(f"{sha256!r} is not a SHA-256", where=where)
    if label and not re.fullmatch(r"[0-9]{1,12}", label):
        raise CalibrationSetError(f"label {label[:20]!r} is not a class index", where=where)
    return CalibrationImage(name, sha256, int(label) if label else None, class_name)


def _refuse_contradictions(path: Path, images: Sequence[CalibrationImage]) -> None:
    [(name, times)] = Counter(image.name for image in images).most_common(1)
    if times > 1:
        raise CalibrationSetError(f"{name} is in the set {times} times", where=path, fix="keep one of its rows")
    unlabelled = [image.name for image in images if image.label is None]
    if 0 < len(unlabelled) < len(images):
        raise CalibrationSetError(
            f"{len(unlabelled)} of {len(images)} images have no label, the first {unlabelled[0]}",
            where=path,
            fix="label all of them or none",
        )


def _parse_left_out(path: Path, line: str) -> LeftOut:
    try:
        name, end = json.JSONDecoder().raw_decode(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CalibrationSetError(f"a line '# left out:' without a quoted name: {line[:80]!r}", where=path) from error
    return LeftOut(str(name), line[end:].strip())


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _whole_number(path: Path, facts: dict[str, list[str]], key: str) -> int:
    text = facts.get(key, ["0" if key == "seed" else ""])[0]
    if not re.fullmatch(r"-?[0-9]{1,40}", text):
        raise CalibrationSetError(f"the line '# {key}:' has no integer", where=path)
    return int(text)
