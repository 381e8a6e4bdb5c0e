from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openrlhf_mlpo.cli import sample_team
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.team import Agent
from tests.fault_server import FaultServer


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def write_questions(path: Path, n: int = 6) -> Path:
    rows = [{"id": i, "task": "boolean_expressions", "input": f"not ( {i} ) is", "target": "True"} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_team(path: Path, agents: list[dict], **defaults) -> Path:
    path.write_text(json.dumps({"defaults": defaults, "agents": agents}))
    return path


def remote_team(path: Path, url: str, **engine_args) -> Path:
    agents = [
        {"name": name, "model": "m", "sampling": {"temperature": t}} for name, t in (("a", 0.0), ("b", 0.5), ("c", 1.0))
    ]
    return write_team(path, agents, engine="openai", engine_args={"base_url": url, **engine_args})


def command(tmp_path: Path, team: Path, *more: str, out: str = "pool", n: int = 6) -> list[str]:
    questions = write_questions(tmp_path / "q.jsonl", n)
    return [
        "--questions",
        str(questions),
        "--task",
        "bbh",
        "--team",
        str(team),
        "--out",
        str(tmp_path / out),
        "--samples",
        "2",
        *more,
    ]


def answer(messages, *, seed, sampling):
    """The agent of these tests: what it was asked and told, and an answer that depends on the seed."""
    return f"{json.dumps(messages)} <answer> {bool(seed % 2)} </answer>"


LOCAL = [
    {"name": "x", "model": f"{__name__}:answer", "engine": "callable"},
    {"name": "y", "model": f"{__name__}:answer", "engine": "callable", "system": "Be y."},
]


def test_a_mixed_team_end_to_end(tmp_path, capsys):
    with FaultServer() as url:
        remote = {"name": "z", "model": "m", "engine": "openai", "engine_args": {"base_url": url}}
        team = write_team(tmp_path / "team.yaml", [*LOCAL, remote])
        assert sample_team.main(command(tmp_path, team)) == 0
    rows = list(open_pool(tmp_path / "pool"))
    assert [row["question"] for row in rows] == [f"not ( {i} ) is" for i in range(6)]
    for row in rows:
        assert [(r["agent"], r["sample"]) for r in row["responses"]] == [(a, s) for a in "xyz" for s in (0, 1)]
        for r in row["responses"]:
            assert r["correct"] == (r["answer"] == "True") and r["answer"] in r["text"] and r["finish_reason"] == "stop"
        assert "Be y." not in row["responses"][0]["text"] and "Be y." in row["responses"][2]["text"]
    # a second run finds nothing to do, also when an endpoint is gone
    assert sample_team.main(command(tmp_path, team)) == 0
    assert list(open_pool(tmp_path / "pool")) == rows
    assert "tokens/s" in capsys.readouterr().err


def test_order_of_questions_and_agents_does_not_change_a_draw(tmp_path):
    pools = []
    for number, agents in enumerate((LOCAL, LOCAL[::-1])):
        team = write_team(tmp_path / f"team{number}.yaml", agents)
        sample_team.main(command(tmp_path, team, out=f"pool{number}", n=(4, 6)[number]))
        pools.append(
            {
                (row["id"], r["agent"], r["sample"]): r["text"]
                for row in open_pool(tmp_path / f"pool{number}")
                for r in row["responses"]
            }
        )
    assert pools[0].items() <= pools[1].items()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--samples", "0"], "--samples must be at least 1"),
        (["--seed", "-2"], "--seed must be at least -1"),
        (["--columns", "question"], "write OURS=THEIRS"),
        (["--template", "nice"], "template 'nice'"),
        (["--test_fraction", "2"], "--test_fraction must be between"),
        (["--questions", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_mistakes_end_before_anything_starts(tmp_path, more, message):
    team = write_team(tmp_path / "team.yaml", LOCAL)
    with pytest.raises(UserError, match=message):
        sample_team.main(command(tmp_path, team, *more))
    assert not (tmp_path / "pool").exists()


def test_changed_settings_are_refused(tmp_path):
    team = write_team(tmp_path / "team.yaml", LOCAL)
    sample_team.main(command(tmp_path, team))
    for more, message in (
        (["--seed", "5"], "seed 0 in the pool, 5 now"),
        (["--limit", "3"], "questions.rows 6 in the pool, 3 now"),
        (["--samples", "1"], "samples 2 in the pool, 1 now"),
        (["--template", "compact"], "agent x.prompt.name 'chat' in the pool, 'compact' now"),
    ):
        with pytest.raises(UserError, match=message):
            sample_team.main(command(tmp_path, team, *more))
    write_team(tmp_path / "team.yaml", [LOCAL[0], {**LOCAL[1], "sampling": {"temperature": 0.1}}])
    with pytest.raises(UserError, match="agent y.sampling.temperature 1.0 in the pool, 0.1 now"):
        sample_team.main(command(tmp_path, team))


def test_a_pool_is_extended_by_the_same_command_with_more(tmp_path):
    """More questions, samples and agents, one after the other: only what is missing is asked for, and the pool is that
    of a run that asked for everything at once."""
    team = write_team(tmp_path / "team.yaml", LOCAL)
    sample_team.main(command(tmp_path, team, "--limit", "3"))
    new = {"name": "z", "model": f"{__name__}:answer", "engine": "callable", "system": "Be z."}
    for agents, more in ((LOCAL, ()), (LOCAL, ("--samples", "5")), ([LOCAL[0], new, LOCAL[1]], ("--samples", "5"))):
        before = list(open_pool(tmp_path / "pool"))
        write_team(team, agents)
        sample_team.main(command(tmp_path, team, *more))
        after = list(open_pool(tmp_path / "pool"))
        assert [row["id"] for row in before] == [row["id"] for row in after][: len(before)]
        for old, row in zip(before, after):
            assert all(response in row["responses"] for response in old["responses"])
    sample_team.main(command(tmp_path, team, "--samples", "5", out="at_once"))
    assert list(open_pool(tmp_path / "pool")) == list(open_pool(tmp_path / "at_once"))


def test_an_extension_asks_for_what_is_missing_alone(tmp_path):
    server = FaultServer()
    with server as url:
        remote = {"name": "z", "model": "m", "engine": "openai", "engine_args": {"base_url": url}}
        team = write_team(tmp_path / "team.yaml", [remote])
        sample_team.main(command(tmp_path, team, "--limit", "4"))
        asked = len(server.requests)
        sample_team.main(command(tmp_path, team, "--samples", "3"))
        assert asked == 4 * 2 and len(server.requests) - asked == 6 * 3 - 4 * 2


def test_a_model_trained_anew_into_the_same_folder_is_refused(tmp_path):
    model = tmp_path / "model.py"
    model.mkdir()
    (model / "config.json").write_text("{}")
    agent = Agent(name="x", model=str(model))
    before = agent.identity()
    assert before == Agent(name="x", model=str(model)).identity()
    (model / "config.json").write_text('{"trained": "anew"}')
    assert agent.identity()["files"] != before["files"]
    assert Agent(name="x", model="hub/name").identity()["files"] == ""


def test_an_endpoint_that_dies_keeps_what_was_done(tmp_path):
    with FaultServer(model="other") as url:
        bad = {"name": "z", "model": "m", "engine": "openai", "engine_args": {"base_url": url}}
        team = write_team(tmp_path / "team.yaml", [LOCAL[0], bad])
        with pytest.raises(UserError, match="agent z: .*no model 'm' .404.; it serves other .what was sampled is kept"):
            sample_team.main(command(tmp_path, team))
    with pytest.raises(UserError, match="agent z: no connection"):
        sample_team.main(command(tmp_path, team))
    with FaultServer() as url:  # an address may change between runs
        write_team(tmp_path / "team.yaml", [LOCAL[0], {**bad, "engine_args": {"base_url": url}}])
        assert sample_team.main(command(tmp_path, team)) == 0
    assert len(open_pool(tmp_path / "pool")) == 6


def test_keys_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FaultServer(key="sk-secret") as url:
        team = remote_team(tmp_path / "team.yaml", url)
        sample_team.main(command(tmp_path, team))
    stored = b"".join(file.read_bytes() for file in (tmp_path / "pool").rglob("*") if file.is_file())
    assert b"sk-secret" not in stored


def test_lone_surrogates_in_a_response_are_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "answer", lambda *a, **k: "a \ud800 b <answer> \udfff </answer>")
    sample_team.main(command(tmp_path, write_team(tmp_path / "team.yaml", LOCAL)))
    assert open_pool(tmp_path / "pool")[0]["responses"][0]["text"].startswith("a \ufffd b")


def test_the_command_itself(tmp_path):
    team = write_team(tmp_path / "team.yaml", [{"name": "a", "model": "./nowhere"}])
    run = [sys.executable, "-m", "openrlhf_mlpo.cli.sample_team", *command(tmp_path, team)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: agent a: model './nowhere': no such directory" in done.stderr


def run_command(arguments: list[str]) -> None:
    sample_team.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_killed_at_random_moments_the_pool_is_that_of_an_undisturbed_run(tmp_path, kills):
    """SIGKILL, against a server with random 429, 500, hangs and cut connections; answers depend on prompt and seed."""
    context = multiprocessing.get_context("forkserver")  # forked from a process that has all imports: starts at once
    context.set_forkserver_preload(
        ["openrlhf_mlpo.cli.sample_team", "openai", "datasets", "pyarrow.parquet", "tests.test_sample_team"]
    )
    rng = random.Random(0)
    server = FaultServer(limit=0.05, error=0.05, hang=0.01, cut=0.05, delay=0.02, hang_s=2.0)
    killed, pools, alive = 0, 0, []
    with server as url:
        team = remote_team(tmp_path / "team.yaml", url, concurrency=8, timeout=1.0)
        while killed < kills:
            arguments = command(tmp_path, team, "--flush_every", "4", out=f"pool{pools}", n=60)
            if pools % 2 and not (tmp_path / f"pool{pools}").exists():  # every other one is extended
                sample_team.main([*arguments, "--limit", "20", "--samples", "1"])
            process = context.Process(target=run_command, args=(arguments,))
            began = time.monotonic()
            process.start()
            process.join(rng.uniform(0.1, 2.5))
            if process.exitcode is None:
                process.kill()
                process.join()
                killed += 1
                alive.append(time.monotonic() - began)
            else:
                assert process.exitcode == 0
                pools += 1
        sample_team.main(command(tmp_path, team, "--flush_every", "4", out=f"pool{pools}", n=60))
    with FaultServer() as url:
        calm = remote_team(tmp_path / "calm.yaml", url)
        sample_team.main(command(tmp_path, calm, out="calm", n=60))
    expected = list(open_pool(tmp_path / "calm"))
    for number in range(pools + 1):
        assert list(open_pool(tmp_path / f"pool{number}")) == expected
    asked = len(server.requests) / (pools + 1) / (60 * 3 * 2)
    print(f"\n{killed} kills after {min(alive):.2f} to {max(alive):.2f} s, {pools + 1} pools, {server.counts}")
    print(f"{asked:.2f} requests per response")
