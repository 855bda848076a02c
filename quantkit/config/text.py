"""Parses YAML text into plain data; tags, anchors and repeated keys are errors with line numbers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent

from quantkit.config.nearest import nearest
from quantkit.errors import ConfigError
from quantkit.files import reason

# Larger than any hand-written settings file.
_MAX_BYTES = 1 << 18
# No settings file and no build file of the vendor has ten levels.
MAX_DEPTH = 100
_MAX_FAULTS = 10
# Plain words that YAML does not read as text.
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


class RefusedYamlError(Exception):
    """Valid YAML that is not accepted.

    Args:
        words: what is wrong.
        line: line number, counted from 1.
    """

    def __init__(self, words: str, line: int) -> None:
        super().__init__(words)
        self.words, self.line = words, line


def events_of(text: str) -> Iterator[Event]:
    """Yield the events of a YAML text; raise if it is nested too deeply or contains lone surrogates.

    The parser is recursive, and its time is quadratic in the depth. Escape sequences can produce lone surrogates, which
    cannot be encoded in files, names or messages.

    Raises:
        RefusedYamlError: more than `MAX_DEPTH` levels, or a lone surrogate.
        YAMLError: the text is not YAML.
    """
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RefusedYamlError("nested too deeply", event.start_mark.line + 1)
        if isinstance(event, ScalarEvent) and any("\ud800" <= letter <= "\udfff" for letter in event.value):
            raise RefusedYamlError("lone surrogate in escape sequence", event.start_mark.line + 1)
        yield event


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """Return the mapping of a YAML text.

    Raises:
        ConfigError: not YAML, not a mapping, or with aliases, tags or repeated keys; the message has the line.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        for event in events_of(text):
            if isinstance(event, AliasEvent):
                line = event.start_mark.line + 1
                raise ConfigError(f"line {line}: aliases (*{event.anchor}) are not allowed", where=where)
        value = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{line}{problem}", where=where) from error
    except RefusedYamlError as error:
        raise ConfigError(f"line {error.line}: {error.words}", where=where) from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"not YAML ({' '.join(str(error).split())[:200]})", where=where) from error
    if not isinstance(value, dict):
        raise ConfigError("must be a mapping of keys to values", where=where, fix="see quantkit init")
    return value


def lines_of_keys(text: str) -> dict[str, int]:
    """Return the line of each key of the outermost mapping of a YAML text that `parse_yaml` takes, from 1."""
    lines: dict[str, int] = {}
    depth, is_key = 0, True
    for event in events_of(text):
        if isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth == 1 and isinstance(event, ScalarEvent) and is_key:
            lines[event.value] = event.start_mark.line + 1
        if depth == 1 and isinstance(event, ScalarEvent | CollectionEndEvent):
            is_key = not is_key
        if isinstance(event, CollectionStartEvent):
            depth += 1
    return lines


def validation_error(error: ValidationError, known: list[str], where: object) -> ConfigError:
    """Return all faults of a validation in one line, with the nearest known word for each unknown one."""
    faults = [_fault(one, known) for one in error.errors()]
    if len(faults) == 1:
        [(text, fix)] = faults
        return ConfigError(text, where=where, fix=fix)
    shown = [text if fix is None else f"{text}, {fix}" for text, fix in faults[:_MAX_FAULTS]]
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    return ConfigError(f"{len(faults)} faults: {'; '.join(shown)}{more}", where=where)


def _fault(fault: ErrorDetails, known: list[str]) -> tuple[str, str | None]:
    """Return the fault, and the nearest known word for an unknown one."""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        guess = nearest(str(fault["loc"][-1]), known)
        return f"there is no key {key!r}", None if guess is None else f"did you mean {guess}?"
    message = fault["msg"].removeprefix("Value error, ")
    guess = _nearest_choice(fault)
    return f"{key}: {message}" if key else message, None if guess is None else f"did you mean {guess}?"


def _nearest_choice(fault: ErrorDetails) -> str | None:
    context = fault.get("ctx", {})
    choices = re.findall(r"'([^']+)'", str(context.get("expected") or context.get("expected_tags") or ""))
    word = context.get("tag", fault["input"])
    return nearest(word, choices) if isinstance(word, str) and choices else None


def read_text(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigError: the file cannot be read, is not text, or is too large.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError("too large for a settings file", where=path)
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({reason(error)})", where=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=path) from error


def quoted(text: str) -> str:
    """Return text as a YAML scalar, in double quotes if a plain one would not be read as the same text."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) is not None
    return text if plain and text.lower() not in _RESERVED else json.dumps(text, ensure_ascii=False)
