"""ONNX files that are no models, no classifiers, or traps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bad_input.bad_item import BadInput
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError

_TEXT = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
    c = Conv (image, w)
    r = Relu (c)
    g = GlobalAveragePool (r)
    logits = Flatten (g)
}
"""

Change = Callable[[onnx.ModelProto], object]


def model(change: Change | None = None, text: str = _TEXT) -> onnx.ModelProto:
    """Return a small classifier, changed."""
    made = onnx.parser.parse_model(text)
    weights = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    if change is not None:
        change(made)
    return made


def _refused(name: str, made: onnx.ModelProto | bytes | Callable[[Path], object], result: str) -> BadInput:
    content = made.SerializeToString() if isinstance(made, onnx.ModelProto) else made
    return BadInput("model", f"{name}.onnx", content, result, ModelError)


def _weight(value: float, position: int = 5) -> Change:
    def change(made: onnx.ModelProto) -> None:
        weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
        weights.flat[position] = value
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))

    return change


def _input(shape: list[int | str], kind: int = TensorProto.FLOAT) -> Change:
    def change(made: onnx.ModelProto) -> None:
        made.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))

    return change


def _second_input(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 3, 8, 8]))
    made.graph.node.insert(0, helper.make_node("Add", ["image", "other"], ["sum"]))
    made.graph.node[1].input[0] = "sum"


def _cycle(made: onnx.ModelProto) -> None:
    made.graph.node[1].input[0] = "g"


def _dangling(made: onnx.ModelProto) -> None:
    made.graph.node[1].input[0] = "nowhere"


def _external(
    location: str, data: bytes | None, offset: int | None = None, length: int | None = None
) -> Callable[[Path], object]:
    """Return what writes a model whose weights lie in another file."""

    def write(path: Path) -> None:
        made = model()
        tensor = made.graph.initializer[0]
        content = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
        if data is not None:
            (path.parent / location).write_bytes(content if data == b"whole" else data)
        path.write_bytes(made.SerializeToString())

    return write


def _linked_outside(path: Path) -> None:
    _external("weights.bin", None)(path)
    target = path.parent.parent / "elsewhere"
    target.mkdir(exist_ok=True)
    (target / "real.bin").write_bytes(b"\0" * 432)
    (path.parent / "weights.bin").symlink_to(target / "real.bin")


def _to_quantized(made: onnx.ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(0.1, np.float32), "s"))
    made.graph.node[1].CopyFrom(helper.make_node("QuantizeLinear", ["c", "s"], ["q"], "the_node"))
    made.graph.node.insert(2, helper.make_node("DequantizeLinear", ["q", "s"], ["r"]))


def _constant_to_nowhere(made: onnx.ModelProto) -> None:
    made.graph.node.insert(
        0, helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.asarray(1, np.float32)))
    )


def _replace_last(*arguments: object, **attributes: Any) -> Change:
    def change(made: onnx.ModelProto) -> None:
        made.graph.node[-1].CopyFrom(helper.make_node(*arguments, **attributes))  # type: ignore[arg-type]

    return change


