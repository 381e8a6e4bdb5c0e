"""The worker processes: processor-time limits, replacement, busy machines, forks and deaths of their parent."""

from __future__ import annotations

import json
import multiprocessing
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

from openrlhf_mlpo.verify import is_correct, reward, verify_response, workers
from tests import hostile
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # a minute in all: processes that die and are replaced

ENDLESS = r"\int_0^1 \sin(x^x)/x^x dx"
# Right answers of mixed kinds, each of which only math-verify decides.
RIGHT = [
    ("x^2-9", "(x-3)(x+3)"), ("36", r"\binom{9}{2}"), (r"\frac{\sqrt{3}}{2}", r"\sin(\pi/3)"), ("720", "6!"),
    ("(-1, 2)", "( -1 , 4/2 )"), ("2x+6", "2(x+3)"), (r"\sqrt{18}", r"3\sqrt{2}"), ("55", r"\sum_{k=1}^{10} k"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "1")
    workers.run("parses", "x")
    hostile.forget()


def _spin() -> None:
    while True:
        pass


@pytest.fixture
def busy_machine():
    loops = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(4)]
    for loop in loops:
        loop.start()
    yield
    for loop in loops:
        loop.kill()
        loop.join()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("repeat", range(int(os.environ.get("MLPO_TEST_REPEATS", "3"))))
def test_a_busy_machine_takes_no_reward_away(busy_machine: None, repeat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLPO_VERIFY_TIMEOUT")
    pairs = [(f"{gold}+{n}", f"{answer}+{n}") if gold[0] != "(" else (gold, f"{answer[:-1]}+{n}-{n})")
             for n in range(8) for gold, answer in RIGHT]  # fmt: skip
    assert len(set(pairs)) == 64
    with ThreadPoolExecutor(64) as threads:
        calls = [
            threads.submit(reward, [f"q<answer>{answer}</answer>"], ["q"], [gold], "math") for gold, answer in pairs
        ]
        results = [call.result() for call in calls]
    wrong = [pair for pair, result in zip(pairs, results, strict=True) if result["scores"] != 1.0]
    assert not wrong and not any(result["extra_logs"]["undecided"] for result in results)


@pytest.mark.parametrize(("command", "reply"), [("burn", {"died": signal.SIGPROF}), ("hoard",
{"undecided": "memory limit"}),
                                              ("exit", {"died": -7})])  # fmt: skip
def test_what_a_check_does_to_its_worker_is_said_and_the_next_check_runs(command: str, reply: dict) -> None:
    code = """if True:
        import os
        from openrlhf_mlpo.verify import worker
        worker.COMMANDS["burn"] = lambda: 9**9**9 > 0   # one long C call: a Python signal handler would never run
        worker.COMMANDS["hoard"] = lambda: bool(bytearray(2**31))
        worker.COMMANDS["exit"] = lambda: os._exit(7)
        worker.main()
    """
    requests = [{"id": 1, "command": command, "texts": []}, {"id": 2, "command": "verify", "texts": ["x+1", "1+x"]}]
    lines = [json.dumps({**request, "cpu_seconds": 1.0, "memory_mb": 768}) + "\n" for request in requests]
    pipe, command = subprocess.PIPE, [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        process.stdin.write(lines[0])
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.stdin.write(lines[1])
        process.stdin.close()
        assert {key: first[key] for key in reply} == reply
        assert json.loads(process.stdout.readline()) == {"id": 2, "result": True}
    assert process.returncode == 0


def test_time_limit_is_the_checks_own() -> None:
    with pytest.raises(workers.Undecided, match="time limit") as caught:
        workers.run("verify", "42", ENDLESS)
    assert caught.value.own
    assert workers.run("verify", "x+1", "1+x") is True


def test_undecided_is_counted_remembered_and_said_once(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    from openrlhf_mlpo.verify import rewards

    monkeypatch.setattr(rewards, "_undecided", {"since": -float("inf"), "count": 0})
    with caplog.at_level("WARNING"):
        for _ in range(2):
            result = reward([f"q<answer>{ENDLESS}</answer>"], ["q"], ["42"], "math")
            assert result["scores"] == 0.0 and result["extra_logs"]["undecided"] == 1.0
        assert verify_response(f"<answer>{ENDLESS}</answer>", "42", "math").undecided
    assert [record.name for record in caplog.records] == ["openrlhf_mlpo.verify.rewards"]
    start = time.monotonic()
    assert not is_correct(ENDLESS, "42", "math")
    assert time.monotonic() - start < 0.1  # the same verdict when asked again, at once


def _processes() -> list[psutil.Process]:
    """Our worker processes and what they forked."""
    own = psutil.Process().children()
    started = [worker.process.pid for lane in workers._lanes.values() for worker in lane.workers if worker.process]
    ours = [process for process in own if process.pid in started]
    return ours + [child for process in ours for child in process.children()]


def test_a_worker_that_somebody_kills_is_replaced_and_its_check_asked_again() -> None:
    for process in _processes():
        process.kill()
    assert is_correct("1+x", "x+1", "math")
    with ThreadPoolExecutor(1) as thread:
        check = thread.submit(workers.run, "verify", "42", ENDLESS, expensive=True)
        time.sleep(0.3)
        for process in _processes():
            process.kill()
        with pytest.raises(workers.Undecided, match="time limit"):  # its own limit, in the replacement
            check.result()


def test_cheap_checks_do_not_stand_behind_expensive_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "1")
    with ThreadPoolExecutor(24) as threads:
        hostile = [threads.submit(is_correct, ENDLESS.replace("1", str(n)), "42", "math") for n in range(8)]
        time.sleep(0.2)
        assert all(threads.map(lambda n: is_correct(f"{n}+x", f"x+{n}", "math"), range(16)))
        assert not all(check.done() for check in hostile)
        assert not any(check.result() for check in hostile)


def test_equal_questions_at_the_same_time_are_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def count(*args: object, **kwargs: object) -> bool:
        asked.append(args)
        time.sleep(0.2)
        return True

    monkeypatch.setattr(workers, "run", count)
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda _: is_correct("x+2-1", "x+1", "math"), range(16)))
    assert is_correct("x+2-1", "x+1", "math")
    assert len(asked) == 1


