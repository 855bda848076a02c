"""Targets: the runtimes and compilers of int8 models, described by integer types, symmetry, rounding and operators.

A target is a value, not a base class. `docs/numerics.md` defines the arithmetic of each target.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from quantkit.errors import UsageError
from quantkit.numerics import QParams, Range, affine_qparams, symmetric_qparams
from quantkit.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class ActivationScheme:
    """Quantization scheme of activations, one scale per tensor.

    Attributes:
        dtype: integer type stored.
        symmetric: zero point 0 and ``scale = threshold / divisor``; else affine over [qmin, qmax].
        divisor: divisor of the symmetric scale.
        qmin: smallest integer used. QuantizeLinear saturates at the smallest integer of its type; if qmin is greater,
            the written graph clips before quantizing.
        qmax: largest integer used.
    """

    dtype: Literal["uint8", "int8"]
    symmetric: bool
    qmin: int
    qmax: int
    divisor: float = 127.0

    def qparams(self, range_: Range) -> QParams:
        """Return the parameters for a range."""
        if self.symmetric:
            return symmetric_qparams(
                range_.threshold, divisor=self.divisor, qmin=self.qmin, qmax=self.qmax, dtype=self.dtype
            )
        return affine_qparams(range_, qmin=self.qmin, qmax=self.qmax, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """Symmetric int8 quantization scheme of weights.

    Attributes:
        per_channel: one scale per output channel; else one per tensor.
        qmax: largest magnitude used: 127, or 63 for CPUs that saturate sums of int8 products in 16 bits.
        divisor: divisor of the scale.
        power_of_two: round each threshold up to a power of two.
    """

    per_channel: bool = True
    qmax: int = 127
    divisor: float = 127.0
    power_of_two: bool = False

    def qparams(self, threshold: FloatArray | float, axis: int | None) -> QParams:
        """Return the parameters for ``max |w|``, a scalar or, with an axis, one per channel."""
        return symmetric_qparams(
            threshold,
            divisor=self.divisor,
            qmin=-self.qmax,
            qmax=self.qmax,
            dtype=np.int8,
            axis=axis,
            power_of_two=self.power_of_two,
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """A runtime or compiler that a model is quantized for.

    Attributes:
        name: name on the command line.
        activations: scheme of the activations.
        weights: scheme of the weights.
        integer_sums: element-wise additions, pools and concatenations take integers; otherwise they are computed in
            float and only inputs of conv and gemm are quantized (Relay, and so VACC).
        integer_outputs: kernels requantize their results, so every output of an integer operator is quantized;
            otherwise only its inputs are (TensorRT derives the rest by fusion).
        integer_bias: biases are stored as int32 at the scale of the accumulators; otherwise as float32.
        kl_definition: definition of the method ``kl``: Relay's for VACC, TensorRT's for the others (onnxruntime's has a
            single candidate in its default setting).
        quantize_gemm: fully connected layers become int8 too.
        compiler_calibrates: the compiler takes the fp32 model and the images, and sets ranges by itself.
        export_opset: ONNX opset for the export of torch networks.

    Example:
        >>> import quantkit
        >>> quantkit.ORT.with_options(per_channel=False).weights.per_channel
        False
    """

    name: str
    activations: ActivationScheme
    weights: WeightScheme = field(default_factory=WeightScheme)
    integer_sums: bool = True
    integer_outputs: bool = True
    integer_bias: bool = True
    kl_definition: Literal["tensorrt", "relay", "ort"] = "tensorrt"
    quantize_gemm: bool = True
    compiler_calibrates: bool = False
    export_opset: int = 18

    def with_options(
        self,
        *,
        per_channel: bool | None = None,
        activation_type: Literal["uint8", "int8"] | None = None,
        weight_bits: int | None = None,
        power_of_two: bool | None = None,
    ) -> "Target":
        """Return this target with other options; None keeps an option."""
        weights = self.weights
        if per_channel is not None:
            weights = replace(weights, per_channel=per_channel)
        if weight_bits == 7:
            weights = replace(weights, qmax=63, divisor=weights.divisor / 127.0 * 63.0)
        if power_of_two is not None:
            weights = replace(weights, power_of_two=power_of_two)
        activations = self.activations
        if activation_type is not None and activation_type != activations.dtype:
            activations = SYMMETRIC_INT8 if activation_type == "int8" else AFFINE_UINT8
        return replace(self, weights=weights, activations=activations)


AFFINE_UINT8 = ActivationScheme(dtype="uint8", symmetric=False, qmin=0, qmax=255)
SYMMETRIC_INT8 = ActivationScheme(dtype="int8", symmetric=True, qmin=-128, qmax=127)
RELAY_INT8 = ActivationScheme(dtype="int8", symmetric=True, qmin=-127, qmax=127, divisor=128.0)

ORT = Target(name="ort", activations=AFFINE_UINT8)
TENSORRT = Target(
    name="tensorrt",
    activations=SYMMETRIC_INT8,
    integer_outputs=False,
    integer_bias=False,
)
VACC = Target(
    name="vacc",
    activations=RELAY_INT8,
    weights=WeightScheme(divisor=128.0),
    integer_sums=False,
    integer_outputs=False,
    kl_definition="relay",
    compiler_calibrates=True,
    # The opsets that its compiler reads are not published. The vendor's model zoo (Vastai/VastModelZOO) exports
    # classifiers with 10 to 12: its script for torchvision and timm uses 11, those for iResNet and PaddlePaddle 10, for
    # ViT 12.
    export_opset=11,
)

TARGETS: dict[str, Target] = {target.name: target for target in (ORT, TENSORRT, VACC)}


def as_target(target: Target | str) -> Target:
    """Return a target given as a value or by name.

    Raises:
        UsageError: no such target.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        return parse_target(target)
    raise UsageError(f"takes a target, not {target!r}", where="target", fix=f"give one of {', '.join(TARGETS)}")


def parse_target(name: str) -> Target:
    """Return the target with a command-line name.

    Raises:
        UsageError: no such target.
    """
    if name not in TARGETS:
        raise UsageError(f"there is no target {name!r}", where="--target", fix=f"choose one of {', '.join(TARGETS)}")
    return TARGETS[name]
