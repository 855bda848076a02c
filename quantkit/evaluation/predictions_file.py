"""Prediction files: the data for accuracy, agreement and later analysis, in about 100 bytes per image.

An ``.npz`` of plain arrays, readable by ``numpy.load(path)`` without pickle: the fields of
`quantkit.evaluation.predictions.Predictions`, and ``origin``, the provenance as JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import ProvenanceError, StatisticsError, UsageError
from quantkit.evaluation.predictions import Predictions
from quantkit.files import reason, replacing

VERSION = 1
_REDO = "run quantkit eval again"
_ARRAYS = ("top", "confidence", "margin", "tied", "constant", "labels")


@dataclass(frozen=True)
class Origin:
    """Provenance of predictions.

    Attributes:
        model: SHA-256 of the ONNX model.
        images: digest of the names and sizes of all images, including those of other shards.
        pipeline: digest of the preprocessing.
        scores: ``logits`` or ``probabilities``.
        onnxruntime: version of onnxruntime.
        quantkit: version of quantkit.
        shards: the included shards, as ``(i, n)`` with i from 1; empty if all images are included.
        device: device that ran the model, in one line.
    """

    model: str
    images: str
    pipeline: str
    scores: str
    onnxruntime: str
    quantkit: str
    shards: tuple[tuple[int, int], ...] = ()
    device: str = "cpu"


def save_predictions(path: Path, predictions: Predictions, origin: Origin) -> None:
    """Write predictions atomically; equal predictions give identical files.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, Any] = {name: getattr(predictions, name) for name in _ARRAYS}
    if predictions.labels is None:
        del arrays["labels"]
    text = json.dumps({"version": VERSION, "classes": predictions.classes, **asdict(origin)})
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, names=np.array(predictions.names), origin=np.array(text), **arrays)


def load_predictions(path: Path) -> tuple[Predictions, Origin]:
    """Read a file of `save_predictions`.

    Raises:
        StatisticsError: there is no such file, or it is damaged or of another format.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            said = json.loads(str(file["origin"]))
            names = tuple(str(name) for name in file["names"])
            arrays = {name: file[name] for name in _ARRAYS if name in file.files}
        if said.pop("version") != VERSION or said.keys() != {"classes", *(one.name for one in fields(Origin))}:
            raise StatisticsError(
                "these predictions were written by another version of quantkit", where=path, fix=_REDO
            )
        if any(len(array) != len(names) for array in arrays.values()):
            raise ValueError
        predictions = Predictions(names=names, classes=int(said.pop("classes")), **arrays)
        shards = tuple((int(i), int(n)) for i, n in said.pop("shards"))
        return predictions, Origin(**said, shards=shards)
    except StatisticsError:
        raise
    except OSError as error:
        if error.errno is None:  # raised by numpy for a file that it cannot read
            raise _damaged(path) from error
        raise StatisticsError(f"cannot be read ({reason(error)})", where=path) from error
    except Exception as error:  # zipfile, its decompressors and numpy raise whatever a damaged file leads them to
        raise _damaged(path) from error


def merge_predictions(paths: Sequence[Path]) -> tuple[Predictions, Origin]:
    """Merge predictions of shards; all shards together are identical to one evaluation of all images.

    Raises:
        UsageError: fewer than two files.
        StatisticsError: a file is damaged.
        ProvenanceError: the files are not shards of one evaluation, or a shard is given twice.
        LabelError: some files have labels and others have none.
    """
    if len(paths) < 2:
        raise UsageError("merging needs at least two files", where="--merge")
    parts = [load_predictions(path) for path in paths]
    origin = parts[0][1]
    seen: dict[tuple[int, int], Path] = {}
    for path, (_, other) in zip(paths, parts, strict=True):
        _check_same(path, origin, other)
        for shard in other.shards:
            if shard in seen:
                raise ProvenanceError(f"shard {shard[0]}/{shard[1]} is in {seen[shard]} too", where=path)
            seen[shard] = path
    joined = Predictions.concatenate([predictions for predictions, _ in parts])
    total = origin.shards[0][1]
    shards = () if len(seen) == total else tuple(sorted(seen))
    return joined.ordered_like(sorted(joined.names)), replace(origin, shards=shards)


def _check_same(path: Path, first: Origin, other: Origin) -> None:
    if not other.shards:
        raise ProvenanceError("it has predictions for all images, so there is nothing to merge", where=path)
    for field, what in (
        ("model", "another model"),
        ("images", "other images"),
        ("pipeline", "another preprocessing"),
        ("scores", "another kind of scores"),
        ("onnxruntime", "another version of onnxruntime"),
        ("quantkit", "another version of quantkit"),
        ("device", "another device"),
    ):
        if getattr(other, field) != getattr(first, field):
            raise ProvenanceError(f"it has {what} than the first file", where=path, fix="evaluate it again")
    if other.shards[0][1] != first.shards[0][1]:
        raise ProvenanceError(
            f"it is one of {other.shards[0][1]} shards and the first file one of {first.shards[0][1]}", where=path
        )


def _damaged(path: Path) -> StatisticsError:
    return StatisticsError("is not a prediction file, or is damaged", where=path, fix=_REDO)
