"""Keep the processes that run math-verify: plain subprocesses (`worker`) that speak JSON lines over pipes.

Why processes: math-verify's own time limit is a signal, which raises in threads, and without it some answers never
return or eat all memory.

A verdict never depends on load. A limit counts the check's own processor time; queues and busy processors only make it
later. Two lanes keep cheap checks from standing behind expensive ones: what looks expensive, or took more than
`QUICK` seconds, goes to the slow lane. A worker that dies for reasons not its check's own (the system is out of memory,
somebody killed it) is replaced and the check asked again.

Environment: MLPO_VERIFY_TIMEOUT seconds of processor time a check may take (2); MLPO_VERIFY_WORKERS in each lane (2);
MLPO_VERIFY_MEMORY_MB address space of a worker (768).
"""

from __future__ import annotations

import atexit
import collections
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openrlhf_mlpo.verify.environment import number

logger = logging.getLogger(__name__)

QUICK = 0.25  # seconds of processor time a check may hold a worker of the fast lane
STUCK = 120.0  # seconds in which a worker that is waited for uses no processor time at all, before it is replaced
TRIES = 3
_ROOT = Path(__file__).resolve().parents[2]


class Undecided(Exception):
    """A check gave no verdict; `own` says whether its own cost is why, so that asking again would not help."""

    def __init__(self, reason: str, own: bool) -> None:
        super().__init__(reason)
        self.own = own


class _Gone(Exception):
    """The worker died or was stuck."""


class _Worker:
    """One worker process, used by one thread at a time; started when first asked, replaced when it is gone."""

    def __init__(self) -> None:
        self.process: Any = None  # a Popen whose pipes are there, which its type does not know
        self.unread = b""
        self.requests = 0

    def ask(self, command: str, texts: tuple[str, ...], cpu_seconds: float) -> bool:
        """The command's result. Raises `Undecided`."""
        for left in reversed(range(TRIES)):
            try:
                return self._ask_once(command, texts, cpu_seconds)
            except _Gone as reason:
                if not left:
                    logger.warning("a verification worker was lost %d times in one check: %s", TRIES, reason)
                    raise Undecided(str(reason), own=False) from None
        raise AssertionError

    def _ask_once(self, command: str, texts: tuple[str, ...], cpu_seconds: float) -> bool:
        if self.process is None or self.process.poll() is not None:
            self.start()
        self.requests += 1
        request = {"id": self.requests, "command": command, "texts": texts, "cpu_seconds": cpu_seconds,
                   "memory_mb": number("MLPO_VERIFY_MEMORY_MB", 768, 256)}  # fmt: skip
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            self.stop()
            raise _Gone(str(error)) from None
        while True:
            reply = json.loads(self._read_line())
            if "failed" in reply:
                self.stop()
                raise Undecided(f"math-verify does not load: {reply['failed']}", own=False)
            if reply.get("died") == signal.SIGPROF:  # the limit's signal
                raise Undecided("time limit", own=True)
            if "died" in reply:
                raise _Gone(f"signal {reply['died']}")
            if reply["id"] == self.requests:  # an earlier request's reply may come late when its child was killed
                if "undecided" in reply:
                    raise Undecided(reply["undecided"], own=True)
                return reply["result"]

    def _read_line(self) -> bytes:
        pipe = self.process.stdout.fileno()
        poll = select.poll()  # `select` takes no file descriptor above 1,023, and Ray's processes have many
        poll.register(pipe, select.POLLIN)
        used, since = -1.0, time.monotonic()
        while b"\n" not in self.unread:
            if poll.poll(1000 * STUCK / 4):
                chunk = os.read(pipe, 65536)
                if not chunk:
                    self.stop()
                    raise _Gone("its process ended")
                self.unread += chunk
                continue
            now = _processor_time(self.process.pid)
            if now > used:
                used, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK:
                self.stop()
                raise _Gone("it was stuck")
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def start(self) -> None:
        """Start the process; it loads math-verify, which takes about a second, before it reads its first request."""
        self.stop()
        paths = [str(_ROOT), *(os.path.abspath(path) for path in sys.path if path)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "openrlhf_mlpo.verify.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is the parent's; and its children can be killed with it
        )

    def stop(self) -> None:
        """Kill the process and its child."""
        if self.process is None:
            return
        process = self.process
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        self.close()

    def close(self) -> None:
        """Close the pipes; a worker ends when nobody holds the other end of them."""
        process, self.process, self.unread = self.process, None, b""
        if process is not None:  # at exit another thread may be here too
            process.stdin.close()
            process.stdout.close()


def _processor_time(pid: int) -> float:
    """Seconds of processor time that a process and its children have used."""
    import psutil

    total = 0.0
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children()):
            total += sum(process.cpu_times()[:4])
    except psutil.Error:
        pass
    return total


class _Lane:
    """Some workers, and the threads that wait for one: first come, first served, for as long as it takes."""

    def __init__(self) -> None:
        self.workers = [_Worker() for _ in range(int(number("MLPO_VERIFY_WORKERS", 2, 1)))]
        self.idle = list(self.workers)
        self.waiting: collections.deque[Future[_Worker]] = collections.deque()
        self.lock = threading.Lock()

    def ask(self, command: str, texts: tuple[str, ...], cpu_seconds: float) -> bool:
        turn: Future[_Worker] = Future()
        with self.lock:
            if self.idle:
                turn.set_result(self.idle.pop())  # the last one used: it is running
            else:
                self.waiting.append(turn)
        worker = turn.result()
        try:
            return worker.ask(command, texts, cpu_seconds)
        finally:
            with self.lock:
                if self.waiting:
                    self.waiting.popleft().set_result(worker)
                else:
                    self.idle.append(worker)


_lanes: dict[str, _Lane] = {}
_lock = threading.Lock()


def _lane(name: str) -> _Lane:
    with _lock:
        if name not in _lanes:
            _lanes[name] = _Lane()
        return _lanes[name]


def time_limit() -> float:
    """Seconds of processor time one check may take."""
    return number("MLPO_VERIFY_TIMEOUT", 2.0, 0.1)


def run(command: str, *texts: str, expensive: bool = False) -> bool:
    """The result of one of `worker.COMMANDS`. Raises `Undecided`, and nothing else, when there is none.

    Waits for a worker as long as it takes. What does not look expensive is tried in the fast lane first.
    """
    limit = time_limit()
    if not expensive and QUICK < limit:
        try:
            return _lane("fast").ask(command, texts, QUICK)
        except Undecided as reason:
            if str(reason) != "time limit":
                raise
    return _lane("slow").ask(command, texts, limit)


def start() -> None:
    """Start all workers in the background, so that the first check does not wait for math-verify to load."""
    for lane in (_lane("fast"), _lane("slow")):
        for _ in lane.workers:  # at the same time: each worker gets one
            threading.Thread(target=_warm, args=(lane,), name="mlpo-verify-start", daemon=True).start()


def _warm(lane: _Lane) -> None:
    try:
        lane.ask("parses", ("x",), time_limit())
    except Undecided as reason:
        logger.warning("verification workers did not start: %s", reason)


def stop() -> None:
    """Stop all workers; the next check starts them again."""
    for lane in _lanes.values():
        for worker in lane.workers:
            worker.stop()


def _after_fork() -> None:
    """Let a forked child (a DataLoader worker) start workers of its own and leave the parent's alone."""
    global _lock
    _lock = threading.Lock()
    for lane in _lanes.values():
        for worker in lane.workers:
            if worker.process is not None:
                worker.process.returncode = 0  # not this process's child: nothing to wait for
            worker.close()
    _lanes.clear()


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork)
