"""Trials of a search, cached in the run: what was tried is not tried again, and an interrupted search resumes."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from quantkit.evaluation.paired import Interval
from quantkit.evaluation.selection import Closeness
from quantkit.runs.cache import CacheEntry, CacheKey, ResultCache
from quantkit.search.recipe import Recipe
from quantkit.search.stages import HoldoutResult, Trial

KIND = "trials"
_FORMAT = 3


class TrialCache:
    """The cached trials of one search, each written as soon as it is known.

    Args:
        cache: of the run.
        depends_on: all that the trials depend on besides their recipes, as JSON values.
        fresh: ignore trials of earlier searches.
    """

    def __init__(self, cache: ResultCache, depends_on: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._cache, self._depends_on = cache, depends_on
        self._written: set[str] | None = set() if fresh else None

    def find(self, stage: str, recipe: Recipe) -> Trial | None:
        """Return the trial of a recipe, None where it has not been tried."""
        key = self._key(recipe)
        entry = self._cache.load(key) if self._written is None or key.digest in self._written else None
        if entry is None:
            return None
        try:
            holdout = entry.values["holdout"]
            return Trial(
                stage=stage,
                recipe=recipe,
                closeness=_closeness(entry.values["closeness"]),
                float_macs=entry.values["float_macs"],
                seconds=entry.values["seconds"],
                holdout=None if holdout is None else _holdout(holdout),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def keep(self, trial: Trial) -> None:
        """Write a trial, in the place of what was known of its recipe before.

        Raises:
            OutputError: it cannot be written.
        """
        key = self._key(trial.recipe)
        self._cache.store(key, CacheEntry(trial_json(trial)))
        if self._written is not None:
            self._written.add(key.digest)

    def _key(self, recipe: Recipe) -> CacheKey:
        return CacheKey(KIND, _FORMAT, {**self._depends_on, "recipe": recipe.to_json()})


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain values."""
    evaluated, closeness = trial.holdout, asdict(trial.closeness)
    return {
        "stage": trial.stage,
        "words": trial.recipe.describe(),
        "recipe": trial.recipe.to_json(),
        "closeness": {name: value if math.isfinite(value) else None for name, value in closeness.items()},
        "float_macs": trial.float_macs,
        "seconds": round(trial.seconds, 3),
        "holdout": None if evaluated is None else asdict(evaluated),
    }


def _closeness(plain: Mapping[str, Any]) -> Closeness:
    """Return figures of a trial, in which a model equal to fp32 has no finite SQNR."""
    return Closeness(**{**plain, "sqnr_db": math.inf if plain["sqnr_db"] is None else plain["sqnr_db"]})


def _holdout(plain: Mapping[str, Any]) -> HoldoutResult:
    intervals = {name: Interval(**plain[name]) for name in ("ci95", "interval", "agreement_interval")}
    return HoldoutResult(**{**plain, **intervals})
