"""``quantkit tune``."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    ImagesOption,
    KeepOutliersOption,
    LabelsOption,
    PerChannelOption,
    PresetOption,
    RequireCoverageOption,
    SkipDamagedOption,
    SkipOption,
    TargetOption,
    VerboseOption,
    images_given,
)
from quantkit.cli.show import Bar, console, parse_share, print_coverage, print_notes, progress_bar
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.config.project import Project
    from quantkit.progress import Count
    from quantkit.search.stages import Stage
    from quantkit.workflows.tune import Tuning

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@app.command()
def tune(
    subject: Annotated[
        Path | None, typer.Argument(metavar="[RUN or MODEL]", help="Run folder of quantkit calibrate, or its model.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0.0, help="Points of top-1 that int8 may lose.")] = 0.5,
    min_agreement: Annotated[
        float | None, typer.Option(min=0.0, max=100.0, help="Percent of the images to be answered as fp32 does.")
    ] = None,
    target: TargetOption = None,
    time: Annotated[str | None, typer.Option(help="Try nothing more after this time, e.g. 10m.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder of quantkit calibrate.")] = None,
    set_: Annotated[
        Path | None, typer.Option("--set", help="Calibration set of a model that was not calibrated yet.")
    ] = None,
    preset: PresetOption = None,
    images: ImagesOption = None,
    skip_damaged: SkipDamagedOption = False,
    labels: LabelsOption = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one a line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Judge on at most so many images.")] = None,
    per_channel: PerChannelOption = None,
    skip: SkipOption = None,
    keep_outliers: KeepOutliersOption = False,
    max_float: Annotated[str, typer.Option(help="Share of the multiply-adds that may be left in float.")] = "10%",
    max_skips: Annotated[
        int | None, typer.Option(min=0, help="Layers that may be left in float; for vacc 3 by default.")
    ] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite/--no-rewrite", help="Change weights and biases, or only options and precision.")
    ] = True,
    disable: Annotated[
        list[str] | None,
        typer.Option(
            help="Disable a stage: method, weight-scale, channel-shift, equalization, ranges, rounding, input-folding, "
            "precision."
        ),
    ] = None,
    write_fp32: Annotated[
        Path | None, typer.Option(help="For vacc: the rewritten fp32 model; in the run folder by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the model; in the run folder by default.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Try again what was tried before.")] = False,
    require_coverage: RequireCoverageOption = None,
    threads: Annotated[int | None, typer.Option(help="Workers; all processors by default.")] = None,
    verbose: VerboseOption = False,
    json: Annotated[Path | None, typer.Option(help="Write all that was found out as JSON.")] = None,
) -> None:
    """Find the cheapest change that brings int8 within a budget; interrupted, it goes on where it was."""
    from quantkit.files import write_json
    from quantkit.search.mixed_precision import FloatBudget
    from quantkit.search.stages import Goal
    from quantkit.targets import parse_target
    from quantkit.workflows.project import load_project
    from quantkit.workflows.quantize import QuantizeOptions
    from quantkit.workflows.tune import TuneOptions
    from quantkit.workflows.tune import tune as step

    project = load_project(Path())
    chosen = parse_target(target or project.target or "ort")
    if write_fp32 is not None and (not chosen.compiler_calibrates or not rewrite):
        raise UsageError("there is no rewritten fp32 model", where="--write-fp32", fix="give --target vacc --rewrite")
    macs = parse_share(max_float, "--max-float")
    assert macs is not None
    with progress_bar("tuning") as bar:
        done = step(
            _run(subject, run, set_, preset, project, bar),
            TuneOptions(
                goal=Goal(
                    max_drop=max_drop / 100.0, min_agreement=None if min_agreement is None else min_agreement / 100.0
                ),
                budget=FloatBudget(macs=macs, layers=max_skips),
                disable=frozenset(parse_stage(name) for name in disable or ()),
                rewrite=rewrite,
                seconds=parse_seconds(time),
                write_fp32=write_fp32,
                require_coverage=parse_share(require_coverage, "--require-coverage", all_allowed=True),
            ),
            target=chosen,
            options=QuantizeOptions(
                per_channel=project.per_channel if per_channel is None else per_channel,
                skip=tuple(skip or project.skip),
                keep_outliers=keep_outliers,
            ),
            images=images_given(images or project.images, skip_damaged),
            labels=labels if images is not None else labels or project.labels,
            names=names or project.names,
            exclude=exclude,
            limit=limit,
            out=out,
            fresh=fresh,
            threads=threads,
            watch=_watch(bar),
        )
    if json is not None:
        write_json(json, done.to_json())
    _print(done, verbose)


def parse_seconds(text: str | None) -> float | None:
    """Return the seconds of ``90s``, ``10m`` or ``1.5h``; a bare number is seconds.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise UsageError(f"{text!r} is no time", where="--time", fix="write ten minutes as 10m")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def parse_stage(name: str) -> "Stage":
    """Return a step of the search.

    Raises:
        UsageError: there is none of that name.
    """
    from quantkit.search.stages import Stage

    if name not in set(Stage):
        raise UsageError(f"tune has no stage {name!r}", where="--disable", fix=f"give one of {', '.join(Stage)}")
    return Stage(name)


