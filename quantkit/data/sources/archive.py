"""Images in tar and zip archives, alone or as shards; labels from WebDataset's ``.cls`` members where there are any."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from quantkit.data.classes import leading_wnid
from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.source import ImageSource, Location
from quantkit.data.sources.blob import Blob
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.member import Member, MemberItem, read_member
from quantkit.data.sources.tar import is_compressed, tar_index
from quantkit.data.sources.zip import zip_index
from quantkit.errors import CalibrationSetError, ImageError, LabelError

CLASS_SUFFIX = ".cls"
# What a class member holds at most: a class index.
_CLASS_BYTES = 32
_SHOWN = 3
_MACOS = "__MACOSX"

# Archives whose index was read in this process; commands open one several times.
_INDEXES_KEPT = 64


def archive_source(root: Location, blobs: Sequence[Blob], faults: Faults) -> ImageSource:
    """Return the images of archives, in the order of their names.

    Args:
        root: the place that was given.
        blobs: the archives, tar or zip each.
        faults: receives damaged archives and members that cannot be used.

    Raises:
        CalibrationSetError: an archive cannot be read or holds something to refuse, or there is no image.
        LabelError: some images have a class member and others none, or one holds no class index.
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


def _with_classes(
    root: Location, found: list[tuple[Blob, Member]], classes: Mapping[tuple[Blob, str], Member], faults: Faults
) -> list[tuple[Blob, Member]]:
    """Return the images that have a class member; a shard that was cut short may end between the two.

    Raises:
        LabelError: some have none, and faults are refused; or none has one.
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
    """Return the members of an archive; an undamaged one is read once in this process."""
    try:
        # The members of a compressed archive hold its images, which are not to stay when the source is gone.
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
        raise CalibrationSetError("the archive is empty", where=blob.name, fix="fetch it again")
    try:
        return blob.read_at(0, min(8, blob.size))
    except ImageError as error:
        raise CalibrationSetError(error.what, where=blob.name, fix=error.fix) from error


def _is_wanted(name: str) -> bool:
    """Return whether a member is an image or a class; hidden ones and macOS's doubles are passed over."""
    path = PurePosixPath(name.replace("\\", "/"))
    if any(part.startswith(".") and part not in (".", "..") for part in path.parts) or path.parts[:1] == (_MACOS,):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() == CLASS_SUFFIX


def _sound(blob: Blob, members: Sequence[Member], faults: Faults) -> list[Member]:
    """Return the members that can be used; the others are reported."""
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
        return "an absolute name, which could be outside of the archive"
    if ".." in path.parts:
        return "a name that leads out of the archive"
    if any(character in name for character in "\0\r\n"):
        return "a name with a line break or a zero byte"
    return ""


def _sample(name: str) -> str:
    """Return what the members of one WebDataset sample have in common: the name up to its first dot."""
    folder, slash, file = _normal(name).rpartition("/")
    return folder + slash + file.partition(".")[0]


def _ids(found: Sequence[tuple[Blob, Member]]) -> list[str]:
    """Return an id for each image: its name, below its archive's where two archives have images of one name.

    A top folder that all images of class folders share, as tar makes it of a folder, is left away.
    """
    names = [_normal(member.name) for _, member in found]
    tops = {name.partition("/")[0] for name in names}
    deep = all(name.count("/") > 1 for name in names)
    if len(tops) == 1 and deep and leading_wnid(next(iter(tops))) is None:
        names = [name.partition("/")[2] for name in names]
    if len(set(names)) < len(names):
        if len({blob.file_name for blob, _ in found}) < len({blob.name for blob, _ in found}):
            raise CalibrationSetError("two archives of one name hold images of one name", fix="rename an archive")
        return [f"{blob.file_name}/{name}" for (blob, _), name in zip(found, names, strict=True)]
    return names


def _class_index(blob: Blob, member: Member) -> int:
    where = f"{blob.name}: {member.name}"
    if member.size > _CLASS_BYTES:
        raise LabelError(f"{member.size} bytes where a class index belongs", where=where)
    try:
        text = read_member(blob, member).decode("ascii", "replace").strip()
    except ImageError as error:
        raise LabelError(error.what, where=where, fix=error.fix) from error
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise LabelError(f"{text[:20]!r} is no class index", where=where, fix="write the class index, such as 207")
    return int(text)
