from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from openrlhf_mlpo.cli import sample_team
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.team import Agent
from tests.conftest import ROOT
from tests.fault_server import ODD, FaultServer


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def write_questions(path: Path, n: int = 6, odd: int = -1) -> Path:
    """`n` questions, of which number `odd` is the one that the server's row quirks refuse."""
    inputs = [f"not ( {i} ) is" + f" {ODD}" * (i == odd) for i in range(n)]
    rows = [{"id": i, "task": "boolean_expressions", "input": text, "target": "True"} for i, text in enumerate(inputs)]
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
        (["--questions", ""], "the questions are named by an empty text"),
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


def quirky_team(tmp_path: Path, url: str, models, **engine_args) -> Path:
    agents = [{"name": model, "model": model} for model in models]
    return write_team(
        tmp_path / "team.yaml", agents, engine="openai", engine_args={"base_url": url, "max_retries": 1, **engine_args}
    )


def quirky_command(tmp_path: Path, url: str, models, **engine_args) -> list[str]:
    """Sample from agents with quirks, six questions of which one is odd; the key is that of TEST_KEY."""
    arguments = command(tmp_path, quirky_team(tmp_path, url, models, api_key_env="TEST_KEY", **engine_args))
    write_questions(tmp_path / "q.jsonl", odd=2)
    return arguments


def shown_and_stored(tmp_path: Path, *shown: str) -> bytes:
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    return b"".join([*(text.encode() for text in shown), *files])


REFUSED = {
    "filter-azure": "2 content_filter",
    "filter-gateway": "2 content_filter",
    "filter-silent": "2 content_filter",
    "firewall": "2 refused (403 <html><body>Forbidden</body></html>)",
    "long-llamacpp": "2 too_long",
    "long-gemini": "2 too_long",
    "strange": "2 refused (422 the gizmo dislikes this one)",
    "crash": "2 refused (500 internal error: index out of range)",
    "error-inside": "2 refused (400 Provider returned error)",
    "echo-key": "2 refused (400 Bad request with headers Authorization: Bearer ***)",
}


@pytest.mark.slow
def test_a_refused_row_does_not_block_a_pool_and_no_key_is_shown(tmp_path):
    others = ("o-series", "bad-at-first", "reasoning-only", "reasoning-both", "parts", "refusal", "tools")
    key = "sk-very-secret"
    with FaultServer(key=key) as url:
        arguments = quirky_command(tmp_path, url, [*REFUSED, *others], max_retries=4)
        run = [sys.executable, "-m", "openrlhf_mlpo.cli.sample_team", *arguments]
        env = {**os.environ, "TEST_KEY": key + "\r", "OPENAI_LOG": "debug"}
        done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    for name, counts in REFUSED.items():
        assert f"agent {name}: 2 of 12 responses are empty: {counts}" in done.stdout
    assert not [name for name in others if f"agent {name}:" in done.stdout]
    for index, row in enumerate(open_pool(tmp_path / "pool")):
        for response in row["responses"]:
            refused = index == 2 and response["agent"] in REFUSED
            assert (response["text"] == "") == refused, response
            assert (response["finish_reason"] in ("stop", "refusal", "tool_calls")) != refused
    assert b"secret" not in shown_and_stored(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "model, message",
    [
        ("never-text", "12 of 12 responses are empty: 12 length; raise sampling.max_tokens"),
        ("stop-too-long", r"answered 400: Invalid 'stop\[0\]': string too long"),
        ("quota", r"has no credit left for the key in TEST_KEY \(429: You exceeded your current quota\)"),
    ],
)
def test_what_concerns_all_rows_is_an_error_and_stores_nothing(tmp_path, monkeypatch, capsys, model, message):
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    with FaultServer() as url:
        arguments = quirky_command(tmp_path, url, [model], extra_body={"stop": ["a text that is too long"]})
        for _ in range(2):  # the same command asks again
            with pytest.raises(UserError, match=f"agent {model}: .*{message}") as caught:
                sample_team.main(arguments)
    assert not list((tmp_path / "pool").rglob("*.parquet"))
    assert b"secret" not in shown_and_stored(tmp_path, str(caught.value), *capsys.readouterr())


