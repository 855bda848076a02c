"""The run folder: its files and its record, ``run.json``."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantkit.config.method import Method, recorded_method
from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.errors import CalibrationSetError, ConfigError, ModelError, OutputError, ProvenanceError, UsageError
from quantkit.files import make_folder, reason, sha256_json, write_json
from quantkit.graph.model import model_digest
from quantkit.runs.cache import FOLDER as CACHE
from quantkit.runs.cache import ResultCache

RECORD = "run.json"
VERSION: Literal[1] = 1
STATISTICS = "statistics.safetensors"
PARTIAL = "statistics.partial.safetensors"
RANGES = "ranges.csv"
INT8 = "int8"
FP32 = "fp32"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """The fp32 model of a run.

    Attributes:
        path: absolute path of the ONNX file; in the file, relative to the run folder.
        absolute: in the file, the absolute path of the ONNX file at the time of writing.
        sha256: digest of the file and its external data.
        input: name of the image input.
        shape: ``[N, C, H, W]`` of that input, null if dynamic.
        output: name of the output with the scores.
        classes: number of classes, null if unknown.
        layout: order of the axes of the image input in the file.
        dtype: element type of the image input in the file.
        inputs: values of the other inputs.
    """

    path: str
    absolute: str = ""
    sha256: str
    input: str
    shape: tuple[int | None, int | None, int | None, int | None]
    output: str
    classes: int | None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: str = "float32"
    inputs: dict[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """A digest of the model file, and of the values of its other inputs if it has any."""
        return self.sha256 if not self.inputs else sha256_json({"model": self.sha256, "inputs": self.inputs})


class SetRecord(_Record):
    """The calibration set of a run.

    Attributes:
        path: absolute path of the manifest, empty for a set that was never saved; in the file, relative to the run
            folder.
        absolute: in the file, the absolute path of the manifest at the time of writing.
        images_root: location of the images if it differs from the manifest, else empty.
        digest: digest of the content, independent of the location of the images.
        images: number of images.
        images_used: number of images of the pass (fewer if it stopped when stable).
        outliers: sha256 of the outlier images.
        suffix: suffix of the image files, without a dot (the first in order if there are several).
        array_shape: ``(C, H, W)`` of float32 arrays without preprocessing, None for encoded images.
    """

    path: str
    absolute: str = ""
    images_root: str = ""
    digest: str
    images: int
    images_used: int
    outliers: tuple[str, ...] = ()
    suffix: str = ""
    array_shape: tuple[int, int, int] | None = None


class QuantizedRecord(_Record):
    """One quantized model of a run.

    Attributes:
        file: file name in the run folder, or an absolute path.
        sha256: digest of the file.
        target: target of the model.
        method: name of the method.
        options: all other options that the file depends on.
        fp32: file name of the fp32 model with corrected biases for a compiler that quantizes by itself, or null.
        selection: comparison by which method ``auto`` chose the method, null if it was named.
    """

    file: str
    sha256: str
    target: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    fp32: str | None = None
    selection: dict[str, Any] | None = None

    @property
    def solved_by(self) -> Method:
        """The method with its settings.

        Raises:
            UsageError: it does not exist.
        """
        return recorded_method(self.method, self.options)

    @property
    def is_tuned(self) -> bool:
        """Whether a search made it."""
        return "recipe" in self.options

    @property
    def keeps_outliers(self) -> bool:
        """Whether its ranges include outlier images."""
        return self.options.get("keep_outliers") is True


class RunRecord(_Record):
    """``run.json``: the inputs and results of a run.

    Attributes:
        version: version of the format.
        quantkit: version of the program.
        model: the fp32 model.
        set: the calibration set.
        pipeline: the preprocessing.
        quantized: the quantized models, by name.
        backends: options of the vendors' files, by backend.
        configuration: the effective settings of the commands that wrote into the run; see
            `quantkit.runs.configuration`.
        observed_on: device of the calibration pass, as `quantkit.DevicePlacement.to_json`; empty in older runs.
        written: digests of files that users may edit, by name, as they were written; see
            `quantkit.runs.editable_files`.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> quantkit.relink("run", set_="calibration.csv").set.images
        200
    """

    version: Literal[1] = VERSION
    quantkit: str
    model: ModelRecord
    set: SetRecord
    pipeline: Pipeline
    quantized: dict[str, QuantizedRecord] = Field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict)
    configuration: dict[str, Any] = Field(default_factory=dict)
    observed_on: dict[str, Any] = Field(default_factory=dict)
    written: dict[str, str] = Field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images after preprocessing, None if they differ between images."""
        return self.pipeline.output_size if self.set.array_shape is None else self.set.array_shape[1:]


