"""Preprocessing from the vendor's files: the operations of a build file, or a ``vdsp_params.json``."""

from pathlib import Path
from typing import NamedTuple

from quantkit.config.pipeline import Pipeline
from quantkit.errors import ConfigError
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.ops import pipeline_from_ops
from quantkit.vendors.vacc.vdsp import VdspParams, load_vdsp, recognise

_OPS_FIX = "write the preprocessing as a YAML file with ops"


class VendorPreset(NamedTuple):
    """The preprocessing of a vendor file.

    Attributes:
        pipeline: the preprocessing.
        notes: what was inferred.
    """

    pipeline: Pipeline
    notes: tuple[str, ...]


def preset_of_build_file(path: Path) -> VendorPreset:
    """Return the preprocessing of a build file of either dialect: its ``process_ops`` or ``transform_ops``.

    Raises:
        VendorFileError: the file cannot be read as a build file.
        ConfigError: it has no operations, or some without an equivalent in a pipeline.
    """
    data = read_spec(Document.load(path)).dataset
    if data is None or not data.process_ops:
        raise ConfigError(
            "the build file has no preprocessing operations (process_ops or transform_ops)", where=path, fix=_OPS_FIX
        )
    reading = pipeline_from_ops(data.process_ops)
    if reading.pipeline is None:
        raise _no_pipeline(path, reading.notes)
    return VendorPreset(reading.pipeline, reading.notes)


def preset_of_vdsp(path: Path) -> VendorPreset:
    """Return the preprocessing of a ``vdsp_params.json``, with mean and std before rounding to half precision.

    Raises:
        VendorFileError: the file cannot be read as vdsp_params.
        ConfigError: the fused operation has no equivalent in a pipeline, or the file has no sizes.
    """
    params = load_vdsp(path)
    reading = recognise(params)
    if reading.nominal is None:
        raise _no_pipeline(path, reading.notes)
    if not _has_sizes(params):
        raise ConfigError(
            "the file has no sizes (OimageHeight, OimageWidth): vamp sets them when it runs the model",
            where=path,
            fix="add them to a copy of the file, or " + _OPS_FIX,
        )
    return VendorPreset(reading.nominal, reading.notes)


def _has_sizes(params: VdspParams) -> bool:
    return None not in (params.config.output_height, params.config.output_width)


def _no_pipeline(path: Path, notes: tuple[str, ...]) -> ConfigError:
    return ConfigError(f"its preprocessing is not supported: {'; '.join(notes)}", where=path, fix=_OPS_FIX)
