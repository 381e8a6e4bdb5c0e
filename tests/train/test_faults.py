"""Fault drills on the real stack: what breaks ends the run, and the same command goes on with nothing lost.

One run goes through them all, each drill at the step where the one before it left off, and in the end has seen the
prompts of a run that nothing happened to. A reward worker that runs out of memory is in tests/verify/test_hostile.py
and test_workers.py: it costs one answer its reward and never ends a run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time

import psutil
import pytest

from openrlhf_mlpo import cpu
from tests.stack import (
    MLPO,
    SAMPLES_A_STEP,
    finish,
    log_of,
    make_places,
    pairs,
    prompts_seen,
    saved_step,
    start,
    wait,
    wait_until,
)

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]
STATE = "mp_rank_00_model_states.pt"
STEPS = 12


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("faults"))


def flags_of(places) -> list[str]:
    return [
        *("--mlpo.pool", str(places / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"),
        *("--train.num_episodes", str(STEPS // 2), "--ckpt.save_steps", "1", "--ckpt.load_enable"),
        *("--ckpt.max_num", "19"),  # a state that was not written whole counts as one of them
    ]


@pytest.fixture(scope="module")
def undisturbed(places) -> list[dict]:
    """Prompts of a run that nothing happens to."""
    assert len(finish(start(MLPO, places, "whole", *flags_of(places)), places, "whole")) == STEPS
    return prompts_seen(places, "whole")


def in_rollout(places, name: str, since: int):
    """Whether a step has been saved and rollouts of the next are being rewarded, after `since` rewards."""
    begun = saved_step(places, name)
    return lambda: saved_step(places, name) > begun and len(prompts_seen(places, name)) > since + SAMPLES_A_STEP


def worker(process, *names: str) -> psutil.Process:
    """The worker process of a run whose title begins with one of `names`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith(names):
            return child
    raise AssertionError(f"no process is called {names}")


def settle(process) -> None:
    """Until nothing of a run's session is left: Ray's own processes notice and end."""
    deadline = time.time() + 60
    while time.time() < deadline:
        if not any(os.getsid(p.pid) == process.pid for p in psutil.process_iter() if _in_session(p, process.pid)):
            return
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)


def _in_session(other: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(other.pid) == session and other.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ProcessLookupError, PermissionError):
        return False


def kill_policy(process) -> None:
    worker(process, "ray::MLPOPolicyModelActor", "ray::PolicyModelActor").kill()


def kill_engine(process) -> None:
    worker(process, "VLLM::EngineCore").kill()


def terminate(process) -> None:
    process.terminate()


@pytest.mark.parametrize("fault", [kill_policy, kill_engine, terminate], ids=lambda fault: fault.__name__)
def test_a_process_that_dies_ends_the_run_and_it_goes_on(places, undisturbed, fault):
    """Each time in the rollouts after a step was saved; what follows a resume are the prompts of the whole run."""
    name = "faulty"
    before = len(prompts_seen(places, name))
    resumed_from = saved_step(places, name)
    process = start(MLPO, places, name, *flags_of(places))
    wait_until(in_rollout(places, name, before), process, places, name)
    fault(process)
    status = wait(process, timeout=180)
    settle(process)
    log = log_of(places, name)
    assert status not in (0, None), f"{status}\n{log[-3000:]}"
    assert saved_step(places, name) > resumed_from
    seen = pairs(prompts_seen(places, name, before)[:SAMPLES_A_STEP])
    expected = undisturbed[SAMPLES_A_STEP * resumed_from :][:SAMPLES_A_STEP]
    assert seen == pairs(expected), "the step after the resume had other prompts"


def test_a_full_disk_while_saving_keeps_the_state_before(places, undisturbed):
    """The state's file is a way to /dev/full: the real save fails with 'No space left on device'."""
    name = "faulty"
    begun, before = saved_step(places, name), len(prompts_seen(places, name))
    full = places / name / "ckpt" / "_actor" / f"global_step{begun + 1}"
    shutil.rmtree(full, ignore_errors=True)
    full.mkdir(parents=True)
    (full / STATE).symlink_to("/dev/full")
    process = start(MLPO, places, name, *flags_of(places))
    status = wait(process)
    settle(process)
    log = log_of(places, name)
    assert status not in (0, None)
    assert re.search(r"saving a checkpoint to .* failed, .*--ckpt\.load_enable", log), log[-3000:]
    assert saved_step(places, name) == begun, "a state that was not written whole is the one to resume from"
    seen = pairs(prompts_seen(places, name, before))
    assert seen == pairs(undisturbed[SAMPLES_A_STEP * begun :][: len(seen)])
    shutil.rmtree(full)


def test_a_corrupt_checkpoint_is_named_at_once_and_the_run_ends_like_the_undisturbed(places, undisturbed):
    name = "faulty"
    folder = places / name / "ckpt" / "_actor"
    begun = saved_step(places, name)
    assert 1 < begun < STEPS
    file = folder / f"global_step{begun}" / STATE
    file.write_bytes(file.read_bytes()[:-200])
    process = start(MLPO, places, name, *flags_of(places))
    assert wait(process, timeout=120) == 2
    last = log_of(places, name).strip().splitlines()[-1]
    assert last.startswith("error: --ckpt.load_enable: ") and str(file) in last
    remedy = re.search(r"echo -n (global_step\d+) > (\S+)$", last)
    assert remedy, last
    (folder / "latest").write_text(remedy[1])
    before = len(prompts_seen(places, name))
    assert len(finish(start(MLPO, places, name, *flags_of(places)), places, name)) == STEPS
    from_step = int(remedy[1].removeprefix("global_step"))
    assert pairs(prompts_seen(places, name, before)) == pairs(undisturbed[SAMPLES_A_STEP * from_step :])
