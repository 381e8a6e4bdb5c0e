"""One self-contained HTML page: a text, and a list of records with filters. Nothing is loaded from anywhere.

page.html has the list (`showRecords`); a script says what the records are, how they are filtered and shown.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, body: str, data: object, script: Path) -> str:
    """The page of an HTML `body` above the list that `script` makes of `data` (JSON, `DATA` there)."""
    parts = {"TITLE": escape(title), "BODY": body, "DATA": as_data(data), "SCRIPT": script.read_text(encoding="utf-8")}
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub("<!--(TITLE|BODY|DATA|SCRIPT)-->", lambda match: parts[match[1]], text)


def as_data(value: object) -> str:
    # In a script element only `<` could end the data or open a comment. Escaped here, so sizes are those in the page.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def size(value: object) -> int:
    """Bytes of a value in the page."""
    return len(as_data(value).encode(errors="replace")) + 1


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
