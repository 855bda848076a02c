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
from quantkit.config.settings import VERSION, Setting, settings_from_json, settings_to_json
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
