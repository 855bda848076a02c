"""HTML elements with all text and attributes escaped, so that data from files cannot become markup."""

import html
import json
from typing import Any

Attribute = str | int | float | bool | None


class Html(str):
    """Markup text; any other string is escaped when used."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: Attribute) -> Html:
    """Return an element. None among children or attributes is left out.

    Attribute names are written without a trailing underscore and with hyphens for underscores: ``class_``,
    ``aria_label``. True gives an attribute without a value.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    return Html(f"<{tag}{written}>{fragment(*children)}</{tag}>")


def void(tag: str, **attributes: Attribute) -> Html:
    """Return an element without content and end tag, such as ``img``."""
    return Html(f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>")


def fragment(*children: object) -> Html:
    """Return the concatenated children."""
    return Html("".join(_text(child) for child in children if child is not None))


def embedded_json(value: Any) -> Html:
    """Return JSON for a script element: without ``<``, which could end the element, and without line separators."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def _text(child: object) -> str:
    return child if isinstance(child, Html) else html.escape(str(child))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
