"""Rounds inside training on the real stack: killed and resumed, a team that fails, evaluation as before."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from openrlhf_mlpo import cpu
from openrlhf_mlpo.cli import samples
from openrlhf_mlpo.files import read_rows
from tests.stack import MLPO, finish, log_of, make_places, pairs, prompts_seen, saved_step, start, wait, wait_until

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]

# Agents that take up the leader's last answer; every question they get is recorded, so that a test can see it.
TEAM = """
import json, os, time


def _agent(name):
    def answer(messages, *, seed, sampling):
        with open(os.environ["TEAM_LOG"], "a") as log:
            log.write(json.dumps([name, messages[-1]["content"], seed]) + "\\n")
        if name == "cyd":
            time.sleep(float(os.environ.get("CYD_SLEEPS", 0)))
        left = int(os.environ.get("TEAM_FAILS_AFTER", 10**9))
        if name == "bob" and sum(1 for _ in open(os.environ["TEAM_LOG"])) > left:
            raise RuntimeError("bob's server is gone")
        return f"{name} now says <answer> True </answer>"

    return answer


ann, bob, cyd = map(_agent, ("ann", "bob", "cyd"))
"""
# Nearly greedy, so that a repeated step gives the same outputs and with them the same states.
FLAGS = (
    "--mlpo.template compact --mlpo.drop_correct 2 --mlpo.rounds 2 --rollout.temperature 0.01 --ckpt.save_steps 1 "
    "--ckpt.max_num 9"
).split()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = make_places(tmp_path_factory.mktemp("rounds"))
    (folder / "team.py").write_text(TEAM)
    agents = [
        {"name": name, "engine": "callable", "model": f"{folder}/team.py:{name}"} for name in ("ann", "bob", "cyd")
    ]
    (folder / "team.yaml").write_text(json.dumps({"agents": agents}))
    agents[-1] |= {"engine": "ray", "engine_args": {"engine": "callable"}}
    (folder / "ray.yaml").write_text(json.dumps({"agents": agents}))
    return folder


def begin(places: Path, name: str, *flags: str, **environment: str):
    (places / name).mkdir(exist_ok=True)
    os.environ.update({"TEAM_LOG": str(places / name / "team.jsonl"), **environment})
    try:
        team = ["--mlpo.pool", str(places / "pool"), "--mlpo.team", str(places / "team.yaml")]
        return start(MLPO, places, name, *FLAGS, *team, *flags)
    finally:
        for variable in environment:
            del os.environ[variable]


def asked(places: Path, name: str) -> list[list]:
    log = places / name / "team.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def kept(places: Path, name: str) -> list[Path]:
    """The files of the team's answers."""
    return list((places / name / "ckpt" / "_team").glob("*.json"))


def test_killed_in_the_middle_of_a_round_it_goes_on_with_the_same_prompts_and_states(places):
    """16 questions, 8 groups a step, of which 4 are of round 1 once there is something to go on from: 3 steps."""
    whole = begin(places, "whole")
    metrics = finish(whole, places, "whole")
    assert ["mlpo/accuracy_round_1" in step for step in metrics] == [False, True, True]
    seen = prompts_seen(places, "whole")
    assert len(seen) == 3 * 16 and len(asked(places, "whole")) == 2 * 4 * 3
    assert samples.main([str(places / "whole" / "ckpt")]) == 0
    kept_groups = [group for _, group in read_rows(places / "whole" / "ckpt" / "_samples" / "step_000003.jsonl")]
    assert [(group["step"], group["round"], len(group["outputs"])) for group in kept_groups] == [
        (3, round, 2) for round in (0, 1, 0, 1)
    ]
    assert {group["prompt"] for group in kept_groups} <= {row["prompt"] for row in seen[32:]}

    killed = begin(places, "killed", CYD_SLEEPS="600")
    # After step 1 ann and bob have revised for step 2, and cyd has not.
    wait_until(lambda: len(kept(places, "killed")) == 8 and saved_step(places, "killed") == 1, killed, places, "killed")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = len(prompts_seen(places, "killed"))
    resumed = begin(places, "killed", "--ckpt.load_enable")
    finish(resumed, places, "killed")
    assert pairs(prompts_seen(places, "killed", before)) == pairs(seen[16:])
    # What ann and bob had answered was not asked again.
    assert len(kept(places, "killed")) == 2 * 4 * 3
    times = Counter(name for name, *_ in asked(places, "killed"))
    assert times["ann"] == times["bob"] == 8 < times["cyd"]


def test_a_team_that_fails_stops_the_run_with_its_name_and_the_run_goes_on_later(places):
    stopped = begin(places, "fails", TEAM_FAILS_AFTER="12")
    assert wait(stopped) == 2
    (line,) = [line for line in log_of(places, "fails").splitlines() if line.startswith("error: ")]
    assert "agent bob" in line and "bob's server is gone" in line and "--mlpo.team_failures" in line
    assert saved_step(places, "fails") == 2
    finish(begin(places, "fails", "--ckpt.load_enable"), places, "fails")
    assert saved_step(places, "fails") == 3


def test_failures_are_counted_where_they_are_allowed(places):
    run = begin(
        places, "counts", "--mlpo.team_failures", "0.5", "--eval.dataset", str(places / "eval"), "--eval.steps", "2",
        TEAM_FAILS_AFTER="12",
    )  # fmt: skip
    metrics = finish(run, places, "counts")
    assert metrics[1]["mlpo/agents_failed"] == 0 and metrics[-1]["mlpo/agents_failed"] == pytest.approx(1 / 3)
    assert "eval_bbh_team_pass1" in log_of(places, "counts")


def test_rounds_while_the_trainer_works_on_the_batch_before(places):
    """Asynchronous, an agent in a Ray actor: both rounds in each step, and no group of two prompts."""
    flags = ["--train.async_enable", "--train.async_queue_size", "1", "--mlpo.team", str(places / "ray.yaml")]
    metrics = finish(begin(places, "async", *flags), places, "async")
    assert [step.get("mlpo/share_round_1") for step in metrics] == [None, 0.5, 0.5]
    seen = prompts_seen(places, "async")
    assert len(seen) == 3 * 16
    by_round = Counter(json.loads(row["label"]).get("round", 0) for row in seen)
    assert by_round == {0: 32, 1: 16}
    # Two outputs a group: every prompt was rewarded twice, and the team revised once for each group of round 1.
    assert set(Counter(row["prompt"] + row["label"] for row in seen).values()) == {2}
    assert len(asked(places, "async")) == 2 * 4 * 3
