"""Statistics of a model with their provenance, in one safetensors file without pickle.

The file contains four vectors with the tensors of the model concatenated: ``gaps`` (uint16, differences of occupied
bins), ``counts`` (uint32), and for values that do not fit these, ``wide`` (int64 rows of position and count) and
``far`` (int64 rows of position and bin). ``extremes`` is float32 ``[images, tensors, 2]``. Everything else is JSON in
the header.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from quantkit.config.arguments import AnyPath, as_path
from quantkit.errors import ProvenanceError, StatisticsError
from quantkit.files import write_bytes
from quantkit.numerics import NUMERIC_VERSION
from quantkit.stats.bins import MANTISSA_BITS
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.observed import Observed
from quantkit.stats.tensor import TensorStatistics
from quantkit.types import Float32Array

FORMAT = "quantkit-statistics"
# 2: all rows of tensors with a first axis other than the batch are counted; 3: extremes of every image; 4: the version
# of the arithmetic, and what convergence was tracked for.
FORMAT_VERSION = 4

# Exceptions of the readers for damaged content; those of pydantic are ValueErrors.
_FAULTS = (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError)

STATISTICS_FILE = "statistics.safetensors"
_START = 9
_KINDS = {
    ".onnx": "an ONNX model",
    ".csv": "a CSV file (a calibration set or a table)",
    ".json": "a JSON file",
    ".npz": "a NumPy archive",
    ".npy": "a NumPy array",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
    ".html": "an HTML page",
}
_SCALARS = ("count", "zeros", "lo", "hi", "nan", "positive_infinities", "negative_infinities")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Provenance of statistics; files from different inputs are never mixed.

    Attributes:
        model_sha256: digest of the fp32 model and its external data.
        pipeline_sha256: digest of the preprocessing.
        quantkit: version of quantkit.
        onnxruntime: version of onnxruntime.
        device: device that ran the model, in one line.
        numerics: version of quantkit's arithmetic, of preprocessing, prepared models and observer.
    """

    model_sha256: str
    pipeline_sha256: str
    quantkit: str
    onnxruntime: str
    device: str = "cpu"
    numerics: int = NUMERIC_VERSION

    def require_current(self, where: object) -> None:
        """Raise if statistics were observed with another version of quantkit's arithmetic.

        Raises:
            ProvenanceError: they were.
        """
        if self.numerics != NUMERIC_VERSION:
            raise ProvenanceError(
                f"the statistics were observed by quantkit {self.quantkit}, whose arithmetic is another "
                f"(version {self.numerics}, not {NUMERIC_VERSION})",
                where=where,
                fix="run quantkit calibrate again",
            )

    def require_same(self, other: "Provenance", where: object) -> None:
        """Raise if statistics are of another model, preprocessing, arithmetic or device.

        Raises:
            ProvenanceError: the message says what differs and what to repeat.
        """
        for name, words in (("model_sha256", "another model"), ("pipeline_sha256", "another preprocessing")):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ProvenanceError(
                    f"the statistics are of {words} ({theirs[:12]}, not {mine[:12]})",
                    where=where,
                    fix="run quantkit calibrate again",
                )
        if self.numerics != other.numerics:
            raise ProvenanceError(
                f"these statistics were observed by quantkit {other.quantkit}, with another arithmetic than those of "
                f"{self.quantkit}",
                where=where,
                fix="run quantkit calibrate for all shards with the same version",
            )
        if self.device != other.device:
            raise ProvenanceError(
                f"these statistics were observed on {other.device}, not on {self.device}: devices round otherwise",
                where=where,
                fix="run quantkit calibrate for all shards with the same --device",
            )


