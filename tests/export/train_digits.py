"""Creates the demo's assets: the digits in one small file, and a miniature iResNet trained on them.

Run as ``python tests/export/train_digits.py`` with quantkit[torch] installed; with ``--digits`` it first writes the
images again, which needs scikit-learn. The same version of torch and the same type of CPU give the same model.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import quantkit
from quantkit import files
from quantkit.config.pipeline import PRESETS
from quantkit.data.preprocess import value_tables
from quantkit.export.iresnet import Conv, IResNet, bottleneck_convs
from quantkit.export.network import export_network

DEMO = Path(quantkit.__file__).parent / "demo"

SEED = 0
EPOCHS = 60
BATCH = 50
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4
TRAIN_PER_CLASS = 90
CALIBRATION_PER_CLASS = 20

# The paper's form, as in the shipped file.
mini_iresnet = partial(
    IResNet,
    bottleneck_convs,
    (4, 4),
    num_classes=10,
    in_channels=1,
    stem=Conv(16, 3),
    widths=(16, 20),
    strides=(1, 2),
    groups=(1, 1),
    rectified_shortcut=False,
)


class LabelledDigits(NamedTuple):
    """The bundled digits.

    Attributes:
        images: uint8 ``[1797, 8, 8]``.
        labels: int64 ``[1797]``.
        train: indices of the training images.
        calibration: indices of the calibration images.
        test: indices of the test images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    train: NDArray[np.int64]
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]


def write_digits(path: Path) -> None:
    """Write scikit-learn's copy of the digits, scaled to 8 bits, with stratified indices of three parts.

    A value v of 0..16 becomes ``(255 v + 8) // 16``, that is 255 v / 16 rounded half up.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = ((source.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    labels = source.target.astype(np.uint8)
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    generator = np.random.default_rng(SEED)
    for digit in range(10):
        of_digit = generator.permutation(np.flatnonzero(labels == digit))
        bounds = (TRAIN_PER_CLASS, TRAIN_PER_CLASS + CALIBRATION_PER_CLASS)
        for part, indices in zip(parts, np.split(of_digit, bounds), strict=True):
            part.append(indices)
    train, calibration, test = (np.sort(np.concatenate(part)).astype(np.int16) for part in parts)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels, train=train, calibration=calibration, test=test)


def read_digits(path: Path) -> LabelledDigits:
    """Read a file of `write_digits`."""
    with np.load(path, allow_pickle=False) as archive:
        return LabelledDigits(
            archive["images"], *(archive[name].astype(np.int64) for name in ("labels", "train", "calibration", "test"))
        )


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Return float32 ``[N, 1, 8, 8]``, preprocessed as by the preset ``digits``."""
    table = value_tables(PRESETS["digits"])[0]
    return torch.from_numpy(table[images][:, np.newaxis])


def train(digits: LabelledDigits, epochs: int = EPOCHS) -> nn.Module:
    """Train the network: SGD with momentum, one cycle of the learning rate, shifts by one pixel."""
    torch.manual_seed(SEED)
    network = mini_iresnet()
    images, labels = to_input(digits.images[digits.train]), torch.from_numpy(digits.labels[digits.train])
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(network(_shifted(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _shifted(images: Tensor) -> Tensor:
    """Shift a batch by -1, 0 or 1 pixel along each axis, filling with black."""
    down, right = (int(shift) for shift in torch.randint(0, 3, (2,)))
    return functional.pad(images, (1, 1, 1, 1), value=-1.0)[:, :, down : down + 8, right : right + 8]


def accuracy(network: nn.Module, digits: LabelledDigits, part: NDArray[np.int64]) -> float:
    """Return the top-1 accuracy in percent."""
    with torch.inference_mode():
        predictions = network(to_input(digits.images[part])).argmax(1).numpy()
    return float(100.0 * (predictions == digits.labels[part]).mean())


def main(arguments: list[str] | None = None) -> None:
    """Train, print the accuracy, and write the model with its provenance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--digits", action="store_true", help="write digits.npz first (needs scikit-learn)")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder of digits.npz and of the output")
    options = parser.parse_args(arguments)
    # A fixed order of sums, independent of the number of processors.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = options.out / "digits.npz"
    if options.digits:
        write_digits(data)
    digits = read_digits(data)
    network = train(digits)
    parts = {"train": digits.train, "calibration": digits.calibration, "test": digits.test}
    top1 = {name: round(accuracy(network, digits, part), 3) for name, part in parts.items()}
    exported = export_network(network, options.out / "mini_iresnet.onnx", input_size=(1, 8, 8))
    files.write_json(
        options.out / "mini_iresnet.json",
        {
            "network": "a miniature iResNet (arXiv 2004.04989, the paper's form): 3x3 stem, two stages of four "
            "bottleneck blocks",
            "trained_by": "python tests/export/train_digits.py",
            "seed": SEED,
            "epochs": EPOCHS,
            "parameters": exported.parameters,
            "fp32_top1_percent": top1,
            "images": {name: len(part) for name, part in parts.items()},
            "torch": torch.__version__.split("+")[0],
            "exporter": exported.exporter,
            "opset": exported.opset,
            "max_abs_error_to_torch": exported.parity.max_abs_error,
            "digits_sha256": files.sha256_file(data),
            "onnx_sha256": files.sha256_file(exported.path),
        },
    )
    sys.stdout.write(
        f"fp32 top-1: {top1['test']} % of {len(digits.test)} test digits, {top1['train']} % of the training digits\n"
        f"{exported.path}: {exported.path.stat().st_size} bytes, {exported.parameters} parameters\n"
    )


if __name__ == "__main__":
    main()
