"""Streaming drift against numpy over the whole arrays at once, and bit for bit over every way to split them."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers import fake_quantize

from quantkit.errors import ModelError, NumericError
from quantkit.evaluation.drift import DriftAccumulator
from quantkit.evaluation.exact_sum import ExactSum
from quantkit.numerics import Range, affine_qparams, symmetric_qparams

UINT8 = affine_qparams(Range(-1.0, 2.0), qmin=0, qmax=255, dtype=np.uint8)

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=finite))
def test_exact_sum_equals_fsum(terms):
    total = ExactSum(terms.shape[1])
    total.add(terms)
    assert total.value().tolist() == [math.fsum(column) for column in terms.T]


def test_exact_sum_keeps_what_floating_point_loses():
    total = ExactSum(1)
    for term in (1e200, 1.0, 2.0**-1074, -1e200):
        total.add(np.asarray([[term]]))
    assert total.value()[0] == 1.0
    total.add(np.asarray([[-1.0]]))
    assert total.value()[0] == 2.0**-1074
    assert ExactSum(3).value().tolist() == [0.0, 0.0, 0.0]


@given(hnp.arrays(np.float64, (9, 2), elements=finite), st.permutations(range(9)), st.integers(0, 9))
def test_exact_sum_any_order_and_batches_gives_same_bits(terms, order, cut):
    whole, parts = ExactSum(2), ExactSum(2)
    whole.add(terms)
    parts.add(terms[order[:cut]])
    parts.add(terms[order[cut:]])
    assert parts.value().tobytes() == whole.value().tobytes()


def tensors(seed=0, shape=(7, 4, 9, 7)):
    """A float tensor and what a uint8 range that clips leaves of it."""
    x = np.random.default_rng(seed).normal(0.4, 0.8, shape).astype(np.float32)
    return x, fake_quantize(x, UINT8)


def add(accumulator, x, y):
    accumulator.add(accumulator.measure(x, y))


def drift(x, y, **arguments):
    accumulator = DriftAccumulator("t", **{"qparams": UINT8, **arguments})
    add(accumulator, x, y)
    return accumulator


def same(a, b):
    """All fields equal, bit for bit."""
    assert a.channel_sqnr_db.tobytes() == b.channel_sqnr_db.tobytes()
    assert a.channel_bias.tobytes() == b.channel_bias.tobytes()
    assert a.to_json() == b.to_json()


def test_drift_measures_equal_numpy_over_whole_tensor():
    x, y = tensors()
    got = drift(x, y).result()
    x, y = x.astype(np.float64), y.astype(np.float64)
    e = y - x
    power = (x**2).sum(axis=(0, 2, 3)) / (e**2).sum(axis=(0, 2, 3))
    assert got.elements == x.size
    assert got.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / (e**2).sum()))
    assert got.channel_sqnr_db == pytest.approx(10 * np.log10(power))
    assert got.worst_channel == power.argmin()
    assert got.cosine == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))
    assert got.max_err == pytest.approx(np.abs(e).max(), rel=1e-6)
    assert got.max_err_steps == pytest.approx(np.abs(e).max() / float(UINT8.scale))
    assert got.channel_bias == pytest.approx(e.mean(axis=(0, 2, 3)))
    lo, hi = -1.0 - float(UINT8.scale) / 2, 2.0 + float(UINT8.scale) / 2
    assert got.clipped == pytest.approx(((x < lo) | (x > hi)).mean(), abs=2 / x.size)
    levels = np.unique(np.round(y / float(UINT8.scale)))
    assert got.levels_used == levels.size
    assert got.range_used == pytest.approx((levels.max() - levels.min() + 1) / 256)
    assert not got.collapsed
    noise = (e**2).sum(axis=(1, 2, 3))
    assert got.images == 7
    assert got.image_share == pytest.approx(noise.max() / noise.sum())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), max_size=5), st.randoms(use_true_random=False))
def test_drift_any_batches_and_order_give_same_bits(cuts, random):
    x, y = tensors()
    whole = drift(x, y).result()
    one, other = DriftAccumulator("t", qparams=UINT8), DriftAccumulator("t", qparams=UINT8)
    edges = sorted({0, 7, *cuts})
    batches = [slice(a, b) for a, b in itertools.pairwise(edges)]
    random.shuffle(batches)
    for batch in batches:
        one.add(other.measure(x[batch], y[batch]))  # measured by another accumulator, as by other workers
    same(one.result(), whole)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_drift_channels_follow_the_given_axis(axis):
    x, y = tensors()
    got = drift(x, y, axis=axis).result()
    error = (y.astype(np.float64) - x).mean(axis=tuple(a for a in range(4) if a != axis))
    assert got.channel_bias == pytest.approx(error)


def test_drift_dead_channel_shows_in_channel_sqnr():
    """Boxes up to 600 beside scores below 1, one scale for both: every score is lost and the cosine is 0.9999."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 600, (50, 4)), rng.uniform(0, 1, (50, 1))], axis=1).astype(np.float32)
    qparams = affine_qparams(Range(0, 600), qmin=0, qmax=255, dtype=np.uint8)
    got = drift(x, fake_quantize(x, qparams), qparams=qparams).result()
    assert got.cosine > 0.9999
    assert got.sqnr_db > 45
    assert got.worst_channel == 4
    assert got.worst_channel_sqnr_db == pytest.approx(0.0)


