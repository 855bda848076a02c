"""``quantkit vamc``: the build files of the vendor's compiler."""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import (
    DialectName,
    FractionOption,
    PerChannelOption,
    PreprocessingOptions,
    PresetOption,
    SkipDamagedOption,
    images_given,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_next, print_notes, print_preset_notes
from quantkit.config.method import MethodName
from quantkit.errors import UsageError, VendorFileError

if TYPE_CHECKING:
    from quantkit.config.method import Method
    from quantkit.config.pipeline import Pipeline
    from quantkit.vendors.vacc.check import FileReport
    from quantkit.vendors.vacc.write import BuildFile, VamcOptions

vamc = sub_app("vamc", "Write, check and convert build files of the VACC compiler.")

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


@vamc.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Build files of either dialect, or folders of them.")],
    model: Annotated[Path | None, typer.Option(help="ONNX model to check against, instead of the checkpoint.")] = None,
    vdsp: Annotated[Path | None, typer.Option(help="vdsp_params.json that goes with the file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Also print what was not checked.")] = False,
) -> None:
    """Check build files, and print each fault with its line and its fix. The exit code is 10 if there are errors."""
    from quantkit.vendors.vacc.check import build_files, check_file
    from quantkit.vendors.vacc.onnx_facts import read_facts
    from quantkit.vendors.vacc.vdsp import load_vdsp

    facts = None if model is None else read_facts(model)
    params = None if vdsp is None else load_vdsp(vdsp)
    found = build_files(files)
    reports = [check_file(path, facts=facts, vdsp=params) for path in found.files]
    wrong = sum(report.count("error") > 0 for report in reports)
    if json_:
        skipped = [str(path) for path in found.others]
        content = {"files": [report.as_json() for report in reports], "errors": wrong, "skipped": skipped}
        json.dump(content, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print_reports(reports, notes=notes)
        if found.others:
            print_lines(f"{len(found.others)} YAML files that are not build files were skipped")
    if wrong:
        raise VendorFileError(f"{wrong} of {len(reports)} build files have errors")


@vamc.command()
def convert(
    file: Annotated[Path, typer.Argument(help="Build file of either dialect.")],
    to: Annotated[DialectName, typer.Option(help="The dialect to write.")],
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
) -> None:
    """Convert a build file to the other dialect, and report what it cannot express."""
    from quantkit.vendors.vacc.convert import convert as converted
    from quantkit.vendors.vacc.document import Document

    result = converted(Document.load(file), to)
    _put(result.text, out)
    print_notes(result.notes, to_errors=True)
    if out is not None:
        print_files([out])
        print_next("vamc", "check", out)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The build file to write."""

    calibration_folder: Annotated[
        Path | None, typer.Option(help="Folder of calibration images, or of npz tensors.")
    ] = None
    dialect: Annotated[DialectName, typer.Option(help="Dialect of the build file.")] = "compile"
    method: Annotated[
        MethodName | None, typer.Option(help="How ranges are set.", show_default="the run's, or percentile")
    ] = None
    fraction: FractionOption = None
    per_channel: PerChannelOption = None
    weight_scale: Annotated[Literal["max", "power2"] | None, typer.Option(help="Rule for weight scales.")] = None
    skip_conv: Annotated[list[int] | None, typer.Option(help="Leave this convolution in float, by index.")] = None
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Name the fp32 model with corrected biases, if the run has one for these options.",
        ),
    ] = True
    suffix: Annotated[
        str | None, typer.Option(help="Suffix of the calibration files.", show_default="that of the files")
    ] = None
    count: Annotated[int | None, typer.Option(help="Number of calibration files.", show_default="all")] = None
    softmax: Annotated[bool, typer.Option("--softmax", help="Append a softmax.")] = False
    dtype: Annotated[Literal["int8", "fp16"], typer.Option(help="Precision; fp16 needs no calibration images.")] = (
        "int8"
    )
    cluster_mode: Annotated[
        int | None, typer.Option(help="Compiler option.", show_default="not written; the vendor's files have 0")
    ] = None
    data_transport_mode: Annotated[
        int | None, typer.Option(help="Compiler option.", show_default="not written; the vendor's files have 1 or 3")
    ] = None
    skip_matmul: Annotated[
        list[int] | None,
        typer.Option(help="Leave this matrix product in float, by the vendor's index.", min=0),
    ] = None
    calibrate_chunk_by: Annotated[
        int | None,
        typer.Option(help="Layers the compiler observes per pass, -1 for all.", min=-1),
    ] = None
    overflow_adaptive: Annotated[
        bool, typer.Option("--overflow-adaptive", help="Write overflow_adaptive: 1, as for language models.")
    ] = False
    name: Annotated[
        str | None,
        typer.Option(help="Name of the compiled model.", show_default="the model's file name (fp16: NAME_fp16)"),
    ] = None
    workspace: Annotated[str, typer.Option(help="Folder of the compiled model.")] = "./deploy_weights/"

    def method_of_compiler(self) -> "Method | None":
        """Return the calibration method, None for that of the run, or percentile."""
        from quantkit.config.method import as_method, parse_method

        name = self.method or (None if self.fraction is None else "percentile")
        return None if name is None else as_method(parse_method(name, fraction=self.fraction))

    def vamc_options(self) -> "VamcOptions":
        """Return the options of the workflow.

        Raises:
            UsageError: options of the calibration are given for an fp16 build.
        """
        from quantkit.vendors.vacc.write import VamcOptions

        calibration = {name: getattr(self, name) for name in _CALIBRATION}
        calibration["overflow_adaptive"] = self.overflow_adaptive or None
        unused = [name for name, value in calibration.items() if value not in (None, [])]
        if self.dtype == "fp16" and unused:
            options = " ".join(f"--{name.replace('_', '-')}" for name in unused)
            fix = "drop the option, or write --dtype int8"
            raise UsageError("an fp16 build has no calibration", where=options, fix=fix)
        same = {one.name: getattr(self, one.name) for one in fields(VamcOptions) if hasattr(self, one.name)}
        return VamcOptions(**same, precision=self.dtype, skip_matmul_layers=tuple(self.skip_matmul or ()))


_CALIBRATION = (
    *("calibration_folder", "suffix", "count", "method", "fraction", "per_channel", "weight_scale"),
    *("skip_conv", "skip_matmul", "calibrate_chunk_by"),
)


@vamc.command()
def write(
    read: PreprocessingOptions,
    given: BuildOptions,
    run: Annotated[Path | None, typer.Option(help="Run folder: model, images, preprocessing, options.")] = None,
    model: Annotated[Path | None, typer.Option(help="fp32 ONNX model, if there is no run.")] = None,
    vdsp: Annotated[Path | None, typer.Option(help="Also write the card's preprocessing, vdsp_params.json.")] = None,
    out: Annotated[Path | None, typer.Option(help="Build file to write.", show_default="standard output")] = None,
) -> None:
    """Write the build file of a run or of a model. With --suffix and --count the image folder need not exist here."""
    from quantkit.files import write_text
    from quantkit.vendors.vacc.card_preprocessing import card_warning
    from quantkit.vendors.vacc.vdsp import vdsp_from_pipeline

    build, pipeline = _build(read, given, run, model, needs_pipeline=vdsp is not None)
    notes = build.notes
    written = build.spec.dataset is not None and build.spec.dataset.process_ops is not None
    if pipeline is not None and written and (warning := card_warning(pipeline)):
        notes += (warning,)
    if vdsp is not None and pipeline is not None:
        card = vdsp_from_pipeline(pipeline)
        write_text(vdsp, card.params.text())
        notes += card.notes
    _put(build.text, out)
    print_notes(notes, to_errors=True)
    files = [path for path in (out, vdsp) if path is not None]
    print_files(files)
    if files:
        print_next("vamc", "check", out or "BUILD.yaml", *(() if vdsp is None else ("--vdsp", str(vdsp))))


def _build(
    read: PreprocessingOptions, given: BuildOptions, run: Path | None, model: Path | None, *, needs_pipeline: bool
) -> "tuple[BuildFile, Pipeline | None]":
    """Return the build file, and the preprocessing where it is known."""
    from quantkit.config.method import Percentile
    from quantkit.workflows.vacc.build_file import vamc_of_run
    from quantkit.workflows.vacc.build_of_model import vamc_fp16, vamc_of_model

    options, method = given.vamc_options(), given.method_of_compiler()
    if run is not None:
        if model is not None or read != PreprocessingOptions():
            raise UsageError(
                "a run has its model and preprocessing", where="--run", fix="drop --model, --preset and --exif"
            )
        return vamc_of_run(
            run,
            method=method,
            per_channel=given.per_channel,
            skip_convs=given.skip_conv or None,
            bias_correction=given.bias_correction,
            options=options,
        )
    if model is None:
        raise UsageError("no model was given", where="--model", fix="give --model, or --run of a calibrated run")
    if options.precision == "fp16":
        # The preprocessing only determines free dimensions of the model, and vdsp_params.json.
        pipeline = _pipeline(read) if read.preset is not None or needs_pipeline else None
        return vamc_fp16(model, pipeline, options), pipeline
    if given.calibration_folder is None:
        raise UsageError("the calibration images are not known", where="--calibration-folder", fix="give their folder")
    pipeline = _pipeline(read)
    build = vamc_of_model(
        model,
        given.calibration_folder,
        pipeline,
        method=method or Percentile(),
        per_channel=given.per_channel is not False,
        skip_convs=given.skip_conv or (),
        options=options,
    )
    return build, pipeline


@vamc.command()
def tensors(
    images: Annotated[
        str, typer.Argument(metavar="PLACE", help="Calibration set (.csv), or images: a folder, an archive, a URL, ...")
    ],
    model: Annotated[Path, typer.Option(help="fp32 ONNX model that takes the tensors.")],
    read: PreprocessingOptions,
    out: Annotated[Path, typer.Option(help="Folder to write; the build file's --calibration-folder.")],
    skip_damaged: SkipDamagedOption = False,
) -> None:
    """Write calibration images as npz tensors, preprocessed by quantkit."""
    from quantkit.data.calibration_set import CalibrationSet
    from quantkit.data.folder import find_images
    from quantkit.vendors.vacc.calibration_tensors import write_calibration_tensors
    from quantkit.vendors.vacc.write import read_image_input

    pipeline = _pipeline(read)
    input_name, _ = read_image_input(model, pipeline)
    if images.endswith(".csv"):
        items = CalibrationSet.load(Path(images)).items
    else:
        items = find_images(images_given(images, skip_damaged)).items
    with show_progress() as progress:
        written = write_calibration_tensors(
            items, pipeline, out, input_name=input_name, progress=progress.task("writing tensors", "images")
        )
    print_lines(f"{written.count} tensors (suffix: {written.suffix})")
    print_files([out])
    options = [] if read.preset is None else ["--preset", read.preset]
    print_next("vamc", "write", "--model", model, "--calibration-folder", out, *options, "--out", "vamc.yaml")


@vamc.command("vdsp")
def show_vdsp(
    files: Annotated[list[Path] | None, typer.Argument(help="vdsp_params.json files to describe.")] = None,
    preset: PresetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write with --preset.", show_default="standard output")
    ] = None,
) -> None:
    """Describe the preprocessing of vdsp_params.json files; with --preset, write the file of a preset."""
    from quantkit.vendors.vacc.vdsp import describe, load_vdsp, recognise

    if bool(files) == (preset is not None):
        raise UsageError("give files to describe, or --preset to write one", where="vdsp")
    if preset is not None:
        _write_vdsp(_pipeline(PreprocessingOptions(preset=preset)), out)
    for file in files or ():
        reading = recognise(load_vdsp(file))
        print_lines(f"{file}: {describe(reading)}")
        for note in reading.notes:
            print_lines(f"    note: {note}", style="dim")


def _write_vdsp(pipeline: "Pipeline", out: Path | None) -> None:
    from quantkit.vendors.vacc.card_preprocessing import card_warning
    from quantkit.vendors.vacc.vdsp import vdsp_from_pipeline

    text = vdsp_from_pipeline(pipeline).params.text()
    _put(text if out is not None else f"{text}\n", out)
    if (warning := card_warning(pipeline)) is not None:
        print_notes([warning], to_errors=True)
    if out is not None:
        print_files([out])
        print_next("vamp", "command", "BUILD.yaml", "--vdsp", out)


def _print_reports(reports: "list[FileReport]", *, notes: bool) -> None:
    for report in reports:
        for finding in report.findings:
            if finding.severity == "note" and not notes:
                continue
            place = report.path if finding.line is None else f"{report.path}:{finding.line}"
            print_lines(f"{place}: {finding}", style=_STYLES[finding.severity])
    wrong = sum(report.count("error") > 0 for report in reports)
    warned = sum(report.count("error") == 0 < report.count("warning") for report in reports)
    unchecked = sum(report.count("note") > 0 for report in reports)
    print_lines(
        f"{len(reports)} checked: {wrong} with errors, {warned} with warnings only, "
        f"{len(reports) - wrong - warned} clean"
        + (f"; {unchecked} could not be checked in full (--notes says why)" if unchecked and not notes else "")
    )


def _pipeline(read: PreprocessingOptions) -> "Pipeline":
    from quantkit.workflows.project import load_project

    project = load_project()
    pipeline = read.pipeline(project)
    if pipeline is None:
        raise UsageError("the preprocessing is not known", where="--preset", fix="give a preset or a YAML file")
    print_preset_notes(read.preset, project)
    return pipeline


def _put(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        from quantkit.files import write_text

        write_text(out, text)