def test_what_was_not_the_checks_own_fault_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [workers.Undecided("lost", own=False), workers.Undecided("time limit", own=True)]

    def run(*_: object, **__: object) -> bool:
        raise outcomes.pop(0)

    monkeypatch.setattr(workers, "run", run)
    for left in (1, 0, 0):
        assert not is_correct("x+2-1", "x+1", "math")
        assert len(outcomes) == left


def test_a_stuck_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "STUCK", 1.0)
    for process in _processes():
        process.suspend()
    assert workers.run("verify", "x+1", "1+x") is True
    workers.stop()


def test_bad_settings_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "soon")
    assert workers.time_limit() == 2.0
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "")
    assert workers.time_limit() == 2.0


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


def test_modules_beside_the_users_script_shadow_nothing(tmp_path: Path) -> None:
    for name in ("signal", "math_verify", "openrlhf_mlpo"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    code = f"import sys; sys.path[:] = [{str(ROOT)!r}, *filter(None, sys.path)]\n"
    code += "from openrlhf_mlpo.verify import is_correct\nprint(is_correct('x+2-1', '1+x', 'math'))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "True", run.stderr


def test_workers_go_with_a_killed_parent(tmp_path: Path) -> None:
    process = _script(tmp_path, "import time\nprint(is_correct('x+2-1', '1+x', 'math'), flush=True)\ntime.sleep(60)")
    assert process.stdout.readline().strip() == "ran" and process.stdout.readline().strip() == "True"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_workers_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    body = """
    import threading
    thread = threading.Thread(target=lambda: print(is_correct('x+2-1', '1+x', 'math')))
    thread.start(); thread.join()
    import psutil
    before = {child.pid for child in psutil.Process().children()}
    print(is_correct('x+3-2', '1+x', 'math'), {child.pid for child in psutil.Process().children()} == before)
    """
    assert _script(tmp_path, body).communicate(timeout=60)[0].split() == ["ran", "True", "True", "True"]


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
