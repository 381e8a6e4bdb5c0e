"""Numbers that users set in the environment, and warnings that are said once a process."""

from __future__ import annotations

import logging
import math
import os

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def number(name: str, default: float, minimum: float = -math.inf) -> float:
    """A variable's finite number, at least `minimum`; `default`, with a warning, where it holds something else."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text or default)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        warn_once(name, f"{name}={text!r} is not a finite number; using {default}")
        return default
    return max(minimum, value)


def warn_once(key: str, message: str) -> None:
    if key not in _warned:
        _warned.add(key)
        logger.warning("%s (said once)", message)
