"""Trials of a search and previews of recipes, cached in the run: an interrupted search resumes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.evaluation.paired import Interval
from quantkit.evaluation.selection import Closeness
from quantkit.runs.cache import CacheEntry, CacheKey, ResultCache
from quantkit.search.recipe import Recipe
from quantkit.search.stages import HoldoutResult, Trial
from quantkit.sensitivity.cache import KIND as LAYER_COSTS
from quantkit.sensitivity.cache import LayerCostCache

KIND, SCREENS, DISTANCES = "trials", "trial-previews", "trial-layers"
_FORMAT = 4
# The fields that `quantkit.search.candidate_builder.CandidateBuilder.effective` may change.
_REWRITES = ("channel_shift", "equalization", "refined", "input_folding")


@dataclass(frozen=True)
class Screened:
    """A recipe measured by its preview.

    Attributes:
        recipe: the recipe without rewrites that have no effect.
        digest: digest of model and ranges; equal for recipes with equal results.
        distance: distance of its preview on the selection split, with simulated bias correction.
    """

    recipe: Recipe
    digest: str
    distance: float


class TrialCache:
    """The cached trials of a search, written immediately.

    Args:
        cache: cache of the run.
        depends_on: everything that the trials depend on besides their recipes, as JSON values.
        fresh: ignore trials of earlier searches.
    """

    def __init__(self, cache: ResultCache, depends_on: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._cache, self._depends_on = cache, depends_on
        self._written: set[str] | None = set() if fresh else None

    @property
    def folder(self) -> Path:
        """The folder of the trials."""
        return self._cache.folder

    def find(self, stage: str, recipe: Recipe) -> Trial | None:
        """Return the trial of a recipe, None if it has not been tried."""
        key = self._key(recipe)
        entry = self._cache.load(key) if self._written is None or key.digest in self._written else None
        if entry is None:
            return None
        try:
            holdout = entry.values["holdout"]
            return Trial(
                stage=stage,
                recipe=recipe,
                closeness=closeness_of(entry.values["closeness"]),
                float_macs=entry.values["float_macs"],
                seconds=entry.values["seconds"],
                holdout=None if holdout is None else _holdout(holdout),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def find_screened(self, recipe: Recipe) -> Screened | None:
        """Return the preview figures of a recipe, or None."""
        key = self._key(recipe, SCREENS)
        entry = self._cache.load(key) if self._written is None or key.digest in self._written else None
        if entry is None:
            return None
        try:
            values = entry.values
            effective = recipe.changed(**{name: values["effective"][name] for name in _REWRITES})
            return Screened(effective, str(values["digest"]), float(values["distance"]))
        except (KeyError, TypeError, ValueError):
            return None

    def keep_screened(self, recipe: Recipe, screened: Screened) -> None:
        """Write the preview figures of a recipe.

        Raises:
            OutputError: they cannot be written.
        """
        effective = {name: getattr(screened.recipe, name) for name in _REWRITES}
        values = {"effective": effective, "digest": screened.digest, "distance": screened.distance}
        self._store(self._key(recipe, SCREENS), values)

    def layer_costs(self, recipe: Recipe) -> LayerCostCache:
        """Return the cache of the layers' costs with a recipe, empty for `fresh` until it is finished."""
        key = self._key(recipe, LAYER_COSTS)
        known = self._written is None or key.digest in self._written
        if self._written is not None:
            self._written.add(key.digest)
        return LayerCostCache(self._cache, key.inputs, known=known)

    def find_distance(self, recipe: Recipe) -> float | None:
        """Return the distance of a recipe with layers in float as the search for them measures it, or None."""
        key = self._key(recipe, DISTANCES)
        entry = self._cache.load(key) if self._written is None or key.digest in self._written else None
        found = None if entry is None else entry.values.get("distance")
        return found if isinstance(found, float) else None

    def keep_distance(self, recipe: Recipe, distance: float) -> None:
        """Write the distance of a recipe with layers in float.

        Raises:
            OutputError: it cannot be written.
        """
        self._store(self._key(recipe, DISTANCES), {"distance": distance})

    def keep(self, trial: Trial) -> None:
        """Write a trial, in place of the entry of its recipe.

        Raises:
            OutputError: it cannot be written.
        """
        self._store(self._key(trial.recipe), trial_json(trial))

    def _store(self, key: CacheKey, values: Mapping[str, Any]) -> None:
        self._cache.store(key, CacheEntry(values))
        if self._written is not None:
            self._written.add(key.digest)

    def _key(self, recipe: Recipe, kind: str = KIND) -> CacheKey:
        return CacheKey(kind, _FORMAT, {**self._depends_on, "recipe": recipe.to_json()})


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON values."""
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


def closeness_of(plain: Mapping[str, Any]) -> Closeness:
    """Return the figures of a recorded trial; JSON has no infinity, the SQNR of a model equal to fp32."""
    return Closeness(**{**plain, "sqnr_db": math.inf if plain["sqnr_db"] is None else plain["sqnr_db"]})


def _holdout(plain: Mapping[str, Any]) -> HoldoutResult:
    intervals = {name: Interval(**plain[name]) for name in ("ci95", "interval", "agreement_interval")}
    return HoldoutResult(**{**plain, **intervals})
