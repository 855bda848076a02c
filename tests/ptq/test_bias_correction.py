"""Bias correction: the mean of every layer comes back, and only what helps is kept."""

import numpy as np
import onnx_ir as ir
import pytest
from scipy import stats
from tune_models import minmax_ranges, model_of, planned, small_images, small_model, values_of

from quantkit.engine.scores import scores_of
from quantkit.engine.segments import SegmentedRun
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.graph.analysis.bounds import Bounds
from quantkit.graph.analysis.values import node_name
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import activation_parameters, write_qdq
from quantkit.ptq.bias_correction import _means_and_share, correct_bias, estimate_shifts, layer_shift
from quantkit.ptq.layers import biased_layers, no_shifts, set_bias, stored_names
from quantkit.targets import ORT, TENSORRT, VACC

TARGETS = [ORT, TENSORRT, VACC]


def channel_means(model, tensor, images) -> np.ndarray:
    return np.mean([values_of(model, [tensor], image)[tensor].mean(axis=(0, 2, 3)) for image in images], axis=0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_estimate_shifts_restore_mean_of_every_layer(target) -> None:
    coarse = target.with_options(per_channel=False, weight_bits=7)
    model, images = small_model(), small_images(32)
    made, ranges = planned(model, images, coarse)
    shifts = estimate_shifts(model, made, ranges, images, threads=2)
    plain, corrected = write_qdq(model, made, ranges), write_qdq(model, made, ranges, bias_shift=shifts)
    for one in biased_layers(made)[:-1]:
        wanted = channel_means(model, one.result, images)
        before = np.abs(channel_means(plain, one.result, images) - wanted).max()
        after = np.abs(channel_means(corrected, one.result, images) - wanted).max()
        assert after < 0.4 * before, one.layer.node


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_estimate_shifts_of_one_float_pass_equal_walk_through_both_models(target) -> None:
    model, images = small_model(), small_images(12)
    made, ranges = planned(model, images, target)
    found = estimate_shifts(model, made, ranges, images, threads=2)
    layers = biased_layers(made)
    int8 = write_qdq(model, made, ranges, bias_shift=no_shifts(layers))
    stored, nodes = stored_names(int8), {node_name(node): node for node in int8.graph}
    float_run, int8_run = (SegmentedRun(one, images, threads=1) for one in (model, int8))
    for one in layers:
        name = stored.get(one.result, one.result)
        qparams = activation_parameters(made, ranges)[one.result] if one.result in stored else None
        float_run.advance([one.result])
        shift = layer_shift(float_run, int8_run, one, name, qparams)
        step = 1.0 if qparams is None else float(qparams.scale)
        assert np.abs(found[one.layer.output] - shift).max() <= 1e-4 * step, one.layer.node
        set_bias(nodes[one.layer.node], one.bias + found[one.layer.output])
        int8_run.advance([name])


def test_estimate_shifts_find_known_error_of_bias() -> None:
    """A model whose only fault is a known error of one bias: the shift is that error."""
    model, images = small_model(), small_images(16)
    made, ranges = planned(model, images)
    wrong = small_model()
    bias = wrong.graph.initializers["b1"]
    error = np.linspace(-0.02, 0.02, 8).astype(np.float32)
    bias.const_value = ir.Tensor(bias.const_value.numpy() + error, name="b1")
    right, spoilt = (estimate_shifts(one, plan(one, ORT), ranges, images, threads=1)["a"] for one in (model, wrong))
    # Both are compared with their own fp32 model, so the difference of the two models is the error itself.
    np.testing.assert_allclose(right, spoilt, atol=0.006)
    assert made.layers[0].output == "a"


def test_correct_bias_helps_on_unseen_images_by_reported_gain() -> None:
    target = ORT.with_options(per_channel=False, weight_bits=7)
    model, images = small_model(3), small_images(48)
    made, ranges = planned(model, images, target)
    done = correct_bias(model, made, ranges, images, threads=2)
    others = small_images(64, seed=9)
    reference = scores_of(model, others, threads=2)
    plain, corrected = (
        score_sqnr_db(reference, scores_of(write_qdq(model, made, ranges, bias_shift=shifts), others, threads=2))
        for shifts in ({}, done.shifts)
    )
    assert done.kept
    assert done.after_db > done.before_db
    assert corrected > plain + 1.0


def test_correct_bias_harmful_shifts_are_left_out(monkeypatch) -> None:
    model, images = small_model(), small_images(16)
    made, ranges = planned(model, images)
    harmful = {name: shift + 1.0 for name, shift in no_shifts(biased_layers(made)).items()}
    monkeypatch.setattr("quantkit.ptq.bias_correction.estimate_shifts", lambda *_, **__: harmful)
    done = correct_bias(model, made, ranges, images, threads=1)
    assert not done.kept
    assert done.shifts == {}
    assert done.after_db < done.before_db


@pytest.mark.parametrize(
    ("noise", "kept"),
    [
        ([0.5, 0.5, 0.5, 0.5], True),  # of the uncorrected model it is 1 on every image
        ([0.5, 0.6, 0.9, 1.0], True),
        ([0.5, 0.5, 0.9, 2.0], False),  # a gain of 1.7 dB with a standard error of 2.9
        ([2.0, 0.4, 2.0, 0.5], False),  # neither gain nor loss
        ([1.1, 1.1, 1.1, 1.1], False),
        ([3.0, 2.0, 3.0, 0.9], False),
    ],
)
def test_correct_bias_is_kept_for_gain_beyond_chance_only(monkeypatch, noise, kept) -> None:
    model, images = small_model(), small_images(8)
    made, ranges = planned(model, images)
    reference = np.full((4, 2), 10.0, np.float32)
    scores = iter([reference, reference + 1.0, reference + np.array(noise, np.float32)[:, None]])
    monkeypatch.setattr("quantkit.ptq.bias_correction.scores_of", lambda *_, **__: next(scores))
    done = correct_bias(model, made, ranges, images, threads=1)
    assert done.kept == bool(done.shifts) == kept
    assert done.before_db == pytest.approx(20.0)
    assert done.after_db == pytest.approx(20.0 - 20.0 * np.log10(noise).mean())
    gains = -20.0 * np.log10(noise)
    if np.ptp(gains) > 0.0:
        assert (stats.ttest_1samp(gains, 0.0, alternative="greater").pvalue < 1.0 - 0.84) == kept


def test_estimate_shifts_any_threads_give_same_bits() -> None:
    model, images = small_model(), small_images(12)
    made, ranges = planned(model, images)
    one, two = (estimate_shifts(model, made, ranges, images, threads=threads) for threads in (1, 2))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("count", "held_back"), [(4, [0, 2]), (31, range(0, 31, 2)), (32, range(0, 32, 4))])
