"""What a classifier's file takes and gives: its image input, its layout and type, and which output holds the scores.

A file may take uint8 or half-precision images, NHWC, or further inputs beside the image, and may give feature maps,
predicted classes or auxiliary scores beside the scores. `read_signature` finds out which is which, once; what works on
models then sees a float32 NCHW image and scores ``[N, classes]`` (see `quantkit.graph.interface`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.image_input import ImageInput, find_image, free_inputs
from quantkit.graph.score_output import AS_ASKED, OutputInfo, ScoreOutput, choose_scores, describe_outputs

# Types that are converted to float32; float64 only where the layers themselves compute in it.
HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})

Fixed = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Signature:
    """What a classifier's file takes and gives.

    Attributes:
        image: the image input.
        fixed: values of all other inputs, by name.
        scores: the output that holds the class scores, and why it was taken.
        outputs: every output in the order of the file, with what speaks against its being the scores.
        converted: names of the element types that are computed in float32 instead, such as ``float16``.
        inputs: name, type and shape of every input that has to be fed, in the order of the file.
    """

    image: ImageInput
    scores: ScoreOutput
    outputs: tuple[OutputInfo, ...]
    fixed: Fixed = field(default_factory=dict)
    converted: tuple[str, ...] = ()
    inputs: tuple[OutputInfo, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the file takes one float32 NCHW image and gives its scores ``[N, classes]`` first."""
        image, first = self.image, self.outputs[0]
        plain_image = image.dtype is ir.DataType.FLOAT and image.layout == "NCHW"
        plain_scores = self.scores.is_matrix and first.name == self.scores.name
        return plain_image and plain_scores and not self.fixed and not self.converted

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user may want to know of how the file is read, one sentence each."""
        found = []
        if len(self.outputs) > 1:
            found.append(f"the scores are the output {self.scores.name!r}{_why(self.scores)}")
        if self.image.dtype is not ir.DataType.FLOAT and self.image.dtype.is_integer():
            found.append(f"the image input {self.image.name!r} is {self.image.type_name}: it takes whole pixel values")
        if self.image.layout == "NHWC":
            found.append(f"the image input {self.image.name!r} is NHWC: images are transposed where they enter")
        found.extend(
            f"the input {name!r} is fixed to {shown(value)}: written models keep the input and ignore what it is fed"
            for name, value in self.fixed.items()
        )
        return tuple(found)

    @property
    def conversion_notes(self) -> tuple[str, ...]:
        """What is computed otherwise than in the file in all that is made from it, one sentence each."""
        if not self.converted:
            return ()
        types = " and ".join(self.converted)
        return (f"{types} tensors are computed in float32; inputs and outputs keep the types of the file",)


def read_signature(
    model: ir.Model,
    *,
    output: str | None = None,
    fixed: Fixed | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Signature:
    """Return what a model takes and gives.

    Args:
        model: as read from its file.
        output: name of the scores; absent, they are found.
        fixed: values of the inputs that are no image, by name, in their own type and shape.
        shapes: shapes that outputs were seen to have for one batch (see `ImageInput.batch`, 2 where it is dynamic).

    Raises:
        ModelError: no input is an image, or several could be; another input has no value; no output looks like class
            scores, or several do and nothing tells them apart.
    """
    fixed = fixed or {}
    image = find_image(model, fixed)
    outputs = describe_outputs(model, image, shapes or {})
    return Signature(
        image=image,
        scores=choose_scores(model, outputs, output),
        outputs=outputs,
        fixed=dict(fixed),
        converted=converted_types(model),
        inputs=tuple(OutputInfo.of(value) for value in free_inputs(model)),
    )


def converted_types(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the element types of a model that are to be computed in float32.

    These are float16 and bfloat16 wherever they occur, and float64 where a layer computes in it: sizes computed in
    float64, as some exporters do, stay as they are.
    """
    found = {value.dtype for value in _values(model) if value.dtype in HALF}
    found |= {ir.DataType(dtype) for dtype in _cast_types(model) if ir.DataType(dtype) in HALF}
    doubles = (
        value.dtype is ir.DataType.DOUBLE
        for node in model.graph.all_nodes()
        if node.op_type in _LAYERS
        for value in (*node.inputs, *node.outputs)
        if value is not None
    )
    image_or_scores = (*free_inputs(model), *model.graph.outputs)
    if any(doubles) or any(value.dtype is ir.DataType.DOUBLE for value in image_or_scores):
        found.add(ir.DataType.DOUBLE)
    return tuple(sorted(dtype.numpy().name for dtype in found if dtype is not None))


def _why(scores: ScoreOutput) -> str:
    return "" if scores.reason == AS_ASKED else f" ({scores.reason}); --output chooses another"


def shown(value: npt.NDArray[np.generic]) -> str:
    """Return a fixed value as a user wrote it, shortened."""
    if value.size and (value == value.flat[0]).all():
        return str(value.flat[0].item())
    return f"{value.dtype.name} {list(value.shape)}"


def _values(model: ir.Model) -> list[ir.Value]:
    found = [*model.graph.inputs]
    for graph in model.graphs():
        found += graph.initializers.values()
        found += [value for node in graph for value in node.outputs]
    return found


def _cast_types(model: ir.Model) -> list[int]:
    casts = (node for node in model.graph.all_nodes() if node.op_type == "Cast")
    return [node.attributes["to"].as_int() for node in casts if "to" in node.attributes]
