"""The vendor's build file of a run: the same model, method, preprocessing and images, for the card's compiler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantkit.config.method import Method
from quantkit.errors import ConfigError
from quantkit.files import write_text
from quantkit.graph.plan import Plan
from quantkit.run.folder import VAMC, RunFolder, RunRecord
from quantkit.vacc.calibration_folder import CalibrationFolder
from quantkit.vacc.write import BuildFile, write_build_file

MATERIALIZED = "calibration"


@dataclass(frozen=True, kw_only=True)
class VamcOptions:
    """Choices of the build file.

    Attributes:
        dialect: of ``vamc build`` or of ``vamc compile``.
        calibration_folder: where the compiler finds the calibration images; absent, ``calibration`` in the run folder.
    """

    dialect: Literal["build", "compile"] = "compile"
    calibration_folder: Path | None = None


def write_vamc(
    folder: RunFolder, record: RunRecord, method: Method, plan: Plan, suffixes: frozenset[str], options: VamcOptions
) -> tuple[Path, BuildFile]:
    """Write ``vamc.yaml`` into a run folder and return its path and what it says.

    Args:
        folder: the run folder.
        record: its record.
        method: how the compiler is to find ranges.
        plan: of the int8 model; convolutions that it skips are skipped on the card too.
        suffixes: of the calibration images, without a dot.
        options: further choices.

    Raises:
        ConfigError: nothing fixes the size of the model's input.
    """
    images = options.calibration_folder or (folder.path / MATERIALIZED).resolve()
    integer = {layer.node for layer in plan.layers}
    build = write_build_file(
        name=Path(record.model.path).stem,
        checkpoint=record.model.path,
        input_name=record.model.input,
        input_shape=(1, record.pipeline.channels, *_size(record)),
        pipeline=record.pipeline,
        method=method,
        data=CalibrationFolder(path=str(images), suffix=sorted(suffixes)[0], count=record.set.images),
        dialect=options.dialect,
        per_channel=plan.target.weights.per_channel,
        weight_scale="power2" if plan.target.weights.power_of_two else None,
        skip_conv_layers=[index for node, index in plan.conv_index.items() if node not in integer],
    )
    path = folder.path / VAMC
    write_text(path, build.text)
    return path, build


def _size(record: RunRecord) -> tuple[int, int]:
    _, _, height, width = record.model.shape
    if height is not None and width is not None:
        return height, width
    if record.pipeline.output_size is None:
        raise ConfigError(
            "neither the model nor the pipeline fixes the size of the input", fix="add a center_crop to the pipeline"
        )
    return record.pipeline.output_size
