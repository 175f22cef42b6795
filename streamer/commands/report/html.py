"""HTML that is escaped by construction: only ``el`` makes markup of text.

``Html`` is markup. Every other string is text, which ``el`` escapes. Concatenating strings gives a ``str`` again, so
markup that was not built by ``el`` is shown as text.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, TypeAlias

from streamer.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

Child: TypeAlias = "str | int | Iterable[Child] | None"

_VOID = frozenset({"meta", "img", "br"})
_LINKS = {"href": "#", "src": "data:image/"}
"""The required start of links and of image URLs: both stay within the page."""


class Html(str):
    """Markup."""

    __slots__ = ()


def el(name: str, /, *children: Child, **attributes: str | float) -> Html:
    """Return an element.

    Args:
        name: The name of the element, a constant.
        children: Markup, text, numbers, or lists of them; None is skipped.
        attributes: Attributes with constant names: ``class_`` is ``class``, ``aria_label`` is ``aria-label``.

    Raises:
        ValueError: a link or an image leads out of the page.
    """
    for attribute, start in _LINKS.items():
        if not str(attributes.get(attribute, start)).startswith(start):
            raise ValueError(attribute)
    given = "".join(f' {_attribute(key)}="{_escaped(str(value))}"' for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Return markup, text or lists of them as markup."""
    if children is None:
        return Html()
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int):
        return Html(_escaped(str(children)))
    return Html("".join(map(join, children)))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _escaped(text: str) -> str:
    """Escape text. Control characters and marks of direction become visible, except newlines and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in html.escape(text).split("\n"))
