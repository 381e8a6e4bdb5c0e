"""The report's Markdown as HTML."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from openrlhf_mlpo.pages import escape


def to_html(text: str, folder: Path) -> str:
    """Markdown to HTML, images of `folder` inlined. Names come from users' files, so no HTML in them is let through."""
    from markdown import markdown

    parts = text.split("```")
    parts[::2] = map(escape, parts[::2])  # what is fenced, `markdown` escapes
    html = markdown("```".join(parts), extensions=["tables", "fenced_code"])
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")

    def inline(match: re.Match) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()}"'

    return re.sub(r'src="([\w.-]+\.png)"', inline, html)
