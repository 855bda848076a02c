"""Accuracy of the card's answers, and the text file that the vendor's own evaluation reads.

Five lines an image, best first, counted from 0: ``PATH: Relay top-K id: I, prob: P, class name: NAME``. The vendor's
``eval_topk.py`` compares class names; names that two classes of ImageNet share (crane, maillot) count there as right.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError, VendorFileError
from quantkit.files import replacing
from quantkit.vendors.vacc.results import TOP, Classes, DeviceOutput, Ranking, rank, read_classes, true_labels

_RELAY_LINE = re.compile(
    r"(?P<path>.+): Relay top-(?P<k>\d+) id: (?P<id>\d{1,12}), prob: (?P<prob>\S+), class name: ?(?P<name>.*)"
)
_RATES = re.compile(r"top1_rate:\s*(?P<top1>\d+(?:\.\d+)?)[^\d.]+?top5_rate:\s*(?P<top5>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class DeviceAccuracy:
    """How often the card is right.

    Attributes:
        images: images judged.
        top1: images whose best class is the true one.
        top5: images whose true class is among the five best.
        faults: files that could not be judged.
    """

    images: int
    top1: int
    top5: int
    faults: tuple[VendorFileError, ...] = ()

    @property
    def top1_percent(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.top1 / self.images if self.images else 0.0

    @property
    def top5_percent(self) -> float:
        """Top-5 accuracy in percent."""
        return 100.0 * self.top5 / self.images if self.images else 0.0

    def with_answer(self, answer: Ranking | VendorFileError) -> "DeviceAccuracy":
        """Return the accuracy with one more image judged, or one more file found damaged."""
        if isinstance(answer, VendorFileError):
            return replace(self, faults=(*self.faults, answer))
        return replace(
            self,
            images=self.images + 1,
            top1=self.top1 + (answer.classes[0] == answer.label),
            top5=self.top5 + (answer.label in answer.classes),
        )

    def line(self) -> str:
        """Return the accuracies as the vendor's evaluation prints them."""
        return f"[VACC]:  top1_rate: {round(self.top1_percent, 3)} top5_rate: {round(self.top5_percent, 3)}"


def evaluate(
    outputs: Sequence[DeviceOutput],
    classes: Classes,
    text: Path | None = None,
    *,
    skip_damaged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DeviceAccuracy:
    """Judge the card's answers one by one, and write them as text.

    Args:
        outputs: of `quantkit.vendors.vacc.results.pair_outputs`.
        classes: of `quantkit.vendors.vacc.results.read_classes`.
        text: where to write the text file, whole or not at all; none is written without.
        skip_damaged: judge the other answers where some cannot be read.
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
        accuracy = DeviceAccuracy(0, 0, 0)
        for done, answer in enumerate(rank(outputs, classes), start=1):
            accuracy = accuracy.with_answer(answer)
            if isinstance(answer, Ranking):
                write(relay_lines(answer, classes))
            if progress is not None:
                progress(done, len(outputs))
        if accuracy.faults and not skip_damaged:
            raise _damaged(accuracy.faults, len(outputs))
        return accuracy


def relay_lines(ranking: Ranking, classes: Classes) -> list[str]:
    """Return the lines of one image in the vendor's text file; a class without a name is named by its index."""
    return [
        f"{ranking.output.line}: Relay top-{place} id: {index}, prob: {score:.8f}, "
        f"class name: {index if classes.names is None else classes.names[index]}\n"
        for place, (index, score) in enumerate(zip(ranking.classes, ranking.scores, strict=True))
    ]


def read_relay_text(path: Path, labels: Path) -> DeviceAccuracy:
    """Judge a text file of the vendor's form.

    Args:
        path: the file.
        labels: class names or labels (see `quantkit.vendors.vacc.results.read_classes`).

    Raises:
        VendorFileError: a line is of another form, or an image has other than five lines.
        LabelError: the truth of an image is not known.
    """
    found: dict[str, list[int]] = {}
    for number, line in _numbered_lines(path):
        match = _RELAY_LINE.fullmatch(line)
        if match is None:
            raise VendorFileError("no line of the form PATH: Relay top-K id: I, prob: P, ...", where=f"{path}:{number}")
        found.setdefault(match["path"], []).append(int(match["id"]))
    depth = max((len(ids) for ids in found.values()), default=0)
    if depth == 0:
        raise VendorFileError("the file is empty", where=path)
    short = next((image for image, ids in found.items() if len(ids) < depth), None)
    if short is not None:
        fault = f"the image {short} has {len(found[short])} lines where others have {depth}"
        raise VendorFileError(fault, where=path, fix="was the file cut short?")
    outputs = [DeviceOutput(Path(image), image) for image in found]
    truth = true_labels(outputs, read_classes(labels, outputs))
    accuracy = DeviceAccuracy(0, 0, 0)
    for output, label, ids in zip(outputs, truth, found.values(), strict=True):
        accuracy = accuracy.with_answer(Ranking(output, int(label), tuple(ids[:TOP]), ()))
    return accuracy


def is_relay_text(path: Path) -> bool:
    """Tell the vendor's text file of answers from other text, by its first line.

    Raises:
        VendorFileError: the file cannot be read.
    """
    first = next(iter(_numbered_lines(path)), (0, ""))
    return _RELAY_LINE.fullmatch(first[1]) is not None


def read_rates(path: Path) -> tuple[float, float]:
    """Read top-1 and top-5 in percent from what the vendor's evaluation printed, of either age; the last there is.

    Raises:
        VendorFileError: the file cannot be read, or holds no ``top1_rate: ... top5_rate: ...``.
    """
    matches = [match for _, line in _numbered_lines(path) for match in _RATES.finditer(line)]
    if not matches:
        raise VendorFileError("neither answers of the card nor top1_rate and top5_rate", where=path)
    return float(matches[-1]["top1"]), float(matches[-1]["top5"])


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    try:
        lines = read_lines(path)
    except LabelError as error:
        raise VendorFileError(error.what, where=path, fix=error.fix) from error
    return [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _damaged(faults: Sequence[VendorFileError], total: int) -> VendorFileError:
    shown = "; ".join(str(fault) for fault in faults[:5]) + ("; ..." if len(faults) > 5 else "")
    return VendorFileError(
        f"{len(faults)} of {total} results cannot be read: {shown}", fix="run vamp again for these, or --skip-damaged"
    )
