"""Opens image sources given as paths, patterns, URLs or Python objects."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.config.arguments import AnyPath
from quantkit.data.source import ImageSource, Location, is_url
from quantkit.data.sources.archive import archive_source
from quantkit.data.sources.arrays import IN_MEMORY, array_source
from quantkit.data.sources.blob import Blob, LocalBlob
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.folder import folder_source, list_folder, no_images
from quantkit.data.sources.iterables import dataset_source, is_dataset, iterable_source
from quantkit.data.sources.shards import absent_of_count, expand_braces, gaps, has_pattern
from quantkit.data.sources.tar import BLOCK, is_compressed, is_tar
from quantkit.errors import CalibrationSetError, ImageError

# Argument of `open_source`: a `Location`, a source, arrays, or an iterable; see `docs/sources.md`.
ImagesLike = AnyPath | ImageSource | Iterable[Any]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
PARQUET_SUFFIXES = (".parquet", ".pq")

_Build = Callable[[Location, Sequence[Blob], Faults], ImageSource]


def open_source(
    images: ImagesLike,
    *,
    skip_damaged: bool = False,
    limit: int | None = None,
    own_labels: bool = True,
    storage_options: dict[str, Any] | None = None,
) -> ImageSource:
    """Open images of a location, or Python objects, with their labels.

    Args:
        images: a folder; a tar, zip or parquet file; a pattern of such (``data-{000000..000009}.tar``, ``*.parquet``);
            a URL of any of these; an `ImageSource`; a float32 array ``[N, C, H, W]``, alone or in a pair with labels;
            an iterable of arrays or encoded images, with labels or without; a torch ``DataLoader``, a
            ``datasets.Dataset``, an onnxruntime ``CalibrationDataReader``.
        skip_damaged: skip damaged parts of a source, and list them in ``warnings``; otherwise the first fault is
            raised.
        limit: maximum number of images of an iterable; required for an infinite one.
        own_labels: read the labels of an archive or parquet file; otherwise their faults are ignored.
        storage_options: options of the file system of a URL, as for fsspec.

    Raises:
        CalibrationSetError: there is no such source, it is damaged, or it has no images.
        LabelError: its labels are incomplete or malformed.
        ImageError: an array has a wrong dtype or shape.
        NumericError: an array contains NaN or infinity.
        UsageError: the URL is not supported, an iterable is infinite, or a package is not installed.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import numpy, quantkit
        >>> len(quantkit.open_source("images/test"))
        697
        >>> arrays = numpy.zeros((4, 1, 8, 8), numpy.float32)
        >>> quantkit.open_source((arrays, [0, 1, 2, 3])).array_shape
        (1, 8, 8)
    """
    faults = Faults(skip_damaged, labels=own_labels)
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, os.PathLike):
        images = Path(images)
    if isinstance(images, str) and images.startswith(IN_MEMORY):
        raise CalibrationSetError("the images were in memory and not in a file", where=images, fix="give them again")
    if isinstance(images, str) and images.startswith("file://"):
        images = Path(images.removeprefix("file://"))
    if isinstance(images, str) and is_url(images):
        return _remote(images, faults, storage_options)
    if isinstance(images, str | Path):
        return _local(Path(images), faults)
    if isinstance(images, tuple) and len(images) == 2 and len(getattr(images[0], "shape", ())) == 4:
        return array_source(*images)
    if isinstance(images, np.ndarray) or (hasattr(images, "detach") and len(getattr(images, "shape", ())) == 4):
        return array_source(images)
    if is_dataset(images):
        return dataset_source(images, limit)
    return iterable_source(images, limit)


def _local(path: Path, faults: Faults) -> ImageSource:
    if path.is_dir():
        return _folder(path, faults)
    if path.is_file():
        blob = LocalBlob(path)
        return _builder([blob])(path, [blob], faults)
    text = str(path)
    if not has_pattern(text):
        what = "neither a file nor a folder" if path.exists() else "there is no such folder"
        is_url_path = path.parts and path.parts[0].endswith(":") and len(path.parts[0]) > 2
        fix = "give a URL as a string, not as a Path" if is_url_path else "give the folder or file of the images"
        raise CalibrationSetError(what, where=path, fix=fix)
    blobs: list[Blob] = []
    for name in expand_braces(text):
        blobs.extend(_local_blobs(Path(name), faults))
    return _shards(path, blobs, faults)


def _local_blobs(path: Path, faults: Faults) -> list[Blob]:
    if path.is_file():
        return [LocalBlob(path)]
    if has_pattern(str(path)):
        anchor = Path(path.anchor)
        found = (
            sorted(anchor.glob(str(path.relative_to(anchor)))) if path.is_absolute() else sorted(Path().glob(str(path)))
        )
        return [LocalBlob(one) for one in found if one.is_file()]
    faults.damaged("the shard is missing", path)
    return []


def _folder(folder: Path, faults: Faults) -> ImageSource:
    names, others = list_folder(folder)
    if names:
        return folder_source(folder, names)
    for suffixes in (PARQUET_SUFFIXES, ARCHIVE_SUFFIXES):
        shards = [path for path in sorted(folder.rglob("*")) if path.name.endswith(suffixes) and path.is_file()]
        if shards:
            return _shards(folder, [LocalBlob(path) for path in shards], faults)
    raise no_images(others, folder)


def _remote(url: str, faults: Faults, options: dict[str, Any] | None) -> ImageSource:
    from quantkit.data.sources.remote import RemoteFiles

    if has_pattern(url.partition("?")[0]):
        blobs: list[Blob] = []
        for name in expand_braces(url):
            files = RemoteFiles(name, options)
            if has_pattern(name):
                blobs.extend(files.matching(name))
                continue
            try:
                blobs.append(files.blob(name))
            except CalibrationSetError as error:
                faults.damaged(f"the shard is missing ({error.what})", name)
        return _shards(url, blobs, faults)
    files = RemoteFiles(url, options)
    if url.partition("?")[0].endswith((*ARCHIVE_SUFFIXES, *PARQUET_SUFFIXES)) or not files.is_folder():
        blob = files.blob(url)
        return _builder([blob])(url, [blob], faults)
    listed = files.listed()
    try:
        return files.folder_source(listed)
    except CalibrationSetError:
        for suffixes in (PARQUET_SUFFIXES, ARCHIVE_SUFFIXES):
            if shards := [blob for blob in listed if blob.name.endswith(suffixes)]:
                return _shards(url, shards, faults)
        raise


def _shards(root: Location, blobs: Sequence[Blob], faults: Faults) -> ImageSource:
    """Return the images of several files; missing files are reported.

    Raises:
        CalibrationSetError: there is no file, or some are missing and faults are not skipped.
    """
    if not blobs:
        raise CalibrationSetError("no file matches", where=root, fix="check the pattern")
    names = [blob.name for blob in blobs]
    if absent := absent_of_count(names):
        faults.damaged(f"{len(absent)} shards are missing, {absent[0]} first", root)
    elif not faults.found and (missing := gaps(names)):
        faults.damaged(f"number {missing[0]} is missing between its {len(names)} shards", root)
    return _builder(blobs)(root, blobs, faults)


def _builder(blobs: Sequence[Blob]) -> _Build:
    """Return the reader for these files, by their suffix, else by their first bytes.

    Raises:
        CalibrationSetError: the files are neither archives nor parquet files, or of both kinds.
    """
    kinds = {_is_parquet(blob) for blob in blobs}
    if len(kinds) > 1:
        raise CalibrationSetError("parquet files and archives are mixed", where=blobs[0].name, fix="give only one kind")
    if not kinds.pop():
        return archive_source
    from quantkit.data.sources.parquet import parquet_source

    return parquet_source


def _is_parquet(blob: Blob) -> bool:
    name = blob.name.partition("?")[0].lower()
    if name.endswith(PARQUET_SUFFIXES):
        return True
    if name.endswith(ARCHIVE_SUFFIXES):
        return False
    try:
        start = blob.read_at(0, min(BLOCK, blob.size))
    except ImageError as error:
        raise CalibrationSetError(error.what, where=blob.name, fix=error.fix) from error
    if start.startswith(b"PAR1"):
        return True
    if start.startswith(b"PK\x03\x04") or is_tar(start) or is_compressed(start):
        return False
    raise CalibrationSetError(
        "neither a folder of images nor a tar, zip or parquet file", where=blob.name, fix="give one of these"
    )
