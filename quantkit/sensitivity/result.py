"""The result of ``quantkit sensitivity``: figures of every layer, as values, JSON and CSV."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from quantkit.evaluation.paired import Interval
from quantkit.records import Records

JSON_SCHEMA = 1
_FIGURES = ("sqnr_db", "kl", "share", "top1", "delta_top1", "delta_top1_lo", "delta_top1_hi", "agreement")
CSV_COLUMNS = (
    "layer",
    "node",
    "op_type",
    "macs",
    "macs_share",
    *(f"isolated_{name}" for name in _FIGURES),
    *(f"leave_one_out_{name}" for name in _FIGURES),
)


@dataclass(frozen=True, kw_only=True)
class AccuracyChange:
    """What a model says to labelled images, in percent.

    Attributes:
        top1: share whose best class is the true one.
        delta_top1: that minus fp32's, in points.
        delta_top1_ci95: its paired interval (Tango).
        agreement: share of images in the class that fp32 chooses.
    """

    top1: float
    delta_top1: float
    delta_top1_ci95: Interval
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far one model is from fp32.

    Attributes:
        sqnr_db: of the scores over all images, in dB; infinite without noise.
        kl: mean divergence of the softmaxed scores from those of fp32, in nats.
        share: of the noise of the whole int8 model: the part that the layer makes, or the part that goes without it,
            which is negative where the noise grows.
        accuracy: on labelled images, None without.
    """

    sqnr_db: float
    kl: float
    share: float
    accuracy: AccuracyChange | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinite is null."""
        plain: dict[str, Any] = {
            "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None,
            "kl": self.kl,
            "share": self.share,
        }
        if self.accuracy is not None:
            interval = self.accuracy.delta_top1_ci95
            plain |= vars(self.accuracy) | {"delta_top1_ci95": [interval.lo, interval.hi]}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the figures of `to_json`."""
        accuracy = None
        if "top1" in plain:
            accuracy = AccuracyChange(
                top1=plain["top1"],
                delta_top1=plain["delta_top1"],
                delta_top1_ci95=Interval(*plain["delta_top1_ci95"]),
                agreement=plain["agreement"],
            )
        sqnr_db = math.inf if plain["sqnr_db"] is None else plain["sqnr_db"]
        return cls(sqnr_db=sqnr_db, kl=plain["kl"], share=plain["share"], accuracy=accuracy)


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """What one layer costs.

    Attributes:
        node: name of the layer.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        conv_index: of a 2-D convolution, None for other layers.
        macs: multiply-adds for one image, None where they are not known.
        macs_share: of those of the whole network.
        isolated: of the model in which this layer alone is int8.
        leave_one_out: of the model in which all integer layers but this one are int8.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> layer = quantkit.sensitivity("run", count=4).layers[0]
        >>> layer.isolated.share > 0.0
        True
    """

    node: str
    op_type: str
    conv_index: int | None
    macs: int | None
    macs_share: float | None
    isolated: Figures
    leave_one_out: Figures

    @property
    def skip(self) -> str:
        """What ``--skip`` takes to leave this layer in float."""
        return self.node if self.conv_index is None else f"conv:{self.conv_index}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "layer": self.skip,
            "node": self.node,
            "op_type": self.op_type,
            "conv_index": self.conv_index,
            "macs": self.macs,
            "macs_share": self.macs_share,
            "isolated": self.isolated.to_json(),
            "leave_one_out": self.leave_one_out.to_json(),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the layer of `to_json`."""
        own = {key: plain[key] for key in ("node", "op_type", "conv_index", "macs", "macs_share")}
        return cls(
            **own,
            isolated=Figures.from_json(plain["isolated"]),
            leave_one_out=Figures.from_json(plain["leave_one_out"]),
        )


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Records):
    """What each layer of a network costs.

    Attributes:
        model: name of the network.
        target: what will run it.
        method: how ranges were set.
        by: what the layers are ordered by: isolated, leave-one-out or accuracy.
        images: how many were used.
        source: what they are.
        macs: multiply-adds of the whole network for one image.
        top1: of fp32 in percent, None without labels.
        whole: of the whole int8 model.
        layers: the most costly first.
        notes: what the user may want to know.
        device: that all models ran on, fp32 too, with the provider's options.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> found = quantkit.sensitivity("run", count=4)
        >>> len(found.rows()) == len(found.layers), found.rows()[0]["op_type"]
        (True, 'Conv')
    """

    model: str
    target: str
    method: str
    by: str
    images: int
    source: str
    macs: int
    top1: float | None
    whole: Figures
    layers: tuple[LayerSensitivity, ...]
    notes: tuple[str, ...]
    device: str = "cpu"

    @property
    def sum_made(self) -> float:
        """The noise that the layers make one by one, as a share of that of all together."""
        return math.fsum(layer.isolated.share for layer in self.layers)

    def _repr_html_(self) -> str:
        """Return the table of layers for notebooks."""
        from quantkit.report.notebook import sensitivity_html

        return sensitivity_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a figure that is infinite or was not measured is null."""
        return {
            "schema": JSON_SCHEMA,
            "model": self.model,
            "target": self.target,
            "method": self.method,
            "by": self.by,
            "images": self.images,
            "source": self.source,
            "device": self.device,
            "macs": self.macs,
            "top1": self.top1,
            "whole": self.whole.to_json(),
            "sum_of_shares_made": self.sum_made,
            "layers": [layer.to_json() for layer in self.layers],
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a layer, the most costly first; a figure that is infinite or was not measured is None."""
        return [dict(zip(CSV_COLUMNS, _cells(layer), strict=True)) for layer in self.layers]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the sensitivity of `to_json`.

        Raises:
            KeyError: a value is missing.
        """
        own = {key: plain[key] for key in ("model", "target", "method", "by", "images", "source", "macs", "top1")}
        return cls(
            **own,
            whole=Figures.from_json(plain["whole"]),
            layers=tuple(LayerSensitivity.from_json(layer) for layer in plain["layers"]),
            notes=tuple(plain["notes"]),
            device=plain.get("device", "cpu"),
        )

    def csv_text(self) -> str:
        """Return one row a layer with plain numbers; a figure that is infinite or was not measured is empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for layer in self.layers:
            writer.writerow("" if value is None else value for value in _cells(layer))
        return buffer.getvalue()


def _cells(layer: LayerSensitivity) -> list[Any]:
    """Return the values of a layer in the order of `CSV_COLUMNS`."""
    row: list[Any] = [layer.skip, layer.node, layer.op_type, layer.macs, layer.macs_share]
    for figures in (layer.isolated, layer.leave_one_out):
        plain = figures.to_json()
        interval = plain.pop("delta_top1_ci95", (None, None))
        plain |= dict(zip(("delta_top1_lo", "delta_top1_hi"), interval, strict=True))
        row += [plain.get(name) for name in _FIGURES]
    return row
