"""Hold an exported model against the network it came from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from quantkit.errors import ModelError
from quantkit.export.translate import first_line

# One image, and more than one: a batch that the exporter fixed shows in one of them.
RANDOM_BATCHES = (1, 3)


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from its network.

    Attributes:
        random_error: largest ``|onnx - torch|`` over the logits of random input.
        image_error: the same over real images, None where none were given.
        images: number of real images.
        largest_logit: largest ``|torch|`` seen, what the errors are to be read against.
    """

    random_error: float
    image_error: float | None
    images: int
    largest_logit: float

    @property
    def max_abs_error(self) -> float:
        """The larger of the two errors."""
        return max(self.random_error, self.image_error or 0.0)


class _Comparison:
    def __init__(self, network: nn.Module, path: Path) -> None:
        self.network = network
        self.largest_logit = 0.0
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError(f"onnxruntime does not load the exported model: {first_line(error)}") from error
        self.input_name = self.session.get_inputs()[0].name

    def error(self, batch: NDArray[np.float32]) -> float:
        """Return the largest difference over one batch, infinite where either side is not finite."""
        with torch.inference_mode():
            expected = self.network(torch.from_numpy(batch)).numpy()
        found = self.session.run(None, {self.input_name: batch})[0]
        if found.shape != expected.shape:
            raise ModelError(f"the exported model returns shape {found.shape} where torch returns {expected.shape}")
        self.largest_logit = max(self.largest_logit, float(np.abs(expected).max()))
        difference = float(np.abs(found - expected).max())
        return difference if np.isfinite(difference) else float("inf")


def check_parity(
    network: nn.Module,
    path: Path,
    input_size: tuple[int, int, int],
    *,
    images: Iterable[NDArray[np.float32]] = (),
    tolerance: float,
) -> Parity:
    """Run network and exported model on the same input and compare the logits.

    Args:
        network: in evaluation mode.
        path: the exported model.
        input_size: ``(C, H, W)`` of the random input, which is drawn from N(0, 1).
        images: preprocessed real images ``[C, H, W]``.
        tolerance: refused is an error above ``tolerance * max(1, largest logit)``: float32 sums taken in another order
            differ in proportion to their size.

    Raises:
        ModelError: the model does not load, or differs by more than the tolerance.
    """
    comparison = _Comparison(network, path)
    generator = np.random.default_rng(0)
    random_error = max(
        comparison.error(generator.standard_normal((batch, *input_size), np.float32)) for batch in RANDOM_BATCHES
    )
    errors = [comparison.error(image[np.newaxis]) for image in images]
    parity = Parity(random_error, max(errors, default=None), len(errors), comparison.largest_logit)
    bound = tolerance * max(1.0, parity.largest_logit)
    if parity.max_abs_error > bound:
        raise ModelError(
            f"the exported model differs from torch by {parity.max_abs_error:.3g} on logits up to "
            f"{parity.largest_logit:.3g}, more than {bound:.3g}",
            fix="try the other --exporter, or look for layers left in training mode; --tolerance sets the bound",
        )
    return parity
