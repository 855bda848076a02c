"""im2col columns of a layer's input, and their covariance."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.types import FloatArray

Covariance = npt.NDArray[np.float64]

# Samples per column of the covariance, and positions of one image, which are strongly correlated.
SAMPLES_PER_COLUMN = 4
LEAST_POSITIONS, MOST_POSITIONS = 32, 256
# A covariance of this many columns takes half a gigabyte.
LARGEST_COLUMNS = 8192
# Least samples per block, or half the number of columns if that is more: updating the covariance image by image costs
# more than the products.
BLOCK_SAMPLES = 1024


def can_unfold(node: ir.Node, weight_shape: Sequence[int]) -> bool:
    """Return whether `input_covariance` supports a layer: a 2-D convolution with explicit padding, Gemm or MatMul."""
    if node.op_type == "Conv":
        plain = len(weight_shape) == 4 and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        return plain and int(np.prod(weight_shape[1:])) <= LARGEST_COLUMNS
    return node.op_type in ("Gemm", "MatMul") and max(weight_shape) <= LARGEST_COLUMNS


def input_covariance(
    node: ir.Node, weight_shape: Sequence[int], inputs: Iterable[FloatArray], images: int, seed: int
) -> Covariance:
    """Return the covariance of a layer's im2col columns, float64 ``[groups, columns, columns]``, in weight order.

    Args:
        node: the layer.
        weight_shape: shape of its weights.
        inputs: its input for each image.
        images: number of images.
        seed: random seed of the drawn positions.
    """
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    rng = np.random.default_rng(seed)
    least = max(BLOCK_SAMPLES, int(np.prod(weight_shape[1:])) // 2)
    found: _Covariance | None = None
    for columns in _joined((_unfolded(node, weight_shape, value, images, rng) for value in inputs), least):
        blocks = columns.reshape(groups, columns.shape[0] // groups, -1)
        if found is None:
            found = _Covariance(blocks)
        found.add(blocks)
    assert found is not None
    return found.result()


class _Covariance:
    """Sums of products in float32, block by block, which float64 sums collect.

    float32 suffices if the values are centered and scaled first: the products of a block then lose no more than its
    sampling error, whatever the mean and the magnitude are.

    Args:
        first: the first samples, float32 ``[groups, columns, samples]``, which set center and scale.
    """

    def __init__(self, first: FloatArray) -> None:
        self._center = first.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
        largest = float(np.abs(first - self._center).max(initial=0.0))
        self._scale = np.float32(2.0 ** np.floor(np.log2(largest)) if 0.0 < largest < np.inf else 1.0)
        self._count, self._total = 0, np.zeros(first.shape[:2])
        self._squares = np.zeros((*first.shape[:2], first.shape[1]))

    def add(self, samples: FloatArray) -> None:
        """Add samples ``[groups, columns, samples]``."""
        values = (samples.astype(np.float32, copy=False) - self._center) / self._scale
        self._count += values.shape[2]
        self._total += values.sum(axis=2, dtype=np.float64)
        self._squares += values @ values.transpose(0, 2, 1)

    def result(self) -> Covariance:
        """Return the covariance of all samples; it may be called once."""
        mean, squares = self._total / self._count, self._squares
        squares /= self._count
        squares -= mean[:, :, None] * mean[:, None, :]
        squares *= float(self._scale) ** 2
        return squares


def _joined(columns: Iterable[FloatArray], least: int) -> Iterator[FloatArray]:
    """Yield concatenated columns of several images, of at least so many samples except for the last."""
    held: list[FloatArray] = []
    for one in columns:
        held.append(one)
        if sum(part.shape[1] for part in held) >= least:
            yield np.concatenate(held, axis=1)
            held = []
    if held:
        yield np.concatenate(held, axis=1)


def _unfolded(
    node: ir.Node, weight_shape: Sequence[int], value: FloatArray, images: int, rng: np.random.Generator
) -> FloatArray:
    """Return a sample of the im2col columns, ``[columns of the weights, positions]``."""
    if node.op_type != "Conv":
        tokens = value.reshape(-1, value.shape[-1])
        return tokens[_drawn(len(tokens), value.shape[-1], images, rng)].T
    height, width = weight_shape[2:]
    strides, dilations = (node.attributes.get_ints(name) or (1, 1) for name in ("strides", "dilations"))
    top, left, bottom, right = node.attributes.get_ints("pads") or (0, 0, 0, 0)
    image = np.pad(value[0], ((0, 0), (top, bottom), (left, right)))
    down = (image.shape[1] - dilations[0] * (height - 1) - 1) // strides[0] + 1
    across = (image.shape[2] - dilations[1] * (width - 1) - 1) // strides[1] + 1
    drawn = _drawn(down * across, int(np.prod(weight_shape[1:])), images, rng)
    y, x = drawn // across * strides[0], drawn % across * strides[1]
    taps = [image[:, y + i * dilations[0], x + j * dilations[1]] for i in range(height) for j in range(width)]
    return np.stack(taps, axis=1).reshape(image.shape[0] * height * width, -1)


def _drawn(available: int, columns: int, images: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    wanted = int(np.clip(SAMPLES_PER_COLUMN * columns // max(images, 1), LEAST_POSITIONS, MOST_POSITIONS))
    if available <= wanted:
        return np.arange(available)
    return np.sort(rng.choice(available, wanted, replace=False))
