"""Statistics of a model's tensors over a set of images, and the extremes of each image.

One image in a hundred can have activations hundreds of times larger than usual: squeeze-and-excitation blocks multiply
unusual values, layer after layer. A range that covers them leaves a few levels for the other images. Such outlier
images are detected by their extremes, which are stored; the histograms are then cut to the extremes of the others.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quantkit.config.method import Method, MinMax
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import Target
from quantkit.types import Float32Array

# An image is an outlier if its largest value of some tensor is this many times that of the median image. In sound
# networks one image in a hundred reaches a ratio of 20 in some tensor; with exploding excitations it is 50 to 700.
FAR = 32.0
# Maximum share of outlier images; more frequent ones are not exceptions.
LARGEST_SHARE = 1.0 / 32.0


@dataclass(frozen=True, eq=False)
class Observed:
    """Statistics of every observed tensor over a set of images.

    Attributes:
        tensors: by tensor name of the prepared model, in graph order.
        extremes: float32 ``[images, tensors, 2]``: smallest and largest value of each image's tensors, or of the batch
            if a tensor does not separate the images of a batch.
        known_outliers: rows of ``extremes`` of images that were outliers on another form of the model; None to detect
            them.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> statistics = quantkit.load_statistics("run/statistics.safetensors")
        >>> statistics.outliers
        ()
    """

    tensors: dict[str, TensorStatistics]
    extremes: Float32Array
    known_outliers: tuple[int, ...] | None = field(default=None, kw_only=True)

    def joined(self, other: "Observed") -> "Observed":
        """Return the statistics of these images followed by others, with the same tensors, as one pass gives them."""
        tensors = {name: one.merge(other.tensors[name]) for name, one in self.tensors.items()}
        columns = [list(other.tensors).index(name) for name in self.tensors]
        return Observed(tensors, np.concatenate([self.extremes, other.extremes[:, columns]]))

    @cached_property
    def outliers(self) -> tuple[int, ...]:
        """Rows of ``extremes`` of outlier images, at most the share `LARGEST_SHARE` of all images."""
        if self.known_outliers is not None:
            return self.known_outliers
        far = self.outlier_ratio
        farthest = np.argsort(-far, kind="stable")[: int(LARGEST_SHARE * far.size)]
        return tuple(sorted(int(row) for row in farthest if far[row] > FAR))

    @cached_property
    def outlier_ratio(self) -> npt.NDArray[np.float64]:
        """Largest ratio, over all tensors, of an image's magnitude to that of the median image; ``[images]``."""
        reach = np.abs(self.extremes).max(axis=2, initial=0.0).astype(np.float64)
        if not reach.size:
            return np.zeros(len(reach))
        usual = np.median(reach, axis=0)
        far: npt.NDArray[np.float64] = (reach[:, usual > 0.0] / usual[usual > 0.0]).max(axis=1, initial=0.0)
        return far

    @cached_property
    def without_outliers(self) -> dict[str, TensorStatistics]:
        """The statistics of all images, cut to the extremes of the images without outliers."""
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

        They exclude outlier images, unless the method is minmax, which covers all values. A compiler that calibrates by
        itself is not given the outlier images, so it does not see their values by any method.
        """
        all_values = isinstance(method, MinMax) and not target.compiler_calibrates
        return self.tensors if keep_outliers or all_values else self.without_outliers
