"""Rounding: never worse than to the nearest, and the best there is where all can be tried."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from tune_models import planned, small_images, small_model

from quantkit.engine.scores import scores_of
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.graph.analysis.values import node_name
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.im2col import can_unfold, input_covariance
from quantkit.ptq.reconstruction import reconstruct
from quantkit.ptq.rounding_kernel import descend, round_block
from quantkit.ptq.weight_rounding import DAMPING, noise, round_weights
from quantkit.targets import ORT, TENSORRT, VACC


def correlated(rng, groups: int, columns: int) -> np.ndarray:
    mixing = rng.normal(size=(groups, columns, columns)) + 2.0 * rng.normal(size=(groups, columns, 1))
    return mixing @ mixing.transpose(0, 2, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.integers(1, 90))
def test_round_weights_noise_is_at_most_that_of_nearest(seed, groups, rows, columns) -> None:
    rng = np.random.default_rng(seed)
    weight, covariance = rng.normal(size=(groups, rows, columns)), correlated(rng, groups, columns)
    step = np.abs(weight).max(axis=2) / 127.0 + 1e-12
    found = round_weights(weight, covariance, step, qmax=127)
    nearest = np.clip(np.rint(weight / step[:, :, None]), -127, 127)
    wanted = weight / step[:, :, None]
    assert found.dtype == np.int8
    assert np.abs(found.astype(int)).max() <= 127
    assert (noise(wanted, found.astype(float), covariance) <= noise(wanted, nearest, covariance) * (1 + 1e-9)).all()


def test_round_weights_noise_is_near_best_of_all_roundings() -> None:
    rng = np.random.default_rng(4)
    weight, covariance = rng.normal(size=(1, 20, 7)), correlated(rng, 1, 7)
    step = np.full((1, 20), 0.3)
    wanted = weight / 0.3
    found = noise(wanted, round_weights(weight, covariance, step, qmax=127).astype(float), covariance)[0]
    nearest = noise(wanted, np.rint(wanted), covariance)[0]
    best = np.full(20, np.inf)
    for up in itertools.product((-1.0, 0.0, 1.0, 2.0), repeat=7):
        best = np.minimum(best, noise(wanted, np.floor(wanted) + np.array(up), covariance)[0])
    assert best.sum() < 0.2 * nearest.sum()
    assert found.sum() < 1.5 * best.sum()


def test_round_weights_no_single_step_lowers_noise() -> None:
    """Noise with the damped covariance, as the descent sees it, is least in every single integer."""
    rng = np.random.default_rng(4)
    weight, covariance = rng.normal(size=(1, 20, 40)), correlated(rng, 1, 40)
    error = round_weights(weight, covariance, np.full((1, 20), 0.3), qmax=127)[0] - weight[0] / 0.3
    damped = covariance[0] + DAMPING * np.trace(covariance[0]) / 40 * np.eye(40)
    assert (np.abs(error @ damped) <= 0.5 * np.diag(damped) * (1 + 1e-9)).all()


def test_round_weights_any_block_size_gives_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    weight, covariance, step = rng.normal(size=(1, 20, 150)), correlated(rng, 1, 150), np.full((1, 20), 0.3)
    whole = round_weights(weight, covariance, step, qmax=127)
    monkeypatch.setattr("quantkit.ptq.weight_rounding.BLOCK", 1000)
    np.testing.assert_array_equal(round_weights(weight, covariance, step, qmax=127), whole)


def test_round_weights_independent_inputs_are_rounded_to_nearest() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 3, 40))
    covariance = np.stack([np.diag(rng.uniform(0.5, 2.0, 40)) for _ in range(2)])
    step = np.full((2, 3), 0.02)
    np.testing.assert_array_equal(
        round_weights(weight, covariance, step, qmax=127), np.clip(np.rint(weight / 0.02), -127, 127)
    )


def test_round_weights_constant_inputs_do_no_harm() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 2, 5))
    found = round_weights(weight, np.zeros((1, 5, 5)), np.full((1, 2), 0.05), qmax=127)
    np.testing.assert_array_equal(found, np.rint(weight / 0.05))


@pytest.mark.parametrize(("mean", "size_of_values"), [(0.0, 1.0), (1e3, 1.0), (-2.0, 1e-25), (3.0, 1e25)])
@pytest.mark.parametrize("name", ["a", "d", "e", "logits"])
def test_covariance_equals_numpy_over_windows(name, mean, size_of_values) -> None:
    """Against numpy's covariance of windows taken by numpy itself, with every position drawn."""
    model, rng = small_model(), np.random.default_rng(2)
    node = next(one for one in model.graph if one.outputs[0].name == name)
    shape = {"a": (8, 3, 3, 3), "d": (8, 1, 3, 3), "e": (8, 8, 1, 1), "logits": (5, 8)}[name]
    if name == "logits":
        inputs = [rng.normal(size=(1, 8)) for _ in range(30)]
        columns = np.concatenate(inputs).T[None]
    else:
        channels, size = (3 if name == "a" else 8), shape[-1]
        inputs = [rng.normal(size=(1, channels, 5, 5)) for _ in range(30)]
        pad, stride = (1 if size == 3 else 0), (2 if name == "a" else 1)
        padded = np.pad(np.concatenate(inputs), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
        groups = 8 if name == "d" else 1
        columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(groups, -1, windows.shape[0] * windows.shape[2] ** 2)
    assert can_unfold(node, shape)
    if name in ("e", "logits"):  # padding is zero, whatever the mean
        inputs, columns = [one + mean for one in inputs], columns + mean
    inputs, columns = [one * size_of_values for one in inputs], columns * size_of_values
    found = input_covariance(node, shape, [one.astype(np.float32) for one in inputs], images=30, seed=0)
    wanted = np.stack([np.atleast_2d(np.cov(block, bias=True)) for block in columns.astype(np.float32).astype(float)])
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(("groups", "rows", "columns"), [(1, 5, 130), (6, 1, 9), (2, 40, 12)])
def test_compiled_loops_round_as_numpy_does(groups, rows, columns) -> None:
    """Column by column for all rows at once, as numpy can: the same integers, and the same products."""
    rng, qmax = np.random.default_rng(3), 7
    samples = rng.normal(size=(groups, columns, 2 * columns))
    covariance = samples @ samples.transpose(0, 2, 1) / (2 * columns) + 0.1 * np.eye(columns)
    factor, wanted = np.triu(covariance), 3.0 * rng.normal(size=(groups, rows, columns))
    start, end = 2, columns - 1
    weights, rounded, errors = wanted.copy(), np.zeros_like(wanted), np.zeros((groups, rows, end - start))
    round_block(weights, factor, rounded, errors, start=start, end=end, qmax=qmax)
    left, integers = wanted.copy(), np.zeros_like(wanted)
    for k in range(start, end):
        integers[:, :, k] = np.clip(np.rint(left[:, :, k]), -qmax, qmax)
        error = (left[:, :, k] - integers[:, :, k]) / factor[:, None, k, k]
        np.testing.assert_array_equal(errors[:, :, k - start], error)
        left[:, :, k:end] -= error[:, :, None] * factor[:, None, k, k:end]
    np.testing.assert_array_equal(rounded, integers)
    slope = (rounded - wanted) @ covariance
    moved, product = rounded.copy(), slope.copy()
    descend(moved, product, covariance, qmax=qmax, sweeps=3)
    for k in [*range(columns)] * 3:
        step = -slope[:, :, k] / covariance[:, None, k, k]
        change = np.clip(rounded[:, :, k] + np.rint(step), -qmax, qmax) - rounded[:, :, k]
        rounded[:, :, k] += change
        slope += change[:, :, None] * covariance[:, None, k]
    np.testing.assert_array_equal(moved, rounded)
    np.testing.assert_array_equal(product, slope)


@pytest.mark.parametrize("target", [ORT, TENSORRT, VACC], ids=lambda target: target.name)
def test_reconstruct_is_nearer_to_fp32_on_unseen_images(target) -> None:
    coarse = target.with_options(per_channel=False, weight_bits=7)
    model, images, others = small_model(), small_images(64), small_images(96, seed=9)
    made, ranges = planned(model, images, coarse)
    reference = scores_of(model, others, threads=2)
    plain = score_sqnr_db(reference, scores_of(write_qdq(model, made, ranges), others, threads=2))
    mended = score_sqnr_db(reference, scores_of(reconstruct(model, made, ranges, images, threads=2), others, threads=2))
    assert mended > plain + 2.0


def test_reconstruct_changes_only_integers_of_weights_and_biases() -> None:
    model, images = small_model(), small_images(16)
    made, ranges = planned(model, images)
    plain, mended = write_qdq(model, made, ranges), reconstruct(model, made, ranges, images, threads=1)
    assert {node_name(node) for node in plain.graph} <= {node_name(node) for node in mended.graph}
    for name, held in plain.graph.initializers.items():
        after = mended.graph.initializers[name].const_value.numpy()
        if held.const_value.dtype.name in ("INT8", "INT32"):
            assert after.dtype == held.const_value.numpy().dtype
        else:
            np.testing.assert_array_equal(after, held.const_value.numpy())


def test_reconstruct_any_threads_give_same_bits() -> None:
    model, images = small_model(), small_images(12)
    made, ranges = planned(model, images)
    one, other = (reconstruct(model, made, ranges, images, threads=threads) for threads in (1, 3))
    for name, held in one.graph.initializers.items():
        np.testing.assert_array_equal(other.graph.initializers[name].const_value.numpy(), held.const_value.numpy())
