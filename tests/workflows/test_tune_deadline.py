"""The time limit of a search on a clock of its own: it holds in every step, and what it cuts off resumes."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tune_models import builder_of, small_model

from quantkit.config.method import MinMax
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.selection import Closeness
from quantkit.progress import NoProgress
from quantkit.runs.cache import ResultCache
from quantkit.runs.folder import RunFolder
from quantkit.search import deadline as clocked
from quantkit.search.budget import FloatBudget
from quantkit.search.deadline import Deadline, OutOfTimeError
from quantkit.search.recipe import Recipe
from quantkit.search.stages import Goal, HoldoutResult, Trial
from quantkit.search.trial_cache import TrialCache
from quantkit.search.trials import Trials
from quantkit.workflows.tune import TuneOptions, tune

OPTIONS = TuneOptions(goal=Goal(max_drop=0, min_agreement=100), budget=FloatBudget(macs=60))


@pytest.fixture(scope="module")
def calibrated(uneven_run: Path) -> Path:
    return uneven_run / "run"


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock of the deadline on which every look takes a second; the looks, and the looks that found no time."""
    counter, seen = itertools.count(), []

    def monotonic() -> float:
        seen.append(next(counter))
        return float(seen[-1])

    monkeypatch.setattr(clocked, "time", SimpleNamespace(monotonic=monotonic))
    return seen


def test_time_limit_holds_in_every_step_and_the_rest_resumes(calibrated: Path, ticks: list[int]) -> None:
    whole = tune(calibrated, OPTIONS, fresh=True)
    wanted, best = whole.path.read_bytes(), whole.outcome.best
    assert not whole.outcome.out_of_time
    ticks.clear()
    tune(calibrated, replace(OPTIONS, seconds=1e9), fresh=True)
    total = len(ticks)
    assert total > 500, "images, moves and layers are all looked at"
    for share in (0.02, 0.2, 0.45, 0.7, 0.9):
        ticks.clear()
        cut = tune(calibrated, replace(OPTIONS, seconds=share * total), fresh=True)
        assert cut.outcome.out_of_time
        # Jobs that wait for the threads may look once more each, and end there.
        assert ticks[-1] - ticks[0] <= share * total + 16
        kept = cut.outcome.best
        assert kept.holdout is not None
        record = RunFolder(calibrated).read().quantized["int8-tuned"]
        assert record.options["recipe"] == kept.recipe.to_json()
    resumed = tune(calibrated, OPTIONS)
    assert (resumed.outcome.best.recipe, resumed.path.read_bytes()) == (best.recipe, wanted)


def test_time_limit_does_not_end_the_first_trial(calibrated: Path) -> None:
    done = tune(calibrated, replace(OPTIONS, seconds=0.0), fresh=True)
    assert done.outcome.out_of_time
    assert [trial.stage for trial in done.trials] == ["default"]


def test_time_limit_leaves_time_to_build_a_model_that_is_not_on_disk(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clocked, "time", SimpleNamespace(monotonic=lambda: now[0]))
    builder, selection = builder_of(small_model())
    recipe = Recipe(method=MinMax())
    subject: Any = SimpleNamespace(builder=builder, selection=selection, scoring_s=2.0)
    holdout = HoldoutResult(
        images=9, top1=0.5, delta=0.0, ci95=Interval(0, 0), interval=Interval(0, 0), agreement=1.0,
        agreement_interval=Interval(0, 1),
    )  # fmt: skip
    near = Closeness(kl=1.0, expected_kl=1.0, sqnr_db=20.0, agreement=0.9)
    trial = Trial(stage="rounding", recipe=recipe, closeness=near, float_macs=0.0, seconds=50.0, holdout=holdout)
    for on_disk, last_s in ((False, 45.0), (True, 95.0)):
        now[0] = 0.0
        limit, cache = Deadline(100.0), TrialCache(ResultCache(tmp_path), {}, fresh=True)
        is_written: Any = {True: bool, False: lambda recipe: False}[on_disk]
        evaluate: Any = None
        trials = Trials(subject, evaluate, cache, FloatBudget(), limit, NoProgress(), is_written=is_written)
        trials.evaluate(trial)
        now[0] = last_s
        limit.check()
        now[0] = last_s + 2.0
        with pytest.raises(OutOfTimeError):
            trials.shortlist(trial, [recipe.changed(equalization=1.0)], 1.0)


def test_deadline_is_looked_at_for_each_image_only_while_it_is_enforced() -> None:
    limit = Deadline(0.0)
    images = limit.images([np.zeros(1), np.ones(1)])
    assert len(images[1:]) == 1
    assert [float(one[0]) for one in images] == [0.0, 1.0]
    limit.begin()
    for taken in (lambda: images[0], lambda: list(images[1:]), lambda: limit.each(abs)(-1), limit.check):
        with pytest.raises(OutOfTimeError):
            taken()
    limit.counting(lambda done, total: None)(2, 2)  # nothing is left to stop
    limit.lift()
    assert len(list(images)) == 2
