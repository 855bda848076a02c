"""Compares the labels of images with what the names of their folders and files say."""

from pathlib import PurePosixPath

from quantkit.data.classes import imagenet_index, leading_wnid
from quantkit.data.source import ImageSource


def folder_of(name: str) -> str | None:
    """Return the top folder of an image, its class in a layout of class folders; None if it is in none."""
    top, slash, _ = name.partition("/")
    return top if slash else None


def wnid_of_file(name: str) -> str | None:
    """Return the WordNet id of ImageNet-1k that the file name of an image begins with."""
    return leading_wnid(PurePosixPath(name).name)


def disagreement(found: ImageSource, *, by_names: bool) -> str | None:
    """Return a warning if folders or file names group the images into other classes than the labels.

    Two sources agree if each class of one is a class of the other, whatever its number or name.

    Args:
        found: labelled images.
        by_names: the labels come from folders or file names. Else only WordNet ids are compared with them, because
            other folders need not be classes.
    """
    folders, files = map(folder_of, found.names), map(wnid_of_file, found.names)
    for what, classes in (("folders", list(folders)), ("WordNet ids in the file names", list(files))):
        named = [one for one in classes if one is not None]
        if len(named) < len(found) or (what == "folders" and len(set(named)) == 1):
            continue
        if not by_names and not all(one in imagenet_index() for one in named):
            continue
        if (pair := _first_contradiction(found, named)) is not None:
            return (
                f"the labels come from {found.source}, and the {what} group the images into other classes "
                f"({pair}); if the labels are wrong, give a label file with --labels"
            )
    return None


def _first_contradiction(found: ImageSource, named: list[str]) -> str | None:
    """Return two images that have one class by one source, and two classes by the other."""
    assert found.labels is not None
    by_label: dict[int, tuple[str, str]] = {}
    by_class: dict[str, tuple[int, str]] = {}
    for name, label, one in zip(found.names, found.labels.tolist(), named, strict=True):
        other, first = by_label.setdefault(label, (one, name))
        if other != one:
            return f"{first} and {name} have one label, {label}"
        before, first = by_class.setdefault(one, (label, name))
        if before != label:
            return f"{first} and {name} have the labels {before} and {label}"
    return None
