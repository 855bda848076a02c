"""Variants of a model run from where they differ: the scores of the whole model, for less work."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import TEXT

from quantkit.engine.prefix_sharing import PrefixSharedRuns
from quantkit.engine.scores import scores_of
from quantkit.engine.segments import SegmentedRun
from quantkit.graph.prepare import prepare

SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (4, 16), "b3": (4,)}


def model(**changed: float) -> ir.Model:
    """Return the tiny model, some of its weights times a factor."""
    proto = onnx.parser.parse_model(TEXT.format(batch="N"))
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.3 * changed.get(name, 1.0))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return prepare(ir.from_proto(proto)).model


@pytest.fixture
def images():
    return list(np.random.default_rng(1).standard_normal((5, 1, 3, 8, 8)).astype(np.float32))


@pytest.mark.parametrize("threads", [1, 2])
def test_prefix_sharing_scores_equal_those_of_whole_variant(images, threads: int) -> None:
    variants = PrefixSharedRuns(model(), images, threads=threads)
    for changed in ({"b1": 2.0}, {"w2": 0.5}, {"w2": 2.0, "w3": 0.5}, {"w3": 3.0}):
        expected = scores_of(model(**changed), images, threads=1)
        np.testing.assert_allclose(variants.scores(model(**changed)), expected, rtol=1e-5, atol=1e-6)


def test_prefix_sharing_variant_differing_before_cut_runs_from_images(images) -> None:
    variants = PrefixSharedRuns(model(), images, threads=1)
    for changed in ({"w3": 3.0}, {"w1": 0.5}, {"w3": 2.0}):
        expected = scores_of(model(**changed), images, threads=1)
        np.testing.assert_allclose(variants.scores(model(**changed)), expected, rtol=1e-5, atol=1e-6)


CONDITION = """
<ir_version: 8, opset_import: ["": 17]>
branching (float[N, 3, 8, 8] input) => (float[N, 3] scores) {
    ar = Relu(input)
    m = ReduceMean <keepdims = 0> (ar)
    zero = Constant <value = float {0.1}> ()
    c = Greater(m, zero)
    x = If (c) <
        then_branch = yes () => (float[N, 3, 8, 8] y) { y = Neg(ar) },
        else_branch = no () => (float[N, 3, 8, 8] y) { y = Abs(ar) }
    >
    e = EXTRA(x)
    g = GlobalAveragePool(e)
    scores = Flatten(g)
}
"""


def test_prefix_sharing_condition_takes_outside_tensors_along(images) -> None:
    plain, other = (
        prepare(ir.from_proto(onnx.parser.parse_model(CONDITION.replace("EXTRA", op_type)))).model
        for op_type in ("Sigmoid", "Tanh")
    )
    variants = PrefixSharedRuns(plain, images, threads=1)
    np.testing.assert_allclose(variants.scores(other), scores_of(other, images, threads=1), rtol=1e-5, atol=1e-6)


def test_prefix_sharing_model_itself_has_nothing_left_to_run(images) -> None:
    variants = PrefixSharedRuns(model(), images, threads=1)
    np.testing.assert_allclose(variants.scores(model()), scores_of(model(), images, threads=1), rtol=1e-5, atol=1e-6)


def test_prefix_sharing_common_prefix_is_computed_once(images, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    open_piece = SegmentedRun._open

    def watched(self, computed):
        session = open_piece(self, computed)
        opened.append(sorted(entry.name for entry in session.get_inputs()) + list(computed))
        return session

    monkeypatch.setattr(SegmentedRun, "_open", watched)
    variants = PrefixSharedRuns(model(), images, threads=1)
    for factor in (2.0, 3.0):
        variants.scores(model(w2=factor))
    # To the difference once; then each variant to where it is the model again, whose end is opened once, too.
    assert opened == [["input", "ar"], ["ar", "f"], ["f", "logits"], ["ar", "f"]]


def test_prefix_sharing_fixed_batch_gives_its_first_answer(images) -> None:
    filled = [np.repeat(image, 2, axis=0) for image in images]
    variants = PrefixSharedRuns(model(), filled, threads=1)
    expected = scores_of(model(w2=2.0), images, threads=1)
    np.testing.assert_allclose(variants.scores(model(w2=2.0)), expected, rtol=1e-5, atol=1e-6)


def test_prefix_sharing_cut_stays_where_later_variants_need_it(images, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    branch = SegmentedRun.branch

    def watched(self, other, tensors):
        begun.append(" ".join(tensors))
        return branch(self, other, tensors)

    monkeypatch.setattr(SegmentedRun, "branch", watched)
    second = model().graph[2].name
    variants = PrefixSharedRuns(model(), images, threads=1)
    for changed in ({"w3": 3.0}, {"w2": 2.0}):
        expected = scores_of(model(**changed), images, threads=1)
        np.testing.assert_allclose(variants.scores(model(**changed), walk_to=second), expected, rtol=1e-5, atol=1e-6)
    assert begun == ["f", "ar"]
    variants.scores(model(w3=3.0))
    variants.scores(model(w2=2.0))
    assert begun == ["f", "ar", "f"]
