"""``quantkit stats``: show, merge and compare statistics files."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.show import print_files, print_lines, print_next
from quantkit.cli.terminal import console

stats = sub_app("stats", "Show, merge and compare statistics files.")

_File = Annotated[Path, typer.Argument(help="statistics.safetensors of a run.")]


@stats.command()
def show(file: _File) -> None:
    """List every tensor with its number of values, extremes and zeros, and the provenance of the file."""
    from rich.table import Table

    from quantkit.report.names import Name
    from quantkit.stats.convergence import images_enough
    from quantkit.stats.file import load_statistics

    statistics = load_statistics(file)
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor")
    for heading in ("values", "min", "max", "zeros", "bins"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in statistics.tensors.items():
        zeros = f"{one.zeros / one.count:.1%}" if one.count else "–"
        table.add_row(
            Name(name, statistics.tensors),
            f"{one.count:,}",
            f"{one.lo:.4g}",
            f"{one.hi:.4g}",
            zeros,
            f"{one.bins.size:,}",
        )
    console.print(table)
    made = statistics.provenance
    console.print(f"{len(statistics.tensors)} tensors over {len(statistics.images)} images")
    for row in statistics.outliers:
        far = statistics.outlier_ratio[row]
        console.print(f"image {statistics.images[row][:12]}: outlier ratio {far:.0f}")
    console.print(f"model {made.model_sha256[:16]}, preprocessing {made.pipeline_sha256[:16]}")
    print_lines(f"by quantkit {made.quantkit} with onnxruntime {made.onnxruntime} on {made.device}")
    for method in statistics.convergence[-1].movement if statistics.convergence else ():
        enough = images_enough(statistics.convergence, method, 0.005)
        what = "still moving" if enough is None else f"stable from image {enough} on"
        console.print(f"{method}: {what} (within 0.5 % of a range's width)")


@stats.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Statistics of disjoint shards of one calibration set.")],
    out: Annotated[Path, typer.Option(help="Statistics file to write.")],
) -> None:
    """Merge statistics of shards. The result is bit-identical to one pass over all their images."""
    from quantkit.errors import UsageError
    from quantkit.stats.file import load_statistics, save_statistics

    if len(files) < 2:
        raise UsageError("merging needs at least two files")
    merged = load_statistics(files[0])
    for file in files[1:]:
        merged = merged.merge(load_statistics(file))
    save_statistics(merged, out)
    console.print(f"{len(merged.tensors)} tensors over {len(merged.images)} images")
    print_files([out])
    print_next("stats", "show", out)


@stats.command()
def diff(one: _File, other: _File) -> None:
    """Show how two files differ: provenance, images, and the extremes of every tensor that differs."""
    from rich.table import Table

    from quantkit.report.names import Name
    from quantkit.stats.file import load_statistics

    first, second = load_statistics(one), load_statistics(other)
    same = True
    for name, mine in first.provenance.__dict__.items():
        theirs = getattr(second.provenance, name)
        if mine != theirs:
            same = False
            print_lines(f"{name}: {mine} and {theirs}")
    shared = len(set(first.images) & set(second.images))
    console.print(f"images: {len(first.images)} and {len(second.images)}, {shared} in both")
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor")
    for heading in ("min, max", "min, max of the other"):
        table.add_column(heading, no_wrap=True)
    names = dict.fromkeys([*first.tensors, *second.tensors])
    for name in names:
        mine_one, their_one = first.tensors.get(name), second.tensors.get(name)
        if mine_one is not None and their_one is not None and mine_one.identical(their_one):
            continue
        same = False
        cells = ("–" if t is None else f"{t.lo:.5g} {t.hi:.5g}" for t in (mine_one, their_one))
        table.add_row(Name(name, names), *cells)
    if table.row_count:
        console.print(table)
    console.print("the statistics are the same" if same else f"{table.row_count} tensors differ")
