"""Calibration data as preprocessed tensors (``suffix: npz``).

The vendor's compiler then calibrates on exactly the pixels that the float model was evaluated on, independent of its
``Resize``. Inferred from the zoo's files, since it is not documented: one file per sample, with each input under its
name and with the shape in the build file, so with a batch of one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.materialize import refuse_strangers
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.errors import CalibrationSetError
from quantkit.files import make_folder
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder
from quantkit.vendors.vacc.tensors import write_npz
from quantkit.vendors.vacc.write import TENSORS


def write_calibration_tensors(
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    folder: Path,
    *,
    input_name: str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationFolder:
    """Write one float32 ``[1, C, H, W]`` tensor per image, with names that sort in the images' order.

    Args:
        images: the calibration images.
        pipeline: the preprocessing.
        folder: output folder; created if missing. It must contain only files of these images.
        input_name: name of the model's input, the key in each file.
        workers: number of threads; one per processor by default.
        progress: called with the number of images done and their total.

    Raises:
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded or preprocessed.
        ConfigError: the pipeline cannot be executed.
        OutputError: a file cannot be written, or the folder contains other files, which would be used, too.
    """
    if not images:
        raise CalibrationSetError("there are no images", where=folder)
    digits = len(str(len(images) - 1))
    targets = [
        folder / f"{place:0{digits}d}_{PurePosixPath(image.id).stem}.{TENSORS}" for place, image in enumerate(images)
    ]
    refuse_strangers(make_folder(folder), {target.name for target in targets})

    def write_one(job: tuple[ImageItem, Path]) -> None:
        image, target = job
        write_npz(target, {input_name: preprocess(image, pipeline)[None]}, durable=False)

    jobs = zip(images, targets, strict=True)
    for done, _ in enumerate(map_in_order(write_one, jobs, workers), start=1):
        if progress is not None:
            progress(done, len(images))
    return CalibrationFolder(path=str(folder), suffix=TENSORS, count=len(images))
