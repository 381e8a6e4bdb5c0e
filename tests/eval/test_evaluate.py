"""eval/evaluate.py: methods, costs, budgets, resuming, and what a user may get wrong. Players are Python functions."""

from __future__ import annotations

import argparse
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
from eval.options import check, parse_args
from eval.play.calls import Models
from eval.play.methods import METHODS, Config, run_methods
from eval.play.players import Players
from eval.play.pools import read_pool
from eval.play.recorder import vote
from eval.play.state import deepest
from openrlhf_mlpo.engines import Completion, Sampling
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import write_whole
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.team import model_state
from tests import fake_players as fake
from tests.conftest import ROOT
from tests.small import write_pool

QUESTIONS = fake.questions(40)
ALL = Config(methods=METHODS, rounds=3, template=load_template("compact"), budgets=("generations", "tokens"))


def make_pool(path: Path, questions: list[Question], best: dict[str, str], agents=("ann", "bob", "cat")) -> Path:
    """A pool in which, by subtask, one agent is always right and the others every third time."""
    rows = []
    for number, question in enumerate(questions):
        responses = [
            {"agent": name, "model": "m", "sample": 0, "text": "t", "answer": "1", "prompt_tokens": 1,
             "correct": best[question.subtask] == name or number % 3 == 0, "completion_tokens": 1,
             "finish_reason": "stop"}
            for name in agents
        ]  # fmt: skip
        rows.append({**question.row(), "responses": responses})
    return write_pool(path, rows)


