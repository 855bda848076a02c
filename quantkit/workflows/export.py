"""``quantkit export``: write a torch classifier as a checked ONNX file; torch is imported on first use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.data.item import FileItem, ImageItem
from quantkit.errors import UsageError
from quantkit.export.result import Exported
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.presets import PresetSource, load_preset


def export(
    network: str,
    out: AnyPath | None = None,
    *,
    checkpoint: AnyPath | None = None,
    weights: str | None = None,
    random_seed: int | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_size: tuple[int, int, int] | None = None,
    input_name: str = "input",
    output_name: str = "logits",
    opset: int | None = None,
    target: Target | str = ORT,
    exporter: Literal["auto", "dynamo", "torchscript"] = "auto",
    images: Sequence[AnyPath | ImageItem] = (),
    pipeline: PresetSource | None = None,
    tolerance: float = 1e-4,
    reference: str | None = None,
    reference_arguments: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a torch classifier as ONNX, checked against torch; needs ``quantkit[torch]``.

    The weights come from exactly one of ``checkpoint``, ``weights`` and ``random_seed``.

    Args:
        network: an iResNet (``iresnet50``), a torchvision classifier (``resnet50``), or ``module:factory``.
        out: the file to write; ``NETWORK.onnx`` by default.
        checkpoint: a ``.pth`` or ``.safetensors`` file with a state dict.
        weights: published torchvision weights: a member of the weights enum, or ``DEFAULT``.
        random_seed: seed of random weights, to test structure and speed, not accuracy.
        num_classes: number of classes; that of the factory by default.
        arguments: further keyword arguments of the factory.
        input_size: ``(channels, height, width)``; by default the usual size of the network.
        input_name: name of the model's input.
        output_name: name of the model's output.
        opset: version of the ONNX operator set; that of the target by default.
        target: target of the model, a value or a name.
        exporter: ``dynamo``, ``torchscript``, or ``auto`` for the first that succeeds.
        images: image files, or images of a source, to compare the scores on in addition to random input.
        pipeline: preprocessing of the images; by default that of the published weights, or that of ImageNet.
        tolerance: largest accepted error, relative to the largest score if that is above 1.
        reference: another implementation to compare with, with the same weights, named like ``network``.
        reference_arguments: keyword arguments of its factory.

    Raises:
        UsageError: torch is not installed; there is no such network, weights or opset; or not exactly one source of
            weights is given.
        CheckpointError: the checkpoint cannot be read or does not fit the network.
        ModelError: the network cannot be translated, or the ONNX model computes other results.
        ConfigError: the pipeline does not fit the input.
        ImageError: an image cannot be decoded.
        OutputError: the file cannot be written.

    Example:
        >>> import quantkit
        >>> done = quantkit.export("resnet50", weights="DEFAULT")  # doctest: +SKIP
    """
    target = as_target(target)
    items = [image if isinstance(image, ImageItem) else FileItem(as_path(image, "images")) for image in images]
    chosen = None if pipeline is None else load_preset(pipeline)
    path = optional_path(out, "out") or Path(f"{network.rpartition(':')[2]}.onnx")
    try:
        from quantkit.export.model import export_model
    except ModuleNotFoundError as error:
        raise UsageError(f"export needs {error.name}", fix="pip install 'quantkit[torch]'") from error
    return export_model(
        network,
        path,
        checkpoint=optional_path(checkpoint, "checkpoint"),
        weights=weights,
        random_seed=random_seed,
        num_classes=num_classes,
        arguments=arguments,
        input_size=input_size,
        input_name=input_name,
        output_name=output_name,
        opset=opset,
        target=target,
        exporter=exporter,
        images=items,
        pipeline=chosen,
        tolerance=tolerance,
        reference=reference,
        reference_arguments=reference_arguments,
    )
