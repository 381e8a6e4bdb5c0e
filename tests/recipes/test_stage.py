"""The stage runner of the recipes: what is done is skipped, what has changed is refused, nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT


def stage(folder, name: str, *commands: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(line(folder, name, *commands), capture_output=True, text=True, **options)


def line(folder, name: str, *commands: list[str]) -> list[str]:
    words = [word for command in commands for word in ("--and", *command)][1:]
    return [sys.executable, str(ROOT / "recipes/stage.py"), "--dir", str(folder), "--name", name, "--", *words]


def shell(text: str) -> list[str]:
    return ["bash", "-c", text]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"


def test_done_stages_are_skipped_and_failed_ones_run_again(tmp_path):
    count = shell(f"echo once >> {tmp_path}/count; test -e {tmp_path}/good || {{ echo 'error: bad'; exit 3; }}")
    failed = stage(tmp_path, "a", count)
    assert failed.returncode == 3
    assert failed.stderr.splitlines()[0] == "error: bad"
    assert "stage a failed (exit 3)" in failed.stderr and str(tmp_path / "logs/a.log") in failed.stderr
    (tmp_path / "good").touch()
    assert stage(tmp_path, "a", count).returncode == 0
    again = stage(tmp_path, "a", count)
    assert (again.returncode, "done before" in again.stdout) == (0, True)
    assert (tmp_path / "count").read_text().count("once") == 2
    record = json.loads((tmp_path / "stages/a.json").read_text())
    assert record["finished"] >= record["began"] and record["seconds"] >= 0


def test_what_has_changed_is_refused_with_the_files_to_delete(tmp_path):
    for name in "abc":
        assert stage(tmp_path, name, ["true", name]).returncode == 0
    changed = stage(tmp_path, "b", ["true", "other"])
    assert changed.returncode == 2
    assert changed.stderr.startswith("error: stage b began with other commands")
    assert len(changed.stderr.splitlines()) == 1 and f"{tmp_path}/stages/{{b,c}}.json" in changed.stderr
    (tmp_path / "stages/b.json").unlink()
    assert stage(tmp_path, "b", ["true", "other"]).returncode == 0
    assert "done before" in stage(tmp_path, "a", ["true", "a"]).stdout
    stale = stage(tmp_path, "c", ["true", "c"])
    assert stale.returncode == 2 and "stage c stands on a stage that was run again" in stale.stderr


def test_several_at_once_have_one_thread_each_and_share_a_log(tmp_path):
    # Each waits for the other: one after the other would never end.
    wait = "touch {0}/{1}; until test -e {0}/{2}; do sleep 0.1; done; echo threads $OMP_NUM_THREADS"
    done = stage(tmp_path, "both", shell(wait.format(tmp_path, 1, 2)), shell(wait.format(tmp_path, 2, 1)), timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "logs/both.log").read_text().count("threads 1\n") == 2


@pytest.mark.parametrize("by_signal", [False, True])
def test_nothing_is_left_running(tmp_path, by_signal):
    """What a stage started ends with the first command that fails, and with the stage itself."""
    sleeper = shell(f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    fails = shell(f"until test -s {tmp_path}/pid; do sleep 0.1; done; {'sleep 600' if by_signal else 'exit 4'}")
    process = subprocess.Popen(line(tmp_path, "two", sleeper, fails), stderr=subprocess.PIPE, text=True)
    if by_signal:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (143 if by_signal else 4), errors
    time.sleep(0.5)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_command_that_is_not_there_is_one_line(tmp_path):
    done = stage(tmp_path, "none", ["no-such-program"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: stage none: ") and len(done.stderr.splitlines()) == 1
    assert stage(tmp_path, "empty").returncode == 2
