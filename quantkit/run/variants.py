"""Models that differ from another in a part of the graph, each run only from where it begins to differ."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.alike import Computations
from quantkit.graph.values import is_constant, name_of
from quantkit.run.segments import SegmentedRun, crossing

FloatArray = npt.NDArray[np.float32]


class Variants:
    """The scores of variants of a model, over a few images.

    One walk goes through the model; a variant takes from it the tensors that both compute alike and runs the rest. The
    walk only goes forwards, so the variants should come in the order in which they differ: one that differs before the
    present cut is run from the images on, to the same result.

    Memory: the images, and the tensors that cross the cut, for every image.

    Args:
        model: prepared or int8.
        images: ``[n, C, H, W]`` each, as the model's input takes them.
        threads: images run side by side.
    """

    def __init__(self, model: ir.Model, images: Sequence[FloatArray], *, threads: int) -> None:
        self._images, self._threads = images, threads
        self._walk = SegmentedRun(model, images, threads=threads)
        self._computations = Computations()
        self._names = {number: name for name, number in self._computations.remember(model).items()}

    def scores(self, variant: ir.Model) -> FloatArray:
        """Return the first output of a variant, ``[images, classes]``, as `quantkit.run.scores.scores_of` does.

        Raises:
            ModelError: onnxruntime cannot run a part of the model or of the variant.
        """
        taken = self._alike(variant)
        ours = list(taken.values())
        if self._walk.reaches(ours):
            self._walk.advance(ours, keep=ours)
            run = self._walk.branch(variant, taken)
        else:
            run = SegmentedRun(variant, self._images, threads=self._threads)
        output = name_of(variant.graph.outputs[0])
        return np.concatenate([scores[:1].reshape(1, -1) for (scores,) in run.run([output])]).astype(np.float32)

    def _alike(self, variant: ir.Model) -> dict[str, str]:
        """Return the last tensors of a variant that the model computes alike, with their names in the model."""
        numbers = self._computations.number(variant)
        found: dict[str, str] = {}
        seen: set[ir.Value] = set()
        pending = [crossing(variant.graph.outputs[0])]
        while pending:
            value = pending.pop()
            if value in seen or is_constant(value):
                continue
            seen.add(value)
            if numbers[name_of(value)] in self._names:
                found[name_of(value)] = self._names[numbers[name_of(value)]]
                continue
            node = value.producer()
            assert node is not None  # both models have the same inputs
            pending.extend(crossing(operand) for operand in node.inputs if operand is not None)
        return found
