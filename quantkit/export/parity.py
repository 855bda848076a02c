"""Compares an exported model with its torch network, and with other implementations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from quantkit.errors import ModelError
from quantkit.export.result import Parity
from quantkit.export.translate import first_line

# One image and several images, to detect a fixed batch size.
RANDOM_BATCHES = (1, 3)


@dataclass(frozen=True)
class Original:
    """A torch network with which an exported model must agree.

    Attributes:
        description: description in messages.
        network: the network in evaluation mode.
        fix: fix in the message if the two differ.
    """

    description: str
    network: nn.Module
    fix: str


class _Comparison:
    """Differences between a model's logits and those of a network."""

    def __init__(self, original: Original) -> None:
        self.original = original
        self.largest_logit = 0.0
        self.random_errors: list[float] = []
        self.image_errors: list[float] = []
        self.other_classes = 0

    def error(self, batch: NDArray[np.float32], found: NDArray[np.float32]) -> float:
        """Return the largest difference over one batch, infinite if either side is not finite."""
        with torch.inference_mode():
            # A copy, since networks may overwrite their input (as in-place ReLUs do).
            expected = self.original.network(torch.from_numpy(batch.copy())).numpy()
        if found.shape != expected.shape:
            description = self.original.description
            raise ModelError(
                f"the exported model returns shape {found.shape}, and {description} returns {expected.shape}"
            )
        self.largest_logit = max(self.largest_logit, float(np.abs(expected).max()))
        self.other_classes += int((found.argmax(1) != expected.argmax(1)).sum())
        difference = float(np.abs(found - expected).max())
        return difference if np.isfinite(difference) else float("inf")

    def parity(self, tolerance: float) -> Parity:
        """Return the result.

        Raises:
            ModelError: the largest difference is above the tolerance.
        """
        images = len(self.image_errors)
        parity = Parity(
            self.original.description,
            max(self.random_errors),
            max(self.image_errors, default=None),
            images,
            self.largest_logit,
        )
        bound = tolerance * max(1.0, parity.largest_logit)
        if parity.max_abs_error > bound:
            inputs = sum(RANDOM_BATCHES) + images
            classes = f", with another class for {self.other_classes} of {inputs} inputs" if self.other_classes else ""
            raise ModelError(
                f"the exported model differs from {self.original.description} by {parity.max_abs_error:.3g} on logits "
                f"up to {parity.largest_logit:.3g}, more than {bound:.3g}{classes}",
                fix=f"{self.original.fix}; --tolerance sets the bound",
            )
        return parity


def check_parity(
    path: Path,
    originals: Sequence[Original],
    input_size: tuple[int, int, int],
    *,
    images: Iterable[NDArray[np.float32]] = (),
    tolerance: float,
) -> list[Parity]:
    """Run an exported model and torch networks on the same input and compare the logits.

    Args:
        path: the exported model.
        originals: the networks to compare it with.
        input_size: ``(C, H, W)`` of the random input, which is drawn from N(0, 1).
        images: preprocessed real images ``[C, H, W]``.
        tolerance: the bound of the error is ``tolerance * max(1, largest logit)``, because differences of float32 sums
            in another order are proportional to their size.

    Returns:
        One result per network, in their order.

    Raises:
        ModelError: the model does not load, or differs from a network by more than the tolerance.
    """
    session = _open(path)
    input_name = session.get_inputs()[0].name
    comparisons = [_Comparison(original) for original in originals]
    generator = np.random.default_rng(0)
    for size in RANDOM_BATCHES:
        batch = generator.standard_normal((size, *input_size), np.float32)
        logits = session.run(None, {input_name: batch})[0]
        for comparison in comparisons:
            comparison.random_errors.append(comparison.error(batch, logits))
    for image in images:
        batch = image[np.newaxis]
        logits = session.run(None, {input_name: batch})[0]
        for comparison in comparisons:
            comparison.image_errors.append(comparison.error(batch, logits))
    return [comparison.parity(tolerance) for comparison in comparisons]


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exception classes of onnxruntime have no common base
        raise ModelError(f"onnxruntime cannot load the exported model: {first_line(error)}") from error
