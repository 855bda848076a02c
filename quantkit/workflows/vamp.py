"""``quantkit vamp inputs``: write labelled images as inputs of the card's runner, with their preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.config.pipeline import Pipeline
from quantkit.data.folder import find_labelled_images
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import ImageError
from quantkit.files import write_text
from quantkit.progress import Progress, as_progress
from quantkit.vendors.vacc.card_preprocessing import card_warning
from quantkit.vendors.vacc.inputs import DATALIST, InputsReport, plan_inputs, write_datalist, write_inputs
from quantkit.vendors.vacc.yaml_text import dump
from quantkit.workflows.presets import PresetSource, load_preset
from quantkit.workflows.vacc.device_results import PREPROCESSING


@dataclass(frozen=True)
class CardInputs:
    """Result of `write_card_inputs`.

    Attributes:
        report: all files, and images that cannot be decoded.
        datalist: path of the datalist.
        notes: remarks for the user.
    """

    report: InputsReport
    datalist: Path
    notes: tuple[str, ...]


def write_card_inputs(
    images: ImagesLike,
    out: Path,
    *,
    labels: Path | None = None,
    names: Path | None = None,
    pipeline: PresetSource | None = None,
    exif: bool | None = None,
    datalist: Path | None = None,
    skip_broken: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CardInputs:
    """Write every image un-resized as ``CLASS/NAME.npz``, the datalist, and a preset file of the preprocessing.

    Args:
        images: a folder, an archive, parquet, shards or a URL.
        out: folder to write.
        labels: label file, if folder and file names do not give the classes.
        names: class names, if labels are names; folders are never named by them.
        pipeline: preprocessing for the card, see `load_preset`; its EXIF setting applies.
        exif: whether to apply the EXIF orientation; by default as set by the pipeline, else False.
        datalist: where to write the list; ``npz_datalist.txt`` in ``out`` by default.
        skip_broken: leave out images that cannot be decoded, and the damaged parts of archives.
        threads: number of worker threads; one per processor by default.
        progress: receives the progress.

    Raises:
        CalibrationSetError: there are no images, or two images would be written to the same file.
        LabelError: the classes are unknown.
        ImageError: images cannot be decoded, unless ``skip_broken``.
        ConfigError: the preset is not valid.
        OutputError: a file cannot be written.
    """
    preprocessing = None if pipeline is None else load_preset(pipeline)
    if exif is not None and preprocessing is not None:
        preprocessing = preprocessing.with_exif(exif)
    applied = bool(exif) if preprocessing is None else preprocessing.decode.exif
    found = find_labelled_images(images, labels, names, skip_damaged=skip_broken)
    count = as_progress(progress).task("writing inputs", "images")
    report = write_inputs(plan_inputs(found, out), exif=applied, workers=threads, progress=count)
    if report.broken and not skip_broken:
        raise _broken(report.broken, len(found.names))
    path = datalist or out / DATALIST
    write_datalist(path, report.files)
    if preprocessing is None:
        (out / PREPROCESSING).unlink(missing_ok=True)  # from an earlier call with known preprocessing
    else:
        ops = [op.model_dump(mode="json") for op in preprocessing.ops]
        write_text(out / PREPROCESSING, dump({"ops": ops}))
    notes = (*found.warnings, *_path_notes(report), *_exif_notes(report, applied), *_card_notes(preprocessing))
    return CardInputs(report, path, notes)


def _broken(faults: Sequence[ImageError], total: int) -> ImageError:
    shown = "; ".join(str(fault) for fault in faults[:5]) + ("; ..." if len(faults) > 5 else "")
    return ImageError(
        f"{len(faults)} of {total} images cannot be decoded: {shown}", fix="replace them, or --skip-broken"
    )


def _path_notes(report: InputsReport) -> list[str]:
    odd = next((str(file.npz.absolute()) for file in report.files if ":" in str(file.npz.absolute())), None)
    if odd is None:
        return []
    return [f"the vendor's eval_topk cannot read paths with a colon, such as {odd}; use another --out"]


def _exif_notes(report: InputsReport, applied: bool) -> list[str]:
    if not report.turned:
        return []
    images = f"{report.turned} image{'s' if report.turned > 1 else ''}"
    if applied:
        return [f"the EXIF orientation of {images} was applied, as the vendor's image2npz does; --no-exif ignores it"]
    return [
        f"the EXIF orientation of {images} was ignored, as torchvision does; the vendor's image2npz applies it (--exif)"
    ]


def _card_notes(preprocessing: Pipeline | None) -> list[str]:
    warning = None if preprocessing is None else card_warning(preprocessing)
    return [] if warning is None else [warning]
