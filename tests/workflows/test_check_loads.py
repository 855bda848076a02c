"""What onnxruntime cannot load is said before the pass."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.errors import ModelError
from quantkit.graph.prepare import Prepared, prepare
from quantkit.graph.qdq.plan import plan
from quantkit.targets import ORT
from quantkit.workflows import quantize
from quantkit.workflows.quantize import check_loads

TEXT = """
<ir_version: 8, opset_import: ["": 17 {imports}]>
net (float[1, 3, 8, 8] input) => (float[1, 4, 6, 6] out) {{
    a = Conv (input, w)
    out = {last} (a)
}}
"""


def prepared(last: str, imports: str = "") -> Prepared:
    model = onnx.parser.parse_model(TEXT.format(last=last, imports=imports))
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return prepare(ir.from_proto(model))


def load(one: Prepared) -> None:
    check_loads(one, plan(one.model, ORT))  # type: ignore[arg-type]


def test_check_loads_model_that_loads_passes() -> None:
    load(prepared("Relu"))


def test_check_loads_custom_operator_without_library_is_named() -> None:
    with pytest.raises(ModelError, match=r"the fp32 model does not run: .*Mystery"):
        load(prepared("org.example.Mystery", ', "org.example": 1'))


def test_check_loads_int8_model_that_fails_names_node_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter(["Could not find an implementation for QuantizeLinear(99) node with name 'a'", ""])
    monkeypatch.setattr(quantize, "_load_fault", lambda model: next(faults))
    with pytest.raises(ModelError, match=r"the int8 model does not run: .*; --skip 'a' leaves it in float"):
        load(prepared("Relu"))
