"""Writes YAML text with the same meaning in YAML 1.1 and 1.2; the vendor's Python tools probably use 1.1."""

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from quantkit.vendors.vacc.yaml_nodes import KeyPath, round_trip_yaml

# Words that YAML 1.1 does not read as text unless quoted.
_NOT_TEXT_IN_YAML_1_1 = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|none|~|[-+.\d][\d_.:eE+-]*")


def dump(data: Mapping[str, Any], comments: Mapping[KeyPath, str] | None = None) -> str:
    """Return plain data as YAML text with the same meaning in YAML 1.1 and 1.2.

    Lists of plain values are on one line; sections are separated by an empty line.

    Args:
        data: dict, list, str, int, float, bool and None, nested.
        comments: comment after the value at a path.
    """
    root = styled(data)
    assert isinstance(root, CommentedMap)
    for path, comment in (comments or {}).items():
        holder: Any = root
        for step in path[:-1]:
            holder = holder[step]
        # The explicit column prevents ruamel from aligning the comment with an earlier one.
        holder.yaml_add_eol_comment(f"# {comment}", path[-1], column=0)
    text = emit(writer(mapping=2, sequence=4, offset=2), root)
    return re.sub(r"\n(?=\w)", "\n\n", text)


class _Representer(RoundTripRepresenter):
    """Writes numbers and words unambiguously for YAML 1.1."""


def _represent_float(representer: RoundTripRepresenter, value: float) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:float", float_text(value))


def _represent_str(representer: RoundTripRepresenter, value: str) -> ScalarNode:
    # Within a line ruamel writes a word like ?0 bare and reads it back as a key.
    ambiguous = _NOT_TEXT_IN_YAML_1_1.fullmatch(value) or value.startswith(("?", ":"))
    style = '"' if not value.isprintable() else "'" if ambiguous else None
    return representer.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(float, _represent_float)
_Representer.add_representer(str, _represent_str)


def float_text(value: float) -> str:
    """Return the shortest text of a float that is a float in YAML 1.1, too: ``1e-05`` becomes ``1.0e-05``."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[repr(value)]
    text = repr(value)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def styled(value: Any) -> Any:
    """Return plain data as ruamel's types, with every list of plain values on one line."""
    if isinstance(value, Mapping):
        return CommentedMap((key, styled(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        items = CommentedSeq(styled(item) for item in value)
        if not any(map(is_mapping, value)):
            items.fa.set_flow_style()
        return items
    return value


def is_mapping(value: Any) -> bool:
    """Return whether a value is a section, not a plain value or list."""
    return isinstance(value, Mapping)


def flow_text(value: Any) -> str:
    """Return a value in flow style."""
    line = CommentedMap(k=styled(value))
    line.fa.set_flow_style()
    return emit(writer(), line).strip().removeprefix("{k:").removesuffix("}").strip()


def writer(**indent: int) -> YAML:
    """Return an emitter of such text.

    Args:
        indent: ruamel's ``mapping``, ``sequence`` and ``offset``, in columns.
    """
    yaml = round_trip_yaml()
    yaml.Representer = _Representer
    if indent:
        yaml.indent(**indent)
    return yaml


def emit(yaml: YAML, data: Any) -> str:
    """Return the output of an emitter."""
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()