def test_bias_correction_is_tested_on_images_it_is_not_estimated_on(monkeypatch, count, held_back) -> None:
    """At least eight where that leaves as many, and one of four of many."""
    model, images = small_model(), small_images(count)
    made, ranges = planned(model, images)
    fitted = []

    def estimate(_model, _plan, _ranges, others, **_):
        fitted.extend(others)
        return no_shifts(biased_layers(made))

    monkeypatch.setattr("quantkit.ptq.bias_correction.estimate_shifts", estimate)
    done = correct_bias(model, made, ranges, images, threads=1)
    assert done.images == len(held_back)
    wanted = [image for place, image in enumerate(images) if place not in held_back]
    assert all(one is other for one, other in zip(fitted, wanted, strict=True))


def test_correct_bias_progress_counts_layers() -> None:
    model, images = small_model(), small_images(4)
    made, ranges = planned(model, images)
    seen = []
    estimate_shifts(model, made, ranges, images, threads=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bias_correction_layer_passes_on_its_activations() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    clipped (float[N, 3, 6, 6] input) => (float[N, 4, 6, 6] y) {
        a = Conv (input, w)
        b = Clip (a, lo, hi)
        c = Conv (b, v)
        d = Relu (c)
        e = Sigmoid (c)
        y = Add (d, e)
    }"""
    rng = np.random.default_rng(0)
    held = {
        "w": rng.normal(size=(5, 3, 1, 1)).astype(np.float32),
        "v": rng.normal(size=(4, 5, 1, 1)).astype(np.float32),
        "lo": np.array(0, np.float32),
        "hi": np.array(6, np.float32),
    }
    model = model_of(text, held)
    first, second = biased_layers(plan(model, ORT))
    assert (first.result, first.passing) == ("b", Bounds(0.0, 6.0))
    # Read by a sigmoid too: what the layer hands on is its plain result.
    assert (second.result, second.passing) == ("c", Bounds())
    assert second.bias.shape == (4,)
    assert not second.bias.any()


def test_means_and_share_count_values_strictly_between_limits() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    clipped (float[N, 3, 6, 6] input) => (float[N, 5, 6, 6] y) {
        a = Conv (input, w)
        y = Clip (a, lo, hi)
    }"""
    limits = {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}
    [one] = biased_layers(plan(model_of(text, {"w": np.ones((5, 3, 1, 1), np.float32), **limits}), ORT))
    means, share = _means_and_share(np.array([[[0.0, 1.0, 6.0, 6.0], [2.0, 3.0, 4.0, 5.0]]], np.float32), one)
    assert means.tolist() == [3.25, 3.5]
    assert share.tolist() == [0.25, 1.0]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_set_bias_equals_bias_written_by_write_qdq(target) -> None:
    model, images = small_model(), small_images(4)
    made, ranges = planned(model, images, target)
    layers = biased_layers(made)
    shifts = {name: shift + 0.125 for name, shift in no_shifts(layers).items()}
    written = write_qdq(model, made, ranges, bias_shift=shifts)
    edited = write_qdq(model, made, ranges, bias_shift=no_shifts(layers))
    nodes = {node_name(node): node for node in edited.graph}
    for one in layers:
        set_bias(nodes[one.layer.node], one.bias + shifts[one.layer.output])
    np.testing.assert_array_equal(scores_of(edited, images, threads=1), scores_of(written, images, threads=1))


def test_estimate_shifts_closed_channel_keeps_its_bias() -> None:
    closed = np.array([-50.0, 0, 0, 0, 0, 0, 0, 0], np.float32)
    model, images = small_model(b1=closed), small_images(8)
    made = plan(model, ORT)
    shifts = estimate_shifts(model, made, minmax_ranges(model, made.observed, images), images, threads=1)
    assert shifts["a"][0] == 0.0
    assert shifts["a"][1:].any()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_estimate_shifts_closed_gate_moves_no_bias(target) -> None:
    """Integers that saturate where a hard swish is zero change its mean input, and nothing that is read."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    gated (float[N, 3, 6, 6] input) => (float[N, 4, 6, 6] y) {
        a = Conv (input, w, bias)
        b = HardSwish (a)
        y = Conv (b, v)
    }"""
    rng = np.random.default_rng(0)
    held = {
        "w": rng.normal(size=(5, 3, 1, 1)).astype(np.float32),
        "bias": np.array([-3.0, 0, 0, 0, 0], np.float32),
        "v": rng.normal(size=(4, 5, 1, 1)).astype(np.float32),
    }
    model = model_of(text, held)
    images = [rng.normal(0.0, 3.0, size=(1, 3, 6, 6)).astype(np.float32) for _ in range(16)]
    made = plan(model, target)
    shifts = estimate_shifts(model, made, minmax_ranges(model, made.observed, images), images, threads=1)
    assert biased_layers(made)[0].effective == Bounds(-3.0)
    assert np.abs(shifts["a"]).max() < 0.1
