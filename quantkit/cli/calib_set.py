"""``quantkit calib-set``: build, check, materialize and rebuild calibration sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import SkipDamagedOption
from quantkit.cli.progress import show_progress
from quantkit.cli.set_summary import print_left_out, print_set
from quantkit.cli.show import print_files, print_lines, print_next
from quantkit.cli.terminal import console
from quantkit.errors import CalibrationSetError, ConfigError, UsageError
from quantkit.files import make_folder

if TYPE_CHECKING:
    from quantkit.data.calibration_set import CalibrationSet

app = sub_app("calib-set", "Build a class-balanced, checked, reproducible calibration set.")

SetFile = Annotated[Path, typer.Argument(metavar="SET.csv", help="A calibration set.")]
Images = Annotated[
    str | None, typer.Option(metavar="PLACE", help="Location of the images, if not as recorded; see build.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of decoding threads.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Calibration set to write, a CSV file.")],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A folder, tar, zip, parquet, shards (data-{000..009}.tar, *.parquet) or a URL; without it the set is "
            "selected from --labels alone.",
        ),
    ] = None,
    skip_damaged: SkipDamagedOption = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label file with one 'name label' per line, or the ImageNet devkit (.tar.gz); by default labels come "
            "from the source, folder names or file names."
        ),
    ] = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one per line in class-index order.")] = None,
    count: Annotated[int | None, typer.Option(help="Number of images.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the selection.")] = 0,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Ignore labels and draw uniformly from all images.")
    ] = False,
    materialize: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the images into this folder, without subfolders.")
    ] = None,
    link: Annotated[bool, typer.Option("--link/--copy", help="Write hard links where possible, or copies.")] = True,
    workers: Workers = None,
) -> None:
    """Select a class-balanced set of images, check that each decodes, and write the set."""
    if unlabelled and (labels is not None or names is not None):
        raise UsageError("cannot be combined with --labels or --names", where="--unlabelled", fix="drop one of them")
    make_folder(out.parent)  # fails before the work, not after it
    if images is None:
        if unlabelled:
            raise UsageError("there are no images to draw from", where="--unlabelled", fix="give --images")
        chosen = _planned(labels, names, count, seed)
        if materialize is not None:
            raise UsageError("there are no images to write", where="--materialize", fix="give --images")
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
    _require_same_images(out, chosen)
    chosen.save(out)
    print_set(chosen)
    if materialize is not None:
        _materialize(chosen, materialize, link)
    print_files([out, *([] if materialize is None else [materialize])])
    if chosen.is_rebuilt:
        _print_next_calibrate(out)
    else:
        print_next("calib-set", "rebuild", out, "--images", "FOLDER", "--out", "SET.csv")


@app.command()
def check(set_: SetFile, images: Images = None, workers: Workers = None) -> None:
    """Decode every image of a set and compare its digest."""
    chosen = _load(set_, images)
    with show_progress() as progress:
        problems = chosen.verify(workers, progress)
    print_set(chosen)
    if problems:
        print_left_out("faulty", problems)
        raise CalibrationSetError(
            f"{len(problems)} of {len(chosen)} images are missing, changed or damaged",
            where=set_,
            fix="restore them, or give their location with --images",
        )
    console.print(f"all {len(chosen)} images are present, unchanged and decodable")


@app.command("materialize")
def materialize_command(
    set_: SetFile,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder; created if missing.")],
    images: Images = None,
    link: Annotated[bool, typer.Option("--link/--copy", help="Write hard links where possible, or copies.")] = True,
) -> None:
    """Write the images of a set into one folder, the layout that the vendor's dataset.path expects."""
    _materialize(_load(set_, images), folder, link)
    print_files([folder])
    build = folder.parent / "vamc.yaml"
    if build.is_file():  # the folder that the build file of a run names
        print_next("vamc", "check", build)
    else:
        print_next("vamc", "write", "--run", "RUN", "--calibration-folder", folder, "--out", "vamc.yaml")


@app.command()
def rebuild(
    set_: SetFile,
    images: Annotated[
        str, typer.Option(metavar="PLACE", help="A copy of the data: a folder, tar, zip, parquet, shards or a URL.")
    ],
    out: Annotated[Path, typer.Option(help="Calibration set to write, a CSV file.")],
    workers: Workers = None,
) -> None:
    """Find the images of a set in another copy of the data by file name and digest."""
    from quantkit.data.calibration_set import CalibrationSet
    from quantkit.data.rebuild import rebuild_calibration_set

    with show_progress() as progress:
        chosen = rebuild_calibration_set(CalibrationSet.load(set_), images, workers=workers, progress=progress)
    chosen.save(out)
    print_set(chosen)
    print_files([out])
    _print_next_calibrate(out)


def _print_next_calibrate(set_: Path) -> None:
    """Print how to calibrate with the set: with the options that no project file here gives."""
    from quantkit.config.project import Project
    from quantkit.workflows.project import load_project

    try:
        project = load_project()
    except ConfigError:  # the set was written all the same; calibrate says what is wrong with the file
        project = Project()
    words: list[str | Path] = ["calibrate"]
    words += [] if project.model is not None else ["--model", "MODEL.onnx"]
    words += [] if project.set is not None and project.set.resolve() == set_.resolve() else ["--set", set_]
    words += [] if project.preset is not None or project.ops is not None else ["--preset", "imagenet"]
    print_next(*words)


def _planned(labels: Path | None, names: Path | None, count: int | None, seed: int) -> "CalibrationSet":
    if labels is None:
        raise UsageError("neither images nor labels are given", where="calib-set build", fix="give --images DIR")
    from quantkit.data.rebuild import plan_from_file

    return plan_from_file(labels, names, count=count, seed=seed)


def _require_same_images(out: Path, chosen: "CalibrationSet") -> None:
    """Refuse to overwrite a file with other content: runs refer to the images of a set."""
    from quantkit.data.calibration_set import CalibrationSet

    if not out.exists():
        return
    try:
        before = {item.id for item in CalibrationSet.load(out).items}
    except CalibrationSetError:
        before = set()
    if before != {item.id for item in chosen.items}:
        raise UsageError(
            "the file exists, has other content, and is not overwritten",
            where=out,
            fix="give another --out, or delete it",
        )


def _load(set_: Path, images: str | None) -> "CalibrationSet":
    from quantkit.data.calibration_set import CalibrationSet

    chosen = CalibrationSet.load(set_, images)
    chosen.require_digests(set_)
    return chosen


def _materialize(chosen: "CalibrationSet", folder: Path, link: bool) -> None:
    from quantkit.data.materialize import materialize

    with show_progress() as progress:
        materialize(chosen, folder, link=link, progress=progress)
    print_lines(f"{len(chosen)} images are in {folder}")
