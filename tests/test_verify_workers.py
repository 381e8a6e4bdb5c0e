"""The worker processes: limits, replacement, and what happens to them when their parent forks or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from openrlhf_mlpo.verify import equality, is_correct, worker, workers

ROOT = Path(__file__).parents[1]
ENDLESS = r"\int_0^1 \sin(x^x)/x^x dx"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "1")
    pool.run(worker.parses, "x")
    equality.forget()


def test_time_limit_counts_from_the_start_of_the_check() -> None:
    with ThreadPoolExecutor(32) as threads:  # two workers: most of these wait far longer than they run
        jobs = [threads.submit(pool.run, time.sleep, 0.3) for _ in range(16)]
        assert [job.result() for job in jobs] == [None] * 16


def test_worker_past_the_limit_is_killed_and_replaced() -> None:
    start = time.monotonic()
    with pytest.raises(pool.Undecided, match="time limit"):
        pool.run(time.sleep, 60)
    assert time.monotonic() - start < 2.0
    assert pool.run(worker.verify, "x+1", "1+x") is True


def test_killed_even_inside_one_long_c_call() -> None:
    start = time.monotonic()
    with pytest.raises(pool.Undecided):
        pool.run(pow, 9, 9**9)  # type: ignore[arg-type]
    assert time.monotonic() - start < 2.0


def test_memory_limit() -> None:
    with pytest.raises(pool.Undecided, match="memory limit"):
        pool.run(bytearray, 2**31)  # type: ignore[arg-type]
    assert pool.run(worker.verify, "x+1", "1+x") is True


def test_a_worker_that_dies_is_replaced() -> None:
    with pytest.raises(pool.Undecided):
        pool.run(os._exit, 3)  # type: ignore[arg-type]
    assert pool.run(worker.verify, "x+1", "1+x") is True
    for process in psutil.Process().children(recursive=True):
        if process.name() == "mlpo-verify" or "forkserver" in " ".join(process.cmdline()):
            process.kill()  # all of them, the server too
    assert is_correct("1+x", "x+1", "math")


def test_a_flood_of_endless_checks_does_not_queue() -> None:
    start = time.monotonic()
    with ThreadPoolExecutor(32) as threads:
        jobs = [threads.submit(is_correct, ENDLESS.replace("1", str(n)), "42", "math") for n in range(32)]
        assert not any(job.result() for job in jobs)
    assert time.monotonic() - start < 3.0


def test_equal_questions_at_the_same_time_are_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def count(*args: object, **kwargs: object) -> bool:
        asked.append(args)
        time.sleep(0.2)
        return True

    monkeypatch.setattr(pool, "run", count)
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda _: is_correct("x+2-1", "x+1", "math"), range(16)))
    assert is_correct("x+2-1", "x+1", "math")
    assert len(asked) == 1


def test_undecided_is_asked_once_more_and_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [pool.Busy(), pool.Undecided(), pool.Undecided()]

    def run(*_: object, **__: object) -> bool:
        raise outcomes.pop(0)

    monkeypatch.setattr(pool, "run", run)
    for left in (2, 1, 0, 0):
        assert not is_correct("x+2-1", "x+1", "math")
        assert len(outcomes) == left


def test_bad_settings_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "soon")
    assert pool.time_limit() == 3.0
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "")
    assert pool.time_limit() == 3.0


def _script(tmp_path: Path, body: str) -> subprocess.Popen:
    """A user's script WITHOUT an `if __name__ == "__main__"` guard; it says so if it is ever run a second time."""
    path = tmp_path / "script.py"
    path.write_text(f"print('ran', flush=True)\nfrom openrlhf_mlpo.verify import is_correct\n{textwrap.dedent(body)}")
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_main_is_not_run_again_and_exit_leaves_nothing(tmp_path: Path) -> None:
    process = _script(tmp_path, "print(is_correct('x+2-1', '1+x', 'math'))")
    assert process.communicate(timeout=60)[0].split() == ["ran", "True"]
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="workers are tied to their parent by a Linux call")
def test_workers_go_with_a_killed_parent(tmp_path: Path) -> None:
    process = _script(tmp_path, "import time\nprint(is_correct('x+2-1', '1+x', 'math'), flush=True)\ntime.sleep(60)")
    assert process.stdout.readline().strip() == "ran" and process.stdout.readline().strip() == "True"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_forked_child_makes_its_own(tmp_path: Path) -> None:
    body = """
    import os, sys
    assert is_correct('x+2-1', '1+x', 'math')
    if os.fork() == 0:
        sys.exit(0 if is_correct('x+3-2', '1+x', 'math') else 1)   # exits the ordinary way, atexit hooks and all
    print(os.waitstatus_to_exitcode(os.wait()[1]), is_correct('x+4-3', '1+x', 'math'))
    """
    process = _script(tmp_path, body)
    assert process.communicate(timeout=90)[0].split() == ["ran", "0", "True"]


def test_without_heavy_imports() -> None:
    heavy = {"torch", "ray", "vllm", "sympy", "math_verify"}
    code = f"import sys, openrlhf_mlpo.verify; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
