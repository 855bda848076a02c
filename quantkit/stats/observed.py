"""What a set of images makes of a model's tensors: the values of all of them, and how far each image goes.

A network can answer one picture in a hundred with activations hundreds of times as large as usual: squeeze-and-
excitation blocks multiply what is unusual, layer after layer. A range that holds them leaves the other images a few
levels. Such images are known by their extremes, which are kept; the histograms are then cut to what the others reach.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quantkit.config.method import Method, MinMax
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import Target
from quantkit.types import Float32Array

# An image outlies whose largest value of some tensor is this many times that of the median image. In sound networks one
# image in a hundred goes 20 times as far somewhere; where excitations run away it is 50 to 700 times.
FAR = 32.0
# At most this share of the images: what is more frequent than that is no exception.
LARGEST_SHARE = 1.0 / 32.0


@dataclass(frozen=True, eq=False)
class Observed:
    """Statistics of every observed tensor over a set of images.

    Attributes:
        tensors: by tensor name of the prepared model, in graph order.
        extremes: float32 ``[images, tensors, 2]``: least and greatest value of each image's tensors. Where a tensor
            does not keep the images of a batch apart, those of the batch.
        known_outliers: rows of ``extremes`` whose images were found to outlie on another form of the model; None where
            they are to be found on this one.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> statistics, _ = quantkit.load_statistics("run/statistics.safetensors")
        >>> statistics.outliers
        ()
    """

    tensors: dict[str, TensorStatistics]
    extremes: Float32Array
    known_outliers: tuple[int, ...] | None = field(default=None, kw_only=True)

    @cached_property
    def outliers(self) -> tuple[int, ...]:
        """Rows of ``extremes`` whose images outlie; where they are more than exceptions, only the farthest."""
        if self.known_outliers is not None:
            return self.known_outliers
        far = self.outlier_ratio
        farthest = np.argsort(-far, kind="stable")[: int(LARGEST_SHARE * far.size)]
        return tuple(sorted(int(row) for row in farthest if far[row] > FAR))

    @cached_property
    def outlier_ratio(self) -> npt.NDArray[np.float64]:
        """How many times as far as the median image each image goes, in the tensor where that is most; ``[images]``."""
        reach = np.abs(self.extremes).max(axis=2, initial=0.0).astype(np.float64)
        if not reach.size:
            return np.zeros(len(reach))
        usual = np.median(reach, axis=0)
        far: npt.NDArray[np.float64] = (reach[:, usual > 0.0] / usual[usual > 0.0]).max(axis=1, initial=0.0)
        return far

    @cached_property
    def ordinary(self) -> dict[str, TensorStatistics]:
        """The statistics of all images, cut to what those reach that do not outlie."""
        if not self.outliers:
            return self.tensors
        kept = np.delete(self.extremes, self.outliers, axis=0)
        lows, highs = kept[..., 0].min(axis=0), kept[..., 1].max(axis=0)
        return {
            name: one.within(float(lo), float(hi))
            for (name, one), lo, hi in zip(self.tensors.items(), lows, highs, strict=True)
        }

    def for_ranges(self, method: Method, target: Target, *, keep_outliers: bool = False) -> dict[str, TensorStatistics]:
        """Return the statistics that a method sets ranges from.

        They are the ordinary ones, unless the method is minmax, which means all values. A compiler that calibrates by
        itself is not given the images that outlie, so it does not see their values by any method.
        """
        all_values = isinstance(method, MinMax) and not target.compiler_calibrates
        return self.tensors if keep_outliers or all_values else self.ordinary
