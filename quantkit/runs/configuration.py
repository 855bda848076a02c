"""The settings of the commands that wrote into a run, in its ``run.json``: each value with its source.

``configuration`` of the record is ``{"version": 1, "commands": {COMMAND: {"quantkit": VERSION, "settings": {NAME:
{"value": VALUE, "source": SOURCE}}}}}``; defaults have no source. A command that is repeated replaces its entry.
Records of the time before there were sources hold the settings of the calibration alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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
# Settings that calls of commands are recorded with in place of their arguments, None for not at all.
_IN_PLACE: ContextVar[Mapping[str, Mapping[str, Setting] | None]] = ContextVar("recorded in place")


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


@contextmanager
def recorded_with(command: str, settings: Mapping[str, Setting] | None) -> Iterator[None]:
    """Context manager in which calls of a command are recorded with other settings than their arguments.

    Args:
        command: its name, without that of what it made.
        settings: those of the command line, with sources; None to record nothing.
    """
    token = _IN_PLACE.set({**_IN_PLACE.get({}), command: settings})
    try:
        yield
    finally:
        _IN_PLACE.reset(token)


def record_call(run: Path, command: str, values: Mapping[str, Any]) -> None:
    """Write the settings of a command into ``run.json``; see `with_settings`.

    Nothing is written where the run cannot be written, or another process works on it for longer than a few seconds:
    what only documents a result must not cost it.

    Args:
        run: run folder.
        command: see `with_settings`.
        values: arguments of the call, by the names that the command line shows.
    """
    settings = settings_of_call(command, values)
    if settings is None:
        return
    folder = RunFolder(run)
    with suppress(OutputError, UsageError), folder.locked(wait_s=_WAIT_S):
        folder.write(with_settings(folder.read(), command, settings))


def settings_of_call(command: str, values: Mapping[str, Any]) -> Mapping[str, Setting] | None:
    """Return what a call is recorded with: its arguments without sources, or what `recorded_with` has in their place.

    Images that are no place, such as arrays with labels, are given by their type; arguments that are None or empty are
    left out.
    """
    in_place, name = _IN_PLACE.get({}), command.partition(" ")[0]
    if name in in_place:
        return in_place[name]
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
