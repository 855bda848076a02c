"""The settings of the commands that wrote into a run, in its ``run.json``: each value with its source.

``configuration`` of the record is ``{"version": 1, "commands": {COMMAND: {"quantkit": VERSION, "settings": {NAME:
{"value": VALUE, "source": SOURCE}}}}}``; defaults have no source. A command that is repeated replaces its entry.
Records of the time before there were sources hold the settings of the calibration alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantkit import __version__
from quantkit.config.method import Auto, Method
from quantkit.config.pipeline import Pipeline
from quantkit.config.settings import VERSION, Setting, Settings, settings_from_json, settings_to_json
from quantkit.errors import OutputError, UsageError
from quantkit.runs.folder import RunFolder, RunRecord

# A calibration may hold the lock of a run for hours; settings are not worth that wait.
_WAIT_S = 5.0


def with_settings(record: RunRecord, command: str, settings: Mapping[str, Setting]) -> RunRecord:
    """Return the record of a run with the settings of a command; as it was where it has settings of a newer form.

    Args:
        record: of the run.
        command: its name, with the name of what it made where a run can have several: ``quantize int8-kl``.
        settings: merged settings.
    """
    if record.configuration.get("version", VERSION) != VERSION:
        return record
    commands = {**_commands(record), command: {"quantkit": __version__, "settings": settings_to_json(settings)}}
    return record.model_copy(update={"configuration": {"version": VERSION, "commands": commands}})


def record_settings(run: Path, command: str, settings: Mapping[str, Setting]) -> None:
    """Write the settings of a command into ``run.json``; see `with_settings`.

    Nothing is written where the run cannot be written, or another process works on it for longer than a few seconds:
    what only documents a result must not cost it.
    """
    folder = RunFolder(run)
    with suppress(OutputError, UsageError), folder.locked(wait_s=_WAIT_S):
        folder.write(with_settings(folder.read(), command, settings))


def record_call(run: Path, command: str, values: Mapping[str, Any]) -> None:
    """Write the arguments of a call from Python as the settings of a command; see `record_settings`.

    A command line replaces the entry by its own, with sources.

    Args:
        run: run folder.
        command: name of the command, as the command line records it.
        values: arguments by the names that the command line shows.
    """
    record_settings(run, command, settings_of_call(values))


def settings_of_call(values: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the arguments of a call from Python as settings without sources.

    Images that are no place, such as arrays with labels, are given by their type; arguments that are None or empty are
    left out.
    """
    settings = Settings()
    for name, value in values.items():
        settings.add(name, _recorded(value))
    return settings.by_name


def _recorded(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | Path | Method | Auto):
        return value
    if isinstance(value, Pipeline):
        return value.describe()
    if isinstance(value, frozenset):
        return tuple(sorted(map(str, value)))
    if isinstance(value, tuple | list) and all(isinstance(one, int | str | Path) for one in value):
        return tuple(value)
    return type(value).__name__


def settings_of_run(record: RunRecord) -> dict[str, dict[str, Setting]]:
    """Return the settings of each command of a run, by the name of the command."""
    return {
        command: settings_from_json(entry["settings"])
        for command, entry in _commands(record).items()
        if isinstance(entry, Mapping) and isinstance(entry.get("settings"), Mapping)
    }


def _commands(record: RunRecord) -> dict[str, Any]:
    """Return the entries of the commands; those of an older record, and none of a newer form."""
    plain = record.configuration
    if "version" not in plain:
        old = {name: {"value": value} for name, value in plain.items() if value is not None}
        return {"calibrate": {"quantkit": record.quantkit, "settings": old}} if old else {}
    commands = plain.get("commands")
    return dict(commands) if plain["version"] == VERSION and isinstance(commands, Mapping) else {}