class RunFolder:
    """One run folder on disk.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def statistics(self) -> Path:
        """The statistics file."""
        return self.path / STATISTICS

    @property
    def partial(self) -> Path:
        """The checkpoint of an unfinished pass."""
        return self.path / PARTIAL

    @property
    def cache(self) -> ResultCache:
        """The cached results of the run."""
        return ResultCache(self.path / CACHE)

    def create(self) -> None:
        """Create the folder, and check that it is writable.

        Raises:
            OutputError: the folder cannot be created or written.
        """
        make_folder(self.path)
        if not os.access(self.path, os.W_OK):
            raise OutputError("the run folder cannot be written (permission denied)", where=self.path)

    @contextlib.contextmanager
    def locked(self, wait_s: float = 0.0) -> Iterator[None]:
        """Context manager that prevents other processes from writing the run.

        The operating system releases the lock when the process ends.

        Args:
            wait_s: seconds to wait for another process that holds the run.

        Raises:
            OutputError: the run folder cannot be written.
            UsageError: another process has locked the run.
        """
        self.create()
        lock = FileLock(self.path / ".lock", timeout=wait_s)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                "another quantkit process is using this run",
                where=self.path,
                fix="wait for it, or use another --run",
            ) from None
        except OSError as error:
            raise OutputError(f"the run folder cannot be written ({reason(error)})", where=self.path) from error
        try:
            yield
        finally:
            lock.release()

    def read(self) -> RunRecord:
        """Read ``run.json``.

        Raises:
            UsageError: this is not a run folder.
            ConfigError: the file is damaged, or of another version.
        """
        path = self.path / RECORD
        try:
            return _located(RunRecord.model_validate_json(path.read_bytes()), self.path)
        except FileNotFoundError:
            named = Path("runs") / self.path
            fix = f"give {named}" if (named / RECORD).is_file() else "run quantkit calibrate first"
            raise UsageError("this is not a run folder", where=self.path, fix=fix) from None
        except OSError as error:
            raise ConfigError(f"cannot be read ({reason(error)})", where=path) from error
        except ValidationError as error:
            fix = "give another --run, or replace this one with quantkit calibrate --fresh"
            raise ConfigError(_record_fault(error, path), where=path, fix=fix) from error

    def write(self, record: RunRecord) -> None:
        """Write ``run.json``, with paths relative to the folder if possible."""
        plain = json.loads(record.model_dump_json())
        for entry in (plain["model"], plain["set"]):
            if entry["path"]:
                entry["absolute"], entry["path"] = entry["path"], _relative(Path(entry["path"]), self.path)
        write_json(self.path / RECORD, plain)

    def fp32(self, record: RunRecord) -> Path:
        """Return the path of the fp32 model, after checking that it has not changed since the calibration.

        Raises:
            ModelError: the model is missing.
            ProvenanceError: the model has changed.
        """
        path = Path(record.model.path)
        if not path.is_file():
            raise ModelError(
                "the fp32 model of this run is missing",
                where=path,
                fix="restore it, or record its new location: quantkit relink RUN --model FILE",
            )
        if model_digest(path) != record.model.sha256:
            raise ProvenanceError(
                "the fp32 model has changed since the calibration of this run",
                where=path,
                fix="run quantkit calibrate again",
            )
        return path

    def model(self, name: str, record: RunRecord) -> Path:
        """Return the path of a model by its name in the run: ``fp32``, ``int8``, or another quantized model.

        Raises:
            UsageError: the run has no such model; the message lists its models.
        """
        if name == FP32:
            return self.fp32(record)
        if name in record.quantized:
            return self.path / record.quantized[name].file
        names = ", ".join([FP32, *record.quantized])
        raise UsageError(
            f"the run has no model {name!r}", where=self.path, fix=f"it has {names}; or give a path to an ONNX file"
        )


def _record_fault(error: ValidationError, path: Path) -> str:
    """Return why ``run.json`` is not read: by its version and keys it is of another version of quantkit, or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        plain = json.loads(path.read_bytes())
        if isinstance(plain, dict) and isinstance(written_by := plain.get("quantkit"), str):
            kinds = {fault["type"] for fault in error.errors()}
            if plain.get("version") != VERSION or kinds <= {"extra_forbidden", "missing"}:
                return f"was written by another version of quantkit ({written_by[:20]}) and is not read"
    fault = error.errors()[0]
    return f"is damaged ({'.'.join(map(str, fault['loc']))}: {fault['msg']})"


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to the run folder with forward slashes, or the absolute path if there is none."""
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(path)


def _located(record: RunRecord, folder: Path) -> RunRecord:
    """Return the record with the current absolute paths of model and set."""
    model = record.model
    model = model.model_copy(update={"path": _locate(folder, model.path, model.absolute, model.sha256, _model_digest)})
    chosen = record.set
    if chosen.path:
        found = _locate(folder, chosen.path, chosen.absolute, chosen.digest, set_digest)
        chosen = chosen.model_copy(update={"path": found})
    return record.model_copy(update={"model": model, "set": chosen})


def _locate(folder: Path, path: str, absolute: str, digest: str, digest_of: Callable[[Path], str | None]) -> str:
    """Return the location of a recorded file: the relative or absolute path, or a file with the same digest nearby."""
    relative = Path(os.path.normpath(folder.resolve() / path))
    if relative.is_file():
        return str(relative)
    if absolute and Path(absolute).is_file():
        return absolute
    for near in dict.fromkeys((folder.resolve().parent, folder.resolve(), folder.resolve().parent.parent, Path.cwd())):
        for candidate in sorted(near.glob(f"*{relative.suffix}")):
            if digest_of(candidate) == digest:
                return str(candidate)
    return absolute or str(relative)


def _model_digest(path: Path) -> str | None:
    try:
        return model_digest(path)
    except ModelError:
        return None


def set_digest(path: Path) -> str | None:
    """Return the digest of the set in a manifest, None if it cannot be read."""
    try:
        return CalibrationSet.load(path).digest
    except CalibrationSetError:
        return None
