"""``quantkit imagenet``: check a copy of ImageNet, and sort its validation set into class folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import SkipDamagedOption
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_next, spread
from quantkit.errors import ImageError, UsageError

if TYPE_CHECKING:
    from quantkit.data.imagenet import ImagenetReport

app = sub_app("imagenet", "Check a copy of ImageNet and sort its validation set into class folders.")

_SHOWN = 10

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The images, flat or in class folders.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="val_label.txt, the devkit's .tar.gz or ground truth.", show_default="searched for near the images"
    ),
]


@app.command()
def check(
    folder: Annotated[str, typer.Argument(metavar="PLACE", help="The images: a folder, or ILSVRC2012_img_val.tar.")],
    labels: Labels = None,
    skip_damaged: SkipDamagedOption = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads.")] = None,
) -> None:
    """Count the images of each class, decode each, and list corrupt, greyscale and CMYK images."""
    from quantkit.data.imagenet import check_imagenet

    with show_progress() as progress:
        report = check_imagenet(folder, labels, skip_damaged=skip_damaged, workers=workers, progress=progress)
    _print(report)
    if report.corrupt:
        raise ImageError(
            f"{len(report.corrupt)} of {report.images} images cannot be decoded, the first {report.corrupt[0].name}",
            where=folder,
            fix="download them again",
        )


@app.command()
def prepare(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Folder for class folders of links; DIR is not changed.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Move the images into class folders within DIR.")] = False,
    labels: Labels = None,
) -> None:
    """Sort a flat validation set into class folders, by links or moves; resumable."""
    from quantkit.data.imagenet import prepare_imagenet

    if (out is None) != move:
        raise UsageError("there is no output folder", where="imagenet prepare", fix="give either --out DIR or --move")
    with show_progress() as progress:
        done = prepare_imagenet(folder, out, labels, progress=progress)
    print_lines(f"{done['placed']} images placed, {done['already there']} were there, in {out or folder}")
    print_files([out or folder])
    print_next("calib-set", "build", "--images", out or folder, "--out", "calibration.csv")


def _print(report: "ImagenetReport") -> None:
    from quantkit.data.classes import imagenet_classes

    words = imagenet_classes()
    counts = report.per_class.values()
    lines = [
        f"{report.images} images, {len(counts)} of 1000 classes, {spread(counts)} each; labels: {report.source}",
    ]
    if report.is_whole_validation_set:
        lines.append("this is the complete validation set: 50 images of each class")
    if report.missing and len(report.missing) < len(words):
        lines.append("no image of " + _some([f"{wnid} {words[wnid].partition(',')[0]}" for wnid in report.missing]))
    lines.extend(f"{note}: {len(names)}: {_some(names)}" for note, names in sorted(report.notes.items()))
    lines.extend(report.warnings)
    lines.extend(f"corrupt: {item.name}: {item.why}" for item in report.corrupt[:_SHOWN])
    if len(report.corrupt) > _SHOWN:
        lines.append(f"... and {len(report.corrupt) - _SHOWN} more")
    print_lines(*lines)


def _some(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
