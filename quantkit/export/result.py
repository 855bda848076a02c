"""The result of an export; does not need torch."""

from dataclasses import dataclass
from pathlib import Path

from quantkit.config.pipeline import Pipeline


@dataclass(frozen=True)
class Parity:
    """Difference between an exported model and a torch network.

    Attributes:
        against: description of the network.
        random_error: largest ``|onnx - torch|`` over the logits of random input.
        image_error: the same over real images, None without images.
        images: number of real images.
        largest_logit: largest ``|torch|``, the scale of the errors.

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
    """Result of an export with its check.

    Attributes:
        path: the ONNX file.
        exporter: ``dynamo`` or ``torchscript``.
        failed_exporter: the exporter that failed first, None if the first one succeeded.
        fallback_reason: why it failed.
        opset: version of the ONNX operator set.
        input_size: ``(C, H, W)``.
        classes: number of classes.
        parameters: number of parameters of the network.
        parity: the comparison with the network in torch.
        reference_parity: the comparison with the reference implementation, None without a reference.
        size_bytes: size of the file, including external tensors.
        pipeline: the preprocessing of published weights, None for other weights.

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
