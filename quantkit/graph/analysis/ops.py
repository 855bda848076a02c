"""Roles of ONNX operators in an integer graph, and the reasons for operators that stay in float.

The sets are those of onnxruntime's CPU kernels; `tests/graph/test_int8_operators.py` checks them on the graphs that
onnxruntime makes.
"""

from enum import Enum


class Role(Enum):
    """The role of a node; `quantkit.graph.qdq.plan` uses it."""

    LAYER = "layer"  # activations times constant weights
    ACTIVATION_MATMUL = "activation matmul"  # a matrix product of two activations
    ELEMENTWISE = "elementwise"  # element-wise Add or Mul
    CONCAT = "concat"
    UNARY = "unary"  # one activation in, one out, each with its own scale
    PASS = "pass"  # forwards the integers unchanged
    RESCALE = "rescale"  # the same integers under another scale
    ACTIVATION = "activation"  # ReLU or Clip: absorbed where the range makes it idle
    FLOAT = "float"


LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ELEMENTWISE = frozenset({"Add", "Mul"})
UNARY = frozenset({"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"})
# Those that TensorRT computes in int8 (https://docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization").
UNARY_WITHOUT_TABLE = frozenset({"AveragePool", "GlobalAveragePool"})
# Sums with a constant that saturate at both ends: exact on affine uint8, impossible on symmetric integers.
SATURATING = frozenset({"HardSigmoid"})
ACTIVATIONS = frozenset({"Relu", "Clip"})

# onnxruntime fuses only MaxPool and a few others between DequantizeLinear and QuantizeLinear; it can compute these on
# integers if they are written on integers.
WRITTEN_ON_INTEGERS = frozenset({"Pad", "SpaceToDepth", "Split"})

# Values are moved or selected, not computed: the output has the range of the input.
PASS_THROUGH = frozenset(
    {
        "MaxPool",
        "ReduceMax",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "Expand",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
        "Pad",
        "Resize",
    }
)

GEMMS = frozenset({"Gemm", "MatMul"})

# The layers with kernels that can return accumulators as float32 instead of rounding them to 8 bits.
FLOAT_OUTPUT = GEMMS

NO_INTEGER_KERNEL = "onnxruntime's CPU provider has no integer kernel for it"

FLOAT_REASONS = {
    "LayerNormalization": "its mean and variance need more than 8 bits",
    "InstanceNormalization": "its mean and variance need more than 8 bits",
    "GroupNormalization": "its mean and variance need more than 8 bits",
    "LpNormalization": "its norm needs more than 8 bits",
    "BatchNormalization": "its input is not an [N, C, ...] tensor, or its statistics are not constant",
    "Softmax": "in integers its results would be multiples of 1/256",
    "LogSoftmax": "in integers its results would be multiples of 1/256",
    "If": "nodes inside a condition are not quantized",
    "Loop": "nodes inside a loop are not quantized",
    "Scan": "nodes inside a loop are not quantized",
}
