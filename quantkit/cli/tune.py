"""``quantkit tune``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    CalibrateOptions,
    ExecutionOptions,
    LayerOptions,
    LimitedImages,
    PresetOption,
    RequireCoverageOption,
    RunOption,
    SubjectArgument,
    TargetOption,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import (
    give_result,
    parse_percent,
    print_coverage,
    print_files,
    print_lines,
    print_next,
    print_notes,
    print_preset_notes,
)
from quantkit.cli.terminal import console
from quantkit.config.choices import Stage
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.config.project import Project
    from quantkit.workflows.tune import Tuning

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@app.command()
def tune(
    on: LimitedImages,
    given: LayerOptions,
    execution: ExecutionOptions,
    subject: SubjectArgument = None,
    max_drop: Annotated[float, typer.Option(min=0.0, help="Largest accepted loss of top-1, in points.")] = 0.5,
    min_agreement: Annotated[
        float | None, typer.Option(min=0.0, max=100.0, help="Minimum agreement with fp32, in percent; none by default.")
    ] = None,
    target: TargetOption = None,
    time: Annotated[str | None, typer.Option(help="Time limit, e.g. 10m; no limit by default.")] = None,
    run: RunOption = None,
    set_: Annotated[
        Path | None, typer.Option("--set", help="Calibration set, for a model without a run.", show_default="none")
    ] = None,
    preset: PresetOption = None,
    max_float: Annotated[str, typer.Option(help="Maximum share of the multiply-adds left in float.")] = "10%",
    max_skips: Annotated[
        int | None,
        typer.Option(min=0, help="Maximum number of layers left in float.", show_default="no limit; 3 for vacc"),
    ] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite/--no-rewrite", help="Whether weights and biases may be changed.")
    ] = True,
    disable: Annotated[
        list[Stage] | None,
        typer.Option(help="Stage of the search to leave out; repeatable."),
    ] = None,
    write_fp32: Annotated[
        Path | None,
        typer.Option(help="For vacc: path of the rewritten fp32 model.", show_default="in the run folder"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Path of the int8 model.", show_default="in the run folder")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore cached trials.")] = False,
    require_coverage: RequireCoverageOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the trials and the result as JSON.")] = None,
) -> None:
    """Find the cheapest int8 model within an accuracy budget. Resumable.

    With --device, models are observed, compared and evaluated there, fp32 too. Ranges are refined, and biases and
    weights corrected, on the CPU.
    """
    from quantkit.config.settings import Settings
    from quantkit.search.budget import FloatBudget
    from quantkit.search.stages import Goal
    from quantkit.workflows.project import load_project, target_of
    from quantkit.workflows.tune import TuneOptions
    from quantkit.workflows.tune import tune as step

    where, project = execution.arguments(), load_project()
    images, options = on.completed(project), given.quantize_options(project)
    chosen = target_of(target, project)
    if write_fp32 is not None and (not chosen.compiler_calibrates or not rewrite):
        raise UsageError("there is no rewritten fp32 model", where="--write-fp32", fix="give --target vacc --rewrite")
    macs = parse_percent(max_float, "--max-float")
    assert macs is not None
    wanted = TuneOptions(
        goal=Goal(max_drop=max_drop, min_agreement=min_agreement),
        budget=FloatBudget(macs=macs, layers=max_skips),
        disable=frozenset(disable or ()),
        rewrite=rewrite,
        seconds=parse_seconds(time),
        write_fp32=write_fp32,
        require_coverage=parse_percent(require_coverage, "--require-coverage", all_allowed=True),
    )
    calibrated = CalibrateOptions(model=subject, set_=set_, preset=preset, run=run, target=target, **vars(given))
    folder = _run_to_tune(calibrated, execution, project)
    merged = Settings(project)
    merged.add("run", folder, given=subject or run, key="run")
    merged.add("target", chosen.name, given=target, key="target")
    merged.add("max drop", f"{max_drop:g} points", given=max_drop if max_drop != 0.5 else None)
    merged.add("min agreement", None if min_agreement is None else f"{min_agreement:g} %", given=min_agreement)
    merged.add("max float", f"{macs:g} % of the multiply-adds", given=max_float if max_float != "10%" else None)
    merged.add("max skips", max_skips, given=max_skips)
    merged.add("disabled stages", tuple(map(str, disable or ())), given=disable)
    merged.add("rewrite", rewrite, given=None if rewrite else False)
    given.show_options(merged, options)
    merged.add("images", images.images, given=on.images, key="images")
    merged.add("labels", images.labels, given=on.labels, key="labels")
    on.show_limits(merged)
    merged.add("time", time, given=time)
    with show_progress(merged.by_name, recorded="tune") as progress:
        done = step(
            folder,
            wanted,
            target=chosen,
            options=options,
            **images.arguments(),
            out=out,
            fresh=fresh,
            **where,
            progress=progress,
        )
    give_result(done.to_json(), json)
    _print(done, json)


def parse_seconds(text: str | None) -> float | None:
    """Return the seconds of ``90s``, ``10m`` or ``1.5h``; a bare number is seconds.

    Raises:
        UsageError: the text has none of these forms.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise UsageError(f"invalid duration {text!r}", where="--time", fix="write ten minutes as 10m")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _run_to_tune(given: CalibrateOptions, execution: ExecutionOptions, project: "Project") -> Path:
    """Return the run to tune; where a set is given, the model is calibrated with it first, as `calibrate` does it.

    Raises:
        UsageError: there is no run, or an option has no effect without a set.
    """
    from quantkit.cli.calibration_settings import calibration_settings, merged_settings
    from quantkit.workflows.calibrate import calibrate
    from quantkit.workflows.project import run_of_subject

    if given.set_ is None:
        if given.preset is not None:
            raise UsageError("a calibrated run has its own preprocessing", where="--preset", fix="give --set too")
        return run_of_subject(given_once(given.model, given.run, "run"), project)
    settings = calibration_settings(given, project)
    merged = merged_settings(given, settings, execution, project)
    print_preset_notes(given.preset, project)
    with show_progress(merged.by_name, recorded="calibrate") as progress:
        calibrate(settings.model, given.set_, **settings.arguments(), **execution.arguments(), progress=progress)
    return settings.run


