"""Per-channel statistics of tensors over a few images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.engine.tap import TappedSession
from quantkit.graph.analysis.values import name_of
from quantkit.ptq.channel_groups import channels_of
from quantkit.ptq.layers import by_channel
from quantkit.types import Float32Array

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStatistics:
    """Per-channel statistics of a tensor; all float64 ``[channels]``.

    Attributes:
        lo: smallest value.
        hi: largest value.
        power: mean square.
        active: share of non-zero values.
        size: number of values of a channel for one image.
    """

    lo: Vector
    hi: Vector
    power: Vector
    active: Vector
    size: int

    @property
    def reach(self) -> Vector:
        """Largest magnitude of each channel."""
        return np.maximum(self.hi, -self.lo)


def channel_statistics(
    model: ir.Model, images: Sequence[Float32Array], *, threads: int
) -> dict[str, ChannelStatistics]:
    """Return the statistics of every float tensor with a channel axis, by name.

    Args:
        model: prepared.
        images: ``[N, C, H, W]`` each.
        threads: images run side by side.
    """
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    names = [name_of(value) for value in values if value.dtype == ir.DataType.FLOAT and channels_of(value) is not None]
    session = TappedSession(model, names, ordered=True)

    def one(image: Float32Array) -> dict[str, ChannelStatistics]:
        return {name: _of_one(value) for name, value in session.run(image)[1]}

    total: dict[str, ChannelStatistics] = {}
    for found in map_in_order(one, images, threads):
        total = {name: _joined(total[name], found[name]) for name in found} if total else found
    count = len(images)
    return {
        name: ChannelStatistics(sums.lo, sums.hi, sums.power / count, sums.active / count, sums.size)
        for name, sums in total.items()
    }


def _of_one(value: Float32Array) -> ChannelStatistics:
    channels = by_channel(value)
    return ChannelStatistics(
        channels.min(axis=1).astype(np.float64),
        channels.max(axis=1).astype(np.float64),
        np.einsum("cn,cn->c", channels, channels, dtype=np.float64) / channels.shape[1],
        # np.count_nonzero along an axis converts to int64 first, which takes twice as long.
        (channels != 0.0).view(np.uint8).sum(axis=1, dtype=np.uint32) / channels.shape[1],
        channels.shape[1],
    )


def _joined(one: ChannelStatistics, other: ChannelStatistics) -> ChannelStatistics:
    return ChannelStatistics(
        np.minimum(one.lo, other.lo),
        np.maximum(one.hi, other.hi),
        one.power + other.power,
        one.active + other.active,
        one.size,
    )
