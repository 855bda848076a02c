"""The next command in a run: the first of the usual ones that was not done there."""

from pathlib import Path

from quantkit.cli.show import print_next

_STEPS = ("sensitivity", "tune")


def print_next_step(run: Path, done: str) -> None:
    """Print what usually comes next in a run, and was not done in it.

    Args:
        run: run folder.
        done: the command that ends.
    """
    from quantkit.runs.configuration import settings_of_run
    from quantkit.runs.folder import RunFolder

    before = {command.partition(" ")[0] for command in settings_of_run(RunFolder(run).read())}
    step = next((one for one in _STEPS if one not in {done, *before}), None)
    if step is not None:
        print_next(step, run)
    elif done != "report":
        print_next("report", run)
    else:
        print_next_comparison(run)


def print_next_comparison(run: Path, model: str | None = None) -> None:
    """Print the comparison of a model of a run with fp32, by default of the newest."""
    from quantkit.runs.folder import FP32, RunFolder

    models = list(RunFolder(run).read().quantized)
    name = model if model is not None and model != FP32 else next(reversed(models), "int8")
    print_next("compare", FP32, name, "--run", run)
