"""``quantkit export``: writes a checked ONNX file of a network and its weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantkit.config.pipeline import Pipeline, imagenet_pipeline
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import check_pipeline, preprocess
from quantkit.errors import CheckpointError, QuantkitError, UsageError
from quantkit.export.build import (
    ImageSize,
    arguments_for_checkpoint,
    build_network,
    build_pretrained,
    describe_network,
    input_size_of,
)
from quantkit.export.checkpoint import load_weights, read_state_dict
from quantkit.export.iresnet import IRESNETS, PAPER_IRESNETS
from quantkit.export.network import count_classes, example_input, export_network
from quantkit.export.parity import Original
from quantkit.export.random_weights import give_random_weights
from quantkit.export.result import Exported
from quantkit.export.translate import Exporter
from quantkit.files import sha256_file
from quantkit.targets import ORT, Target


def export_model(
    name: str,
    out: Path,
    *,
    checkpoint: Path | None = None,
    weights: str | None = None,
    random_seed: int | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_size: ImageSize | None = None,
    input_name: str = "input",
    output_name: str = "logits",
    opset: int | None = None,
    target: Target = ORT,
    exporter: Exporter = "auto",
    images: Sequence[ImageItem] = (),
    pipeline: Pipeline | None = None,
    tolerance: float = 1e-4,
    reference: str | None = None,
    reference_arguments: Mapping[str, Any] | None = None,
) -> Exported:
    """Build a network with weights, export it with a dynamic batch, and check that the ONNX model is equivalent.

    The weights come from exactly one of ``checkpoint``, ``weights`` and ``random_seed``.

    Args:
        name: an iResNet (``iresnet50``), a torchvision classifier (``resnet50``), or ``module:factory``; see
            `quantkit.export.build.build_network`.
        out: the file to write.
        checkpoint: a ``.pth`` or ``.safetensors`` file with a state dict.
        weights: published weights of a torchvision classifier: a member of its weights enum, or ``DEFAULT``.
        random_seed: seed of random weights; see `quantkit.export.random_weights.give_random_weights`.
        num_classes: argument of the factory.
        arguments: further keyword arguments of the factory.
        input_size: ``(C, H, W)``; by default the usual size of the network.
        input_name: name of the model's input.
        output_name: name of the model's output.
        opset: version of the ONNX operator set; by default the target's `quantkit.targets.Target.export_opset`.
        target: target of the model.
        exporter: ``auto``, ``dynamo`` or ``torchscript``.
        images: real images to compare the logits on, in addition to random input.
        pipeline: preprocessing of the images; by default that of the published weights, else that of ImageNet.
        tolerance: see `quantkit.export.parity.check_parity`.
        reference: another implementation, named like ``name``. It gets the network's weights, and the written model is
            compared with it as well.
        reference_arguments: keyword arguments of its factory, in addition to ``num_classes``.

    Raises:
        UsageError: there is no such network, weights or opset, or not exactly one source of weights is given.
        CheckpointError: the checkpoint cannot be read or does not match the network, or the network's weights do not
            match the reference.
        ModelError: the network fails, cannot be translated, or the ONNX model differs from it or from the reference.
        ConfigError: the pipeline's result does not fit the input.
        ImageError: an image cannot be decoded.
        OutputError: the file cannot be written.
    """
    if [checkpoint, weights, random_seed].count(None) != 2:
        raise UsageError(
            "give one source of weights",
            fix="--checkpoint FILE, --weights NAME, or --random-weights to test the structure",
        )
    size = input_size or input_size_of(name)
    own_pipeline = None
    classes = {} if num_classes is None else {"num_classes": num_classes}
    keywords = {**(arguments or {}), **classes}
    if checkpoint is not None:
        network = _from_checkpoint(name, checkpoint, keywords)
        origin = f"sha256:{sha256_file(checkpoint)}"
    elif weights is not None:
        network, own_pipeline = build_pretrained(name, weights, keywords)
        origin = weights
    else:
        assert random_seed is not None
        torch.manual_seed(random_seed)
        network = build_network(name, keywords)
        count_classes(network.eval(), example_input(size))
        give_random_weights(network, size, random_seed)
        origin = f"random, seed {random_seed}"
    metadata = {"quantkit.network": name, "quantkit.weights": origin}
    original = None
    if reference is not None:
        original = _reference(reference, {**(reference_arguments or {}), **classes}, network)
        metadata["quantkit.reference"] = reference
    done = export_network(
        network,
        out,
        input_size=size,
        input_name=input_name,
        output_name=output_name,
        opset=target.export_opset if opset is None else opset,
        exporter=exporter,
        images=_preprocessed(images, pipeline or own_pipeline, size),
        tolerance=tolerance,
        metadata=metadata,
        description=describe_network(name),
        reference=original,
    )
    return replace(done, pipeline=own_pipeline)


def _from_checkpoint(name: str, path: Path, keywords: Mapping[str, Any]) -> nn.Module:
    state = read_state_dict(path)
    network = build_network(name, arguments_for_checkpoint(name, state) | dict(keywords))
    try:
        load_weights(network, state, where=path, network_name=name)
    except CheckpointError as error:
        other = _iresnet_of(len(state)) if name in (*IRESNETS, *PAPER_IRESNETS) else None
        if other is None:
            raise
        raise CheckpointError(error.what, where=path, fix=f"it has as many keys as {other}") from error
    return network


def _reference(name: str, keywords: Mapping[str, Any], network: nn.Module) -> Original:
    """Build another implementation of a network, with the same weights."""
    option = f"--reference {name}"
    state = network.state_dict()
    try:
        built = build_network(name, arguments_for_checkpoint(name, state) | dict(keywords))
        load_weights(built, state, where=option, network_name=name)
    except CheckpointError as error:
        faults = error.what.removeprefix(f"does not match {name}: ")
        raise CheckpointError(
            f"the weights of the exported network do not match: {faults}", where=option, fix=error.fix
        ) from error
    except QuantkitError as error:
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        raise type(error)(what, where="--reference", fix=error.fix) from error
    return Original(
        f"the reference {name}",
        built,
        "the two implementations compute different scores from the same weights: compare their forward methods",
    )


def _iresnet_of(keys: int) -> str | None:
    """Return the iResNet with this number of parameters and buffers."""
    with torch.device("meta"):
        return next((name for name, factory in IRESNETS.items() if len(factory().state_dict()) == keys), None)


def _preprocessed(
    images: Sequence[ImageItem], pipeline: Pipeline | None, size: ImageSize
) -> Iterable[NDArray[np.float32]]:
    if not images:
        return ()
    side = size[1]
    chosen = pipeline or imagenet_pipeline(resize=round(side * 256 / 224), crop=side)
    check_pipeline(chosen, *size)
    return (preprocess(image, chosen) for image in images)
