"""Outlier images: found by their extremes, never more than a small share, and cut out of the statistics exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.config.method import Kl, MinMax, Mse, Percentile
from quantkit.stats.bins import bin_of
from quantkit.stats.observed import FAR, LARGEST_SHARE, Observed
from quantkit.stats.observer import Observer
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ORT, TENSORRT, VACC

NUMBERS = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=True)
)


def statistics(values: np.ndarray) -> TensorStatistics:
    observer = Observer()
    observer.observe(values)
    return observer.statistics()


def observed(*tensors: list[np.ndarray]) -> Observed:
    """Return what images gave: for each tensor its values, one array an image."""
    return Observed(
        {f"t{index}": statistics(np.concatenate(images)) for index, images in enumerate(tensors)},
        np.array([[[v.min(), v.max()] for v in images] for images in tensors], np.float32).swapaxes(0, 1),
    )


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.1, 1.0, 200).astype(np.float32) for _ in range(count)]


def test_outliers_image_far_beyond_others_in_one_tensor_is_found() -> None:
    usual, odd = images(64), images(64, seed=1)
    odd[17] = 100.0 * odd[17]
    found = observed(usual, odd)
    assert found.outliers == (17,)
    reach = np.array([np.abs(image).max() for image in odd])
    assert found.outlier_ratio[17] == pytest.approx(reach[17] / np.median(reach))


def test_outliers_sound_network_has_none() -> None:
    found = observed([(20.0 if place == 7 else 1.0) * image for place, image in enumerate(images(64))])
    assert 15.0 < found.outlier_ratio.max() < FAR
    assert found.outliers == ()
    assert found.without_outliers is found.tensors


def test_outliers_frequent_extremes_are_limited_to_largest_share() -> None:
    found = observed([image * (100.0 + place if place % 5 == 0 else 1.0) for place, image in enumerate(images(64))])
    assert len(found.outliers) == int(LARGEST_SHARE * 64) == 2
    assert all(place % 5 == 0 for place in found.outliers)
    few = observed([100.0 * images(1)[0], *images(30)])
    assert few.outliers == (), "one of 31 images is no exception"


def test_outliers_tensor_zero_for_most_images_is_ignored() -> None:
    found = observed([np.zeros(5, np.float32)] * 63 + [np.ones(5, np.float32)])
    assert found.outliers == ()
    assert found.outlier_ratio.tolist() == [0.0] * 64


def test_outliers_known_from_other_form_of_model_are_cut() -> None:
    found = observed(images(64))
    farthest = int(found.extremes[:, 0, 1].argmax())
    cut = Observed(found.tensors, found.extremes, known_outliers=(farthest,))
    assert cut.without_outliers["t0"].hi == np.delete(found.extremes[:, 0, 1], farthest).max() < found.tensors["t0"].hi


def test_statistics_without_outliers_exclude_their_extremes() -> None:
    values = images(64)
    values[3] = 500.0 * values[3]
    rest = np.concatenate(values[:3] + values[4:])
    ends = np.array([rest.min(), rest.max()])
    inside = values[3][((values[3] >= ends[0]) & (values[3] <= ends[1])) | np.isin(bin_of(values[3]), bin_of(ends))]
    assert 0 < inside.size < 10
    assert observed(values).without_outliers["t0"].identical(statistics(np.concatenate([rest, np.clip(inside, *ends)])))


@pytest.mark.parametrize("target", [ORT, TENSORRT, VACC], ids=lambda target: target.name)
def test_for_ranges_minmax_or_keep_outliers_gives_all_images(target) -> None:
    """A compiler is not given outlier images, so minmax does not cover them there."""
    values = images(64)
    values[3] = 500.0 * values[3]
    found = observed(values)
    for method in (Percentile(), Kl(), Mse()):
        assert found.for_ranges(method, target) is found.without_outliers
        assert found.for_ranges(method, target, keep_outliers=True) is found.tensors
    assert found.for_ranges(MinMax(), target) is (found.without_outliers if target is VACC else found.tensors)


@settings(max_examples=200, deadline=None)
@given(x=NUMBERS, data=st.data())
def test_statistics_within_keeps_exactly_the_bins_between_two_values(x: np.ndarray, data: st.DataObject) -> None:
    lo, hi = sorted(data.draw(st.tuples(st.sampled_from(x.tolist()), st.sampled_from(x.tolist()))))
    whole = statistics(x)
    cut = whole.within(lo, hi)
    assert cut.check() is None
    ends = bin_of(np.array([lo, hi], np.float32))
    kept = x[((x >= lo) & (x <= hi)) | np.isin(bin_of(x), ends)]
    expected = statistics(kept)
    np.testing.assert_array_equal(cut.bins, expected.bins)
    np.testing.assert_array_equal(cut.counts, expected.counts)
    assert (cut.lo, cut.hi, cut.count, cut.zeros) == (lo, hi, kept.size, expected.zeros)
