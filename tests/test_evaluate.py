"""eval/evaluate.py: methods, costs, budgets, resuming, and what a user may get wrong. Players are Python functions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from eval.evaluate import evaluate, main
from eval.play.baselines import vote, within_tokens
from eval.play.calls import Models
from eval.play.methods import METHODS, Config, choose_best, fits, run_methods
from eval.play.recorder import Judge
from openrlhf_mlpo.engines import Completion, Sampling
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.rounds import Turn
from openrlhf_mlpo.team import model_state
from tests import fake_players as fake

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = fake.questions(40)
ALL = Config(methods=METHODS, rounds=3, template=load_template("compact"), budgets=("generations", "tokens"))


@pytest.fixture(scope="module")
def everything():
    """All methods once: rows by (method, leader, agent, budget, round)."""
    untrained = fake.leader("untrained", 0.4, 0.5)
    rows, transcripts, notes = run_methods(
        ALL, fake.team("ann", "bob", "cat"), [fake.leader(), untrained], QUESTIONS, aggregator=untrained
    )
    grouped: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        key = (
            row["method"],
            row["leader"],
            row["agent"] if row["method"] == "agent" else "",
            row["budget"],
            row["round"],
        )
        assert row["id"] not in grouped.setdefault(key, {}), key
        grouped[key][row["id"]] = row
    return grouped, transcripts, notes


def test_every_system_answers_every_question(everything):
    grouped, _, _ = everything
    assert {key[0] for key in grouped} == set(METHODS)
    assert all(
        len(rows) == len(QUESTIONS)
        for key, rows in grouped.items()
        if key[3] == "" or key[0] not in ("debate", "mixture_of_agents")
    )


def test_votes_oracle_and_best_agent_follow_from_the_agents(everything):
    grouped, _, notes = everything
    agents = {name: grouped["agent", "", name, "", None] for name in ("ann", "bob", "cat")}
    for question in QUESTIONS:
        rows = [agents[name][question["id"]] for name in agents]
        right = sum(row["correct"] for row in rows)
        counts = Counter(row["answer"] for row in rows).most_common()
        voted = grouped["majority_vote", "", "", "", None][question["id"]]
        assert voted["n_correct_agents"] == right
        assert grouped["oracle", "", "", "", None][question["id"]]["correct"] == (right > 0)
        if counts[0][1] > 1:
            assert voted["answer"] == counts[0][0]
            assert voted["majority_correct"] == voted["correct"]
        else:
            assert voted["majority_correct"] is None
    means = {name: sum(row["correct"] for row in rows.values()) for name, rows in agents.items()}
    assert notes["best_agent"]["name"] == max(means, key=means.get)
    assert notes["best_agent"]["chosen_on"] == "the evaluated questions"


@pytest.mark.parametrize(
    ("key", "generations", "steps"),
    [
        (("agent", "", "ann", "", None), 1, 1),
        (("majority_vote", "", "", "", None), 3, 1),
        (("leader_solo", "mlpo", "", "", None), 1, 1),
        (("leader_team", "mlpo", "", "", 0), 4, 2),
        (("leader_team", "mlpo", "", "", 2), 12, 6),
        (("leader_vote", "mlpo", "", "", None), 12, 1),
        (("leader_vote", "mlpo", "", "generations", None), 12, 1),
        (("majority_vote", "", "", "generations", None), 12, 1),
        (("debate", "", "", "", 1), 6, 2),
        (("debate", "", "", "generations", 3), 12, 4),
        (("mixture_of_agents", "untrained", "", "", 1), 7, 3),
        (("mixture_of_agents", "untrained", "", "generations", 2), 10, 4),
    ],
)
def test_cost(everything, key, generations, steps):
    for row in everything[0][key].values():
        assert (row["generations"], row["steps"]) == (generations, steps)
        assert row["tokens"] == row["prompt_tokens"] + row["completion_tokens"] > 0
        assert row["seconds"] == pytest.approx(0.001 * generations)


def test_equal_tokens_fill_the_budget_and_stay_in_it(everything):
    grouped, _, _ = everything
    budget = grouped["leader_team", "mlpo", "", "", 2]
    for method, leader in (("majority_vote", ""), ("leader_vote", "mlpo"), ("leader_vote", "untrained")):
        rows = grouped[method, leader, "", "tokens", None]
        used = [(row["tokens"], budget[i]["tokens"]) for i, row in rows.items()]
        assert all(spent <= limit for spent, limit in used)
        assert sum(spent for spent, _ in used) > 0.9 * sum(limit for _, limit in used)
    for key, rows in grouped.items():
        if key[0] in ("debate", "mixture_of_agents") and key[3] == "tokens" and key[4] > 0:
            assert all(row["tokens"] <= budget[i]["tokens"] for i, row in rows.items())


def test_transcripts_keep_every_message(everything):
    _, transcripts, _ = everything
    told = next(t for t in transcripts if t["method"] == "leader_team")
    assert len(told["turns"]) == 12 and told["gold"] == QUESTIONS[0]["answer"]
    assert set(told["turns"][0]) >= {
        "player",
        "round",
        "prompt",
        "text",
        "answer",
        "correct",
        "prompt_tokens",
        "seconds",
    }


def test_leader_methods_can_be_limited():
    config = Config(
        methods=("leader_team", "leader_solo"), template=ALL.template, leader_methods={"grpo": ("leader_solo",)}
    )
    rows, _, _ = run_methods(config, fake.team("ann"), [fake.leader(), fake.leader("grpo")], QUESTIONS[:3])
    assert {(row["method"], row["leader"]) for row in rows} == {
        ("leader_team", "mlpo"), ("leader_solo", "mlpo"), ("leader_solo", "grpo"),
    }  # fmt: skip


def test_early_stop_keeps_the_answer_and_saves_tokens():
    full = Config(methods=("leader_team",), rounds=4, template=ALL.template)
    short = Config(methods=("leader_team",), rounds=4, template=ALL.template, early_stop=True)
    team, leaders = fake.team("ann", "bob", "cat"), [fake.leader()]
    rows, stopped = (run_methods(c, team, leaders, QUESTIONS)[0] for c in (full, short))
    assert sum(row["tokens"] for row in stopped) < sum(row["tokens"] for row in rows)
    for row in stopped:
        if row["round"] >= row["played"]:
            assert row["generations"] == 4 * row["played"]
    last = [row for row in stopped if row["round"] == 3]
    assert any(row["played"] == 2 for row in last) and len(last) == len(QUESTIONS)


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_team_sizes(k):
    team = fake.team(*list(fake.SKILL)[:k])
    config = Config(methods=("leader_team", "majority_vote", "oracle"), template=ALL.template)
    rows, _, _ = run_methods(config, team, [fake.leader()], QUESTIONS)
    assert {row["generations"] for row in rows if row["method"] == "leader_team"} == {k + 1}
    assert max(row["n_correct_agents"] for row in rows) <= k


@pytest.mark.parametrize(
    ("answers", "winner"), [(["4", "5", "4"], "4"), ([None, "5", None], "5"), ([None, None], None), ([], None)]
)
def test_vote(answers, winner):
    assert vote(answers, answers, 0, "q") == winner


def test_tied_votes_favour_nobody():
    counts = Counter(vote(["a", "b", "c"], ["a", "b", "c"], 0, f"q{i}") for i in range(3000))
    assert all(900 < count < 1100 for count in counts.values()) and len(counts) == 3
    assert [vote(["a", "b"], ["a", "b"], 1, f"q{i}") for i in range(9)] == [
        vote(["b", "a"], ["b", "a"], 1, f"q{i}") for i in range(9)
    ]


def turn(tokens: int) -> Turn:
    return Turn("x", 0, "", "", tokens, 0, "stop", 0.0)


def test_within_tokens_and_fits():
    turns = [turn(10), turn(10), turn(10)]
    assert [len(within_tokens(turns, budget)) for budget in (5, 10, 25, 30)] == [1, 1, 2, 3]
    costs = [turns[:1], turns[:2], turns]
    assert fits(("generations", "tokens"), costs, 2, 30) == [("generations", 1), ("tokens", 2)]
    assert fits(("tokens",), costs, 9, 3) == [("tokens", 0)]


def test_best_agent_from_a_pool(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    team, judge = fake.team("ann", "bob"), Judge()
    first = [[Turn(a, 0, "", "<answer> 0 </answer>", 1, 1, "stop", 0.0) for a in ("ann", "bob")] for _ in QUESTIONS[:1]]
    (tmp_path / "data").mkdir()
    responses = [{"agent": "ann", "correct": False}, {"agent": "bob", "correct": True}]
    pq.write_table(pa.table({"responses": [responses]}), tmp_path / "data" / "train-0.parquet")
    best, note = choose_best(team, QUESTIONS[:1], first, judge, tmp_path)
    assert (best, note["chosen_on"], note["rates"]) == (1, "the pool", {"ann": 0.0, "bob": 1.0})
    with pytest.raises(UserError, match="no responses of agent 'cat'"):
        choose_best(fake.team("cat"), [], [], judge, tmp_path)
    with pytest.raises(UserError, match="no data"):
        choose_best(team, [], [], judge, tmp_path / "data")


class Counting:
    """An engine that echoes, and stops working after `good` calls."""

    def __init__(self, log: list, name: str, good: int = 10**9):
        self.log, self.name, self.good = log, name, good
        log.append(f"open {name}")

    def generate(self, conversations, *, n, seed, sampling, on_done):
        if self.good <= 0:
            raise RuntimeError("killed")
        self.good -= 1
        self.log.append(f"{self.name} {len(conversations)}")
        return [[Completion(f"{c} {seed} {s}", 1, 1) for s in range(n)] for c in conversations]

    def close(self):
        self.log.append(f"close {self.name}")


def test_models_answer_from_the_store(tmp_path):
    log: list[str] = []
    prompts = [f"p{i}" for i in range(10)]
    results = []
    for good in (1, 10, 10):
        with Models(tmp_path, batch=4, progress=False) as models:
            generate = models.generate("m", lambda good=good: Counting(log, "m", good), {"model": "m"}, Sampling())
            try:
                results.append(generate(prompts, 2, 5))
            except RuntimeError:
                results.append(None)
    assert log == ["open m", "m 4", "close m", "open m", "m 4", "m 2", "close m"]  # the third run opens nothing
    assert results[0] is None and results[1] == results[2]
    assert results[1][0][9][1] == Completion("p9 5 1", 1, 1, "stop")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("limit", "closed"), [(0, []), (1, ["close a", "close b", "close a"]), (2, ["close a", "close b"])]
)
def test_engines_kept_open(limit, closed):
    log: list[str] = []
    models = Models(None, max_engines=limit, progress=False)
    ask = {n: models.generate(n, lambda n=n: Counting(log, n), {"model": n}, Sampling()) for n in "abc"}
    for name in "abab" if limit < 2 else "abca":
        ask[name](["p"], 1, 0)
    assert sorted(line for line in log if line.startswith("close")) == sorted(closed)


def test_one_engine_for_players_that_differ_in_sampling():
    log: list[str] = []
    with Models(None, progress=False) as models:
        for name, kind, temperature in (("warm", "vllm", 1.0), ("cool", "vllm", 0.5), ("far", "ray", 1.0)):
            sampling = Sampling(temperature=temperature)
            make = lambda name=name: Counting(log, name)  # noqa: E731
            models.generate(name, make, {"model": "m"}, sampling, kind=kind)(["p"], 1, 0)
    assert [line for line in log if line.startswith("open")] == ["open warm", "open far"]


def test_a_model_trained_anew_is_another_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = model_state(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert model_state(str(tmp_path)) != before and model_state("some/hub-name") == ""


@pytest.fixture
def files(tmp_path):
    """A team file and a question file for the command line."""
    functions = f"{ROOT}/tests/fake_players.py"
    agents = "\n".join(f"  - {{name: {n}, model: '{functions}:{n}', engine: callable}}" for n in ("ann", "bob", "cat"))
    (tmp_path / "team.yaml").write_text(f"agents:\n{agents}\n")
    with (tmp_path / "questions.jsonl").open("w") as file:
        for q in fake.questions(30):
            file.write(json.dumps({key: q[key] for key in ("task", "subtask", "question", "answer")}) + "\n")
    return tmp_path


def command(files: Path, out: str, *more: str) -> list[str]:
    functions = f"{ROOT}/tests/fake_players.py"
    return [
        "--leader", f"mlpo=callable:{functions}:boss", "--leader", f"untrained=callable:{functions}:rookie",
        "--team", str(files / "team.yaml"), "--questions", str(files / "questions.jsonl"), "--task", "exact",
        "--rounds", "2", "--template", "compact", "--batch", "8", "--out", str(files / out), *more,
    ]  # fmt: skip


def results(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_command_line(files, capsys):
    assert main(command(files, "out", "--methods", "all", "--budget", "generations,tokens")) == 0
    assert "leader_team mlpo" in capsys.readouterr().out
    manifest = json.loads((files / "out" / "manifest.json").read_text())
    assert manifest["seed"] == 0 and "--rounds 2" in manifest["command"] and manifest["versions"]["scipy"]
    assert [agent["name"] for agent in manifest["team"]] == ["ann", "bob", "cat"]
    # Again: nothing is asked, and the results are the same to the byte.
    before = (files / "out" / "results.jsonl").read_bytes()
    main(command(files, "out", "--methods", "all", "--budget", "generations,tokens"))
    assert "0 generations made" in capsys.readouterr().out
    assert (files / "out" / "results.jsonl").read_bytes() == before


def test_subtasks(files):
    main(command(files, "out", "--methods", "majority_vote", "--subtasks", "sums1"))
    assert {row["subtask"] for row in results(files / "out")} == {"sums1"}


def test_team_sizes_by_command_line(files, capsys):
    main(command(files, "out", "--team_size", "1,3", "--methods", "leader_team,majority_vote"))
    assert {row["generations"] for row in results(files / "out" / "k1") if row["round"] == 1} == {4}
    assert {row["generations"] for row in results(files / "out" / "k3") if row["round"] == 1} == {8}


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(files):
    script = [sys.executable, str(ROOT / "eval" / "evaluate.py")]
    slow = {**os.environ, "FAKE_SLEEP": "0.02"}
    run = subprocess.Popen(
        [*script, *command(files, "killed")], env=slow, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    calls = files / "killed" / "_calls"
    deadline = time.time() + 60
    while time.time() < deadline and len(list(calls.glob("*.json"))) < 7:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = len(list(calls.glob("*.json")))
    assert kept >= 7 and not (files / "killed" / "results.jsonl").exists()
    again = subprocess.run([*script, *command(files, "killed")], capture_output=True, text=True, check=True)
    made, reused = (int(word) for word in again.stdout.splitlines()[-1].split() if word.isdigit())
    assert made > 0 and reused > 0
    subprocess.run([*script, *command(files, "whole")], capture_output=True, check=True)
    assert results(files / "killed") == results(files / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "leader_teem"], "--methods: unknown 'leader_teem'"),
        (["--budget", "money"], "--budget: unknown 'money'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--leader", "mlpo=x"], "two are named 'mlpo'"),
        (["--leader", "ann=callable:x.py:y"], "'ann' names both"),
        (["--leader_methods", "grpo=leader_solo"], "--leader_methods grpo=leader_solo"),
        (["--leader_methods", "mlpo=debate"], "--leader_methods: unknown 'debate'"),
        (["--methods", "mixture_of_agents", "--aggregator", "nobody"], "needs an untrained aggregator"),
        (["--methods", "majority_vote", "--budget", "tokens"], "--budget tokens compares with leader_team"),
        (["--subtasks", "sums0,sums7"], "has no questions of 'sums7'"),
        (["--team_size", "4"], "--team_size 4"),
        (["--team_size", "two"], "--team_size two"),
        (["--template", "nowhere.yaml"], "nowhere.yaml"),
        (["--engine_args", "{"], "--engine_args {: not JSON"),
        (["--engine_args", "[1]"], "--engine_args [1]: write a JSON object"),
        (["--engine_args", 'nobody={"seed": 1}'], "--engine_args nobody=…: the leaders are mlpo, untrained"),
        (["--columns", "question"], "--columns 'question': write OURS=THEIRS"),
        (["--test_fraction", "1.5"], "must be between 0 and 1, not 1.5"),
        (["--leader", "x=./no/such/model"], "no/such/model"),
        (["--team", "missing.yaml"], "missing.yaml"),
        (["--questions", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_user_errors_are_one_line(files, more, message):
    with pytest.raises(UserError) as caught:
        main(command(files, "out", *more))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_engine_arguments_by_leader():
    from eval.options import engine_args_of

    texts = ['grpo={"max_model_len": 8}', '{"seed": 1, "max_model_len": 4}', 'grpo={"actors": 2}']
    assert engine_args_of(texts, ["mlpo", "grpo"]) == {
        "mlpo": {"seed": 1, "max_model_len": 4},
        "grpo": {"seed": 1, "max_model_len": 8, "actors": 2},
    }


def test_methods_that_need_a_team_or_a_leader(files):
    base = ["--questions", str(files / "questions.jsonl"), "--task", "exact", "--out", str(files / "out")]
    with pytest.raises(UserError, match="leader_team needs --leader"):
        main([*base, "--methods", "leader_team"])
    with pytest.raises(UserError, match="majority_vote needs --team"):
        main([*base, "--methods", "majority_vote"])


def test_evaluate_writes_three_files(tmp_path):
    config = Config(methods=("agent", "oracle"), template=ALL.template)
    evaluate(config, fake.team("ann"), [], QUESTIONS[:2], tmp_path, manifest={"label": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "results.jsonl", "transcripts.jsonl"]


@pytest.mark.stack
def test_vllm_one_model_at_a_time_or_all(files):
    """Real vLLM: models that take turns answer as models that all stay open."""
    from tests.tiny import make_tiny_model

    models = {name: make_tiny_model(files / name, seed=i) for i, name in enumerate(("a", "b", "lead"))}
    agents = "\n".join(f"  - {{name: {name}, model: {models[name]}}}" for name in "ab")
    (files / "team.yaml").write_text(f"defaults: {{sampling: {{max_tokens: 8}}}}\nagents:\n{agents}\n")
    base = [
        sys.executable, str(ROOT / "eval" / "evaluate.py"), "--leader", f"mlpo={models['lead']}",
        "--team", str(files / "team.yaml"), "--questions", str(files / "questions.jsonl"), "--task", "exact",
        "--limit", "6", "--rounds", "2", "--template", "compact", "--max_new_tokens", "8",
        "--methods", "leader_team,leader_solo,majority_vote",
    ]  # fmt: skip
    for out, limit in (("all", "0"), ("turns", "1")):
        done = subprocess.run(
            [*base, "--out", str(files / out), "--max_engines", limit], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    rows = results(files / "all")
    assert rows == results(files / "turns")
    assert all(row["completion_tokens"] > 0 for row in rows)
