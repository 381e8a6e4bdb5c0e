r"""Check answers with math-verify: the program in each worker process, `python -m openrlhf_mlpo.verify.worker`.

Requests and replies are JSON lines over stdin and stdout: `{"id", "command", "texts", "cpu_seconds", "memory_mb"}`
gives `{"id", "result"}`, or `{"id", "undecided"}` where memory ran out. The process that was started loads math-verify
once and forks a child that answers; where a check kills the child it says so (`{"died": signal}`) and forks another,
which takes milliseconds. When stdin ends, both do.

Golds and answers are given to math-verify as `$…$`, its LaTeX reading. Only when that reading fails, and the text
holds a single number, is its looser "find a number" reading used: on `7 @@ 42` that would take the last of many.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from openrlhf_mlpo.verify import sameness

RECYCLE = 3  # exit status of a child that wants to be forked again: caches grow, memory fragments
MAX_CHECKS = 2000

_NUMBER = re.compile(r"\d[\d.,]*")
# ANTLR and sympy build their tables on first use (up to a second for some notations); forked children inherit them.
_WARM_UP = (
    (r"\frac{1}{2}", "0.51"), (r"\sqrt{5}+1", r"1+\sqrt{6}"), ("x^2+1", "x^2+2"), ("(1,2)", r"(-\infty, 3]"),
    (r"\text{even}", "odd"), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    (r"s^2 \le 8r^2", r"x < 2"), ("y = 2x + 3", "y = 2x + 4"), ("1 - 12i", "1 + 12i"), (r"70\%", "71"),
    (r"(2,12) \cup (12,102)", r"[-1, 0) \cup (1, \infty)"), ("4, 0, -4", r"\{1, 2\}"), (r"2\pi", r"3\pi"),
    (r"\binom{8}{2}", "5!"), (r"\sin x + \ln 2", r"\cos x"), (r"x \in \{1, 2\}", r"1 \pm \sqrt{2}"),
)  # fmt: skip


def read(text: str) -> list[Any]:
    """math-verify's reading of one gold or answer, as sympy objects and strings."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    readings = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    if any(not isinstance(item, str) for item in readings) or len(_NUMBER.findall(text)) != 1:
        return readings
    loose = parse(f"${text}$", extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
    return loose if any(not isinstance(item, str) for item in loose) else readings


@lru_cache(maxsize=4096)
def _read_gold(text: str) -> list[Any]:
    return read(text)


def verify(gold: str, answer: str) -> bool:
    """math-verify's verdict on one pair, save that two numbers too small for its six decimals are compared exactly."""
    from math_verify import verify as equal

    try:
        pairs = [(one, other) for one in _read_gold(gold) for other in read(answer)]
        return any(equal(*pair, timeout_seconds=None) and not sameness.differ(*pair) for pair in pairs)
    except MemoryError:
        raise
    except Exception:  # RecursionError and others: math-verify lets some through
        return False


def parses(gold: str) -> bool:
    """Whether math-verify reads `gold` as mathematics (and not just as a string)."""
    try:
        return any(not isinstance(item, str) for item in read(gold))
    except MemoryError:
        raise
    except Exception:
        return False


COMMANDS: dict[str, Callable[..., bool]] = {"verify": verify, "parses": parses}


def _serve(replies: int) -> None:
    """Answer requests until stdin ends or `MAX_CHECKS` are done; in the forked child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: go when the process that forked us is gone
    sys.setrecursionlimit(3000)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The signal's default action kills also inside one long C call, where a Python handler would never run.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    for _ in range(MAX_CHECKS):
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)
        request = json.loads(line)
        limit = int(request["memory_mb"]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])  # this process's own time, busy machine or not
        try:
            reply = {"result": COMMANDS[request["command"]](*request["texts"])}
        except MemoryError:
            reply = {"undecided": "memory limit"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, {"id": request["id"], **reply})
        if "undecided" in reply:
            break
    os._exit(RECYCLE)


def _send(replies: int, message: dict[str, Any]) -> None:
    os.write(replies, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Load math-verify, then keep one child answering."""
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints gets between the replies
    logging.disable(logging.CRITICAL)
    try:
        for pair in _WARM_UP:
            verify(*pair)
        import math_verify  # noqa: F401  (`verify` swallows what is wrong with it)
    except ImportError as error:
        _send(replies, {"failed": f"{type(error).__name__}: {error}"})
        return
    while True:
        child = os.fork()
        if not child:
            _serve(replies)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        if code != RECYCLE:
            time.sleep(0.01)  # a child that dies at once must not be forked in a tight loop
            _send(replies, {"died": -code})


if __name__ == "__main__":
    main()
