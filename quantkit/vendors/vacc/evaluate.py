"""Accuracy of the card's results, and the text file for the vendor's evaluation.

The vendor's ``eval_topk.py`` compares names, not class indices: it looks up ImageNet's name of an image's folder, a
WordNet id, and searches it in the names of the predicted classes. Two classes with the same name (crane) are one class,
and a class with another spelling in the list of names (class 480 in the vendor's ``imagenet.txt``) is never correct.
`DeviceAccuracy.vendor_notes` reports the resulting differences.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from quantkit.data.classes import imagenet_classes
from quantkit.errors import VendorFileError
from quantkit.files import replacing
from quantkit.vendors.vacc.relay import is_relay, numbered_lines, read_relay, relay_lines
from quantkit.vendors.vacc.results import TOP, Classes, DeviceOutput, Ranking, rank, read_classes, true_labels

_RATES = re.compile(r"top1_rate:\s*(?P<top1>\d+(?:\.\d+)?)[^\d.]+?top5_rate:\s*(?P<top5>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class NamedAccuracy:
    """Accuracy of the card by class names, as in the vendor's ``eval_topk``.

    Attributes:
        images: number of images in folders with WordNet ids of ImageNet-1k; ``eval_topk`` fails on others.
        top1: number of images whose top class has the name of the true one.
        top5: number of images with this name among the top five classes.
        misspelt: images by class that are correct (top-5) by class index, but not by name.
        shared: images by name that are correct (top-5) by name, but not by class index.
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    misspelt: Counter[int] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)

    def with_answer(self, answer: Ranking) -> "NamedAccuracy":
        """Return the accuracy with one more image."""
        name = imagenet_classes().get(PurePosixPath(answer.output.line).parent.name)
        if name is None or not answer.names:
            return self
        by_name, by_index = name in answer.names, answer.label in answer.classes
        misspelt = Counter([answer.label] if by_index and not by_name else [])
        shared = Counter([name] if by_name and not by_index else [])
        return NamedAccuracy(
            images=self.images + 1,
            top1=self.top1 + (answer.names[0] == name),
            top5=self.top5 + by_name,
            misspelt=self.misspelt + misspelt if misspelt else self.misspelt,
            shared=self.shared + shared if shared else self.shared,
        )


@dataclass(frozen=True)
class DeviceAccuracy:
    """Accuracy of the card.

    Attributes:
        images: number of evaluated images.
        top1: number of images with the true class first.
        top5: number of images with the true class among the first five.
        faults: files that could not be read.
        named: accuracy by class names.
        notes: differences of the class names from ImageNet's, or from the text file.
    """

    images: int
    top1: int
    top5: int
    faults: tuple[VendorFileError, ...] = ()
    named: NamedAccuracy = field(default_factory=NamedAccuracy)
    notes: tuple[str, ...] = ()

    def with_answer(self, answer: Ranking | VendorFileError) -> "DeviceAccuracy":
        """Return the accuracy with one more image, or one more damaged file."""
        if isinstance(answer, VendorFileError):
            return replace(self, faults=(*self.faults, answer))
        return replace(
            self,
            images=self.images + 1,
            top1=self.top1 + (answer.classes[0] == answer.label),
            top5=self.top5 + (answer.label in answer.classes),
            named=self.named.with_answer(answer),
        )

    def line(self) -> str:
        """Return the accuracies as the vendor's evaluation prints them."""
        return _rates_line(self.top1, self.top5, self.images)

    def vendor_notes(self) -> tuple[str, ...]:
        """Return the figures of the vendor's ``eval_topk`` with the reasons, if they differ."""
        named = self.named
        if named.images != self.images or (named.top1, named.top5) == (self.top1, self.top5):
            return ()
        printed = _rates_line(named.top1, named.top5, named.images)
        notes = [f"the vendor's eval_topk compares class names, not indices, and prints {printed}"]
        notes += [
            f"eval_topk never counts class {label} as correct, its name is spelled differently: {_images(count)} here"
            for label, count in sorted(named.misspelt.items())
        ]
        notes += [
            f"eval_topk treats all classes named {name!r} as one: {_images(count)} of another class here"
            for name, count in sorted(named.shared.items())
        ]
        return tuple(notes)


