"""Notes on ranges that cut away most of a tensor."""

import numpy as np
import pytest

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.notes import NoteKind, grouped
from quantkit.numerics import Range
from quantkit.stats.cut_ranges import cut_range_notes, expected_sqnr_db
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, VACC


def observed(**tensors: np.ndarray) -> Observed:
    found = {}
    for name, x in tensors.items():
        observer = Observer()
        observer.observe(x.astype(np.float32))
        found[name] = observer.statistics()
    extremes = np.array([[[one.lo, one.hi] for one in found.values()]], np.float32)
    return Observed(found, extremes)


def seventeen_shades(rng: np.random.Generator) -> np.ndarray:
    """A scan with black background; Relay's divergence is least where an eighth of the range is left."""
    shades = np.where(rng.random(12_800) < 0.5, 0, rng.integers(0, 17, 12_800))
    return shades / 16 * 2 - 1


def test_cut_range_of_kl_is_named_with_its_sqnr_and_the_method_to_use() -> None:
    rng = np.random.default_rng(7)
    found = observed(input=seventeen_shades(rng), relu=np.maximum(rng.standard_normal(20_000), 0))
    [note] = cut_range_notes(found, solve_observed(found, Kl(), VACC), Kl(), VACC)
    assert note.kind is NoteKind.CUT_RANGE
    assert note.startswith("kl cuts the range of input to 13 % of its values' reach, an SQNR of 1.")
    assert note.endswith("use --method mse or percentile")


def test_cut_ranges_of_several_tensors_are_one_line_with_the_worst() -> None:
    rng = np.random.default_rng(7)
    found = observed(one=seventeen_shades(rng), two=seventeen_shades(rng))
    notes = list(cut_range_notes(found, solve_observed(found, Kl(), VACC), Kl(), VACC))
    [group] = grouped(notes)
    assert group.text.startswith("the ranges of 2 tensors are cut too far; the worst: kl cuts the range of")
    assert len(group.items) == 2


@pytest.mark.parametrize("method", [MinMax(), Percentile(), Kl(), Mse()], ids=repr)
def test_cut_range_notes_are_silent_for_usual_activations(method: Method) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal(50_000)
    found = observed(normal=x, relu=np.maximum(x, 0), laplace=rng.laplace(size=50_000), constant=np.ones(10))
    for target in (ORT, VACC):
        assert not list(cut_range_notes(found, solve_observed(found, method, target), method, target))


def test_expected_sqnr_of_zeros_is_infinite() -> None:
    found = observed(x=np.zeros(100))
    assert expected_sqnr_db(found.tensors["x"], Range(0.0, 1.0), ORT) == float("inf")


def test_expected_sqnr_is_that_of_the_raw_values() -> None:
    x = np.random.default_rng(7).standard_normal(40_000).astype(np.float32)
    found = observed(x=x)
    chosen = solve_observed(found, MinMax(), VACC)["x"]
    scale = np.float32(chosen.threshold / 128)
    noise = np.clip(np.rint(x / scale), -127, 127) * scale - x
    exact = 10 * np.log10(np.square(x).sum() / np.square(noise).sum())
    assert expected_sqnr_db(found.tensors["x"], chosen, VACC) == pytest.approx(exact, abs=0.1)
