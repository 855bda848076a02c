"""What an export returns; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from quantkit.config.pipeline import Pipeline


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from a torch network.

    Attributes:
        against: the network, as it is called in messages.
        random_error: largest ``|onnx - torch|`` over the logits of random input.
        image_error: the same over real images, None where none were given.
        images: number of real images.
        largest_logit: largest ``|torch|`` seen, what the errors are to be read against.

    Example:
        >>> import quantkit
        >>> quantkit.Parity("torch", random_error=1e-6, image_error=None, images=0, largest_logit=9.0).max_abs_error
        1e-06
    """

    against: str
    random_error: float
    image_error: float | None
    images: int
    largest_logit: float

    @property
    def max_abs_error(self) -> float:
        """The larger of the two errors."""
        return max(self.random_error, self.image_error or 0.0)


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and how it was checked.

    Attributes:
        path: the ONNX file.
        exporter: ``dynamo`` or ``torchscript``.
        failed_exporter: the exporter that was tried first and failed, None where the first succeeded.
        fallback_reason: why it failed.
        opset: version of the ONNX operator set.
        input_size: ``(C, H, W)``.
        classes: length of the output.
        parameters: number of them in the network.
        parity: the comparison with the network in torch.
        reference_parity: the comparison with the reference implementation, None where none was given.
        size_bytes: of the file, with that of its tensors where they lie beside it.
        pipeline: the preprocessing that published weights were made for, None for other weights.

    Example:
        >>> import quantkit
        >>> done = quantkit.export("resnet18", weights="DEFAULT")  # doctest: +SKIP
        >>> done.parity.max_abs_error < 1e-4  # doctest: +SKIP
        True
    """

    path: Path
    exporter: str
    failed_exporter: str | None
    fallback_reason: str | None
    opset: int
    input_size: tuple[int, int, int]
    classes: int
    parameters: int
    parity: Parity
    size_bytes: int
    reference_parity: Parity | None = None
    pipeline: Pipeline | None = None
