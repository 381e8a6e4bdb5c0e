"""Labels: what OpenRLHF's `labels` column holds, a plain gold answer or one JSON object."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Label:
    """A gold answer, the task that says how to verify it (None: not said), and whatever else the label carried."""

    answer: str
    task: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def parse_label(label: object) -> Label:
    """Read a label: `{"answer": …, "task": …, …}` as JSON, anything else as the gold answer itself. Never raises.

    An object without "answer" is a plain answer too (a user's gold may be JSON).
    """
    text = "" if label is None else label if isinstance(label, str) else str(label)
    if text.lstrip()[:1] == "{":
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict) and "answer" in data:
            answer, task = data.pop("answer"), data.pop("task", None)
            return Label("" if answer is None else str(answer), str(task) if task else None, data)
    return Label(text)
