"""What quantkit knows about each ONNX operator: the part it plays in an integer graph, or why it stays in float.

The sets are those of onnxruntime's CPU kernels; `tests/graph/test_int8_operators.py` checks them on the graphs that
onnxruntime makes.
"""

from enum import Enum


class Role(Enum):
    """The part a node plays; what follows from it is in `quantkit.graph.qdq.plan`."""

    LAYER = "layer"  # activations times constant weights
    PRODUCT = "product"  # a matrix product of two activations
    SUM = "sum"  # element-wise Add or Mul
    CONCAT = "concat"
    UNARY = "unary"  # one activation in, one out, each with its own scale
    PASS = "pass"  # hands the integers on unchanged
    RESCALE = "rescale"  # the same integers under another scale
    ACTIVATION = "activation"  # ReLU or Clip: absorbed where the range makes it idle
    FLOAT = "float"


LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SUMS = frozenset({"Add", "Mul"})
UNARY = frozenset({"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"})
# Of these TensorRT computes in int8 (https://docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization").
UNARY_WITHOUT_TABLE = frozenset({"AveragePool", "GlobalAveragePool"})
# Sums with a constant whose result saturates at both ends: exact on affine uint8, impossible on symmetric integers.
SATURATING = frozenset({"HardSigmoid"})
ACTIVATIONS = frozenset({"Relu", "Clip"})

# onnxruntime fuses only MaxPool and friends between DequantizeLinear and QuantizeLinear; these it computes on integers
# just as well, if they are written that way.
WRITTEN_ON_INTEGERS = frozenset({"Pad", "SpaceToDepth", "Split"})

# Values move or are selected, none is computed: the range of the input holds for the output.
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

# The layers whose kernel can hand on its accumulators as float32 instead of rounding them to 8 bits.
FLOAT_OUTPUT = GEMMS

NO_INTEGER_KERNEL = "onnxruntime's CPU provider has no integer kernel for it"

FLOAT_REASONS = {
    "LayerNormalization": "its mean and variance need more than 8 bits",
    "InstanceNormalization": "its mean and variance need more than 8 bits",
    "GroupNormalization": "its mean and variance need more than 8 bits",
    "LpNormalization": "its norm needs more than 8 bits",
    "BatchNormalization": "its input is no [N, C, ...] tensor, or its statistics are not constant",
    "Softmax": "in integers its results would be multiples of 1/256",
    "LogSoftmax": "in integers its results would be multiples of 1/256",
    "If": "what runs inside a condition is not quantized",
    "Loop": "what runs inside a loop is not quantized",
    "Scan": "what runs inside a loop is not quantized",
}
