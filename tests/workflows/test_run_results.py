"""Results in a run folder, as the report reads them."""

import json
from pathlib import Path
from types import SimpleNamespace

from quantkit.runs.folder import RunFolder
from quantkit.workflows.run_results import tuning_logs


def trial(words: str, *, agreement: float, sqnr_db: float | None, kl: float) -> dict:
    closeness = {"kl": kl, "expected_kl": kl, "sqnr_db": sqnr_db, "agreement": agreement}
    numbers = {"float_macs": 0.0, "seconds": 1.0, "holdout": None}
    return {"stage": "method", "words": words, "recipe": {"of": words}, "closeness": closeness, **numbers}


def test_run_results_best_recipe_of_stage_is_that_with_least_distance(tmp_path: Path) -> None:
    """Agreement on a few dozen images says little: the search ranks by KL divergence and noise."""
    trials = [
        trial("near", agreement=0.95, sqnr_db=30.0, kl=0.001),
        trial("far", agreement=0.97, sqnr_db=20.0, kl=0.01),
        {**trial("kept", agreement=0.96, sqnr_db=31.0, kl=0.001), "stage": "rounding"},
    ]
    log = {"best": {"recipe": {"of": "kept"}}, "trials": trials, "verdict": "met", "notes": []}
    (tmp_path / "tune-ort.json").write_text(json.dumps(log), encoding="utf-8")
    entry = SimpleNamespace(options={"recipe": {"of": "kept"}}, target="ort")
    record = SimpleNamespace(quantized={"int8-tuned": entry})
    [found] = tuning_logs(RunFolder(tmp_path), record)  # type: ignore[arg-type]
    assert [(stage.stage, stage.recipe, stage.kept) for stage in found.stages] == [
        ("method", "near", False),
        ("rounding", "kept", True),
    ]