BEST = {"sums0": "bob", "sums1": "cat"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All methods once: rows by (method, leader, agent, budget, round)."""
    untrained = fake.leader("untrained", 0.4, 0.5)
    others = [Question(f"p{i}", "exact", f"other {i}", "1", f"sums{i % 2}") for i in range(10)]
    path = make_pool(tmp_path_factory.mktemp("pool") / "pool", others, BEST)
    names = ("ann", "bob", "cat")
    rows, transcripts, notes = run_methods(
        ALL, fake.team(*names), [fake.leader(), untrained], QUESTIONS, aggregator=untrained,
        pool=read_pool(path, names, QUESTIONS),
    )  # fmt: skip
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
        rows = [agents[name][question.id] for name in agents]
        right = sum(row["correct"] for row in rows)
        counts = Counter(row["answer"] for row in rows).most_common()
        voted = grouped["majority_vote", "", "", "", None][question.id]
        assert voted["n_correct_agents"] == right
        assert grouped["oracle", "", "", "", None][question.id]["correct"] == (right > 0)
        if counts[0][1] > 1:
            assert voted["answer"] == counts[0][0]
            assert voted["majority_correct"] == voted["correct"]
        else:
            assert voted["majority_correct"] is None
    best = {row["agent"] for row in grouped["best_agent", "", "", "", None].values()}
    assert best == {notes["best_agent"]["name"]} and notes["best_agent"]["chosen_on"] == "the pool"


def test_best_agent_without_a_pool_is_the_best_on_these_questions():
    config = Config(methods=("agent", "best_agent"), template=ALL.template)
    rows, _, notes = run_methods(config, fake.team("cat", "ann", "bob"), [], QUESTIONS)
    right = Counter(row["agent"] for row in rows if row["method"] == "agent" and row["correct"])
    assert notes["best_agent"]["chosen_on"] == "the evaluated questions"
    assert notes["best_agent"]["name"] == max(right, key=right.get)
    assert notes["best_agent"]["rates"] == {name: right[name] / len(QUESTIONS) for name in ("cat", "ann", "bob")}


def test_router_sends_each_kind_to_its_best_agent(everything):
    grouped, _, notes = everything
    for row in grouped["router", "", "", "", None].values():
        assert row["agent"] == BEST[row["subtask"]]
        of_agent = grouped["agent", "", row["agent"], "", None][row["id"]]
        same = ("answer", "correct", "tokens", "generations", "formatted")
        assert {key: row[key] for key in same} == {key: of_agent[key] for key in same}
    assert [(kind["task"], kind["subtask"], kind["agent"]) for kind in notes["router"]] == [
        ("exact", "sums0", "bob"), ("exact", "sums1", "cat"),
    ]  # fmt: skip
    assert notes["router"][0]["rates"] == {"ann": 0.4, "bob": 1.0, "cat": 0.4}


def test_router_of_kinds_that_the_pool_lacks_and_of_part_of_a_team(tmp_path):
    path = make_pool(tmp_path / "pool", [q for q in QUESTIONS if q.subtask == "sums0"], BEST)
    config = Config(methods=("router",), template=ALL.template)
    rows, _, notes = run_methods(config, fake.team("ann", "cat"), [], QUESTIONS, pool=read_pool(path, ["ann"], []))
    assert {row["agent"] for row in rows} == {"ann"}  # ann and cat are as good: the first; bob is not in this team
    assert notes["router"][1] == {"task": "exact", "subtask": "sums1", "agent": "ann", "rates": {}}


def test_the_team_votes_again_in_every_round(everything):
    grouped, transcripts, _ = everything
    for transcript in (t for t in transcripts if t["method"] == "leader_team"):
        for t in range(3):
            turns = transcript["turns"][: 4 * t + 3]
            row = grouped["team_vote", transcript["leader"], "", "", t][transcript["id"]]
            counts = Counter(turn["answer"] for turn in turns[-3:] if turn["answer"] is not None)
            assert counts[row["answer"]] == max(counts.values()) and row["generations"] == len(turns)
            right = {turn["answer"]: turn["correct"] for turn in turns[-3:]}
            assert row["correct"] == right[row["answer"]]
            if t == 0:
                first = grouped["majority_vote", "", "", "", None][transcript["id"]]
                assert (row["answer"], row["correct"]) == (first["answer"], first["correct"])


def test_whom_a_leader_follows(everything):
    grouped, transcripts, _ = everything
    asked = [t for t in transcripts if t["method"] == "leader_team" and t["leader"] == "mlpo"]
    sizes = Counter()
    for transcript in asked:
        for t in range(3):
            *responses, output = transcript["turns"][4 * t : 4 * t + 4]
            follows = [turn["player"] for turn in responses if turn["answer"] == output["answer"]]
            assert grouped["leader_team", "mlpo", "", "", t][transcript["id"]]["follows"] == follows
            sizes[len(follows)] += 1
    assert sizes[1] and sizes[2]


def test_a_leader_follows_by_the_answer_not_its_wording():
    replies = {"ann": r"\boxed{\frac{1}{2}}", "bob": "<answer> 0.5 </answer>", "cat": "I do not know", "boss": ""}
    question = [Question("h", "math", "Half?", r"\frac{1}{2}")]
    for said, follows in (("<answer> 1/2 </answer>", ["ann", "bob"]), ("<think> hm", [])):
        players = {name: fake.player(name, lambda *_, text=text: text) for name, text in replies.items()}
        players["boss"] = fake.player("boss", lambda *_, said=said: said)
        config = Config(methods=("leader_team",), template=ALL.template)
        rows, _, _ = run_methods(config, [players[name] for name in ("ann", "bob", "cat")], [players["boss"]], question)
        assert rows[0]["follows"] == follows


def test_a_budget_of_tokens_is_that_of_a_leader_that_plays_with_its_team():
    config = Config(
        methods=("leader_team", "leader_solo", "majority_vote"), budgets=("tokens",), template=ALL.template,
        leader_methods={"mlpo": ("leader_solo",)},
    )  # fmt: skip
    rows, _, _ = run_methods(config, fake.team("ann"), [fake.leader(), fake.leader("other")], QUESTIONS[:3])
    assert {row["leader"] for row in rows if row["method"] == "leader_team"} == {"other"}
    assert any(row["budget"] == "tokens" for row in rows)


def test_equal_budgets_follow_rounds_that_were_saved():
    config = Config(
        methods=("leader_team", "majority_vote"), rounds=4, early_stop=True, budgets=("generations",),
        template=ALL.template,
    )  # fmt: skip
    rows, _, _ = run_methods(config, fake.team("ann", "bob", "cat"), [fake.leader()], QUESTIONS)
    used = {row["id"]: row["generations"] for row in rows if row["method"] == "leader_team"}
    assert min(used.values()) < 16
    assert used == {row["id"]: row["generations"] for row in rows if row["budget"] == "generations"}


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
    shown = next(t for t in transcripts if t["method"] == "leader_team")
    assert len(shown["turns"]) == 12 and shown["gold"] == QUESTIONS[0].answer
    assert set(shown["turns"][0]) >= {
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


@pytest.mark.parametrize(("limit", "place"), [(5, 0), (10, 0), (25, 1), (30, 2), (99, 2)])
def test_deepest_step_within_a_limit(limit, place):
    assert deepest([10, 20, 30], limit) == place


def test_rates_of_a_pool(tmp_path):
    questions = fake.questions(6)
    path = make_pool(tmp_path / "pool", questions, BEST)
    pool = read_pool(path, ["ann", "bob"], [questions[1], Question("x", "exact", "not there", "1")])
    assert pool.rates(["bob", "ann"]) == {"bob": 4 / 6, "ann": 2 / 6}
    assert pool.rates(["bob", "eve"], ("exact", "sums0")) == {"bob": 1.0}
    assert pool.rates(["bob"], ("math", "")) == {}
    assert pool.shared == 1


@pytest.mark.parametrize("change", ["spaces", "task"])
def test_a_question_of_the_pool_is_known_again(tmp_path, change):
    question = fake.questions(1)[0]
    path = make_pool(tmp_path / "pool", [question], BEST)
    text = question.text.replace(" ", "  ") if change == "spaces" else question.text
    assert read_pool(path, ["ann"], [Question("other", "math", text, "1")]).shared == 1


def test_pools_of_others(tmp_path):
    with pytest.raises(UserError, match="--pool .*nowhere.*no pool here"):
        read_pool(tmp_path / "nowhere", [], [])
    path = make_pool(tmp_path / "pool", fake.questions(3), BEST)
    with pytest.raises(UserError, match="no responses of agent 'eve'; it has ann, bob, cat"):
        read_pool(path, ["ann", "eve"], [])
    bare = Question("b", "exact", "no kind", "1")
    row = {**bare.row(), "subtask": None, "responses": [{"agent": "ann", "correct": True}, {"agent": "bob"}]}
    assert read_pool(write_pool(tmp_path / "own", [row]), ["ann"], []).rates(["ann", "bob"], ("exact", "")) == {
        "ann": 1.0, "bob": 0.0,
    }  # fmt: skip


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
    "damage",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}", b'{"seconds": 1, "completions": [[["a", 1, 1, "stop"]]]}',
        b'{"seconds": null, "completions": null}', b'{"seconds": 1, "completions": [[[1]], [[2]]]}', "cut",
    ],
)  # fmt: skip
def test_damaged_answers_are_asked_again(tmp_path, damage, capsys):
    log: list[str] = []
    results = []
    for _ in range(3):
        with Models(tmp_path, progress=False) as models:
            generate = models.generate("m", lambda: Counting(log, "m"), {"model": "m"}, Sampling())
            results.append(generate(["a", "b"], 1, 5)[0])
            models.report()
        (file,) = tmp_path.iterdir()
        if len(results) == 1:
            file.write_bytes(file.read_bytes()[:-9] if damage == "cut" else damage)
    assert log == ["open m", "m 2", "close m"] * 2 and results[0] == results[1] == results[2]
    assert capsys.readouterr().err.count("1 damaged files") == 1


def test_empty_responses_are_named_with_their_reasons(tmp_path, capsys):
    class Refusing(Counting):
        def generate(self, conversations, **_):
            reasons = ["stop", "content_filter", "too_long", "content_filter"]
            return [[Completion("" if r != "stop" else "hi", 1, 1, r)] for r in reasons]

    with Models(tmp_path, progress=False) as models:
        models.generate("bob", lambda: Refusing([], "bob"), {"model": "m"}, Sampling())(list("abcd"), 1, 0)
        models.report()
    assert "bob: 3 of 4 responses are empty: 2 content_filter, 1 too_long" in "".join(capsys.readouterr())


LONE = "\ud800 \udfff"


def test_lone_surrogates_never_cost_the_results(tmp_path):
    """In what models write, in questions, in names and on the command line."""

    class Odd(Counting):
        def generate(self, conversations, *, n, **_):
            return [[Completion(f"é {LONE} <answer> {LONE} </answer>", 1, 1)] * n for _ in conversations]

    question = Question("q", "exact", f"What is {LONE}?", f"x{LONE}", f"kind {LONE}")
    config = Config(methods=tuple(m for m in METHODS if m != "router"), rounds=2)
    rows = []
    for _ in range(2):  # the second time from the store
        with Models(tmp_path / "_calls", progress=False) as models:
            ann, boss = fake.team("ann")[0], fake.leader()
            for player in (ann, boss):
                player.generate = models.generate(player.name, lambda: Odd([], ""), {"model": player.name}, Sampling())
            rows.append(
                evaluate(config, [ann], [boss], [question], tmp_path, manifest={"label": LONE}, aggregator=boss)
            )
    assert rows[0] == rows[1] and rows[0][0]["answer"] == "\ufffd \ufffd"
    for name in ("results.jsonl", "transcripts.jsonl", "manifest.json"):
        assert "\ufffd" in (tmp_path / name).read_text(encoding="utf-8")
    json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))


def test_files_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/x: cannot be written"):
        write_whole(tmp_path / "file" / "x", ["text"])
    with pytest.raises(UserError, match="--out .*file"):
        Models(tmp_path / "file" / "_calls")


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
            file.write(json.dumps({key: q.row()[key] for key in ("task", "subtask", "question", "answer")}) + "\n")
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
    printed = capsys.readouterr().out
    assert "leader_team mlpo" in printed and "router" not in printed
    manifest = json.loads((files / "out" / "manifest.json").read_text())
    assert manifest["seed"] == 0 and "--rounds 2" in manifest["command"] and manifest["versions"]["scipy"]
    assert [agent["name"] for agent in manifest["team"]] == ["ann", "bob", "cat"]
    # Again: nothing is asked, and the results are the same to the byte.
    before = (files / "out" / "results.jsonl").read_bytes()
    main(command(files, "out", "--methods", "all", "--budget", "generations,tokens"))
    assert "0 generations made" in capsys.readouterr().out
    assert (files / "out" / "results.jsonl").read_bytes() == before


def test_router_by_command_line_and_a_pool_that_holds_the_questions(files, capsys):
    pool = make_pool(files / "pool", fake.questions(12), BEST)
    main(command(files, "out", "--methods", "router,leader_team", "--pool", str(pool)))
    printed = capsys.readouterr()
    assert "warning: 12 of 30 questions are in" in printed.err and "router" in printed.out
    manifest = json.loads((files / "out" / "manifest.json").read_text())
    assert manifest["router"][0]["agent"] == "bob" and manifest["n_in_pool"] == 12
    # A pool of other agents tells nothing of these; without the two methods it is there for the warning alone.
    others = str(make_pool(files / "others", fake.questions(12), BEST, agents=("dan",)))
    with pytest.raises(UserError, match="no responses of agent 'ann'; it has dan"):
        main(command(files, "out", "--methods", "best_agent", "--pool", others))
    main(command(files, "out", "--methods", "majority_vote", "--pool", others))
    assert "warning: 12 of 30 questions" in capsys.readouterr().err


def test_columns_and_test_fraction(files):
    with (files / "own.jsonl").open("w") as file:
        for q in fake.questions(40):
            file.write(json.dumps({"ask": q.text, "gold": q.answer}) + "\n")
    rows = []
    for fraction in ("0.2", "0.5"):
        base = command(files, "out", "--columns", "question=ask,answer=gold", "--methods", "majority_vote")
        main([*base, "--questions", str(files / "own.jsonl"), "--split", "test", "--test_fraction", fraction])
        rows.append({row["id"] for row in results(files / "out")})
    assert 0 < len(rows[0]) < len(rows[1]) < 40 and rows[0] < rows[1]


def settled_args(*flags: str) -> argparse.Namespace:
    args = parse_args("", ["--task", "bbh", "--out", "x", "--methods", "leader_solo", *flags])
    check(args)
    return args


def test_engine_arguments_by_leader():
    leaders = [
        "--leader",
        "a=model",
        "--leader",
        "b=openai:gpt",
        "--leader",
        "c=callable:f.py:g",
        "--leader",
        "d=ray:m",
    ]
    own = ["--engine_args", 'b={"base_url": "http://h/v1"}', "--leader_engine_args", 'd={"actors": 2, "x": 0}']
    args = settled_args(*leaders[:2], *leaders[4:], *own[2:], "--engine_args", '{"max_model_len": 64, "x": 1}')
    assert args.engine_args == {
        "a": {"max_model_len": 64, "x": 1}, "c": {}, "d": {"max_model_len": 64, "actors": 2, "x": 0},
    }  # fmt: skip
    args = settled_args(*leaders, *own, "--chat_template_kwargs", '{"enable_thinking": false}')
    variables = {"chat_template_kwargs": {"enable_thinking": False}}
    assert args.engine_args == {
        "a": variables, "b": {"base_url": "http://h/v1", "extra_body": variables}, "c": {},
        "d": {"actors": 2, "x": 0, **variables},
    }  # fmt: skip


def test_the_variables_of_a_chat_template_reach_the_leaders_prompt(files):
    from tests.tiny import make_tiny_model

    folder = Path(make_tiny_model(files / "model"))
    template = "{{ messages[-1]['content'] }}{% if not enable_thinking %} think not{% endif %}"
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=name.endswith("jinja"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    )
    for thinking, end in (("true", "is 1?"), ("false", "think not")):
        flags = ["--chat_template_kwargs", f'{{"enable_thinking": {thinking}}}', "--template", "compact"]
        args = settled_args("--leader", f"mlpo={folder}", "--max_new_tokens", "8", *flags)
        config = Config(methods=("leader_solo",), template=ALL.template)
        (leader,) = Players(args, config, [], {"mlpo": str(folder)}, Models()).leaders
        assert leader.leader_prompt(ALL.template, "What is 1?", []).endswith(end)


def test_questions_that_do_not_fit_a_leaders_prompt(files):
    from tests.tiny import make_tiny_model

    folder = str(make_tiny_model(files / "model"))
    args = settled_args("--leader", f"mlpo={folder}", "--max_new_tokens", "8", "--max_prompt_tokens", "99")
    fits, long = Question("a", "bbh", "True is", "True"), Question("b", "bbh", "True and " * 99, "True")
    config = Config(methods=("leader_solo",), template=ALL.template, rounds=3)
    players = Players(args, config, [], {"mlpo": folder}, Models())
    assert players.check_fit([fits, long], drop=True) == [fits]
    with pytest.raises(UserError, match=r"question b .*does not fit the prompt of leader 'mlpo' \(99 tokens\)"):
        players.check_fit([fits, long], drop=False)


def test_an_endpoint_without_an_address(files, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"--leader gpt=openai:m: where is it served\? Give --engine_args"):
        main(command(files, "out", "--leader", "gpt=openai:m"))


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
        (["--leader_methods", "grpo=leader_solo"], "--leader_methods grpo=…: the leaders are mlpo, untrained"),
        (["--leader_methods", "mlpo=debate"], "--leader_methods: unknown 'debate'"),
        (["--leader_engine_args", "grpo={}"], "--engine_args grpo=…: the leaders are mlpo, untrained"),
        (["--engine_args", "mlpo=[1]"], "--engine_args of mlpo [1]: not a JSON object"),
        (["--chat_template_kwargs", "no"], "--chat_template_kwargs no: not a JSON object"),
        (["--methods", "router"], "--methods router needs --pool"),
        (["--methods", "team_vote"], "--methods team_vote needs leader_team"),
        (["--methods", "router", "--pool", "missing"], "--pool missing: no pool here"),
        (["--columns", "question"], "--columns 'question': write OURS=THEIRS"),
        (["--columns", "prompt=q"], "--columns: 'prompt' is no column of ours"),
        (["--test_fraction", "1.5"], "--test_fraction must be between 0 and 1, not 1.5"),
        (["--limit", "-1"], "--limit must be at least 0"),
        (["--temperature", "nan"], "--temperature must be at least 0"),
        (["--leader", "=x"], "--leader '=x': write [NAME=]MODEL"),
        (
            ["--methods", "leader_team", "--leader_methods", "mlpo=leader_solo", "--leader_methods", "untrained="],
            "--leader_methods leaves no leader to play leader_team",
        ),
        (
            [
                "--methods",
                "leader_team,majority_vote",
                "--budget",
                "tokens",
                "--leader_methods",
                "mlpo=leader_solo",
                "--leader_methods",
                "untrained=leader_solo",
            ],
            "--budget tokens compares with leader_team, which no leader plays",
        ),
        (
            ["--methods", "mixture_of_agents", "--aggregator", "nobody"],
            "--methods mixture_of_agents needs --leader untrained=MODEL, or",
        ),
        (["--methods", "majority_vote", "--budget", "tokens"], "--budget tokens compares with leader_team"),
        (["--subtasks", "sums0,sums7"], "has no questions of 'sums7'"),
        (["--team_size", "4"], "--team_size 4"),
        (["--team_size", "two"], "--team_size two"),
        (["--template", "nowhere.yaml"], "nowhere.yaml"),
        (["--engine_args", "{"], "--engine_args {: not a JSON object"),
        (["--engine_args", 'nobody={"seed": 1}'], "--engine_args nobody=…: the leaders are mlpo, untrained"),
        (["--leader", "x=./no/such/model"], "no/such/model"),
        (["--team", "missing.yaml"], "missing.yaml"),
        (["--questions", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_user_errors_are_one_line(files, more, message):
    with pytest.raises(UserError) as caught:
        main(command(files, "out", *more))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_leader_may_be_shown_is_checked(files, capsys):
    with pytest.raises(SystemExit):
        main(command(files, "out", "--show", "answers"))
    assert "--show: invalid choice: 'answers'" in capsys.readouterr().err


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
