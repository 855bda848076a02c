"""The command lines of ``vamp``, the vendor's runner, for a compiled model.

Their form, and the location of the compiled model, follow the vendor's public notes; they were not run on a card.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantkit.errors import VendorFileError
from quantkit.vendors.vacc.dialects import BuildSpec, Dialect

VDSP_FILE = Path("vdsp_params.json")


@dataclass(frozen=True, kw_only=True)
class VampRun:
    """Settings of a run of the compiled model.

    Attributes:
        model: path of the compiled model without a suffix, ``DIR/mod``.
        vdsp: path of the ``vdsp_params.json``.
        size: ``(C, H, W)`` of synthetic images for a performance run; None for the runner's default.
        instances: model instances on the card (``-i``).
        processes: processes that feed the instances (``-p``).
        batch: images per batch (``-b``).
    """

    model: str
    vdsp: str
    size: tuple[int, int, int] | None = None
    instances: int = 8
    processes: int = 1
    batch: int = 22

    def performance(self) -> str:
        """Return the command that measures throughput."""
        return shlex.join(self._words())

    def accuracy(self, datalist: str, results: str) -> str:
        """Return the command that runs the datalist and writes one result per line into a folder."""
        return shlex.join([*self._words(), "--datalist", datalist, "--path_output", results])

    def _words(self) -> list[str]:
        words = ["vamp", "-m", self.model, "--vdsp_params", self.vdsp]
        words += ["-i", str(self.instances), "-p", str(self.processes), "-b", str(self.batch)]
        return words if self.size is None else [*words, "-s", "[" + ",".join(map(str, self.size)) + "]"]


def default_vdsp(build: Path | None) -> Path:
    """Return the ``vdsp_params.json`` in the folder of a build file, else in the current folder."""
    default = VDSP_FILE if build is None else build.parent / VDSP_FILE
    return default if default.is_file() else VDSP_FILE


def compiled_model(spec: BuildSpec, dialect: Dialect) -> str:
    """Return the path of the compiled model of a build file.

    Compile dialect: ``WORKSPACE/NAME/mod``. Build dialect: ``WORKSPACE/NAME-PRECISION-METHOD-SHAPE-ENGINE/NAME``,
    as ``iresnet50-int8-percentile-3_224_224-vacc/iresnet50``.

    Raises:
        VendorFileError: the file has no name or no workspace.
    """
    workspace = spec.workspace.path if spec.workspace else None
    if spec.name is None or workspace is None:
        raise VendorFileError("the build file has no name or no workspace", fix="give --model DIR/mod")
    if dialect == "compile":
        return str(PurePosixPath(workspace) / spec.name / "mod")
    shape = "_".join(str(side) for side in next(iter(spec.inputs.values()), [])[1:])
    precision, quantize, engine = spec.backend.dtype, spec.backend.quantize, spec.backend.type
    method = quantize.calibrate_mode if precision == "int8" and quantize is not None else "none"
    engine = "vacc" if engine == "tvm_vacc" else engine
    folder = "-".join(filter(None, (spec.name, precision, method, shape, engine)))
    return str(PurePosixPath(workspace) / folder / spec.name)


def picture_size(spec: BuildSpec) -> tuple[int, int, int] | None:
    """Return ``(C, H, W)`` of the only input, if it is an image of fixed size."""
    shapes = list(spec.inputs.values())
    if len(shapes) == 1 and len(shapes[0]) == 4 and all(type(side) is int and side > 0 for side in shapes[0]):
        return shapes[0][1], shapes[0][2], shapes[0][3]
    return None