def _deep(made: onnx.ModelProto, depth: int = 60) -> None:
    graph = made.graph
    for level in range(depth):
        inner = helper.make_graph([helper.make_node("Identity", ["c"], [f"i{level}"])], f"g{level}", [], [])
        node = helper.make_node("If", ["c"], [f"o{level}"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        graph.node.append(node)
        graph = graph.node[-1].attribute[0].g


_WHOLE = model().SerializeToString()
_INVALID = "is not a valid ONNX model|is not an ONNX file|has no graph|no image input|no output"

MODELS = (
    *(
        _refused(f"cut_at_{at}", _WHOLE[:at], _INVALID + "|cannot tell|external data")
        for at in range(0, len(_WHOLE), max(1, len(_WHOLE) // 40))
    ),
    _refused("text", b"this is no model\n" * 20, "is not an ONNX file|is not a valid ONNX model"),
    _refused("archive", b"PK\x03\x04" + b"\0" * 200, "is not an ONNX file|is not a valid ONNX model"),
    _refused("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is not an ONNX file"),
    _refused("folder", lambda path: path.mkdir(), "is a folder; give the .onnx file in it"),
    _refused("loop", lambda path: path.symlink_to(path.name), "there is no such model file"),
    _refused("cycle", model(_cycle), "is not a valid ONNX model"),
    _refused("dangling", model(_dangling), "is not a valid ONNX model"),
    _refused("two_values_of_one_name", model(_replace_last("Flatten", ["g"], ["c"])), "is not a valid ONNX model"),
    _refused("no_such_operator", model(_replace_last("Flaten", ["g"], ["logits"])), "is not a valid ONNX model"),
    _refused("own_domain", model(_replace_last("My", ["g"], ["logits"], domain="my.ops")), "my.ops|not a valid"),
    _refused("wrong_attribute", model(_replace_last("Flatten", ["g"], ["logits"], axis="x")), "not a valid"),
    _refused("wrong_dtype", model(lambda m: setattr(m.graph.initializer[0], "data_type", 7)), "not a valid|type"),
    _refused("no_such_dtype", model(lambda m: setattr(m.graph.initializer[0], "data_type", 99)), "not a valid"),
    _refused("short_weight", model(lambda m: m.graph.initializer[0].dims.append(9)), "the data of 'w' cannot be read"),
    _refused("negative_size", model(lambda m: m.graph.initializer[0].dims.__setitem__(0, -4)), "not a valid"),
    _refused(
        "huge_size",
        model(lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 40)),
        "the data of 'w' cannot be read",
    ),
    _refused("no_opset", model(lambda m: m.ClearField("opset_import")), "has no graph"),
    _refused(
        "opset_999",
        model(lambda m: setattr(m.opset_import[0], "version", 999)),
        "opset 999, and the installed onnx supports",
    ),
    _refused("no_graph", model(lambda m: m.ClearField("graph")), "has no graph"),
    _refused("no_nodes", model(lambda m: m.graph.ClearField("node")), "has no graph"),
    _refused("nested_ifs", model(_deep), "is not an ONNX file|not a valid"),
    _refused("nan_weight", model(_weight(float("nan"))), "the weight 'w' contains NaN"),
    BadInput(
        "model", "infinite_weight.onnx", model(_weight(float("inf"))).SerializeToString(), "3 channels, 4 classes"
    ),
    _refused("already_quantized", model(_to_quantized), "is already quantized: node 'the_node' is QuantizeLinear"),
    _refused("no_outputs", model(_replace_last("QuantizeLinear", ["g"], [])), "is already quantized"),
    _refused("no_outputs_of_a_constant", model(_constant_to_nowhere), "not a valid"),
    _refused("no_batch", model(_input([3, 8, 8])), "no image input|not a valid"),
    _refused("channels_last", model(_input(["N", 8, 8, 3])), "has 8 channels, and the first layer reads 3|not a valid"),
    _refused("tokens", model(_input(["N", 128])), "no image input|not a valid"),
    _refused("text_input", model(_input(["N", 3, 8, 8], TensorProto.STRING)), "no image input|not a valid"),
    _refused(
        "uint8_input", model(_input(["N", 3, 8, 8], TensorProto.UINT8)), "a layer reads it without a cast|not a valid"
    ),
    _refused("two_inputs", model(_second_input), "several inputs could be the image"),
    _refused("no_input", model(lambda m: m.graph.ClearField("input")), "not a valid|no image input"),
    _refused("no_output", model(lambda m: m.graph.ClearField("output")), "not a valid|no output at all"),
    _refused("outside", _external("../weights.bin", None), "is outside the model's folder"),
    _refused("outside_by_detour", _external("x/../../weights.bin", None), "is outside the model's folder"),
    _refused("absolute", _external("/etc/passwd", None), "is outside the model's folder"),
    _refused("windows_path", _external("C:\\weights.bin", None), "is outside the model's folder"),
    _refused("missing_data", _external("weights.bin", None), "its external data file 'weights.bin' is missing"),
    _refused("short_data", _external("weights.bin", b"\0" * 9), "is too short for the tensor 'w'"),
    _refused("empty_location", _external("", None), "external data|not a valid|missing"),
    _refused("far_offset", _external("weights.bin", b"whole", offset=1 << 60), "is too short for the tensor 'w'"),
    _refused("negative_offset", _external("weights.bin", b"whole", offset=-8), "not a valid|too short|offset"),
    _refused("linked_outside", _linked_outside, "cannot be read"),
)
