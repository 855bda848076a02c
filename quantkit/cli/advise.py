"""``quantkit vamc advise``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.options import (
    DialectName,
    InputOptions,
    JsonOption,
    LimitedImages,
    RunOption,
    ThreadsOption,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import give_result, print_files, print_lines, print_next, print_notes
from quantkit.cli.terminal import console
from quantkit.cli.vamc import vamc

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.workflows.vacc.search_options import Advice


@vamc.command()
def advise(
    on: LimitedImages,
    run: RunOption = None,
    skips: Annotated[
        int, typer.Option(min=0, help="Maximum number of sensitive convolutions to try in float; 0 for none.")
    ] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Build file to write.", show_default="vamc-advised.yaml in the run")
    ] = None,
    dialect: Annotated[DialectName, typer.Option(help="Dialect of the build file.")] = "compile",
    calibration_folder: Annotated[
        Path | None, typer.Option(help="Folder of calibration images, as written to the build file.")
    ] = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Simulate every combination of compiler options on images, and write the best one as a build file."""
    from quantkit.cli.evaluation_settings import comparison_settings
    from quantkit.runs.folder import FP32
    from quantkit.vendors.vacc.write import VamcOptions
    from quantkit.workflows.project import load_project
    from quantkit.workflows.vacc.compiler_simulator import MODEL_OF_THE_COMPILER
    from quantkit.workflows.vacc.search_options import advise as step

    options = VamcOptions(dialect=dialect, calibration_folder=calibration_folder)
    settings = comparison_settings([FP32], run, on, InputOptions(), load_project())
    assert settings.run is not None
    with show_progress() as progress:
        advice = step(
            settings.run,
            **settings.images.arguments(),
            skips=skips,
            out=out,
            options=options,
            threads=threads,
            progress=progress,
        )
    give_result(advice.to_json(), json)
    console.print(_table(advice))
    print_lines(MODEL_OF_THE_COMPILER, *_verdict(advice))
    print_notes(advice.notes)
    print_lines("the command that writes the same file:")
    print_lines(advice.command)
    print_files([advice.path, *([] if json is None else [json])])
    print_next("vamc", "check", advice.path)


def _table(advice: "Advice") -> "Table":
    from quantkit.report.tables import plain_table, points
    from quantkit.vendors.vacc.write import vendor_method

    title = f"selection split: {advice.images[0]:,} images (by agree, then top-1), difference to fp32, 95 % interval"
    text, figures = ("calibrate_mode", "weights", "scale", "skip"), ("top-1", "Δ top-1, points", "agree")
    table = plain_table(title, text, figures, wide=None)
    for one in advice.candidates:
        versus, top1 = one.chosen_on.versus, one.chosen_on.top1
        assert versus is not None
        assert versus.top1 is not None
        table.add_row(
            vendor_method(one.choices.method),
            "channel" if one.choices.per_channel else "tensor",
            one.weight_scale,
            ",".join(map(str, one.skip_convs)),
            f"{top1:.2f}",
            points(versus.top1.value, versus.top1.ci95),
            f"{versus.agreement:.2f}",
            style="bold" if one is advice.best else None,
        )
    return table


def _verdict(advice: "Advice") -> tuple[str, ...]:
    from quantkit.report.tables import points
    from quantkit.vendors.vacc.write import vendor_method

    best, versus = advice.best, advice.best.evaluated_on.versus
    assert versus is not None
    assert versus.top1 is not None
    weights = "per channel" if best.choices.per_channel else "per tensor"
    skipped = f", conv {', '.join(map(str, best.skip_convs))} in float" if best.skip_convs else ""
    unseen = f"on the {advice.images[1]:,} images of the evaluation split"
    figures = f"top-1 {best.evaluated_on.top1:.2f}, {points(versus.top1.value, versus.top1.ci95)} points"
    lines = [
        f"best: {vendor_method(best.choices.method)}, {weights}, {best.weight_scale}{skipped}",
        f"{unseen}: {figures}, agreement {versus.agreement:.2f}",
    ]
    if any(one.agrees.sum() > best.agrees.sum() for one in advice.candidates):
        lines.append(
            "candidates with higher agreement leave convolutions in float; they are selected only if the gain is "
            "significant (the 95 % interval of the paired difference is above zero)"
        )
    lines.insert(1, "ranked by agreement with fp32 on the selection split, then by top-1; of equals, the first tried")
    if costly := [one for one in advice.sensitivities if one.gain_db > 0.0][:5]:
        gains = ", ".join(f"{one.conv} {one.gain_db:+.1f} dB" for one in costly)
        said = "most sensitive convolutions (gain of the scores' SQNR when in float, on calibration images)"
        lines.insert(0, f"{said}: {gains}")
    return tuple(lines)
