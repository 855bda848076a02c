"""What has been measured of the layers, kept in the run: an interrupted measurement goes on, a repeated one is there.

A file belongs to one quantization and one lot of images, both named by a digest; it is written anew, whole, as layers
are added, at most every second.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.files import write_text
from quantkit.sensitivity.measure import Deviation, LayerCost, NetworkCost

FOLDER = "sensitivity"
_FORMAT = 1
_SECONDS = 1.0
_KEY_DIGITS = 16


class LayerCostCache:
    """The costs of one lot of images, as far as they are known.

    Args:
        folder: of the run.
        key: digest of all that the costs depend on.

    Attributes:
        layers: the costs so far, by node name.
        network: the finished measurement, None before.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / FOLDER / f"{key[:_KEY_DIGITS]}.json"
        self.layers: dict[str, LayerCost] = {}
        self.network: NetworkCost | None = None
        self._key = key
        self._written_s = time.monotonic()
        self._read()

    def add(self, cost: LayerCost) -> None:
        """Keep the cost of a layer.

        Raises:
            OutputError: the file cannot be written.
        """
        self.layers[cost.node] = cost
        if time.monotonic() - self._written_s > _SECONDS:
            self.write()

    def finish(self, network: NetworkCost) -> None:
        """Keep the whole measurement.

        Raises:
            OutputError: the file cannot be written.
        """
        self.network = network
        self.layers = {cost.node: cost for cost in network.layers}
        self.write()

    def write(self) -> None:
        """Write what is known so far.

        Raises:
            OutputError: the file cannot be written.
        """
        content: dict[str, Any] = {"format": _FORMAT, "key": self._key}
        if self.network is not None:
            whole = self.network
            content |= {"signal": whole.signal.tolist(), "top1": whole.top1.tolist(), "macs": whole.macs}
            content["whole"] = _plain(whole.whole)
        content["layers"] = [
            vars(cost) | {"only": _plain(cost.only), "without": _plain(cost.without)} for cost in self.layers.values()
        ]
        write_text(self.path, json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n")
        self._written_s = time.monotonic()

    def _read(self) -> None:
        """Take over what the file holds, if it is of the same images and the same quantization, and undamaged."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["format"] != _FORMAT or content["key"] != self._key:
                return
            layers = [
                LayerCost(**(one | {"only": _deviation(one["only"]), "without": _deviation(one["without"])}))
                for one in content["layers"]
            ]
            if "whole" in content:
                self.network = NetworkCost(
                    signal=np.asarray(content["signal"], np.float64),
                    top1=np.asarray(content["top1"], np.int64),
                    macs=content["macs"],
                    whole=_deviation(content["whole"]),
                    layers=tuple(layers),
                )
        except (OSError, ValueError, KeyError, TypeError):
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
