"""The signature of a classifier's file: image input, layout, element type, and the output with the scores.

A file may take uint8, half-precision or NHWC images, or further inputs, and may return feature maps, predicted classes
or auxiliary scores in addition to the scores. `read_signature` identifies them; all further code uses a float32 NCHW
image and scores ``[N, classes]`` (see `quantkit.graph.interface`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.image_input import ImageInput, find_image, free_inputs
from quantkit.graph.score_output import AS_ASKED, OutputInfo, ScoreOutput, choose_scores, describe_outputs

# Types that are converted to float32; float64 only if layers compute in it.
HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})

Fixed = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Signature:
    """The signature of a classifier's file.

    Attributes:
        image: the image input.
        fixed: values of all other inputs, by name.
        scores: the output with the class scores, and why it was selected.
        outputs: every output in the order of the file, with the reason if it cannot be the scores.
        converted: names of the element types that are computed in float32 instead, such as ``float16``.
        inputs: name, type and shape of every required input, in the order of the file.
    """

    image: ImageInput
    scores: ScoreOutput
    outputs: tuple[OutputInfo, ...]
    fixed: Fixed = field(default_factory=dict)
    converted: tuple[str, ...] = ()
    inputs: tuple[OutputInfo, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the file has one float32 NCHW image input and the scores ``[N, classes]`` as first output."""
        image, first = self.image, self.outputs[0]
        plain_image = image.dtype is ir.DataType.FLOAT and image.layout == "NCHW"
        plain_scores = self.scores.is_matrix and first.name == self.scores.name
        return plain_image and plain_scores and not self.fixed and not self.converted

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how the file is interpreted, one sentence each."""
        found = []
        if len(self.outputs) > 1:
            found.append(f"the scores are the output {self.scores.name!r}{_why(self.scores)}")
        if self.image.dtype is not ir.DataType.FLOAT and self.image.dtype.is_integer():
            found.append(f"the image input {self.image.name!r} is {self.image.type_name}: it takes integer pixels")
        if self.image.layout == "NHWC":
            found.append(f"the image input {self.image.name!r} is NHWC: images are transposed at the input")
        found.extend(
            f"the input {name!r} is fixed to {shown(value)}: written models keep the input and ignore its value"
            for name, value in self.fixed.items()
        )
        return tuple(found)

    @property
    def conversion_notes(self) -> tuple[str, ...]:
        """Changes of element types in all models derived from the file, one sentence each."""
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
    """Return the signature of a model.

    Args:
        model: as read from its file.
        output: name of the output with the scores; detected by default.
        fixed: values of the other inputs by name, in the type and shape of each input.
        shapes: measured shapes of outputs for one batch (see `ImageInput.batch`; 2 if it is dynamic).

    Raises:
        ModelError: there is no image input, or several candidates; another input has no value; or there is no output
            with class scores, or several candidates.
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
    """Return the names of the element types of a model that are converted to float32.

    These are float16 and bfloat16, and float64 if a layer computes in it; sizes computed in float64, as by some
    exporters, are not converted.
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
    return "" if scores.reason == AS_ASKED else f" ({scores.reason}); --output selects another"


def shown(value: npt.NDArray[np.generic]) -> str:
    """Return a fixed value as text, shortened."""
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
