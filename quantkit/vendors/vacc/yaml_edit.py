"""Ways to change one value of a YAML text, from the one that disturbs least.

None of them is trusted: `Document.set` takes the first whose text means what is wanted.
"""

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from quantkit.errors import VendorFileError
from quantkit.vendors.vacc.yaml_nodes import KeyPath, node_at, parse
from quantkit.vendors.vacc.yaml_text import emit, flow_text, styled, writer


def edits(text: str, root: Node | None, steps: KeyPath, value: Any) -> Iterator[str]:
    """Yield the text with one value changed or added.

    In order: the characters of the value replaced, where it stands within a line; the lines of its key written anew;
    a key added in a line of its own at the end of its section; the whole text written anew by ruamel.yaml, which keeps
    comments, quotes, order and unknown keys but not the spaces.

    Args:
        text: the text.
        root: its nodes.
        steps: path of the value.
        value: the new value, plain.

    Raises:
        VendorFileError: the path leads through a value that is no section.
    """
    node = node_at(root, steps)
    if node is not None and _stands_within_a_line(node):
        yield text[: node.start_mark.index] + flow_text(value) + text[node.end_mark.index :]
    rows = text.split("\n")
    section = node_at(root, steps[:-1])
    if node is not None and isinstance(section, MappingNode) and not section.flow_style:
        key = next(key for key, _ in section.value if key.value == steps[-1])
        # The first row may begin with the dash of a list.
        lead, line = rows[key.start_mark.line][: key.start_mark.column], key.start_mark.line
        new = _entry({steps[-1]: value}, len(lead))
        yield "\n".join([*rows[:line], lead + new[0].lstrip(), *new[1:], *rows[_last_line(node) + 1 :]])
    depth = next(n for n in range(len(steps), -1, -1) if n == 0 or node_at(root, steps[:n]) is not None)
    section = node_at(root, steps[:depth])
    if depth < len(steps) and isinstance(section, MappingNode) and not section.flow_style and section.value:
        after, nested = _last_line(section) + 1, value
        for step in reversed(steps[depth:]):
            nested = {step: nested}
        new = _entry(nested, section.value[0][0].start_mark.column)
        yield "\n".join([*rows[:after], *new, *(rows[after:] or [""])])
    loaded = parse(text).data
    loaded = CommentedMap() if loaded is None else loaded
    assign(loaded, steps, styled(value), "YAML")
    yield _dump_like(loaded, text)


def assign(data: Any, steps: KeyPath, value: Any, where: str) -> None:
    """Set a value in plain or round-trip data; sections on the way are made.

    Raises:
        VendorFileError: the path leads through a value that is no section.
    """
    holder = data
    for step in steps[:-1]:
        if isinstance(holder, dict):
            if holder.get(step) is None:
                holder[step] = type(data)()
            holder = holder[step]
        elif isinstance(holder, list) and isinstance(step, int) and step < len(holder):
            holder = holder[step]
        else:
            holder = None
    last = steps[-1] if steps else ""
    if isinstance(holder, dict) and steps:
        holder[last] = value
        return
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        holder[last] = value
        return
    dotted = ".".join(map(str, steps))
    raise VendorFileError(f"there is no place for `{dotted}`", where=where, fix="name a key of a section")


def _stands_within_a_line(node: Node) -> bool:
    block = not node.flow_style if isinstance(node, CollectionNode) else getattr(node, "style", None) in ("|", ">")
    return bool(node.start_mark.index < node.end_mark.index and not block)


def _last_line(node: Node) -> int:
    """Return the line, counted from 0, that a value ends in; comments and empty lines after it are not its own."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    # A text block is marked to end where the next line begins.
    return int(node.end_mark.line) - (getattr(node, "style", None) in ("|", ">"))


def _entry(section: dict[Any, Any], column: int) -> list[str]:
    """Return the lines of a section with one key, indented."""
    return [" " * column + row for row in emit(writer(mapping=2, sequence=4, offset=2), styled(section)).splitlines()]


def _dump_like(loaded: Any, text: str) -> str:
    """Write round-trip data with the indentation of the text it came from."""
    mapping = next((len(m[1]) for m in re.finditer(r"(?m)^( +)\w", text)), 2)
    offset = 0
    for key, dash in re.findall(r"(?m)^( *)[^\s#-][^#\n]*:[ ]*\n(?:[ ]*(?:#.*)?\n)*( *)- ", text):
        offset = max(0, len(dash) - len(key))
        break
    return emit(writer(mapping=mapping, sequence=offset + 2, offset=offset), loaded)
