"""The ready-made project files that ship with quantkit, in ``configs/``."""

from importlib import resources
from pathlib import Path

from quantkit.config.project import PROJECT_FILE
from quantkit.errors import UsageError
from quantkit.files import write_text

_SUFFIX = ".yaml"


def ready_configs() -> dict[str, str]:
    """Return the text of each ready-made project file by name, sorted."""
    files = (resources.files("quantkit") / "configs").iterdir()
    texts = {file.name.removesuffix(_SUFFIX): file.read_text("utf-8") for file in files if file.name.endswith(_SUFFIX)}
    return dict(sorted(texts.items()))


def title(text: str) -> str:
    """Return the title of a project file, its first line."""
    return text.partition("\n")[0].removeprefix("#").strip()


def first_command(text: str) -> str:
    """Return the first command that a project file shows, to be run before the others."""
    commands = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return next(line for line in commands if line.startswith("quantkit "))


def write_ready_config(name: str, folder: Path) -> Path:
    """Write a ready-made project file into a folder, as ``quantkit.yaml``.

    Raises:
        UsageError: there is no such file, or the folder has a ``quantkit.yaml``, which is not overwritten.
        OutputError: the file cannot be written.
    """
    configs = ready_configs()
    if name not in configs:
        raise UsageError(f"there is no ready-made config {name!r}", fix=f"choose one of {', '.join(configs)}")
    path = folder / PROJECT_FILE
    if path.exists() or path.is_symlink():
        raise UsageError("the file exists and is not overwritten", where=path, fix="move it away first")
    write_text(path, configs[name])
    return path
