"""Accuracy of the card's answers, and the text file that the vendor's own evaluation reads.

The vendor's ``eval_topk.py`` compares names, not class indices: it looks up ImageNet's name of the folder that an image
is in, a WordNet id, and searches it among the names of the answers. Two classes of one name (crane) are one class
to it, and a class whose name is spelled otherwise in the list of names (class 480 in the vendor's ``imagenet.txt``) is
never right. `DeviceAccuracy.vendor_notes` says where its figures differ for that reason.
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
    """How often the card is right where class names are compared, as the vendor's ``eval_topk`` does.

    Attributes:
        images: images whose folder is a WordNet id of ImageNet-1k; others end ``eval_topk`` with an error.
        top1: images whose best class has the name of the true one.
        top5: images among whose five best classes one has that name.
        misspelt: images by class that are right (top-5) by class index and not by name.
        shared: images by name that are right (top-5) by name and not by class index.
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
    """How often the card is right.

    Attributes:
        images: images evaluated.
        top1: images whose best class is the true one.
        top5: images whose true class is among the five best.
        faults: files that could not be read.
        named: the same by class names.
        notes: where the class names are not ImageNet's, or not those of the text file.
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
        """Return what the vendor's ``eval_topk`` prints of these answers, and why, where that is something else."""
        named = self.named
        if named.images != self.images or (named.top1, named.top5) == (self.top1, self.top5):
            return ()
        printed = _rates_line(named.top1, named.top5, named.images)
        notes = [f"the vendor's eval_topk compares class names, not indices, and prints {printed}"]
        notes += [
            f"eval_topk never counts class {label} as right, its name is spelled otherwise: {_images(count)} of it here"
            for label, count in sorted(named.misspelt.items())
        ]
        notes += [
            f"eval_topk takes all classes called {name!r} for one: {_images(count)} of another class here"
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
    """Evaluate the card's answers one by one, and write them as text.

    Args:
        outputs: of `quantkit.vendors.vacc.results.pair_outputs`.
        classes: of `quantkit.vendors.vacc.results.read_classes`.
        text: where to write the text file, whole or not at all; none is written without.
        skip_damaged: evaluate the other answers where some cannot be read.
        progress: called with the number of images done and their total.

    Raises:
        VendorFileError: answers cannot be read, by name, unless ``skip_damaged``.
        LabelError: the truth of an image is not known.
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
    """Evaluate a text file of the vendor's form.

    Args:
        path: the file.
        labels: class names or labels (see `quantkit.vendors.vacc.results.read_classes`).
        run: which run to evaluate where several were appended (see `quantkit.vendors.vacc.relay.read_relay`).

    Raises:
        VendorFileError: a line is of another form, an image has fewer lines than others, or the file holds several runs
            and ``run`` does not say which to take.
        UsageError: there is no such run.
        LabelError: the truth of an image is not known.
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
        expected = classes.names[index] if index < len(classes.names) else "not there"
        there = "ImageNet's list" if labels is None else labels
        note = f"{path} was written with other class names: class {index} is {name!r} there and {expected!r} in {there}"
        accuracy = replace(accuracy, notes=(*accuracy.notes, note))
    return accuracy


def is_relay_text(path: Path) -> bool:
    """Return whether a text file holds the card's answers in the vendor's form, by its first line.

    Raises:
        VendorFileError: the file cannot be read.
    """
    return is_relay(path)


def read_rates(path: Path) -> tuple[float, float]:
    """Read top-1 and top-5 in percent from what the vendor's evaluation printed, of either age; the last there is.

    Raises:
        VendorFileError: the file cannot be read, or holds no ``top1_rate: ... top5_rate: ...``.
    """
    matches = [match for _, line in numbered_lines(path) for match in _RATES.finditer(line)]
    if not matches:
        raise VendorFileError("neither answers of the card nor top1_rate and top5_rate", where=path)
    return float(matches[-1]["top1"]), float(matches[-1]["top5"])


def _names_that_differ(ranking: Ranking, classes: Classes) -> dict[int, str]:
    """Return the classes of one answer that the file of class names calls otherwise."""
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
