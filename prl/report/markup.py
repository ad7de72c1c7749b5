"""HTML that cannot be forgotten to be escaped: text becomes markup only in `element`."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML already. Any other string is text, and is escaped where it joins markup."""

    __slots__ = ()


Child = str | None | Iterable["Child"]
"""What an element holds: text, markup, nothing, or several of these."""

_VOID = frozenset({"br", "hr", "meta"})  # elements without an end tag


def join(*children: Child) -> Markup:
    """Children one after the other; text is escaped, None is left out."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(html.escape(child))
        elif child is not None:
            parts.append(str(join(*child)))
    return Markup("".join(parts))


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element, e.g. `element("td", "12", class_="number")`.

    Args:
        tag: its name.
        children: see `Child`.
        attributes: an underscore at the end is dropped, others become hyphens. True is an attribute without
            a value; None and False leave it out.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