@dataclass(frozen=True, eq=False)
class Statistics(Observed):
    """Statistics of every observed tensor over a set of images, with their provenance.

    Attributes:
        provenance: the inputs of the pass.
        images: sha256 of every observed image, sorted, independent of the order of the pass. The rows of ``extremes``
            are in this order.
        convergence: convergence points of the pass.
        checkpoint: what the convergence points were tracked for, by method, and the state of an unfinished pass; JSON
            values.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> statistics = quantkit.load_statistics("run/statistics.safetensors")
        >>> len(statistics.images), statistics.tensors["input"].hi
        (200, 1.0)
    """

    provenance: Provenance
    images: tuple[str, ...]
    convergence: list[ConvergencePoint] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)

    @property
    def outlier_images(self) -> tuple[str, ...]:
        """The sha256 of outlier images, with activations far beyond those of the others."""
        return tuple(self.images[row] for row in self.outliers)

    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of images, bit-identical to one pass over all of them.

        Raises:
            ProvenanceError: the two come from different models, preprocessing or devices, or share images.
            StatisticsError: they have different tensors.
        """
        self.provenance.require_same(other.provenance, "the second file")
        if shared := set(self.images) & set(other.images):
            raise ProvenanceError(
                f"{len(shared)} images are in both files and would count twice", fix="merge passes over disjoint shards"
            )
        if self.tensors.keys() != other.tensors.keys():
            names = sorted(self.tensors.keys() ^ other.tensors.keys())
            raise StatisticsError(f"the files have different tensors: {', '.join(names[:5])}")
        both = self.joined(other)
        images, extremes = sorted_images((*self.images, *other.images), both.extremes)
        return replace(self, tensors=both.tensors, extremes=extremes, images=images, convergence=[], checkpoint={})


def sorted_images(images: Sequence[str], extremes: Float32Array) -> tuple[tuple[str, ...], Float32Array]:
    """Return images sorted by sha256, the order of `Statistics`, and their extremes in the same order."""
    order = np.argsort(images)
    return tuple(images[place] for place in order), extremes[order]


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write a statistics file atomically."""
    header = {
        "version": FORMAT_VERSION,
        "mantissa_bits": MANTISSA_BITS,
        "provenance": asdict(statistics.provenance),
        "images": list(statistics.images),
        "convergence": [asdict(point) for point in statistics.convergence],
        "tensors": [_describe(name, one) for name, one in statistics.tensors.items()],
        "extra": statistics.checkpoint,
    }
    # Only one key, because safetensors does not write several in a fixed order.
    metadata = {FORMAT: json.dumps(header, separators=(",", ":"), allow_nan=False)}
    arrays = _pack(list(statistics.tensors.values()))
    arrays["extremes"] = np.ascontiguousarray(statistics.extremes)
    write_bytes(path, save(arrays, metadata))