@pytest.mark.parametrize("key", ["sk-very-secret", "sk-very-secret\r", "sk-very\u00e9secret", "sk-very secret"])
def test_a_wrong_key_is_not_shown(tmp_path, monkeypatch, capsys, key):
    monkeypatch.setenv("TEST_KEY", key)
    with FaultServer(key="sk-right") as url, pytest.raises(UserError, match="TEST_KEY") as caught:
        sample_team.main(quirky_command(tmp_path, url, ["m"]))
    trace = "".join(traceback.format_exception(caught.value))
    assert b"secret" not in shown_and_stored(tmp_path, trace, *capsys.readouterr())


def test_an_edited_function_is_refused(tmp_path):
    source = tmp_path / "agent.py"
    source.write_text("def answer(messages, **_):\n    return 'a'\n")
    team = write_team(tmp_path / "team.yaml", [{"name": "x", "model": f"{source}:answer", "engine": "callable"}])
    sample_team.main(command(tmp_path, team))
    source.write_text("def answer(messages, **_):\n    return 'b'\n")
    with pytest.raises(UserError, match="agent x.files '.*' in the pool, '.*' now"):
        sample_team.main(command(tmp_path, team))


def test_an_edited_template_is_refused(tmp_path):
    template = tmp_path / "template.yaml"
    template.write_text("agent_instruction: Think.\n")
    team = write_team(tmp_path / "team.yaml", [{**LOCAL[0], "prompt": str(template)}])
    sample_team.main(command(tmp_path, team))
    template.write_text("agent_instruction: Guess.\n")
    sample_team.load_template.cache_clear()  # as in another process
    with pytest.raises(UserError, match="agent x.prompt.agent_instruction 'Think.' in the pool, 'Guess.' now"):
        sample_team.main(command(tmp_path, team))


def test_an_evaluation_asks_an_edited_function_again(tmp_path, capsys):
    from eval import evaluate

    questions, boss = write_questions(tmp_path / "q.jsonl"), tmp_path / "boss.py"
    for answer, correct in (("True", "1.000"), ("False", "0.000")):
        boss.write_text(f"def answer(messages, **_):\n    return '<think>.</think><answer>{answer}</answer>'\n")
        evaluate.main(
            ["--leader", f"boss=callable:{boss}:answer", "--task", "bbh", "--questions", str(questions), "--methods",
             "leader_solo", "--out", str(tmp_path / "eval")]
        )  # fmt: skip
        assert f"leader_solo boss  {correct}" in " ".join(capsys.readouterr().out.split(" ")), correct


def test_an_evaluation_goes_on_past_a_refused_row(tmp_path, capsys):
    from eval import evaluate

    questions = write_questions(tmp_path / "q.jsonl", odd=2)
    boss = tmp_path / "boss.py"
    boss.write_text("def answer(messages, **_):\n    return '<think>.</think><answer>True</answer>'\n")
    with FaultServer() as url:
        team = quirky_team(tmp_path, url, ["filter-azure", "m"])
        evaluate.main(
            ["--leader", f"boss=callable:{boss}:answer", "--team", str(team), "--task", "bbh", "--questions",
             str(questions), "--rounds", "2", "--methods", "leader_team,agent", "--out", str(tmp_path / "eval")]
        )  # fmt: skip
    # round 0, once for both methods, and round 1
    assert "filter-azure: 2 of 12 responses are empty: 2 content_filter" in capsys.readouterr().out


def test_lone_surrogates_in_a_response_are_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "answer", lambda *a, **k: "a \ud800 b <answer> \udfff </answer>")
    sample_team.main(command(tmp_path, write_team(tmp_path / "team.yaml", LOCAL)))
    assert open_pool(tmp_path / "pool")[0]["responses"][0]["text"].startswith("a \ufffd b")


def test_the_command_itself(tmp_path):
    team = write_team(tmp_path / "team.yaml", [{"name": "a", "model": "./nowhere"}])
    run = [sys.executable, "-m", "openrlhf_mlpo.cli.sample_team", *command(tmp_path, team)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: team file {team}, agent 1: model './nowhere': no such directory" in done.stderr


def run_command(arguments: list[str]) -> None:
    sample_team.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_killed_at_random_moments_the_pool_is_that_of_an_undisturbed_run(tmp_path, kills):
    """SIGKILL, against a server with random 429, 500, hangs and cut connections; answers depend on prompt and seed."""
    context = multiprocessing.get_context("forkserver")  # forked from a process that has all imports: starts at once
    context.set_forkserver_preload(
        ["openrlhf_mlpo.cli.sample_team", "openai", "datasets", "pyarrow.parquet", "tests.pool.test_sample_team"]
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
