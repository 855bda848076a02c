"""The contract of an observer, for the compiled kernel and numpy's."""

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.kernels import Kernel
from quantkit.stats import kernel as module
from quantkit.stats.bins import bin_of
from quantkit.stats.kernel import count_bins, count_bins_numpy
from quantkit.stats.observer import Observer
from quantkit.stats.tensor import TensorStatistics

KERNELS = [pytest.param(count_bins, id="compiled"), pytest.param(count_bins_numpy, id="numpy")]
any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)
arrays = hnp.arrays(np.float32, st.integers(0, 300), elements=any_float)


def observed(*batches: np.ndarray, kernel: Callable = count_bins) -> TensorStatistics:
    observer = Observer(kernel)
    for batch in batches:
        observer.observe(batch)
    return observer.statistics()


def reference(x: np.ndarray) -> TensorStatistics:
    """The same statistics by numpy, from the definition."""
    x = x.astype(np.float32).ravel()
    finite = x[np.isfinite(x)]
    bins, counts = np.unique(bin_of(finite), return_counts=True) if finite.size else (np.empty(0), np.empty(0))
    return TensorStatistics(
        bins.astype(np.uint32),
        counts.astype(np.int64),
        finite.size,
        int((finite == 0).sum()),
        float(finite.min()) + 0.0 if finite.size else 0.0,
        float(finite.max()) + 0.0 if finite.size else 0.0,
        int(np.isnan(x).sum()),
        int((x == np.inf).sum()),
        int((x == -np.inf).sum()),
    )


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=150, deadline=None)
@given(x=arrays)
def test_observer_statistics_equal_definition(kernel: Callable, x: np.ndarray) -> None:
    statistics = observed(x, kernel=kernel)
    assert statistics.check() is None
    assert statistics.identical(reference(x))


@settings(max_examples=80, deadline=None)
@given(x=arrays, data=st.data())
def test_observer_any_split_and_order_gives_same_bits(x: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=4)))
    parts = data.draw(st.permutations(np.split(x, cuts)))
    whole = observed(x)
    assert observed(*parts).identical(whole)
    total = Observer()
    for part in parts:
        other = Observer(data.draw(st.sampled_from([count_bins, count_bins_numpy])))
        other.observe(part)
        total.absorb(other)
        assert other.statistics().identical(TensorStatistics.empty())
    assert total.statistics().identical(whole)
    merged = TensorStatistics.empty()
    for part in parts:
        merged = merged.merge(observed(part))
    assert merged.identical(whole)


@given(x=hnp.arrays(np.float32, 50, elements=st.floats(-(2.0**100), 2.0**100, width=32)), k=st.integers(-8, 8))
def test_observer_values_scaled_by_power_of_two_keep_counts(x: np.ndarray, k: int) -> None:
    x = x[np.abs(x) > 1e-30]
    one, other = observed(x), observed(x * np.float32(2.0) ** k)
    np.testing.assert_array_equal(one.counts, other.counts)
    if one.count:
        assert other.lo == one.lo * 2.0**k
        assert other.hi == one.hi * 2.0**k


@given(
    x=hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_statistics_rectified_equal_those_of_relu(x: np.ndarray) -> None:
    assert observed(x).rectified().identical(observed(np.maximum(x, 0)))


def test_observer_resumed_from_statistics_gives_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    resumed = Observer()
    resumed.add(observed(x[:2000]))
    resumed.observe(x[2000:])
    assert resumed.statistics().identical(observed(x))


def test_observer_any_shape_dtype_and_stride_is_read_and_left_unchanged() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float64)
    kept = x.copy()
    assert observed(x[:, ::2]).identical(reference(x[:, ::2]))
    np.testing.assert_array_equal(x, kept)
    assert observed(x.astype(np.float16)).identical(reference(x.astype(np.float16)))
    assert observed(np.empty((0, 3), np.float32)).identical(TensorStatistics.empty())


def test_observer_non_finite_values_are_counted_apart() -> None:
    observer = Observer()
    assert observer.observe(np.array([1.0, np.nan, np.inf, -np.inf, np.nan], np.float32)) == (4, 1.0, 1.0)
    assert observer.observe(np.array([2.0], np.float32)) == (0, 2.0, 2.0)
    assert Observer().observe(np.array([np.nan], np.float32)) == (1, np.inf, -np.inf)
    statistics = observer.statistics()
    assert (statistics.nan, statistics.positive_infinities, statistics.negative_infinities) == (2, 1, 1)
    assert (statistics.count, statistics.lo, statistics.hi) == (2, 1.0, 2.0)


def test_observer_full_counters_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.stats.kernel._CAPACITY", 1000)
    x = np.ones(600, np.float32)
    assert observed(x, x, x, x).count == 2400


def test_observer_many_batches_do_not_grow_memory() -> None:
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    observer = Observer()
    observer.observe(x)
    tracemalloc.start()
    for _ in range(200):
        observer.observe(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes  # one batch of temporaries at most


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults")
def test_observer_without_values_touches_no_memory() -> None:
    resource = pytest.importorskip("resource")
    for _ in range(8):
        np.ones(1 << 19, np.int64)  # memory that was used before, which numpy would clear
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    observers = [Observer() for _ in range(50)]
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert touched < 10 * len(observers)  # each has some 768 pages


def test_observer_environment_variable_chooses_numpy_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTKIT_KERNEL", "numpy")
    assert Observer()._kernel is count_bins_numpy
    monkeypatch.delenv("QUANTKIT_KERNEL")
    assert Observer()._kernel is count_bins


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("zeros", [0.0, 0.1, 0.5, 1.0])
def test_observer_compiled_kernel_counts_zeros_as_numpy(
    monkeypatch: pytest.MonkeyPatch, compress: bool, zeros: float
) -> None:
    compiled = module._count_bins
    monkeypatch.setattr(module, "COMPRESS", compress)
    fresh = Kernel(compiled.function, compiled.result, compiled.arguments, names=compiled.names)
    monkeypatch.setattr(module, "_count_bins", fresh)
    rng = np.random.default_rng(0)
    for size in (1, 15, 16, 63, 64, 65, 255, 257, 2047, 2048, 2049, 2048 + 64, 5000):
        x = rng.standard_normal(size).astype(np.float32)
        x[rng.random(size) < zeros] = rng.choice([0.0, -0.0])
        assert observed(x).identical(observed(x, kernel=count_bins_numpy)), size
