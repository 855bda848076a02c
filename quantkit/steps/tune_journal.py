"""The journal of a tuning: what was tried and what each trial bought, kept as it is found out."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.comparison.paired import Interval
from quantkit.files import write_json
from quantkit.tuning.choosing import Closeness
from quantkit.tuning.recipe import Recipe
from quantkit.tuning.search import Judgement, Trial

FORMAT = 2


class Journal:
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

    def find(self, rung: str, recipe: Recipe) -> Trial | None:
        """Return what was found out about a recipe, None where it has not been tried."""
        plain = recipe.to_json()
        for entry in self._trials:
            if entry["recipe"] == plain:
                judged = entry["judgement"]
                return Trial(
                    rung=rung,
                    recipe=recipe,
                    closeness=_closeness(entry["closeness"]),
                    float_macs=entry["float_macs"],
                    seconds=entry["seconds"],
                    judgement=None if judged is None else _judgement(judged),
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
                if entry["judgement"] is not None:
                    _judgement(entry["judgement"])
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return list(known)


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain values."""
    judged, closeness = trial.judgement, asdict(trial.closeness)
    return {
        "rung": trial.rung,
        "words": trial.recipe.describe(),
        "recipe": trial.recipe.to_json(),
        "closeness": {name: value if math.isfinite(value) else None for name, value in closeness.items()},
        "float_macs": trial.float_macs,
        "seconds": round(trial.seconds, 3),
        "judgement": None if judged is None else asdict(judged),
    }


def _closeness(plain: Mapping[str, Any]) -> Closeness:
    """Return the figures of a journal, in which a model equal to fp32 has no finite SQNR."""
    return Closeness(**{**plain, "sqnr_db": math.inf if plain["sqnr_db"] is None else plain["sqnr_db"]})


def _judgement(plain: Mapping[str, Any]) -> Judgement:
    intervals = {name: Interval(**plain[name]) for name in ("ci95", "interval", "agreement_interval")}
    return Judgement(**{**plain, **intervals})