def load_statistics(path: AnyPath) -> Statistics:
    """Read a statistics file, and check every invariant.

    Raises:
        StatisticsError: not a statistics file, damaged, or of a version this quantkit does not read.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> statistics = quantkit.load_statistics("run/statistics.safetensors")
        >>> list(statistics.tensors)[0]
        'input'
    """
    redo, path = "run quantkit calibrate again", as_path(path, "path")
    _refuse_other_kinds(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if FORMAT not in metadata:
            raise StatisticsError("this is not a statistics file of quantkit", where=path, fix=redo)
        form = _Form.model_validate_json(metadata[FORMAT])
        if form.version != FORMAT_VERSION or form.mantissa_bits != MANTISSA_BITS:
            raise StatisticsError("these statistics were written by another version of quantkit", where=path, fix=redo)
        header = _Header.model_validate_json(metadata[FORMAT])
        tensors = _unpack(header.tensors, arrays)
        extremes = arrays["extremes"]
        statistics = Statistics(tensors, extremes, header.provenance, header.images, header.convergence, header.extra)
    except FileNotFoundError:
        raise StatisticsError("there is no statistics file", where=path, fix="run quantkit calibrate first") from None
    except _FAULTS as error:
        raise StatisticsError(f"the statistics file is damaged ({error})", where=path, fix=redo) from error
    for name, one in statistics.tensors.items():
        if fault := one.check():
            raise StatisticsError(f"the statistics of {name} are damaged: {fault}", where=path, fix=redo)
    if fault := _check_extremes(statistics):
        raise StatisticsError(f"the statistics are damaged: {fault}", where=path, fix=redo)
    return statistics


def _refuse_other_kinds(path: Path) -> None:
    """Reject files of other formats with a message that names the format.

    Raises:
        StatisticsError: the path is a folder, or a file of another format.
    """
    if path.is_dir():
        inside = path / STATISTICS_FILE
        fix = f"give {inside}" if inside.is_file() else f"give the {STATISTICS_FILE} of a run folder"
        raise StatisticsError("is a folder, not a statistics file", where=path, fix=fix)
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return  # the reader raises with the reason
    # A safetensors file begins with the length of its header, which is JSON.
    if len(start) == _START and not start.endswith(b"{"):
        kind = _KINDS.get(path.suffix.lower(), "of another format")
        raise StatisticsError(
            f"is {kind}, not a statistics file", where=path, fix=f"give the {STATISTICS_FILE} of a run folder"
        )


class _Described(BaseModel):
    """Header entry of a tensor: the scalars of its statistics, and its number of bins."""

    model_config = ConfigDict(strict=True)

    name: str
    bins: NonNegativeInt
    count: int
    zeros: int
    lo: float
    hi: float
    nan: int
    positive_infinities: int
    negative_infinities: int


class _Form(BaseModel):
    """What the headers of all versions have."""

    model_config = ConfigDict(strict=True)

    version: int
    mantissa_bits: int


class _Header(_Form):
    provenance: Provenance
    images: tuple[str, ...]
    convergence: list[ConvergencePoint]
    tensors: list[_Described]
    extra: dict[str, Any]


def _check_extremes(statistics: Statistics) -> str | None:
    """Return the fault of the extremes of the images, or None."""
    extremes, tensors = statistics.extremes, statistics.tensors
    if extremes.dtype != np.float32 or extremes.shape != (len(statistics.images), len(tensors), 2):
        return "there are not two extremes for every image and tensor"
    lows, highs = extremes[..., 0], extremes[..., 1]
    if not np.isfinite(extremes).all() or (lows > highs).any():
        return "the extremes of an image are not in order"
    whole = np.array([[one.lo, one.hi] for one in tensors.values()], np.float64).reshape(-1, 2)
    if len(extremes) and not np.array_equal(whole, np.stack([lows.min(axis=0), highs.max(axis=0)], axis=1)):
        return "the extremes of the images are not those of all"
    return None


def _describe(name: str, one: TensorStatistics) -> dict[str, Any]:
    return {"name": name, "bins": one.bins.size, **{key: getattr(one, key) for key in _SCALARS}}


def _pack(tensors: list[TensorStatistics]) -> dict[str, npt.NDArray[Any]]:
    bins = np.concatenate([one.bins.astype(np.int64) for one in tensors] or [np.empty(0, np.int64)])
    counts = np.concatenate([one.counts for one in tensors] or [np.empty(0, np.int64)])
    starts = np.cumsum([0, *(one.bins.size for one in tensors)])[:-1]
    gaps = np.diff(bins, prepend=0)
    gaps[starts[starts < bins.size]] = bins[starts[starts < bins.size]]
    far, wide = np.flatnonzero((gaps < 0) | (gaps > 0xFFFF)), np.flatnonzero(counts > 0xFFFFFFFF)
    packed = {
        "gaps": gaps.astype(np.uint16),
        "counts": counts.astype(np.uint32),
        "far": np.stack([far, gaps[far]], axis=1),
        "wide": np.stack([wide, counts[wide]], axis=1),
    }
    return {name: np.ascontiguousarray(array) for name, array in packed.items()}


def _unpack(described: list[_Described], arrays: dict[str, npt.NDArray[Any]]) -> dict[str, TensorStatistics]:
    gaps, counts = arrays["gaps"].astype(np.int64), arrays["counts"].astype(np.int64)
    gaps[arrays["far"][:, 0]] = arrays["far"][:, 1]
    counts[arrays["wide"][:, 0]] = arrays["wide"][:, 1]
    if gaps.shape != counts.shape or gaps.size != sum(one.bins for one in described):
        raise ValueError("its vectors differ in length")
    tensors, start = {}, 0
    for one in described:
        part = slice(start, start + one.bins)
        start = part.stop
        bins = np.cumsum(gaps[part])
        if bins.size and not 0 <= bins.min() <= bins.max() <= 0xFFFFFFFF:
            raise ValueError("a bin is outside the histogram")
        scalars = {key: getattr(one, key) for key in _SCALARS}
        tensors[one.name] = TensorStatistics(bins=bins.astype(np.uint32), counts=counts[part], **scalars)
    return tensors