def _print(done: "Tuning", json: Path | None) -> None:
    from quantkit.runs.folder import RECORD

    best = done.outcome.best
    console.print(_table(done))
    print_lines(*_verdict(done))
    print_notes(done.notes)
    print_lines(f"kept: {best.recipe.describe()}")
    run = done.log.parent
    print_files((*done.files, done.log, run / RECORD, *([] if json is None else [json])), in_folder=run)
    print_coverage(done.coverage)
    print_next("compare", "fp32", done.name, "--run", run)


def _table(done: "Tuning") -> "Table":
    from quantkit.report.tables import plain_table, points

    figures = ("distance", "SQNR, dB", "Δ top-1, points", "agree", "float")
    title = (
        "trials: distance from fp32 (kept: 1) and SQNR on calibration images; difference to fp32 with its 95 % "
        "interval on held-out images"
    )
    table = plain_table(title, ["recipe"], figures)
    for one in done.trials:
        evaluated = one.holdout
        distance = done.relative_distance(one)
        near = ["" if distance is None else f"{distance:.2f}", f"{one.closeness.sqnr_db:.1f}"]
        cells = ["", ""]
        if evaluated is not None:
            difference = points(100.0 * evaluated.delta, evaluated.ci95.scaled(100.0))
            cells = [difference, f"{100.0 * evaluated.agreement:.2f}"]
        share = f"{100.0 * one.float_macs:.1f}%" if one.float_macs else ""
        style = "bold" if one.recipe == done.outcome.best.recipe else None
        table.add_row(one.recipe.describe(), *near, *cells, share, style=style)
    return table


def _verdict(done: "Tuning") -> tuple[str, ...]:
    lines = list(done.conclusion)
    if done.rescaling_change is not None:
        lines.append(
            f"shifted and rescaled channels change the fp32 scores by at most {done.rescaling_change:.1e} of their span"
        )
    if done.fp32_change is not None:
        lines.append(
            f"the fp32 model for the compiler differs by at most {done.fp32_change:.1e} of it, corrections included"
        )
    return tuple(lines)
