"""HTML that is escaped by construction: text becomes markup in one place, ``el``, and nowhere else.

``Html`` is markup. Every other string is text: ``el`` escapes it, wherever it comes from. Putting strings together
gives a ``str`` again, so that what was built past ``el`` is shown as text, and never read as markup.
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
"""Where links may lead, and images come from: the page itself."""


class Html(str):
    """Markup."""

    __slots__ = ()


def el(name: str, /, *children: Child, **attributes: str | float) -> Html:
    """Return an element.

    Args:
        name: its name, a constant.
        children: markup, text, numbers, or lists of them; None is nothing.
        attributes: their names are constants: ``class_`` is ``class``, ``aria_label`` is ``aria-label``.

    Raises:
        ValueError: a link or an image would lead out of the page.
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
    """Escape text; what would turn its direction or is no character becomes visible, but for line ends and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in html.escape(text).split("\n"))
