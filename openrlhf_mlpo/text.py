"""Text as it comes in and goes out: without what no file can hold, and in Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_UNUSABLE = re.compile("\ufeff|[\ud800-\udfff]")


def readable(text: str) -> str:
    """Text from outside as it can be stored: byte order marks go, surrogate pairs are joined, lone ones are U+FFFD."""
    if text.isascii() or not _UNUSABLE.search(text):
        return text
    return text.replace("\ufeff", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table, the first column to the left and the others, which hold numbers, to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])

    def line(row: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join([row[0].ljust(widths[0]), *numbers]) + " |"

    return [line(row) for row in cells]
