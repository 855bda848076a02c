"""The journal of a tuning: what was tried and what each trial bought, kept as it is found out."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.evaluation.paired import Interval
from quantkit.evaluation.selection import Closeness
from quantkit.files import write_json
from quantkit.search.recipe import Recipe
from quantkit.search.stages import HoldoutResult, Trial

FORMAT = 2


class TrialCache:
    """A JSON file of trials, each written whole as soon as it is known.

    A journal of another model, set, preprocessing or program says nothing about this search, and is begun anew.

    Args:
        path: the file; it need not exist.
        key: digest of all that the trials depend on besides their recipes.
        fresh: forget what is there.
    """

    def __init__(self, path: Path, key: str, *, fresh: bool = False) -> None:
        self._path, self._key = path, key
        self._trials: list[dict[str, Any]] = [] if fresh else self._read()

    def find(self, stage: str, recipe: Recipe) -> Trial | None:
        """Return what was found out about a recipe, None where it has not been tried."""
        plain = recipe.to_json()
        for entry in self._trials:
            if entry["recipe"] == plain:
                evaluated = entry["holdout"]
                return Trial(
                    stage=stage,
                    recipe=recipe,
                    closeness=_closeness(entry["closeness"]),
                    float_macs=entry["float_macs"],
                    seconds=entry["seconds"],
                    holdout=None if evaluated is None else _holdout(evaluated),
                )
        return None

    def keep(self, trial: Trial) -> None:
        """Write a trial, in the place of what was known of its recipe before.

        Raises:
            OutputError: the file cannot be written.
        """
        entry = trial_json(trial)
        places = [place for place, known in enumerate(self._trials) if known["recipe"] == entry["recipe"]]
        if places:
            self._trials[places[0]] = entry
        else:
            self._trials.append(entry)
        write_json(self._path, {"format": FORMAT, "key": self._key, "trials": self._trials})

    def _read(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
            known = content["trials"] if content["format"] == FORMAT and content["key"] == self._key else []
            for entry in known:
                _closeness(entry["closeness"])
                entry["recipe"], entry["float_macs"], entry["seconds"]
                if entry["holdout"] is not None:
                    _holdout(entry["holdout"])
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return list(known)


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
    """Return the figures of a journal, in which a model equal to fp32 has no finite SQNR."""
    return Closeness(**{**plain, "sqnr_db": math.inf if plain["sqnr_db"] is None else plain["sqnr_db"]})


def _holdout(plain: Mapping[str, Any]) -> HoldoutResult:
    intervals = {name: Interval(**plain[name]) for name in ("ci95", "interval", "agreement_interval")}
    return HoldoutResult(**{**plain, **intervals})
