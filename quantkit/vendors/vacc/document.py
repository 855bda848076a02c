"""A vendor YAML file: text, plain data, and the line of each value."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml.scalarbool import ScalarBoolean

from quantkit.files import reason
from quantkit.vendors.vacc.yaml_nodes import KeyPath, RepeatedKey, YamlError, line_of_each_value, parse

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Document:
    """A parsed YAML file.

    Attributes:
        text: the file's text, with newline line ends.
        where: name of the file, for messages.
        data: plain Python values: dict, list, str, int, float, bool, None. Keys are text.
        lines: line of each key and item by its path, counted from 1.
        encoding: encoding of the file.
        repeated: keys that occur more than once in their section; their last value is in ``data``.
    """

    text: str
    where: str
    data: Any
    lines: Mapping[KeyPath, int]
    encoding: str = "utf-8"
    repeated: tuple[RepeatedKey, ...] = ()

    @classmethod
    def parse(cls, text: str, where: object = "YAML", *, encoding: str = "utf-8") -> "Document":
        """Parse YAML text.

        Raises:
            YamlError: the text is not YAML, or has constructs that are rejected (`yaml_nodes`).
        """
        try:
            parsed = parse(text)
            data = plain(parsed.data)
        except YamlError as error:
            raise error.at(where) from error
        except RecursionError as error:
            raise YamlError("the file is nested too deeply", where=where) from error
        return cls(text, str(where), data, line_of_each_value(parsed.root), encoding, parsed.repeated)

    @classmethod
    def load(cls, path: Path) -> "Document":
        """Read a file: UTF-8, UTF-16 with a byte order mark, else GB 18030 (for Chinese comments), else Latin-1.

        Raises:
            YamlError: the file cannot be read or is not YAML.
        """
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            words = reason(error) if isinstance(error, OSError) else str(error)
            raise YamlError(f"cannot read the file ({words})", where=path) from error
        text, encoding = _decode(content)
        return cls.parse(text.replace("\r\n", "\n"), path, encoding=encoding)

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a value, or of the nearest enclosing value."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def get(self, path: str | KeyPath) -> Any:
        """Return a value by its dotted path, or None if there is none."""
        value = self.data
        for step in self._steps(path):
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                value = value[step]
            else:
                return None
        return value

    def _steps(self, path: str | KeyPath) -> KeyPath:
        """Split a dotted path; if keys contain dots, the longest existing key is used."""
        if not isinstance(path, str):
            return path
        parts, value = path.split("."), self.data
        steps: list[str | int] = []
        while parts:
            if isinstance(value, list) and parts[0].isdecimal():
                index = int(parts.pop(0))
                value = value[index] if index < len(value) else None
                steps.append(index)
                continue
            section = value if isinstance(value, dict) else {}
            taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in section), 1)
            key = ".".join(parts[:taken])
            del parts[:taken]
            value = section.get(key)
            steps.append(key)
        return tuple(steps)


def plain(value: Any) -> Any:
    """Return round-trip data as plain Python values; keys and dates become text."""
    if isinstance(value, Mapping):
        return {"null" if key is None else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | ScalarBoolean):
        return bool(value)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else value.isoformat() if isinstance(value, date) else str(value)


def _decode(content: bytes) -> tuple[str, str]:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace"), encoding
    for encoding in ("utf-8", "gb18030"):
        try:
            return content.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1"), "latin-1"
