"""Images whose activations lie far beyond those of all others.

A network can answer one picture in fifty with activations a hundred times as large as usual: squeeze-and-excitation
blocks multiply what is unusual, layer after layer. The range that holds them leaves the other images a few levels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.run.tap import TappedSession

FloatArray = npt.NDArray[np.float32]

# An image outlies whose largest value of some tensor is this many times that of the median image. In sound networks one
# image in a hundred goes 20 times as far somewhere; where excitations run away it is 50 to 700 times.
FAR = 32.0
# At most this share of the images: what is more frequent than that is no exception.
LARGEST_SHARE = 1.0 / 32.0


def outlying(
    model: ir.Model, tensors: Sequence[str], paths: Sequence[Path], load: Callable[[Path], FloatArray], *, threads: int
) -> frozenset[Path]:
    """Return the images that outlie; where they are more than exceptions, only the farthest.

    Args:
        model: prepared.
        tensors: names of those to look at.
        paths: images.
        load: returns the input that an image gives, ``[N, C, H, W]``.
        threads: images run side by side.
    """
    session = TappedSession(model, tensors)

    def reach(path: Path) -> list[float]:
        largest = {name: float(np.abs(value).max(initial=0.0)) for name, value in session.run(load(path))[1]}
        return [largest[name] for name in tensors]

    reaches = np.array(list(map_in_order(reach, paths, threads)))
    usual = np.median(reaches, axis=0)
    far = (reaches[:, usual > 0.0] / usual[usual > 0.0]).max(axis=1, initial=0.0)
    farthest = np.argsort(-far, kind="stable")[: int(LARGEST_SHARE * len(paths))]
    return frozenset(paths[place] for place in farthest if far[place] > FAR)
