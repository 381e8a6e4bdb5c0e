r"""What runs inside the worker processes: math-verify, and nothing of ours that could be poisoned by an answer.

Golds and answers are given to math-verify as `$…$`, its LaTeX reading. Only when that reading fails, and the text
holds a single number, is its looser "find a number" reading used: on `7 @@ 42` that would take the last of many.
"""

from __future__ import annotations

import ctypes
import logging
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

_NUMBER = re.compile(r"\d[\d.,]*")


def start(memory_mb: int, niceness: int) -> None:
    """Prepare a worker: die with the parent, a memory limit, stop at once when told to, math-verify loaded."""
    import os

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # The default action kills also inside one long C call (9**9**9), where a Python handler would never run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if niceness:
        os.nice(niceness)
    logging.disable(logging.CRITICAL)
    from openrlhf_mlpo.verify import warm  # noqa: F401  (there already when forked from our server, see pool)

    sys.setrecursionlimit(3000)
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@lru_cache(maxsize=4096)
def _gold(text: str) -> list[Any]:
    return parse(text)


def parse(text: str) -> list[Any]:
    """math-verify's reading of one gold or answer, as sympy objects and strings. No time limit: the pool has one."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig
    from math_verify import parse as read

    found = read(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    if any(not isinstance(item, str) for item in found) or len(_NUMBER.findall(text)) != 1:
        return found
    loose = read(f"${text}$", extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
    return loose if any(not isinstance(item, str) for item in loose) else found


def verify(gold: str, answer: str) -> bool:
    """math-verify's verdict on one pair."""
    from math_verify import verify as equal

    try:
        return bool(equal(_gold(gold), parse(answer), timeout_seconds=None))
    except Exception:  # RecursionError, MemoryError: math-verify lets some through
        return False


def parses(gold: str) -> bool:
    """Whether math-verify reads `gold` as mathematics (and not just as a string)."""
    try:
        return any(not isinstance(item, str) for item in parse(gold))
    except Exception:
        return False