def evaluate(
    outputs: Sequence[DeviceOutput],
    classes: Classes,
    text: Path | None = None,
    *,
    skip_damaged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DeviceAccuracy:
    """Evaluate the card's results one by one, and write them as text.

    Args:
        outputs: from `quantkit.vendors.vacc.results.pair_outputs`.
        classes: from `quantkit.vendors.vacc.results.read_classes`.
        text: text file to write atomically; None for none.
        skip_damaged: skip results that cannot be read.
        progress: called with the number of images done and their total.

    Raises:
        VendorFileError: results cannot be read, unless ``skip_damaged``; the message has their names.
        LabelError: the true class of an image is unknown.
        OutputError: the text file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        write: Callable[[list[str]], object] = len
        if text is not None:
            temporary = stack.enter_context(replacing(text))
            write = stack.enter_context(temporary.open("w", encoding="utf-8")).writelines
        accuracy = DeviceAccuracy(0, 0, 0, notes=classes.notes)
        for done, answer in enumerate(rank(outputs, classes), start=1):
            accuracy = accuracy.with_answer(answer)
            if isinstance(answer, Ranking):
                write(relay_lines(answer.output.line, answer.classes, answer.scores, answer.names))
            if progress is not None:
                progress(done, len(outputs))
        if accuracy.faults and not skip_damaged:
            raise _damaged(accuracy.faults, len(outputs))
        return accuracy


def read_relay_text(path: Path, labels: Path | None, run: int | None = None) -> DeviceAccuracy:
    """Evaluate a text file in the vendor's format.

    Args:
        path: the file.
        labels: class names or labels (see `quantkit.vendors.vacc.results.read_classes`).
        run: run to evaluate, if several were appended (see `quantkit.vendors.vacc.relay.read_relay`).

    Raises:
        VendorFileError: a line has another format, an image has fewer lines than others, or the file has several runs
            and ``run`` is not given.
        UsageError: there is no such run.
        LabelError: the true class of an image is unknown.
    """
    answers = read_relay(path, run)
    outputs = [DeviceOutput(Path(answer.path), answer.path) for answer in answers]
    classes = read_classes(labels, outputs)
    truth = true_labels(outputs, classes)
    accuracy = DeviceAccuracy(0, 0, 0, notes=classes.notes)
    other: dict[int, str] = {}
    for output, label, answer in zip(outputs, truth, answers, strict=True):
        ranking = Ranking(output, int(label), answer.classes[:TOP], (), answer.names[:TOP])
        accuracy = accuracy.with_answer(ranking)
        other |= _names_that_differ(ranking, classes)
    if other and classes.names is not None:
        index, name = min(other.items())
        expected = classes.names[index] if index < len(classes.names) else "missing"
        there = "ImageNet's list" if labels is None else labels
        note = f"{path} was written with other class names: class {index} is {name!r} there and {expected!r} in {there}"
        accuracy = replace(accuracy, notes=(*accuracy.notes, note))
    return accuracy


def is_relay_text(path: Path) -> bool:
    """Return whether a text file contains results in the vendor's format, by its first line.

    Raises:
        VendorFileError: the file cannot be read.
    """
    return is_relay(path)


def read_rates(path: Path) -> tuple[float, float]:
    """Read the last top-1 and top-5 in percent from the output of the vendor's evaluation, in either format.

    Raises:
        VendorFileError: the file cannot be read, or has no ``top1_rate: ... top5_rate: ...``.
    """
    matches = [match for _, line in numbered_lines(path) for match in _RATES.finditer(line)]
    if not matches:
        raise VendorFileError("the file has neither results of the card nor top1_rate and top5_rate", where=path)
    return float(matches[-1]["top1"]), float(matches[-1]["top5"])


def _names_that_differ(ranking: Ranking, classes: Classes) -> dict[int, str]:
    """Return the classes of a result with other names in the file of class names."""
    names = classes.names
    if names is None:
        return {}
    return {
        index: name
        for index, name in zip(ranking.classes, ranking.names, strict=True)
        if index >= len(names) or name != names[index]
    }


def _rates_line(top1: int, top5: int, images: int) -> str:
    rates = [round(100.0 * right / images, 3) if images else 0.0 for right in (top1, top5)]
    return f"[VACC]:  top1_rate: {rates[0]} top5_rate: {rates[1]}"


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"


def _damaged(faults: Sequence[VendorFileError], total: int) -> VendorFileError:
    shown = "; ".join(str(fault) for fault in faults[:5]) + ("; ..." if len(faults) > 5 else "")
    return VendorFileError(
        f"{len(faults)} of {total} results cannot be read: {shown}", fix="run vamp again for these, or --skip-damaged"
    )
