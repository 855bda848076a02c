"""The models and images of ``main_job.py``, and the folder of a job: images, labels and preprocessing as files."""

import argparse
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "assets"
SUFFIXES = {".jpeg", ".jpg", ".png"}
Image = tuple[str, int]  # file and class


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image: ``resize`` is the shorter side or ``[H, W]``, then ``(x / divisor - mean) / std``."""

    resize: int | tuple[int, int] = 256
    crop: int | None = 224
    interpolation: str = "bilinear"
    divisor: float = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def as_preset(self) -> str:
        """Return it as a preset of quantkit (YAML)."""
        size = list(self.resize) if isinstance(self.resize, tuple) else self.resize
        ops: list[dict[str, Any]] = [{"op": "decode"}]
        ops.append({"op": "resize", "size": size, "interpolation": self.interpolation})
        ops += [{"op": "center_crop", "size": [self.crop, self.crop]}] if self.crop else []
        ops.append({"op": "to_tensor", "divisor": self.divisor})
        ops.append({"op": "normalize", "mean": list(self.mean), "std": list(self.std)})
        return json.dumps({"ops": ops})  # JSON is YAML


@dataclass(frozen=True)
class Case:
    """A model with its images.

    Attributes:
        model: its file.
        preprocessing: what is done to its images.
        calibration: images to draw the calibration images from.
        evaluation: images to draw the others from; those of the calibration are left out.
        trained: False if the weights are random, so that accuracy has no meaning.
        input: name of the model's input.
    """

    model: Path
    preprocessing: Preprocessing
    calibration: list[Image]
    evaluation: list[Image]
    trained: bool = True
    input: str = "input"


def in_classes(folder: Path) -> list[Image]:
    """Return the images of class folders, numbered in their order."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(str(p), n) for n, c in enumerate(folders) for p in sorted(c.iterdir()) if p.suffix.lower() in SUFFIXES]


def photographs() -> list[Image]:
    """Return the photographs kept beside the checkout: one a class of ImageNet, in the order of the classes."""
    return [(str(path), label) for label, path in enumerate(sorted((SHARED / "imagenet_samples").iterdir()))]


def cifar(part: str, folder: Path) -> list[Image]:
    """Return the images of an archive kept beside the checkout, unpacked where it is not yet."""
    if not (folder / part).is_dir():
        with zipfile.ZipFile(SHARED / f"{part}.zip") as archive:
            archive.extractall(folder)
    return in_classes(folder / part)


def cases(folder: Path, model_dir: Path) -> dict[str, Callable[[], Case]]:
    """Return the benchmark's own models, each with its images when it is asked for."""
    lite = Preprocessing(interpolation="bicubic", divisor=1, mean=(127,) * 3, std=(128,) * 3)
    at_128 = Preprocessing(resize=(128, 128), crop=None)

    def of_photos(file: Path, how: Preprocessing, *, trained: bool = True) -> Callable[[], Case]:
        return lambda: Case(file, how, photographs(), photographs(), trained)

    return {
        "squeezenet1_1": of_photos(SHARED / "squeezenet1_1.onnx", Preprocessing()),
        "mobilenetv2_cifar10": lambda: Case(
            SHARED / "mobilenetv2_cifar10.onnx",
            at_128,
            cifar("cifar10_train2k", folder),
            cifar("cifar10_test", folder),
        ),
        "efficientnet_lite0": of_photos(SHARED / "efficientnet_lite0.onnx", lite),
        "iresnet50": of_photos(model_dir / "iresnet50.onnx", Preprocessing(), trained=False),
    }


def lay_out(case: Case, folder: Path, arguments: argparse.Namespace) -> Path:
    """Draw the images, lay them out as a user has them, and return the file that describes the job."""
    rng = random.Random(0)
    chosen = rng.sample(case.calibration, min(arguments.calibrate, len(case.calibration) // 2))
    others = [image for image in case.evaluation if image not in set(chosen)]
    held_out = rng.sample(others, min(max(arguments.held_out, arguments.evaluate), len(others)))
    job: dict[str, Any] = {"input": case.input, "trained": case.trained}
    job["histogram_images"] = arguments.histogram_images
    job |= {"preprocessing": asdict(case.preprocessing), "held_out": held_out}
    for part, images in (("calibrate", chosen), ("evaluate", held_out[: arguments.evaluate])):
        (folder / part).mkdir(parents=True)
        job[part] = []
        for number, (path, label) in enumerate(images):
            copy = shutil.copyfile(path, folder / part / f"{number:05d}{Path(path).suffix}")
            job[part].append((str(copy), label))
        lines = (f"{Path(path).name} {label}\n" for path, label in job[part])
        (folder / f"{part}.txt").write_text("".join(lines))
    (folder / "preset.yaml").write_text(case.preprocessing.as_preset())
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"
