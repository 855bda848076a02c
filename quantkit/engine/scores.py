"""Scores of a model over a few images in memory, and their SQNR."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import DevicePlacement, placement_of
from quantkit.engine.session import first_line, open_session
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import name_of
from quantkit.types import Float32Array

# Scores with a smaller difference are equal up to float32 rounding.
EXACT_DB = 120.0
# The minimum signal of an image, as a share of the mean.
FAINT = 1e-6


class ScoreSession:
    """A core model opened in onnxruntime for its scores, for images that arrive in parts.

    Args:
        model: the model; its scores are its first output.
        device: where it runs; a batch is only made where the model's own is open.

    Raises:
        ModelError: onnxruntime cannot load the model.
        DeviceError: the device does not run it.
    """

    def __init__(self, model: ir.Model, device: Device = CPU) -> None:
        self._session = open_session(ir.serde.serialize_model(model).SerializeToString(), device=device)
        self._input, self._output = self._session.get_inputs()[0].name, name_of(model.graph.outputs[0])
        self._device = device

    def scores(self, images: Sequence[Float32Array], *, threads: int) -> Float32Array:
        """Return the scores of images; see `scores_of`.

        Raises:
            ModelError: onnxruntime cannot run the model.
        """
        device = self._device
        if not device.is_cpu and device.batch > 1 and _are_single(images):
            return np.concatenate([_rows(self._run, batch, device.batch) for batch in _batches(images, device.batch)])
        found = map_in_order(lambda x: self._run(x)[:1].reshape(1, -1), images, threads if device.is_cpu else 1)
        return np.concatenate(list(found))

    def _run(self, x: Float32Array) -> Float32Array:
        try:
            scores: Float32Array = self._session.run([self._output], {self._input: x})[0]
        except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
            raise ModelError(f"onnxruntime cannot run the model ({first_line(error)})") from error
        return scores


def scores_of(model: ir.Model, images: Sequence[Float32Array], *, threads: int, device: Device = CPU) -> Float32Array:
    """Return the scores of a core model, ``[images, classes]``, for images ``[N, C, H, W]``.

    The scores are its first output (see `quantkit.graph.interface`). If an image is repeated to fill a fixed batch, the
    first result is used.

    Args:
        model: the model.
        images: one each; all of one shape for a batch of several.
        threads: images run side by side on the CPU. Another device runs one batch at a time.
        device: where the model runs; a batch is only made where the model's own is open.

    Raises:
        ModelError: onnxruntime cannot run the model.
        DeviceError: the device does not run it.
    """
    return ScoreSession(model, device).scores(images, threads=threads)


def placement(model: ir.Model, device: Device) -> DevicePlacement:
    """Return where a core model runs on a device.

    Raises:
        ModelError: onnxruntime cannot load the model.
        DeviceError: the device does not run it.
    """
    return placement_of(open_session(ir.serde.serialize_model(model).SerializeToString(), device=device), device)


def _are_single(images: Sequence[Float32Array]) -> bool:
    """Return whether images can be put together: one each, of one size."""
    return all(len(x) == 1 for x in images) and len({x.shape for x in images}) == 1


def _batches(images: Sequence[Float32Array], size: int) -> Iterator[Float32Array]:
    for start in range(0, len(images), size):
        yield np.concatenate(images[start : start + size])


def _rows(run: Callable[[Float32Array], Float32Array], x: Float32Array, size: int) -> Float32Array:
    """Return the scores of a batch, a row each; a smaller one is filled up, as devices choose kernels for a shape."""
    filled = np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)])
    return run(filled).reshape(size, -1)[: len(x)]


def score_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return ``10 log10(sum reference^2 / sum (reference - other)^2)`` in dB; infinite if both are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def sqnr_by_image_db(reference: Float32Array, other: Float32Array) -> npt.NDArray[np.float64]:
    """Return the SQNR of each image's scores in dB, float64 ``[images]``; arguments ``[images, classes]``.

    The result is clipped to -120..120 dB, the precision of float32 arithmetic. Equal scores have 120 dB, also if all of
    them are zero. The signal of an image is at least a millionth of the mean signal of all images, so that noise on
    near-zero scores does not dominate.
    """
    signal = np.square(reference, dtype=np.float64).sum(axis=1)
    noise = np.square(reference.astype(np.float64) - other).sum(axis=1)
    signal = np.maximum(signal, FAINT * signal.mean())
    least = np.finfo(np.float64).tiny  # if the scores of all images are zero
    ratio = (signal + least) / (noise + signal / 10.0 ** (EXACT_DB / 10.0) + least)
    return np.where(noise == 0.0, EXACT_DB, np.maximum(10.0 * np.log10(ratio), -EXACT_DB))
