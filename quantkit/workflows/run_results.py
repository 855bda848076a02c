"""Results of earlier commands in a run: searches of `tune`, and sensitivities."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from quantkit.config.method import as_method
from quantkit.errors import QuantkitError
from quantkit.evaluation.paired import Interval
from quantkit.files import sha256_json, write_json
from quantkit.graph.coverage import Coverage
from quantkit.numerics import NUMERIC_VERSION
from quantkit.report.data import MethodChoice, SensitivityFinding, TuningLog, TuningStage
from quantkit.runs.folder import QuantizedRecord, RunFolder, RunRecord
from quantkit.search.method_selection import MethodSelection
from quantkit.search.trial_cache import closeness_of
from quantkit.sensitivity.result import Sensitivity
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.sensitivity_decision import decide, quantize_command

# Damaged results, and those of other versions: they are left out of a report, which they do not prevent.
_OTHER_FORM = (KeyError, TypeError, ValueError, AttributeError, QuantkitError)


def tuning_logs(folder: RunFolder, record: RunRecord) -> tuple[TuningLog, ...]:
    """Return the searches that produced the current tuned models of the run."""
    found = []
    for name, entry in record.quantized.items():
        plain = _log(folder, entry)
        if plain is None:
            continue
        with suppress(*_OTHER_FORM):
            found.append(_tuning_log(name, entry, plain))
    return tuple(found)


def _tuning_log(name: str, entry: QuantizedRecord, plain: Mapping[str, Any]) -> TuningLog:
    return TuningLog(
        name=name,
        target=entry.target,
        conclusion=tuple(plain.get("conclusion", ())),
        stages=tuple(_stages(plain)),
        notes=tuple(plain.get("notes", ())),
    )


def method_choices(made: Mapping[str, QuantizedRecord]) -> Iterator[MethodChoice]:
    """Yield how method ``auto`` chose the methods of models of a run."""
    for name, entry in made.items():
        if entry.selection is None:
            continue
        try:
            selection = MethodSelection.from_json(entry.selection)
        except _OTHER_FORM:
            continue
        yield MethodChoice(model=name, reason=selection.reason, rows=tuple(selection.rows()))


def tuning_coverage(folder: RunFolder, entry: QuantizedRecord) -> Coverage | None:
    """Return the coverage of a tuned model, None if its log is missing."""
    plain = _log(folder, entry) or {}
    try:
        return Coverage.from_json(plain["coverage"])
    except _OTHER_FORM:
        return None


def sensitivity_path(folder: RunFolder, target: str) -> Path:
    """Return the file of the last sensitivity for a target."""
    return folder.path / f"sensitivity-{target}.json"


def keep_sensitivity(folder: RunFolder, record: RunRecord, found: Sensitivity) -> None:
    """Write a sensitivity and the digests of its inputs into the run, for the report.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(sensitivity_path(folder, found.target), {"belongs_to": _identity(record), **found.to_json()})


def sensitivity_findings(folder: RunFolder, record: RunRecord) -> tuple[SensitivityFinding, ...]:
    """Return the sensitivities of the run's model and calibration set with their recommendations."""
    found = []
    for path in sorted(folder.path.glob("sensitivity-*.json")):
        plain = _read(path)
        if plain is None or plain.get("belongs_to") != _identity(record):
            continue
        try:
            result = Sensitivity.from_json(plain)
        except _OTHER_FORM:
            continue
        decision = decide(result)
        command = ""
        if decision.skips:
            command = quantize_command(folder.path, result, as_method(result.method), QuantizeOptions(), decision.skips)
        found.append(SensitivityFinding(result=result, decision=decision.lines(), command=command))
    return tuple(found)


def _identity(record: RunRecord) -> dict[str, Any]:
    return {
        "model": record.model.key,
        "output": record.model.output,
        "set": record.set.digest,
        "images": record.set.images_used,
        "pipeline": sha256_json(record.pipeline.model_dump(mode="json")),
        "numerics": NUMERIC_VERSION,
    }


def _log(folder: RunFolder, entry: QuantizedRecord) -> dict[str, Any] | None:
    """Return the log of the search that created a model, None for any other model."""
    recipe = entry.options.get("recipe")
    plain = None if recipe is None else _read(folder.path / f"tune-{entry.target}.json")
    # The log of a later search with another output path has another recipe.
    best = {} if plain is None else plain.get("best")
    return plain if isinstance(best, dict) and best.get("recipe") == recipe else None


def _read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, None if it cannot be read; optional parts of a report must not make it fail."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plain if isinstance(plain, dict) else None


def _stages(plain: Mapping[str, Any]) -> Iterator[TuningStage]:
    for stage, group in groupby(plain["trials"], key=lambda trial: trial["stage"]):
        trials = list(group)
        evaluated = [trial for trial in trials if trial["holdout"] is not None]
        best = min(evaluated or trials, key=lambda trial: closeness_of(trial["closeness"]).distance)  # as in the search
        kept = next((trial for trial in trials if trial["recipe"] == plain["best"]["recipe"]), None)
        best = kept or best
        holdout = best["holdout"]
        yield TuningStage(
            stage=stage,
            tried=len(trials),
            recipe=best["words"],
            agreement=best["closeness"]["agreement"],
            sqnr_db=best["closeness"]["sqnr_db"],
            seconds=sum(trial["seconds"] for trial in trials),
            float_macs=best["float_macs"],
            images=0 if holdout is None else holdout["images"],
            delta=None if holdout is None else 100.0 * holdout["delta"],
            ci95=None if holdout is None else Interval(**holdout["ci95"]).scaled(100.0),
            kept=kept is not None,
        )
