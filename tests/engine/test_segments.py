"""Running a model piece by piece: the same values as in one piece, wherever it is cut."""

import numpy as np
import onnx_ir as ir
import pytest
from tune_models import all_tensors, planned, small_images, small_model, values_of

from quantkit.engine.segments import SegmentedRun
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.layers import biased_layers, stored_names
from quantkit.targets import ORT, VACC


@pytest.fixture
def images():
    return small_images(3)


def test_segmented_run_tensors_equal_those_of_whole_model(images) -> None:
    model = small_model()
    tensors = all_tensors(model)
    whole = [values_of(model, tensors, image) for image in images]
    run = SegmentedRun(model, images, threads=2)
    for name in tensors:
        pieces = [value for (value,) in run.run([name])]
        for piece, expected in zip(pieces, whole, strict=True):
            np.testing.assert_allclose(piece, expected[name], rtol=1e-5, atol=1e-6)
        run.advance([name])


@pytest.mark.parametrize("target", [ORT, VACC], ids=lambda target: target.name)
def test_segmented_run_int8_model_gives_same_integers(images, target) -> None:
    model = small_model()
    made, ranges = planned(model, images, target)
    int8 = write_qdq(model, made, ranges)
    stored = stored_names(int8)
    logits = str(int8.graph.outputs[0].name)
    run = SegmentedRun(int8, images, threads=1)
    for one in biased_layers(made)[:-1]:
        run.advance([stored.get(one.result, one.result)])
    found = [value for (value,) in run.run([logits])]
    expected = [values_of(int8, [logits], image)[logits] for image in images]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_segmented_run_int8_model_keeps_integers_at_cut(images) -> None:
    model = small_model()
    made, ranges = planned(model, images)
    int8 = write_qdq(model, made, ranges)
    run = SegmentedRun(int8, images, threads=1)
    run.advance([stored_names(int8)["ar"]])
    ((value,), *_) = run.run(["ar.quantized"])
    assert value.dtype == np.uint8


def test_segmented_run_keeps_only_tensors_that_are_read(images) -> None:
    run = SegmentedRun(small_model(), images, threads=1)
    kept = []
    for cut in ("ar", "dr", "sr"):
        run.advance([cut])
        kept.append(run.kept)
    assert kept == [("ar",), ("ar", "dr"), ("sr",)]  # ar is read by the depthwise conv and the sum


def test_segmented_run_weight_changed_ahead_of_cut_shows_and_behind_not(images) -> None:
    model = small_model()
    run = SegmentedRun(model, images, threads=1)
    run.advance(["ar"])
    before = [value for (value,) in run.run(["dr"])]
    for name in ("w1", "w2"):
        weight = model.graph.initializers[name]
        weight.const_value = ir.Tensor(weight.const_value.numpy() * 2, name=name)
        after = [value for (value,) in run.run(["dr"])]
        assert np.allclose(after, before) == (name == "w1")
