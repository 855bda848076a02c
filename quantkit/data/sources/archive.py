"""Images in tar and zip archives and shards, with labels from WebDataset's ``.cls`` members if there are any."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from quantkit.data.classes import leading_wnid
from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.source import ImageSource, Location
from quantkit.data.sources.blob import Blob, BlobItem
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.member import Member
from quantkit.data.sources.tar import is_compressed, tar_index
from quantkit.data.sources.zip import zip_content, zip_index
from quantkit.errors import CalibrationSetError, ImageError, LabelError

CLASS_SUFFIX = ".cls"
# Maximum size of a class member, which contains a class index.
_CLASS_BYTES = 32
_SHOWN = 3
_MACOS = "__MACOSX"

# Number of archive indexes cached in this process; commands open an archive several times.
_INDEXES_KEPT = 64


def archive_source(root: Location, blobs: Sequence[Blob], faults: Faults) -> ImageSource:
    """Return the images of archives, in the order of their names.

    Args:
        root: the given location.
        blobs: the tar or zip archives.
        faults: receives damaged archives and unusable members.

    Raises:
        CalibrationSetError: an archive cannot be read or has unusable members, or there is no image.
        LabelError: only some images have a class member, or one is not a class index.
    """
    found: list[tuple[Blob, Member]] = []
    classes: dict[tuple[Blob, str], Member] = {}
    for blob in blobs:
        members = _index(blob, faults)
        for sound in _sound(blob, members, faults):
            if PurePosixPath(sound.name).suffix.lower() == CLASS_SUFFIX:
                classes[blob, _sample(sound.name)] = sound
            else:
                found.append((blob, sound))
    if not faults.labels:
        classes.clear()
    if not found:
        looked = " ".join(sorted(IMAGE_SUFFIXES))
        raise CalibrationSetError(f"no images found in it (looked for {looked})", where=root)
    if classes:
        found = _with_classes(root, found, classes, faults)
    ids = _ids(found)
    order = sorted(range(len(found)), key=lambda index: ids[index])
    items = tuple(MemberItem(*found[index], ids[index]) for index in order)
    if not classes:
        return ImageSource(root, items, warnings=faults.warnings())
    numbers = [_class_index(item.blob, classes[item.blob, _sample(item.member.name)]) for item in items]
    return ImageSource(
        root, items, np.array(numbers, np.int64), source=f"{CLASS_SUFFIX} members", warnings=faults.warnings()
    )


class MemberItem(BlobItem):
    """An image in an archive.

    Args:
        blob: the archive.
        member: the member.
        id: name in the source.
    """

    __slots__ = ("member",)

    def __init__(self, blob: Blob, member: Member, id: str) -> None:
        super().__init__(blob, id, member.size)
        self.member = member

    @property
    def where(self) -> object:
        """Archive and member."""
        return f"{self.blob.name}: {self.member.name}"

    def read(self) -> bytes:
        """Return the content of the member."""
        return _content(self.blob, self.member)

    @property
    def place(self) -> tuple[int, ...]:
        """Size and offset of the member."""
        return self.member.size, self.member.offset


def _content(blob: Blob, member: Member) -> bytes:
    """Return the content of a member.

    Raises:
        ImageError: the archive cannot be read, or the content does not match the index.
    """
    if member.content is not None:
        return member.content
    try:
        return zip_content(blob, member) if member.zipped else blob.read_at(member.offset, member.size)
    except ImageError as error:
        raise ImageError(error.what, where=f"{blob.name}: {member.name}", fix=error.fix) from error


def _with_classes(
    root: Location, found: list[tuple[Blob, Member]], classes: Mapping[tuple[Blob, str], Member], faults: Faults
) -> list[tuple[Blob, Member]]:
    """Return the images with a class member; a truncated shard may end between the two.

    Raises:
        LabelError: some images have none and faults are not skipped, or no image has one.
    """
    kept = [(blob, member) for blob, member in found if (blob, _sample(member.name)) in classes]
    if len(kept) == len(found):
        return kept
    there = set(kept)
    lacking = [f"{blob.name}: {member.name}" for blob, member in found if (blob, member) not in there]
    error = LabelError(
        f"{len(lacking)} of {len(found)} images have no {CLASS_SUFFIX} member: {', '.join(lacking[:_SHOWN])}",
        where=root,
        fix="write one for each image, or give a label file with --labels",
    )
    if not kept:
        raise error
    faults.report(error)
    return kept


def _index(blob: Blob, faults: Faults) -> tuple[Member, ...]:
    """Return the members of an archive; the index of an undamaged one is cached in this process."""
    try:
        # The members of a compressed archive contain its images, which must be released with the source.
        return tuple(_members(blob, Faults())) if is_compressed(_start(blob)) else _whole_index(blob)
    except CalibrationSetError:
        if not faults.skip:
            raise
        try:
            return tuple(_members(blob, faults))
        except CalibrationSetError as error:
            faults.report(error)
            return ()


@lru_cache(maxsize=_INDEXES_KEPT)
def _whole_index(blob: Blob) -> tuple[Member, ...]:
    return tuple(_members(blob, Faults()))


def _members(blob: Blob, faults: Faults) -> list[Member]:
    if _start(blob).startswith(b"PK"):
        return zip_index(blob, _is_wanted)
    return tar_index(blob, faults, _is_wanted)


def _start(blob: Blob) -> bytes:
    if not blob.size:
        raise CalibrationSetError("the archive is empty", where=blob.name, fix="download it again")
    try:
        return blob.read_at(0, min(8, blob.size))
    except ImageError as error:
        raise CalibrationSetError(error.what, where=blob.name, fix=error.fix) from error


def _is_wanted(name: str) -> bool:
    """Return whether a member is an image or a class; hidden files and macOS resource forks are skipped."""
    path = PurePosixPath(name.replace("\\", "/"))
    if any(part.startswith(".") and part not in (".", "..") for part in path.parts) or path.parts[:1] == (_MACOS,):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() == CLASS_SUFFIX


def _sound(blob: Blob, members: Sequence[Member], faults: Faults) -> list[Member]:
    """Return the usable members; the others are reported."""
    times = Counter(_normal(member.name) for member in members)
    sound = []
    reported: set[str] = set()
    for member in members:
        name = _normal(member.name)
        fault = member.fault or _name_fault(member.name)
        if not fault and times[name] > 1:
            fault = "" if name in reported else f"{times[name]} members of this name"
            reported.add(name)
        elif not fault:
            sound.append(member)
        if fault:
            shown = member.name if member.name.isprintable() else repr(member.name)
            faults.damaged(fault, f"{blob.name}: {shown}", "repair the archive")
    return sound


def _normal(name: str) -> str:
    """Return the name of a member as a path below the archive."""
    return name.removeprefix("./")


def _name_fault(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        return "an absolute name, which could be outside the archive"
    if ".." in path.parts:
        return "a name that leads out of the archive"
    if any(character in name for character in "\0\r\n"):
        return "a name with a line break or a zero byte"
    return ""


def _sample(name: str) -> str:
    """Return the key of a WebDataset sample: the name up to the first dot."""
    folder, slash, file = _normal(name).rpartition("/")
    return folder + slash + file.partition(".")[0]


def _ids(found: Sequence[tuple[Blob, Member]]) -> list[str]:
    """Return an id for each image: its name, prefixed with its archive's name if names are not unique.

    A common top folder of all class folders, as tar creates it, is removed.
    """
    names = [_normal(member.name) for _, member in found]
    tops = {name.partition("/")[0] for name in names}
    deep = all(name.count("/") > 1 for name in names)
    if len(tops) == 1 and deep and leading_wnid(next(iter(tops))) is None:
        names = [name.partition("/")[2] for name in names]
    if len(set(names)) < len(names):
        if len({blob.file_name for blob, _ in found}) < len({blob.name for blob, _ in found}):
            raise CalibrationSetError(
                "two archives with the same name have images with the same name", fix="rename one"
            )
        return [f"{blob.file_name}/{name}" for (blob, _), name in zip(found, names, strict=True)]
    return names


def _class_index(blob: Blob, member: Member) -> int:
    where = f"{blob.name}: {member.name}"
    if member.size > _CLASS_BYTES:
        raise LabelError(f"the member is not a class index ({member.size} bytes)", where=where)
    try:
        text = _content(blob, member).decode("ascii", "replace").strip()
    except ImageError as error:
        raise LabelError(error.what, where=where, fix=error.fix) from error
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise LabelError(f"{text[:20]!r} is not a class index", where=where, fix="write the class index, such as 207")
    return int(text)
