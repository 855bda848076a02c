"""What an int8 model is made from: a calibrated run, a target and options."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from quantkit.errors import UsageError
from quantkit.graph.qdq.plan import Plan, PlanOptions, plan
from quantkit.ptq.run_correction import Images
from quantkit.runs.inputs import CalibratedRun
from quantkit.targets import Target
from quantkit.workflows.backends import Backend

CONV_PREFIX = "conv:"


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Quantization options other than method and target; None keeps the default of the target.

    Attributes:
        per_channel: one weight scale per output channel, or one per tensor.
        activation_type: uint8 (affine) or int8 (symmetric).
        weight_bits: 8, or 7 for processors that saturate sums of int8 products in 16 bits.
        power_of_two: round weight thresholds up to powers of two.
        skip: layers left in float: node names, globs, ``re:`` patterns, or ``conv:`` and an index; a single one may be
            a string.
        bias_correction: correct biases where this reduces the error of the scores.
        keep_outliers: include outlier images when ranges are set.

    Example:
        >>> import quantkit
        >>> quantkit.QuantizeOptions(skip="conv:0", per_channel=False).skip
        ('conv:0',)
    """

    per_channel: bool | None = None
    activation_type: str | None = None
    weight_bits: int | None = None
    power_of_two: bool | None = None
    skip: tuple[str, ...] = ()
    bias_correction: bool = True
    keep_outliers: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.skip, str):
            object.__setattr__(self, "skip", (self.skip,))
        for value, allowed, option in (
            (self.activation_type, ("uint8", "int8"), "--activations"),
            (self.weight_bits, (7, 8), "--weight-bits"),
        ):
            if value is not None and value not in allowed:
                choices = " or ".join(map(str, allowed))
                raise UsageError(f"cannot quantize to {value!r}", where=option, fix=f"choose {choices}")

    def plan_options(self) -> PlanOptions:
        """Return the options of the plan."""
        indices = [item.removeprefix(CONV_PREFIX) for item in self.skip if item.startswith(CONV_PREFIX)]
        if wrong := [index for index in indices if not index.isdecimal()]:
            raise UsageError(f"{wrong[0]!r} is not an index", where="--skip", fix="count from 0, as conv:3")
        return PlanOptions(
            skip=tuple(item for item in self.skip if not item.startswith(CONV_PREFIX)),
            skip_convs=tuple(int(index) for index in indices),
        )

    def settings(self) -> dict[str, Any]:
        """Return the options under the names that ``run.json`` has for them."""
        return {name.replace("_", " "): value for name, value in asdict(self).items()}

    def target(self, target: Target) -> Target:
        """Return the target with these options."""
        return target.with_options(
            per_channel=self.per_channel,
            activation_type=self.activation_type,  # type: ignore[arg-type]
            weight_bits=self.weight_bits,
            power_of_two=self.power_of_two,
        )


@dataclass(frozen=True, kw_only=True)
class QuantizeTask:
    """What an int8 model is made from, but for its method.

    Attributes:
        run: the calibrated run; its record is complete but for the model to be made.
        requested: runtime or compiler of the model.
        options: quantization options.
        images: the calibration images, None if they are not found.
        backends: backends with options of their own, by name.
        planned: the plan, where it has been made.
    """

    run: CalibratedRun
    requested: Target
    options: QuantizeOptions
    images: Images | None
    backends: Mapping[str, Backend] | None = None
    planned: Plan | None = None

    @cached_property
    def target(self) -> Target:
        """The target with the options."""
        return self.options.target(self.requested)

    @cached_property
    def left_out(self) -> PlanOptions:
        """The layers left in float."""
        return self.options.plan_options()

    @cached_property
    def plan(self) -> Plan:
        """How each tensor is quantized.

        Raises:
            UsageError: an option cannot be honoured.
            ModelError: the model cannot be quantized.
        """
        return self.planned or plan(self.run.prepared.model, self.target, self.left_out)

    @property
    def outliers(self) -> tuple[str, ...]:
        """Digests of the images that are left out as outliers."""
        return () if self.options.keep_outliers else self.run.statistics.outlier_images
