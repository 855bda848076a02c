"""Parses untrusted YAML text without constructing objects, with limits, and with the line of each value.

YAML 1.2 (https://yaml.org/spec/1.2.2/) by ruamel.yaml. The following is rejected: tags for objects, recursive or
multiplying aliases, keys that are not plain words, several documents, and files far larger than a build file. For a
repeated key the last value is used, as in the vendor's Python tools, and all lines are recorded.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from quantkit.config.text import RefusedYamlError, events_of
from quantkit.errors import VendorFileError

MAX_CHARACTERS = 1 << 18
# Maximum number of values after expanding aliases; the largest build file of the public zoo has about 200.
MAX_VALUES = 50_000

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value")
)

KeyPath = tuple[str | int, ...]


class YamlError(VendorFileError):
    """Rejected YAML text.

    Args:
        what: the fault.
        line: line number from 1, if known.
        fix: how to fix it.
    """

    def __init__(self, what: str, *, line: int | None = None, fix: str | None = None, where: object = None) -> None:
        self.line = line
        place = where if line is None else f"line {line}" if where is None else f"{where}, line {line}"
        super().__init__(what, where=place, fix=fix)

    def at(self, file: object) -> "YamlError":
        """Return the same error with the name of the file."""
        return YamlError(self.what, line=self.line, fix=self.fix, where=file)


def round_trip_yaml() -> YAML:
    """Return a parser and emitter that preserves comments, quotes and the order of keys."""
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = MAX_CHARACTERS
    return yaml


@dataclass(frozen=True)
class RepeatedKey:
    """A key that occurs more than once in a section.

    Attributes:
        path: path of the key.
        lines: line numbers of all occurrences, from 1.
        equal: whether all values are equal.
    """

    path: KeyPath
    lines: tuple[int, ...]
    equal: bool


@dataclass(frozen=True)
class Parsed:
    """A parsed YAML document.

    Attributes:
        data: round-trip data; None for an empty document.
        root: its nodes, with the positions of values.
        repeated: keys that occur more than once, sorted by line.
    """

    data: Any
    root: Node | None
    repeated: tuple[RepeatedKey, ...]


def parse(text: str) -> Parsed:
    """Parse a YAML document.

    Raises:
        YamlError: the text is not YAML, or is rejected.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"the file is too large for a build file ({len(text)} characters)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)
            for _ in events_of(text):
                pass
            # As in YAML.load, with a check of the nodes before values are constructed.
            constructor, _ = round_trip_yaml().get_constructor_parser(text)
            root = constructor.composer.get_single_node()
            if root is None:
                return Parsed(None, None, ())
            _refuse_what_is_unsafe(root)
            repeated = _take_last_of_repeated(root, text)
            return Parsed(constructor.construct_document(root), root, repeated)
    except YamlError:
        raise
    except MarkedYAMLError as error:
        raise _from_ruamel(error, text) from error
    except YAMLError as error:
        raise YamlError(f"not YAML ({_one_line(error)})") from error
    except RefusedYamlError as error:
        raise YamlError(error.words, line=error.line) from error
    except Exception as error:  # the parser raises any class for damaged text
        raise YamlError(f"not YAML ({type(error).__name__}: {_one_line(error)})") from error


def line_of_each_value(root: Node | None) -> dict[KeyPath, int]:
    """Return the line number, from 1, of every key and item by path."""
    lines: dict[KeyPath, int] = {}

    def visit(node: Node, path: KeyPath) -> None:
        for step, place, child in _entries(node):
            lines[*path, step] = place.start_mark.line + 1
            visit(child, (*path, step))

    if root is not None:
        visit(root, ())
    return lines


def _entries(node: Node) -> Iterator[tuple[str | int, Node, Node]]:
    """Yield the key or index, the node with its position, and the value of each entry."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield index, item, item


def _refuse_what_is_unsafe(root: Node) -> None:
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in open_nodes:
            raise YamlError("an alias refers to a value that contains it", line=line, fix="replace it by the value")
        if str(node.tag) not in _PLAIN_TAGS:
            raise YamlError(f"the tag {node.tag} is refused: a build file contains only plain values", line=line)
        open_nodes.add(id(node))
        if isinstance(node, MappingNode):
            _refuse_bad_keys(node)
        total = 1 + sum(size(child) for _, _, child in _entries(node))
        open_nodes.discard(id(node))
        if total > MAX_VALUES:
            raise YamlError(f"more than {MAX_VALUES} values with expanded aliases", line=line)
        sizes[id(node)] = total
        return total

    size(root)


def _refuse_bad_keys(node: MappingNode) -> None:
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise YamlError("a key must be a plain word", line=line, fix="quote a text that begins with { or [")
        if str(key.tag) not in _PLAIN_TAGS:
            raise YamlError(f"the tag {key.tag} is refused: a build file contains only plain values", line=line)


def _take_last_of_repeated(root: Node, text: str) -> tuple[RepeatedKey, ...]:
    """Keep the last value of each repeated key; return these keys sorted by line."""
    found: list[RepeatedKey] = []

    def visit(node: Node, path: KeyPath) -> None:
        places: dict[str | int, list[tuple[Node, Node]]] = {}
        for step, place, child in _entries(node):
            places.setdefault(step, []).append((place, child))
        for step, several in places.items():
            if len(several) > 1 and step != "<<":
                written = {text[child.start_mark.index : child.end_mark.index].strip() for _, child in several}
                lines = tuple(place.start_mark.line + 1 for place, _ in several)
                found.append(RepeatedKey((*path, step), lines, len(written) == 1))
                node.value = [entry for entry in node.value if entry not in several[:-1]]
            visit(several[-1][1], (*path, step))

    visit(root, ())
    return tuple(sorted(found, key=lambda repeated: repeated.lines))


def _from_ruamel(error: MarkedYAMLError, text: str) -> YamlError:
    mark = error.problem_mark or error.context_mark
    line = None if mark is None else mark.line + 1
    rows = text.splitlines()
    # For a truncated file the mark is one line past its end.
    if line is not None and line > len(rows) > 0:
        line = len(rows)
    problem = " ".join(str(error.problem or error.context or "no YAML").split())
    if line is not None and line <= len(rows) and "\t" in rows[line - 1]:
        return YamlError(f"a tab instead of spaces ({problem})", line=line, fix="indent with spaces")
    return YamlError(f"not YAML ({problem})", line=line)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
