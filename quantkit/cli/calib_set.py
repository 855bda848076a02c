"""``quantkit calib-set``: build, check, lay out and rebuild calibration sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import SkipDamagedOption
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next, spread
from quantkit.cli.terminal import console
from quantkit.errors import CalibrationSetError, ConfigError, UsageError
from quantkit.files import make_folder

if TYPE_CHECKING:
    from quantkit.data.calibration_set import CalibrationSet, LeftOut

app = sub_app("calib-set", "Build a class-balanced, checked, reproducible calibration set.")

_SHOWN = 20

SetFile = Annotated[Path, typer.Argument(metavar="SET.csv", help="A calibration set.")]
Images = Annotated[
    str | None, typer.Option(metavar="PLACE", help="Where the images are, if not where the set says; as for build.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="The set to write, a CSV file.")],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A folder, tar, zip, parquet, shards (data-{000..009}.tar, *.parquet) or a URL; without it the set is "
            "chosen from --labels alone.",
        ),
    ] = None,
    skip_damaged: SkipDamagedOption = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label file, one 'name label' a line, or the ImageNet devkit (.tar.gz); else the source's own labels, "
            "folder or file names."
        ),
    ] = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one a line in class-index order.")] = None,
    count: Annotated[int, typer.Option(help="How many images to take.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Draw from all images alike, look for no labels.")
    ] = False,
    materialize: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also lay the images flat into this folder.")
    ] = None,
    link: Annotated[bool, typer.Option("--link/--copy", help="Lay out hard links where possible, or copies.")] = True,
    workers: Workers = None,
) -> None:
    """Choose images, as many of each class as the data allows; decode each; write the set."""
    if unlabelled and (labels is not None or names is not None):
        raise UsageError("labels are given and not to be used", where="--unlabelled", fix="leave one of them out")
    make_folder(out.parent)  # refused now rather than after the work
    if images is None:
        if unlabelled:
            raise UsageError("there are no images to draw from", where="--unlabelled", fix="give --images")
        chosen = _planned(labels, names, count, seed)
        if materialize is not None:
            raise UsageError("there are no images to lay out", where="--materialize", fix="give --images")
    else:
        from quantkit.data.build_set import build_calibration_set

        with show_progress() as progress:
            chosen = build_calibration_set(
                images,
                labels,
                names=names,
                count=count,
                seed=seed,
                unlabelled=unlabelled,
                skip_damaged=skip_damaged,
                workers=workers,
                progress=progress,
            )
    chosen.save(out)
    _print_summary(chosen)
    if materialize is not None:
        _materialize(chosen, materialize, link)
    print_files([out, *([] if materialize is None else [materialize])])
    if chosen.is_rebuilt:
        _print_next_calibrate(out)
    else:
        print_next("calib-set", "rebuild", out, "--images", "FOLDER", "--out", "SET.csv")


@app.command()
def check(set_: SetFile, images: Images = None, workers: Workers = None) -> None:
    """Read a set, decode every image of it and compare its digest."""
    chosen = _load(set_, images)
    with show_progress() as progress:
        problems = chosen.verify(workers, progress)
    _print_summary(chosen)
    if problems:
        _print_left_out("faulty", problems)
        raise CalibrationSetError(
            f"{len(problems)} of {len(chosen)} images are missing, changed or damaged",
            where=set_,
            fix="bring them back, or say where the images lie with --images",
        )
    console.print(f"all {len(chosen)} images are there, unchanged and decodable")


@app.command("materialize")
def materialize_command(
    set_: SetFile,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made when absent.")],
    images: Images = None,
    link: Annotated[bool, typer.Option("--link/--copy", help="Hard links where possible, or copies.")] = True,
) -> None:
    """Lay the images of a set flat into one folder, as the vendor's dataset.path wants them."""
    _materialize(_load(set_, images), folder, link)
    print_files([folder])
    print_next("vamc", "write", "--run", "RUN", "--calibration-folder", folder, "--out", "vamc.yaml")


@app.command()
def rebuild(
    set_: SetFile,
    images: Annotated[
        str, typer.Option(metavar="PLACE", help="A copy of the data: a folder, tar, zip, parquet, shards or a URL.")
    ],
    out: Annotated[Path, typer.Option(help="The set to write, a CSV file.")],
    workers: Workers = None,
) -> None:
    """Find the images of a set in another copy of the data, by file name and digest."""
    from quantkit.data.calibration_set import CalibrationSet
    from quantkit.data.rebuild import rebuild_calibration_set

    with show_progress() as progress:
        chosen = rebuild_calibration_set(CalibrationSet.load(set_), images, workers=workers, progress=progress)
    chosen.save(out)
    _print_summary(chosen)
    print_files([out])
    _print_next_calibrate(out)


def _print_next_calibrate(set_: Path) -> None:
    """Print how to calibrate with the set: with the options that no project file here gives."""
    from quantkit.config.project import Project
    from quantkit.workflows.project import load_project

    try:
        project = load_project(Path())
    except ConfigError:  # the set was written all the same; calibrate says what is wrong with the file
        project = Project()
    words: list[str | Path] = ["calibrate"]
    words += [] if project.model is not None else ["--model", "MODEL.onnx"]
    words += [] if project.set is not None and project.set.resolve() == set_.resolve() else ["--set", set_]
    words += [] if project.preset is not None or project.ops is not None else ["--preset", "imagenet"]
    print_next(*words)


def _planned(labels: Path | None, names: Path | None, count: int, seed: int) -> "CalibrationSet":
    if labels is None:
        raise UsageError("neither images nor labels are given", where="calib-set build", fix="give --images DIR")
    from quantkit.data.rebuild import plan_from_file

    return plan_from_file(labels, names, count=count, seed=seed)


def _load(set_: Path, images: str | None) -> "CalibrationSet":
    from quantkit.data.calibration_set import CalibrationSet

    chosen = CalibrationSet.load(set_, images)
    chosen.require_digests(set_)
    return chosen


def _materialize(chosen: "CalibrationSet", folder: Path, link: bool) -> None:
    from quantkit.data.materialize import materialize

    with show_progress() as progress:
        materialize(chosen, folder, link=link, progress=progress)
    console.print(f"{len(chosen)} images are in {folder}", soft_wrap=True, markup=False)


def _print_summary(chosen: "CalibrationSet") -> None:
    counts = chosen.per_class.values()
    classes = f"{len(counts)} classes, {spread(counts)} each" if counts else "no labels"
    lines = [f"{len(chosen)} images: {classes}; labels: {chosen.source}; seed {chosen.seed}"]
    lines.append(f"digest {chosen.digest}" if chosen.is_rebuilt else "no digests yet: chosen from labels alone")
    lines.extend(f"note: {remark}" for remark in chosen.remarks)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    _print_left_out("left out", chosen.left_out)


def _print_left_out(what: str, items: "tuple[LeftOut, ...]") -> None:
    for item in items[:_SHOWN]:
        console.print(f"{what}: {item.name}: {item.why}", soft_wrap=True, markup=False)
    if len(items) > _SHOWN:
        console.print(f"... and {len(items) - _SHOWN} more")
