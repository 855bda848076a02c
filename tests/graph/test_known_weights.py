"""Models of a plan that share the integers of their weights equal those written alone."""

import numpy as np
import onnx_ir as ir
import pytest
from tune_models import minmax_ranges, small_images, small_model

from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.weights import WeightIntegers
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import ORT, VACC, Target

MODEL = small_model()


def integers(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if "quantized" in name}


@pytest.mark.parametrize(
    "target", [ORT, ORT.with_options(per_channel=False), VACC], ids=["per-channel", "per-tensor", "vacc"]
)
def test_known_weights_model_equals_one_written_alone(target: Target) -> None:
    made, known = plan(MODEL, target), WeightIntegers()
    right = minmax_ranges(MODEL, made.observed, small_images(20, seed=1))
    # With input scales a millionth as large, biases need wider weight scales, so other integers.
    for factor in (1.0, 0.5, 1e-6, 1.0):
        ranges = {name: Range(one.lo * factor, one.hi * factor) for name, one in right.items()}
        alone, shared = write_qdq(MODEL, made, ranges), write_qdq(MODEL, made, ranges, known_weights=known)
        assert ir.serde.serialize_model(shared) == ir.serde.serialize_model(alone)


def test_known_weights_are_one_array_in_all_models() -> None:
    made, known = plan(MODEL, ORT), WeightIntegers()
    ranges = minmax_ranges(MODEL, made.observed, small_images(20, seed=1))
    wider = {name: Range(2.0 * one.lo, 2.0 * one.hi) for name, one in ranges.items()}
    first, second = (integers(write_qdq(MODEL, made, some, known_weights=known)) for some in (ranges, wider))
    weights = [name for name, held in first.items() if held.ndim > 1]
    assert weights
    assert all(np.shares_memory(first[name], second[name]) for name in weights)
