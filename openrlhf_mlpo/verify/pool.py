"""math-verify in worker processes that can be killed (a pebble `ProcessPool`), shared by all threads of a process.

Why processes: math-verify's own time limit is a signal, which raises in threads, and without it some answers never
return or eat all memory. Workers are forked from one clean, single-threaded server process that has math-verify
loaded: replacing a killed worker takes milliseconds, and neither the trainer's memory, its GPU context nor its
`__main__` gets into them.

Two lanes, so that hostile answers do not stand in front of the others: what looks expensive, or was not decided in
`QUICK` seconds, goes to the slow lane, whose workers run at low priority. Nothing queues there: a check that finds
no free worker within `MAX_WAIT` seconds is given up, so a flood of hostile answers cannot hold up a rollout.

Environment: MLPO_VERIFY_TIMEOUT seconds a check may run, not counting waits (3); MLPO_VERIFY_WORKERS in the fast
lane, twice as many in the slow one (2); MLPO_VERIFY_MEMORY_MB address space of a worker (768).
"""

from __future__ import annotations

import io
import logging
import os
import threading
from concurrent.futures import TimeoutError as FutureTimeout
from multiprocessing import context, forkserver, popen_forkserver, process, reduction, spawn, util
from typing import Any

from openrlhf_mlpo.verify import worker

logger = logging.getLogger(__name__)


class _Popen(popen_forkserver.Popen):
    """Start a process from our own fork server, and without running the parent's `__main__` again in it.

    The standard library's way would import Ray's or the user's main script into each worker, and would use the one
    fork server of the process, which is not ours to fill.
    """

    server = forkserver.ForkServer()

    def _launch(self, process_obj: Any) -> None:
        preparation = spawn.get_preparation_data(process_obj._name)
        for key in ("init_main_from_name", "init_main_from_path"):
            preparation.pop(key, None)
        payload = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, payload)
            reduction.dump(process_obj, payload)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, pipe = self.server.connect_to_new_process(self._fds)
        self.finalizer = util.Finalize(self, util.close_fds, (os.dup(pipe), self.sentinel))
        with open(pipe, "wb") as stream:
            stream.write(payload.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class _Process(process.BaseProcess):
    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class _Context(context.ForkServerContext):
    Process = _Process


QUICK = 0.5  # seconds a check may hold a worker of the fast lane
MAX_WAIT = 0.5  # seconds a check waits for a worker of the slow lane


class Undecided(Exception):
    """math-verify gave no verdict: out of time, out of memory, or its worker could not be started."""


class Busy(Undecided):
    """It was not even asked."""


_lock = threading.Lock()
_slots: threading.BoundedSemaphore | None = None
_lanes: dict[bool, Any] = {}
_abandoned: list[Any] = []  # a forked child keeps the parent's pools alive but untouched


def _number(name: str, default: float, minimum: float) -> float:
    try:
        return max(minimum, float(os.environ.get(name, "") or default))
    except ValueError:
        logger.warning("%s=%r is not a number; using %s", name, os.environ[name], default)
        return default


def time_limit() -> float:
    """Seconds one check may take, from its start."""
    return _number("MLPO_VERIFY_TIMEOUT", 3.0, 0.1)


def _lane(expensive: bool) -> Any:
    from pebble import ProcessPool

    with _lock:
        pool = _lanes.get(expensive)
        if pool is None or not pool.active:
            _Popen.server.set_forkserver_preload(["pebble", "openrlhf_mlpo.verify.warm"])
            pool = ProcessPool(
                max_workers=_slow_workers() if expensive else _workers(),
                max_tasks=2000,  # sympy's caches grow; a fresh worker costs milliseconds
                context=_Context(),
                initializer=worker.start,
                initargs=(int(_number("MLPO_VERIFY_MEMORY_MB", 768, 256)), 10 if expensive else 0),
            )
            _lanes[expensive] = pool
        return pool


def _workers() -> int:
    return int(_number("MLPO_VERIFY_WORKERS", 2, 1))


def _slow_workers() -> int:
    return 2 * _workers()


def run(function: Any, *args: str, expensive: bool = False) -> Any:
    """`function(*args)` in a worker. Raises `Undecided`, and nothing else, when there is no result.

    Takes at most `time_limit()` + `MAX_WAIT` from when a worker of the slow lane is asked for. What looks cheap is
    tried in the fast lane first, for `QUICK` seconds, and waits its turn there as long as it takes.
    """
    limit = time_limit()
    if not expensive:
        try:
            return _attempt(False, min(limit, QUICK), function, args)
        except FutureTimeout:
            limit -= QUICK
            if limit <= 0:
                raise Undecided("time limit") from None
    with _lock:
        global _slots
        _slots = _slots or threading.BoundedSemaphore(_slow_workers())
        slots = _slots
    if not slots.acquire(timeout=MAX_WAIT):
        raise Busy("all workers of the slow lane are taken")
    try:
        return _attempt(True, limit, function, args)
    except FutureTimeout:
        raise Undecided("time limit") from None
    finally:
        slots.release()


def _attempt(expensive: bool, limit: float, function: Any, args: tuple[str, ...]) -> Any:
    for last in (False, True):
        try:
            return _lane(expensive).schedule(function, args=args, timeout=limit).result()
        except FutureTimeout:
            raise
        except MemoryError:
            raise Undecided("memory limit") from None
        except Exception as error:  # the worker died, or the pool with it: once more in a new one
            if last:
                logger.warning("verification worker failed twice: %s: %s", type(error).__name__, error)
                raise Undecided(type(error).__name__) from None


def start() -> None:
    """Start the fast lane in the background, so that the first check does not wait for math-verify to load."""
    threading.Thread(target=_start, name="mlpo-verify-start", daemon=True).start()


def _start() -> None:
    try:
        run(worker.parses, "1")
    except Undecided as reason:
        logger.warning("verification workers did not start: %s", reason)


def close() -> None:
    """Stop the workers; the next check starts new ones."""
    global _slots
    with _lock:
        pools = list(_lanes.values())
        _lanes.clear()
        _slots = None
    for pool in pools:
        pool.stop()
        pool.join()


def _after_fork() -> None:
    """A forked child (a DataLoader worker) makes its own pool when it needs one and leaves the parent's alone."""
    global _lock, _slots
    _lock, _slots = threading.Lock(), None
    for pool in _lanes.values():
        process._children.difference_update(pool._pool_manager.worker_manager.workers.values())
    _abandoned.extend(_lanes.values())
    _lanes.clear()
    alive = getattr(_Popen.server, "_forkserver_alive_fd", None)
    if alive is not None:
        os.close(alive)  # else this child would keep the server alive after the parent is gone
    _Popen.server = forkserver.ForkServer()


os.register_at_fork(after_in_child=_after_fork)
