"""When ranges have settled, against simulated passes whose true ranges are known."""

import numpy as np
import pytest

from quantkit.stats.convergence import ConvergencePoint, images_enough, next_point, remaining_error, settling_note


def point(images, moved, method="percentile"):
    return ConvergencePoint(images, {method: moved}, {method: "t"})


def simulated(rng, images, sigma, width=10.0):
    """A pass whose upper end is the mean of one draw for each image; returns its points and its true error."""
    draws = rng.normal(width, sigma, images)
    counts = [16]
    while (following := next_point(counts[-1])) < images:
        counts.append(following)
    ends = [draws[:count].mean() for count in [*counts, images]]
    moves = np.abs(np.diff(ends)) / width
    points = [point(count, float(moved)) for count, moved in zip([*counts[1:], images], moves, strict=True)]
    return points, abs(ends[-1] - width) / width


@pytest.mark.parametrize("images", [54, 271, 1000])
def test_remaining_error_is_that_of_simulated_passes(images):
    rng = np.random.default_rng(3)
    passes = [simulated(rng, images, sigma=4.0) for _ in range(2000)]
    predicted = np.median([remaining_error(points, "percentile") for points, _ in passes])
    assert predicted == pytest.approx(np.median([true for _, true in passes]), rel=0.1)


def test_remaining_error_by_hand():
    """From 16 to 24 images: 1/16 - 1/24 = 1/48, and 0.37 sqrt(48) / sqrt(24) = 0.37 sqrt(2)."""
    assert remaining_error([point(24, 0.37)], "percentile") == pytest.approx(0.37 * 2**0.5)
    assert remaining_error([point(24, 0.37)], "mse") is None
    assert remaining_error([], "mse") is None


def test_remaining_error_leaves_out_a_short_last_step():
    """1,369 to 1,500 images is a tenth more, and multiplies any chance jump by eleven."""
    long = [point(609, 0.05), point(913, 0.05), point(1369, 0.05)]
    assert remaining_error([*long, point(1500, 0.12)], "percentile") == pytest.approx(
        remaining_error(long, "percentile") * (1369 / 1500) ** 0.5
    )


def test_settling_note_of_few_images_says_how_many_to_use():
    note = settling_note([point(20, 0.37)], 20, "percentile", 1000)
    assert note == (
        "ranges have not converged: 20 images for 1,000 classes leave an error of 74 % of the worst percentile range"
        "; use about 1,100"
    )
    assert settling_note([], 8, "percentile", 10) == (
        "ranges have not converged: 8 images for 10 classes are too few; use several hundred, usually 1,000"
    )


def test_settling_note_of_minmax_names_no_number():
    points = [point(406, 0.2, "minmax"), point(600, 0.2, "minmax")]
    note = settling_note(points, 600, "minmax", None)
    assert note is not None
    assert note.endswith("extremes grow with every image; use --method percentile, or more images")
    note = settling_note(points, 600, "minmax", None, compared=True)
    assert note is not None
    assert note.endswith("extremes grow with every image; use more images")


def test_settling_note_is_silent_where_ranges_are_settled():
    assert settling_note([point(913, 0.03)], 1000, "percentile", 1000) is None
    # A method whose ranges were not watched is judged by percentile.
    assert settling_note([point(913, 0.03)], 1000, "kl", 1000) is None
    # Merged statistics hold no points, and are not of few images.
    assert settling_note([], 1000, "percentile", 1000) is None


def test_images_enough_counts_from_the_last_large_change():
    points = [point(16, 0.2), point(24, 0.004), point(36, 0.05), point(54, 0.003), point(81, 0.005)]
    assert images_enough(points, "percentile", 0.005) == 54
    assert images_enough(points[:3], "percentile", 0.005) is None
    assert images_enough(points, "kl", 0.005) is None
