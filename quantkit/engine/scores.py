"""Scores of a model over a few images in memory."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import DevicePlacement, placement_of
from quantkit.engine.session import first_line, open_model
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import name_of
from quantkit.types import Float32Array


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
        self._session = open_model(model, device)
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
    return placement_of(open_model(model, device), device)


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
