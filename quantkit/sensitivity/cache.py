"""Cache of layer costs in the run: an interrupted measurement resumes, a finished one is reused.

An entry belongs to one quantized model and one lot of images. It is rewritten when layers are added, at most once per
second.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantkit.runs.cache import CacheEntry, CacheKey, ResultCache
from quantkit.sensitivity.measure import Deviation, LayerCost, NetworkCost

KIND = "layer-costs"
_FORMAT = 3
_SECONDS = 1.0


class LayerCostCache:
    """The costs of layers on one lot of images.

    Args:
        cache: cache of the run.
        depends_on: everything that the costs depend on, as JSON values.
        known: read the costs that are in the cache.

    Attributes:
        layers: the costs so far, by node name.
        network: the finished measurement, None before.
    """

    def __init__(self, cache: ResultCache, depends_on: Mapping[str, Any], *, known: bool = True) -> None:
        self.layers: dict[str, LayerCost] = {}
        self.network: NetworkCost | None = None
        self._cache, self._key = cache, CacheKey(KIND, _FORMAT, depends_on)
        self._written_s = time.monotonic()
        if known:
            self._read()

    def add(self, cost: LayerCost) -> None:
        """Add the cost of a layer.

        Raises:
            OutputError: the file cannot be written.
        """
        self.layers[cost.node] = cost
        if time.monotonic() - self._written_s > _SECONDS:
            self.write()

    def finish(self, network: NetworkCost) -> None:
        """Store the complete measurement.

        Raises:
            OutputError: the file cannot be written.
        """
        self.network = network
        self.layers = {cost.node: cost for cost in network.layers}
        self.write()

    def write(self) -> None:
        """Write the current costs.

        Raises:
            OutputError: the entry cannot be written.
        """
        values: dict[str, Any] = {
            "layers": [
                vars(cost) | {"isolated": _plain(cost.isolated), "leave_one_out": _plain(cost.leave_one_out)}
                for cost in self.layers.values()
            ]
        }
        if self.network is not None:
            whole = self.network
            values |= {"signal": whole.signal.tolist(), "top1": whole.top1.tolist(), "macs": whole.macs}
            values["whole"] = _plain(whole.whole)
        self._cache.store(self._key, CacheEntry(values))
        self._written_s = time.monotonic()

    def _read(self) -> None:
        """Load the entry of the same images and quantized model, if it is not damaged."""
        entry = self._cache.load(self._key)
        if entry is None:
            return
        try:
            values = entry.values
            layers = [
                LayerCost(
                    **(
                        one
                        | {"isolated": _deviation(one["isolated"]), "leave_one_out": _deviation(one["leave_one_out"])}
                    )
                )
                for one in values["layers"]
            ]
            if "whole" in values:
                self.network = NetworkCost(
                    signal=np.asarray(values["signal"], np.float64),
                    top1=np.asarray(values["top1"], np.int64),
                    macs=values["macs"],
                    whole=_deviation(values["whole"]),
                    layers=tuple(layers),
                )
        except (ValueError, KeyError, TypeError):
            return
        self.layers = {cost.node: cost for cost in layers}


def _plain(deviation: Deviation) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in vars(deviation).items()}


def _deviation(plain: dict[str, list[float]]) -> Deviation:
    return Deviation(
        noise=np.asarray(plain["noise"], np.float64),
        kl=np.asarray(plain["kl"], np.float64),
        top1=np.asarray(plain["top1"], np.int64),
    )
