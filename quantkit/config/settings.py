"""The merged settings of a command: each value with the place that it came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.config.method import Auto, Method, method_json
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project

COMMAND_LINE = "command line"
RUN = "run folder"
# Version of the settings in ``run.json``.
VERSION = 1


@dataclass(frozen=True)
class Setting:
    """One setting of a command.

    Attributes:
        value: JSON value, or text.
        source: where it came from: the command line, a line of the project file, the run folder; empty for a default.
    """

    value: Any
    source: str = ""


class Settings:
    """The settings of one command, in the order in which they are shown.

    Args:
        project: the project file of the folder, which gives what the command line does not.

    Attributes:
        by_name: each setting.
    """

    def __init__(self, project: Project | None = None) -> None:
        self._project = project or Project()
        self.by_name: dict[str, Setting] = {}

    def add(self, name: str, value: Any, *, given: Any = None, key: str | None = None, otherwise: str = "") -> None:
        """Add a setting; a value that is None or empty is left out.

        Args:
            name: as it is shown and stored.
            value: as it was merged: JSON values, paths, a method, tuples.
            given: what the command line gave, None or empty where it gave nothing.
            key: of the project file, which is the source where the command line gave nothing and the file has the key.
            otherwise: the source where neither has it.
        """
        if value is None or value in ((), {}, ""):
            return
        source = COMMAND_LINE if given is not None and given != () else otherwise
        if source != COMMAND_LINE and key is not None and (line := self._project.line_of(key)) is not None:
            source = f"{PROJECT_FILE}:{line}"
        self.by_name[name] = Setting(_plain(value), source)

    def add_preprocessing(self, pipeline: Pipeline | None, preset: str | None, run: Pipeline | None = None) -> None:
        """Add the preprocessing, with the name of the preset that it is of.

        Args:
            pipeline: the merged one, None where that of the run is used.
            preset: as the command line gave it.
            run: that of the run.
        """
        if pipeline is None:
            self.add("preprocessing", None if run is None else run.describe(), otherwise=RUN)
            return
        name = preset or self._project.preset
        text = pipeline.describe() if name is None else f"{name}: {pipeline.describe()}"
        self.add("preprocessing", text, given=preset, key="ops" if name is None else "preset")


def settings_to_json(settings: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """Return settings as JSON values, the sources of defaults left out."""
    return {
        name: {"value": one.value, **({"source": one.source} if one.source else {})} for name, one in settings.items()
    }


def settings_from_json(plain: Mapping[str, Any]) -> dict[str, Setting]:
    """Return settings from what `settings_to_json` gave; entries of another form are left out."""
    return {
        name: Setting(one["value"], str(one.get("source", "")))
        for name, one in plain.items()
        if isinstance(one, Mapping) and "value" in one
    }


def setting_text(value: Any) -> str:
    """Return a value of a setting as it is shown."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if "name" in value:
            # "auto" leaves a detail to the target.
            details = {key: one for key, one in value.items() if key != "name" and one != "auto"}
            return " ".join((str(value["name"]), *(f"{key} {setting_text(one)}" for key, one in details.items())))
        return ", ".join(f"{name} {setting_text(one)}" for name, one in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(setting_text, value))
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Method | Auto):
        return method_json(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