def _run(
    subject: Path | None, run: Path | None, set_: Path | None, preset: str | None, project: "Project", bar: Bar
) -> Path:
    """Return the run to tune; a model that has none is calibrated first, where a set is given."""
    from quantkit.workflows.calibrate import calibrate
    from quantkit.workflows.project import run_of_subject
    from quantkit.workflows.resolve import calibration_settings

    if subject is not None and run is not None and set_ is None:
        raise UsageError("a run was given twice", where="--run", fix="give one")
    if set_ is None:
        if preset is not None:
            raise UsageError("a calibrated run has its own preprocessing", where="--preset", fix="give --set too")
        return run_of_subject(subject or run, project, Path())
    settings = calibration_settings(
        folder=Path(),
        model=subject,
        set_=set_,
        images=None,
        labels=None,
        count=None,
        seed=None,
        preset=preset,
        method=None,
        fraction=None,
        target=None,
        per_channel=None,
        skip=(),
        run=run,
        dialect=None,
        calibration_folder=None,
    )
    bar.say("calibrating")
    calibrate(settings.model, set_, settings.pipeline, run=settings.run, options=settings.options)
    return settings.run


def _watch(bar: Bar) -> "Callable[[str], Count]":
    def tell(what: str) -> "Count":
        bar.say(what)
        return bar

    return tell


def _print(done: "Tuning", verbose: bool) -> None:
    best = done.outcome.best
    console.print(_table(done))
    for line in _verdict(done):
        console.print(line, soft_wrap=True, markup=False)
    print_notes(done.notes, verbose)
    files = [path.name for path in (*done.files, done.log)]
    console.print(f"kept: {best.recipe.describe()}", soft_wrap=True, markup=False)
    console.print(f"wrote {', '.join(files)} in {done.log.parent} ({done.name})", soft_wrap=True, markup=False)
    print_coverage(done.coverage, verbose)


def _table(done: "Tuning") -> "Table":
    from quantkit.report.tables import plain_table, points

    table = plain_table("what was tried; difference to fp32 with its 95 % interval")
    table.add_column("recipe")
    for heading in ("KL, 1e-3", "SQNR, dB", "Δ top-1, points", "agree", "float"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in done.trials:
        evaluated = one.holdout
        near = [f"{1e3 * one.closeness.kl:.3g}", f"{one.closeness.sqnr_db:.1f}"]
        cells = ["", ""]
        if evaluated is not None:
            difference = points(100.0 * evaluated.delta, evaluated.ci95.scaled(100.0))
            cells = [difference, f"{100.0 * evaluated.agreement:.2f}"]
        share = f"{100.0 * one.float_macs:.1f}%" if one.float_macs else ""
        style = "bold" if one.recipe == done.outcome.best.recipe else None
        table.add_row(one.recipe.describe(), *near, *cells, share, style=style)
    return table


def _verdict(done: "Tuning") -> tuple[str, ...]:
    from quantkit.search.stages import Verdict

    evaluated = done.outcome.best.holdout
    assert evaluated is not None
    images = f"on {evaluated.images:,} images that had no part in the choice"
    words = {
        Verdict.MET: f"the budget is met {images}, chance and repeated looks allowed for",
        Verdict.LIKELY: f"the budget is met {images}, but not beyond chance: more images would tell",
        Verdict.MISSED: f"the budget is missed {images}; this is the nearest to fp32 that was found",
    }
    lines = [words[done.outcome.verdict]]
    if done.outcome.out_of_time:
        lines.append("the time was over before everything was tried: the same command goes on from here")
    if done.rescaling_change is not None:
        lines.append(
            f"moved and rescaled channels change the scores of fp32 by {done.rescaling_change:.1e} of their span"
        )
    if done.fp32_change is not None:
        lines.append(f"the fp32 model to hand over differs by {done.fp32_change:.1e} of it, moved biases and all")
    return tuple(lines)
