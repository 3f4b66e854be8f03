"""Words with figures: what a policy says about a domain, written out only when somebody reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Mapping


class Note(NamedTuple):
    """A sentence and the figures in it.

    Args:
        template: words with the figures' names in braces, ``uses {used_kib}``; what they follow is "it gets
            2 GiB: it".
        figures: by name; those that end in ``_kib`` are written as sizes, those in ``_percent`` to one digit.
    """

    template: str
    figures: Mapping[str, float] = {}

    @classmethod
    def silent(cls) -> Note:
        """Say that a guest says nothing, and what that means under a policy that listens."""
        return _SILENT

    def __str__(self) -> str:
        """Write it out; a brace without a figure stays as it is."""
        text = self.template
        for name, figure in self.figures.items():
            text = text.replace(f"{{{name}}}", _written(name, figure))
        return text


_SILENT = Note("says nothing of its memory and has exactly its share")


def _written(name: str, figure: float) -> str:
    if name.endswith("_kib"):
        return format_kib(int(figure))
    if name.endswith("_percent"):
        return f"{figure:.3g}"
    return f"{figure:g}"
