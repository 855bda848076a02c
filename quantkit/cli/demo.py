"""``quantkit demo``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_next
from quantkit.cli.terminal import console


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("quantkit-demo"),
) -> None:
    """Run the complete workflow on the digits and the small network that ship with quantkit."""
    from quantkit.demo.chain import run_demo
    from quantkit.report.tables import accuracy_table, notes

    with show_progress() as progress:
        done = run_demo(out, progress)
    console.print(accuracy_table(done.comparison))
    print_lines(*notes(done.comparison), style="dim")
    print_lines(f"images, calibration set and quantkit.yaml: {done.folder}")
    print_lines(f"statistics, int8 models, ranges and vamc.yaml: {done.run}")
    print_files([done.folder])
    print_next("compare", "fp32", "int8", folder=done.folder)
