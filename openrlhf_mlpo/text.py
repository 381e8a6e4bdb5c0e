"""Text as it comes in and goes out: without what no file can hold, and in Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNUSABLE = re.compile("\ufeff|[\ud800-\udfff]")


def readable(text: str) -> str:
    """Text from outside as it can be stored: byte order marks go, surrogate pairs are joined, lone ones are U+FFFD."""
    if text.isascii() or not _UNUSABLE.search(text):
        return text
    return text.replace("\ufeff", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown_table(header: Iterable[object], rows: Iterable[Iterable[object]], *, aligned: bool = True) -> list[str]:
    """The lines of a Markdown table, the first column to the left and the others, which hold numbers, to the right.

    `aligned`: with blanks, so that columns stand below each other in plain text too.
    """
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) if aligned else 0 for column in zip(*cells, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    dashes = ["-" * max(3, width) for width in widths]
    lines.insert(1, [dashes[0], *(f"{dash[1:]}:" for dash in dashes[1:])])
    return [f"| {' | '.join(line)} |" for line in lines]
