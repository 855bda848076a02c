"""The run folder: what a calibration leaves, and where each part of it lies."""

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
        absolute: in the file, where the ONNX file was when it was written.
        sha256: digest of the file and its external data.
        input: name of its image input.
        shape: ``[N, C, H, W]`` of that input, null where dynamic.
        output: name of its scores.
        classes: number of classes, null where the model does not say.
        layout: order of the axes of the image input in the file.
        dtype: its element type in the file.
        inputs: values of the inputs beside the image.
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
        """A digest of what the model computes: of its file, and of the values of its other inputs where it has any."""
        return self.sha256 if not self.inputs else sha256_json({"model": self.sha256, "inputs": self.inputs})


class SetRecord(_Record):
    """The calibration set of a run.

    Attributes:
        path: absolute path of the manifest, empty for a set that was never saved; in the file, relative to the run
            folder.
        absolute: in the file, where the manifest was when it was written.
        images_root: place of the images where it is not the one that the manifest names, empty otherwise.
        digest: of its content, wherever the images lie.
        images: how many there are.
        images_used: how many the pass saw (fewer where it stopped when stable).
        outliers: those of them that drive activations far beyond all others, by sha256.
        suffix: ending of the image files, without a dot (the first in order where there are several).
        ready_arrays: whether they were float32 arrays, which were not preprocessed.
    """

    path: str
    absolute: str = ""
    images_root: str = ""
    digest: str
    images: int
    images_used: int
    outliers: tuple[str, ...] = ()
    suffix: str = ""
    ready_arrays: bool = False


class QuantizedRecord(_Record):
    """One quantized model of a run.

    Attributes:
        file: file name in the run folder, or an absolute path.
        sha256: its digest.
        target: what it was quantized for.
        method: name of the method.
        options: all other choices that its bits depend on.
        fp32: file name of the fp32 model with corrected biases for a compiler that quantizes by itself, null where
            there is none.
        selection: how method ``auto`` chose the method, null where it was named.
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
    def keeps_outliers(self) -> bool:
        """Whether its ranges are set for all images, also for those that go far beyond all others."""
        return self.options.get("keep_outliers") is True


class RunRecord(_Record):
    """``run.json``: what was made from what.

    Attributes:
        version: of this format.
        quantkit: version of the program.
        model: the fp32 model.
        set: the calibration set.
        pipeline: the preprocessing.
        quantized: the quantized models, by name.
        backends: options of the vendors' files, by backend.
        configuration: the merged settings of the calibration: those given, of quantkit.yaml, and defaults.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> quantkit.relink("run", set_="calibration.csv").set.images
        200
    """

    version: int = 1
    quantkit: str
    model: ModelRecord
    set: SetRecord
    pipeline: Pipeline
    quantized: dict[str, QuantizedRecord] = Field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict)
    configuration: dict[str, Any] = Field(default_factory=dict)


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
        """Where an unfinished pass keeps its place."""
        return self.path / PARTIAL

    @property
    def cache(self) -> ResultCache:
        """The cached results of the run."""
        return ResultCache(self.path / CACHE)

    def create(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            OutputError: it cannot.
        """
        make_folder(self.path)
        if not os.access(self.path, os.W_OK):
            raise OutputError("the run folder cannot be written (permission denied)", where=self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the run at the same time.

        The system frees the lock when the process ends, however it ends.

        Raises:
            UsageError: another process holds the run.
        """
        self.create()
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                "another quantkit process is at work on this run",
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
            UsageError: this is no run folder.
            ConfigError: the file is damaged.
        """
        path = self.path / RECORD
        try:
            return _located(RunRecord.model_validate_json(path.read_bytes()), self.path)
        except FileNotFoundError:
            raise UsageError("this is not a run folder", where=self.path, fix="run quantkit calibrate first") from None
        except OSError as error:
            raise ConfigError(f"cannot be read ({reason(error)})", where=path) from error
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise ConfigError(
                f"is damaged ({key}: {fault['msg']})", where=path, fix="run quantkit calibrate again"
            ) from error

    def write(self, record: RunRecord) -> None:
        """Write ``run.json``, paths relative to the folder where they can be."""
        plain = json.loads(record.model_dump_json())
        for entry in (plain["model"], plain["set"]):
            if entry["path"]:
                entry["absolute"], entry["path"] = entry["path"], _relative(Path(entry["path"]), self.path)
        write_json(self.path / RECORD, plain)

    def fp32(self, record: RunRecord) -> Path:
        """Return the fp32 model's path, after a look that it is still the one the run was made from.

        Raises:
            ModelError: it is gone.
            ProvenanceError: it has changed.
        """
        path = Path(record.model.path)
        if not path.is_file():
            raise ModelError(
                "the fp32 model of this run is missing",
                where=path,
                fix="put it back, or say where it is: quantkit relink RUN --model FILE",
            )
        if model_digest(path) != record.model.sha256:
            raise ProvenanceError(
                "the fp32 model is not the one this run was calibrated with",
                where=path,
                fix="run quantkit calibrate again",
            )
        return path

    def model(self, name: str, record: RunRecord) -> Path:
        """Return the path of a model by its name in the run: ``fp32``, ``int8``, or another that was quantized here.

        Raises:
            UsageError: the run has no such model; names those it has.
        """
        if name == FP32:
            return self.fp32(record)
        if name in record.quantized:
            return self.path / record.quantized[name].file
        names = ", ".join([FP32, *record.quantized])
        raise UsageError(
            f"the run has no model {name!r}", where=self.path, fix=f"it has {names}; or give a path to an ONNX file"
        )


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to the run folder with forward slashes; the absolute one where there is no such path."""
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(path)


def _located(record: RunRecord, folder: Path) -> RunRecord:
    """Return the record with the absolute paths of where model and set are now."""
    model = record.model
    model = model.model_copy(update={"path": _locate(folder, model.path, model.absolute, model.sha256, _model_digest)})
    chosen = record.set
    if chosen.path:
        found = _locate(folder, chosen.path, chosen.absolute, chosen.digest, _set_digest)
        chosen = chosen.model_copy(update={"path": found})
    return record.model_copy(update={"model": model, "set": chosen})


def _locate(folder: Path, path: str, absolute: str, digest: str, digest_of: Callable[[Path], str | None]) -> str:
    """Return where a recorded file is: the relative path, the absolute one, or a file of the same digest nearby."""
    beside = Path(os.path.normpath(folder.resolve() / path))
    if beside.is_file():
        return str(beside)
    if absolute and Path(absolute).is_file():
        return absolute
    for near in dict.fromkeys((folder.resolve().parent, folder.resolve(), folder.resolve().parent.parent, Path.cwd())):
        for candidate in sorted(near.glob(f"*{beside.suffix}")):
            if digest_of(candidate) == digest:
                return str(candidate)
    return absolute or str(beside)


def _model_digest(path: Path) -> str | None:
    try:
        return model_digest(path)
    except ModelError:
        return None


def _set_digest(path: Path) -> str | None:
    try:
        return CalibrationSet.load(path).digest
    except CalibrationSetError:
        return None
