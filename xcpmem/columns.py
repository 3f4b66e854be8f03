"""Texts beside each other in columns, for terminals and pipes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = "  "


def lay_out(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Write rows as lines whose columns line up.

    Args:
        rows: all with the same number of cells, the heading first if there is one.
        alignment: one letter a column, ``<`` for the left edge and ``>`` for the right; the last column, if
            it is on the left, is as long as it likes.

    Returns:
        Lines without blanks at their ends.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        GAP.join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
