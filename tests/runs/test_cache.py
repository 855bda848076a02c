"""The result cache: entries are found by everything they depend on, and by nothing less."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.runs.cache import CacheEntry, CacheKey, ResultCache

KEY = CacheKey("kind", 1, {"model": "a", "ranges": {"x": [0.0, 1.5]}})
ENTRY = CacheEntry({"sqnr_db": float("inf"), "layers": [1, 2]}, {"shift": np.arange(3, dtype=np.float32)})


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache")


def test_cache_stored_entry_is_loaded_unchanged(cache: ResultCache) -> None:
    cache.store(KEY, ENTRY)
    found = cache.load(replace(KEY))
    assert found is not None
    assert found.values == ENTRY.values
    assert found.arrays.keys() == {"shift"}
    assert (found.arrays["shift"] == ENTRY.arrays["shift"]).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "other"},
        {"format": 2},
        {"numerics": KEY.numerics + 1},
        {"runtime": "0.0.1"},
        {"inputs": {"model": "b", "ranges": {"x": [0.0, 1.5]}}},
        {"inputs": {"model": "a", "ranges": {"x": [0.0, 1.5000001]}}},
        {"inputs": {"model": "a"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_cache_any_changed_dependency_is_a_miss(cache: ResultCache, changed) -> None:
    cache.store(KEY, ENTRY)
    assert cache.load(replace(KEY, **changed)) is None


@given(st.lists(st.sampled_from("ab"), max_size=6), st.lists(st.sampled_from("ab"), max_size=6))
def test_cache_key_digest_is_equal_only_for_equal_inputs(one: list[str], other: list[str]) -> None:
    first, second = CacheKey("kind", 1, {"names": one}), CacheKey("kind", 1, {"names": other})
    assert (first.digest == second.digest) == (one == other)


@pytest.mark.parametrize("damage", [b"", b"no safetensors", b"\x10\0\0\0\0\0\0\0{}", "half", "another entry"])
def test_cache_damaged_entry_is_a_miss(cache: ResultCache, damage) -> None:
    cache.store(KEY, ENTRY)
    path = cache.path(KEY)
    whole = path.read_bytes()
    if damage == "another entry":
        other = replace(KEY, format=9)
        cache.store(other, ENTRY)
        damage = cache.path(other).read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    assert cache.load(KEY) is None
    cache.store(KEY, ENTRY)
    assert path.read_bytes() == whole


def test_cache_trim_removes_least_recently_used_first(cache: ResultCache) -> None:
    paths = {}
    for age, kind in enumerate(("new", "old", "oldest")):
        key = CacheKey(kind, 1, {})
        paths[kind] = cache.path(key)
        paths[kind].parent.mkdir(parents=True)
        paths[kind].write_bytes(bytes(100))
        os.utime(paths[kind], (1000 - age, 1000 - age))
    cache.trim({paths["oldest"]}, limit=150)
    assert {kind for kind, path in paths.items() if path.exists()} == {"new", "oldest"}