def test_drift_equal_tensors_is_none():
    x, _ = tensors()
    got = drift(x, x, qparams=None).result()
    assert got.sqnr_db == math.inf
    assert got.cosine == pytest.approx(1.0)
    assert got.max_err == 0.0
    assert (got.max_err_steps, got.clipped, got.range_used, got.levels_used) == (None, None, None, None)
    assert got.to_json()["sqnr_db"] is None


@pytest.mark.parametrize(
    ("x", "y", "sqnr", "cosine", "collapsed"),
    [
        (0.0, 0.0, math.inf, 1.0, False),
        (0.0, 1.0, -math.inf, 0.0, False),
        (1.0, 0.0, 0.0, 0.0, False),
        (1.0, -1.0, 10 * math.log10(0.25), -1.0, False),
    ],
)
def test_drift_constant_tensors_have_stated_results(x, y, sqnr, cosine, collapsed):
    got = drift(np.full((2, 3), x, np.float32), np.full((2, 3), y, np.float32), qparams=None).result()
    assert (got.sqnr_db, got.cosine, got.collapsed) == (pytest.approx(sqnr), pytest.approx(cosine), collapsed)


def test_drift_constant_candidate_has_collapsed():
    x = np.linspace(0, 1e-3, 6, dtype=np.float32).reshape(2, 3)
    assert drift(x, fake_quantize(x, UINT8)).result().collapsed


def test_drift_symmetric_integers_count_from_their_least():
    qparams = symmetric_qparams(1.0)
    x = np.asarray([[-1.0, 0.0, 1.0, 2.0]], np.float32)
    got = drift(x, fake_quantize(x, qparams), qparams=qparams).result()
    assert got.levels_used == 3
    assert got.range_used == 1.0
    assert got.clipped == 0.25


def test_drift_one_value_per_image_is_one_channel():
    got = drift(np.asarray([1.0, 2.0]), np.asarray([1.0, 2.5]), qparams=None).result()
    assert got.worst_channel is None
    assert got.channel_bias.tolist() == [0.25]


def test_drift_empty_batch_adds_nothing():
    x, y = tensors()
    accumulator = drift(x, y)
    add(accumulator, x[:0], y[:0])
    same(accumulator.result(), drift(x, y).result())


def test_drift_bad_input_is_refused():
    x, y = tensors()
    with pytest.raises(ModelError, match=r"t: the models give shapes \[7, 4, 9, 7\] and \[7, 4, 9, 2\]"):
        drift(x, y[..., :2])
    with pytest.raises(ModelError, match="t: the tensor had 4 channels and now has 3"):
        add(drift(x, y), x[:, :3], y[:, :3])
    with pytest.raises(NumericError, match="t: the tensor contains NaN or infinity"):
        drift(x, np.where(x > 1, np.nan, y))
    with pytest.raises(ModelError, match="t: no values to compare"):
        DriftAccumulator("t").result()
    with pytest.raises(ValueError, match="one scale per tensor"):
        DriftAccumulator("t", qparams=symmetric_qparams(np.ones(3), axis=0))


def test_drift_measures_equal_exact_fractions():
    """Exact arithmetic over single values, for what the sums of channels add up to."""
    x, y = tensors(shape=(2, 3, 4))
    noise = sum(Fraction(float(b) - float(a)) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True))
    signal = sum(Fraction(float(a)) ** 2 for a in x.ravel())
    assert drift(x, y).result().sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-12)
