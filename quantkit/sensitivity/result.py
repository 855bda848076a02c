"""The result of ``quantkit sensitivity``, with conversion to JSON and CSV."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from quantkit.evaluation.paired import Interval
from quantkit.records import Records, csv_text, plain, plain_fields

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
    """Accuracy of a model on labelled images, in percent.

    Attributes:
        top1: top-1 accuracy.
        delta_top1: difference to fp32, in points.
        delta_top1_ci95: its paired 95 % interval (Tango).
        agreement: percentage of images with the top class of fp32.
    """

    top1: float
    delta_top1: float
    delta_top1_ci95: Interval
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Deviation of a model from fp32.

    Attributes:
        sqnr_db: SQNR of the scores in dB, the mean over the images; infinite without noise.
        kl: mean divergence of the softmaxed scores from those of fp32, in nats.
        share: share of the noise of the full int8 model, summed over all images: the noise of the layer, or the noise
            removed by leaving it in float, which is negative if the noise increases.
        accuracy: accuracy on labelled images, None without labels.
    """

    sqnr_db: float
    kl: float
    share: float
    accuracy: AccuracyChange | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; infinity is null."""
        figures: dict[str, Any] = {"sqnr_db": plain(self.sqnr_db), "kl": self.kl, "share": self.share}
        if self.accuracy is not None:
            figures |= plain_fields(self.accuracy)
        return figures

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return figures from the values of `to_json`."""
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
    """Sensitivity of a layer.

    Attributes:
        node: name of the layer.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        conv_index: index of a 2-D convolution, None for other layers.
        macs: multiply-adds for one image, None if unknown.
        macs_share: share of the multiply-adds of the network.
        isolated: figures of the model in which only this layer is int8.
        leave_one_out: figures of the model in which all integer layers except this one are int8.

    Example:
        In the folder written by ``quantkit demo``:

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
        """The value of ``--skip`` that leaves this layer in float."""
        return self.node if self.conv_index is None else f"conv:{self.conv_index}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"layer": self.skip, **plain_fields(self)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return a layer from the values of `to_json`."""
        own = {key: plain[key] for key in ("node", "op_type", "conv_index", "macs", "macs_share")}
        return cls(
            **own,
            isolated=Figures.from_json(plain["isolated"]),
            leave_one_out=Figures.from_json(plain["leave_one_out"]),
        )


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Records):
    """Sensitivities of the layers of a network.

    Attributes:
        model: name of the network.
        target: runtime or compiler of the model.
        method: calibration method.
        by: order of the layers: isolated, leave-one-out or accuracy.
        images: number of images.
        source: description of the images.
        macs: multiply-adds of the network for one image.
        top1: top-1 of fp32 in percent, None without labels.
        whole: figures of the full int8 model.
        layers: the layers, most costly first.
        notes: remarks for the user.
        device: device of all models, fp32 included, with the provider's options.

    Example:
        In the folder written by ``quantkit demo``:

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
        """Sum of the isolated noise of all layers, as a share of the noise of the full int8 model."""
        return math.fsum(layer.isolated.share for layer in self.layers)

    def _repr_html_(self) -> str:
        """Return the table of layers for notebooks."""
        from quantkit.report.notebook import sensitivity_html

        return sensitivity_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; infinite or missing figures are null."""
        return {"schema": JSON_SCHEMA, **plain_fields(self), "sum_of_shares_made": self.sum_made}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per layer, the most costly first; infinite or missing figures are None."""
        return [dict(zip(CSV_COLUMNS, _cells(layer), strict=True)) for layer in self.layers]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return a sensitivity from the values of `to_json`.

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
        """Return one row per layer with plain numbers; infinite or missing figures are empty."""
        return csv_text(CSV_COLUMNS, map(_cells, self.layers))


def _cells(layer: LayerSensitivity) -> list[Any]:
    """Return the values of a layer in the order of `CSV_COLUMNS`."""
    row: list[Any] = [layer.skip, layer.node, layer.op_type, layer.macs, layer.macs_share]
    for figures in (layer.isolated, layer.leave_one_out):
        plain = figures.to_json()
        interval = plain.pop("delta_top1_ci95", (None, None))
        plain |= dict(zip(("delta_top1_lo", "delta_top1_hi"), interval, strict=True))
        row += [plain.get(name) for name in _FIGURES]
    return row
