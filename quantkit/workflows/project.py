"""The project file of a folder, and the defaults that commands take from it."""

import os
from pathlib import Path

from quantkit.config.method import AUTO, Auto, Method, parse_method
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project, parse_project, pipeline_of_ops
from quantkit.config.text import read_text
from quantkit.errors import UsageError
from quantkit.runs.folder import RunFolder
from quantkit.targets import Target, parse_target
from quantkit.workflows.presets import is_preset_file, load_preset


def load_project(folder: Path = Path()) -> Project:
    """Return the project of a folder, an empty one if it has no ``quantkit.yaml``.

    Raises:
        ConfigError: the file cannot be read or is not valid.
    """
    path = folder / PROJECT_FILE
    if not os.path.lexists(path):  # a dangling link is an error, not a missing file
        return Project()
    project = parse_project(read_text(path), path).under(folder)
    if project.preset is None or not is_preset_file(project.preset):
        return project
    return project.model_copy(update={"preset": str(folder / project.preset)})


def choose_pipeline(preset: str | None, project: Project, exif: bool | None = None) -> Pipeline | None:
    """Return the preprocessing: of ``--preset`` (see `load_preset`), else of the project, else None.

    Args:
        preset: name or file, None if not given.
        project: the project, which may have a preset or operations.
        exif: apply the EXIF orientation, or ignore it; by default as set by the project, else by the preset.

    Raises:
        ConfigError: there is no such preset, or it is not a valid pipeline.
        VendorFileError: a vendor file is damaged.
    """
    name = preset or project.preset
    if preset is None and project.ops is not None:
        pipeline = pipeline_of_ops(list(project.ops), PROJECT_FILE)
    elif name is not None:
        pipeline = load_preset(name)
    else:
        return None
    exif = project.exif if exif is None else exif
    return pipeline if exif is None else pipeline.with_exif(exif)


def method_of(method: str | None, fraction: float | None, project: Project) -> Method | Auto:
    """Return the method of the options, else that of the project, else auto; a fraction alone is that of percentile."""
    name = method or project.method or (AUTO if fraction is None and project.fraction is None else "percentile")
    if fraction is None and name == "percentile":
        fraction = project.fraction
    return parse_method(name, fraction=fraction)


def target_of(target: str | None, project: Project) -> Target:
    """Return the target of the options, else that of the project, else onnxruntime."""
    return parse_target(target or project.target or "ort")


def run_of_model(model: Path) -> Path:
    """Return the default run folder of a model: ``runs/<its name>``."""
    return Path("runs") / model.stem


def find_run(given: Path | None, project: Project) -> Path:
    """Return the run folder: the given one, the project's, that of its model, or the only one under ``runs/``.

    Raises:
        UsageError: there is none, or several to choose from.
    """
    if given is not None:
        return given
    if project.run is not None:
        return project.run
    if project.model is not None:
        return run_of_model(project.model)
    runs = sorted(path.parent for path in Path("runs").glob("*/run.json"))
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(path.name for path in runs[:5])
        raise UsageError(f"there are {len(runs)} runs here", where="runs", fix=f"give --run, one of {names}")
    raise UsageError("there is no run here", where=".", fix="run quantkit calibrate first, or give --run")


def run_of_subject(subject: Path | None, project: Project) -> Path:
    """Return the run folder of a subject: a run folder, the fp32 model of a run, or None for the default run.

    Raises:
        UsageError: there is none, there are several, or the run is of another model.
    """
    if subject is None or subject.suffix != ".onnx":
        return find_run(subject, project)
    own = run_of_model(subject)
    run = project.run if project.run is not None and not own.is_dir() else own
    recorded = Path(RunFolder(run).read().model.path)
    if recorded.resolve() != subject.resolve():
        raise UsageError(f"this run belongs to {recorded}", where=run, fix="give the run folder of your model")
    return run
