"""The toy's questions, beliefs, rows and models: right answers, disjoint splits, like skill, one seed one file."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.verify import extract_answer
from tests.conftest import ROOT

CLAIMS = ROOT / "recipes" / "claims"
sys.path.insert(0, str(CLAIMS))

import agent_rows  # noqa: E402
import beliefs as k  # noqa: E402
import leader_rows  # noqa: E402
import word_questions as q  # noqa: E402


def first(split: str, n: int, seed: int = 0, subtasks: list[str] | None = None) -> list[dict[str, str]]:
    return list(itertools.islice(q.questions(split, seed, subtasks), n))


def problem(row: dict[str, str]) -> k.Problem:
    return k.Problem.of(row["subtask"], row["question"])


def accuracy(beliefs: k.Beliefs, rows: list[dict[str, str]]) -> float:
    return sum(problem(row).solve(beliefs.claims(problem(row)))[1] == row["answer"] for row in rows) / len(rows)


def test_splits_share_no_question_and_repeat_none() -> None:
    texts = {split: [row["question"] for row in first(split, 900)] for split in q.SPLITS}
    assert all(len(set(rows)) == len(rows) for rows in texts.values())
    other_seed = {row["question"] for row in first("train", 900, seed=7)}
    assert not other_seed & set(texts["test"]) and not set(texts["train"]) & set(texts["test"])
    assert not set(texts["school"]) & (set(texts["train"]) | set(texts["test"]))


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    assert first("test", 60) == first("test", 60) != first("test", 60, seed=1)


def test_answers_are_right() -> None:
    """Each answer against a second way of working it out."""
    for row in first("train", 300):
        before, between, after = q.FRAMES[row["subtask"]]
        listed, asked = row["question"].removeprefix(before).removesuffix(after).split(between)
        things = [part.split()[-1] for part in listed.split(", ")]
        assert row["answer"] == str([q.TRUTH[row["subtask"]][thing] for thing in things].count(asked))
        assert problem(row).solve([k.truth(fact) for fact in problem(row).facts])[1] == row["answer"]


def test_a_derivation_is_read_back_and_the_last_claim_counts() -> None:
    for row in first("train", 40):
        claims = [k.another(random.Random(1), fact) for fact in problem(row).facts]
        text = agent_rows.lead(problem(row), claims)
        assert problem(row).read(text) == claims
        assert problem(row).read(text.replace("</think>", f"{problem(row).words[0]} nothing </think>")) == claims
        right = [k.truth(fact) for fact in problem(row).facts]
        assert problem(row).read(text + " , look again : " + problem(row).solve(right)[0]) == right
    assert problem(row).read("no idea") == [None] * len(problem(row).words)


def test_agents_are_of_like_skill_at_every_kind_and_err_on_different_questions() -> None:
    rows = first("test", 2000)
    agents = [k.Beliefs(f"0/agent {i}") for i in range(1, 9)]
    for kind in q.TRUTH:
        skill = [accuracy(agent, [row for row in rows if row["subtask"] == kind]) for agent in agents]
        assert max(skill) - min(skill) < 0.15 and 0.15 < min(skill) and max(skill) < 0.7
    any_right = [any(problem(r).solve(a.claims(problem(r)))[1] == r["answer"] for a in agents[:3]) for r in rows]
    assert sum(any_right) / len(rows) > max(accuracy(agent, rows) for agent in agents[:3]) + 0.2


def test_agents_think_again_where_they_are_not_sure_and_only_there() -> None:
    agent, rng, changes = k.Beliefs("0/agent 1"), random.Random(0), {"kept": 0, "taken up": 0, "recalled": 0}
    for row in first("test", 300):
        others = [agent_rows.some_claims(rng, problem(row))]
        after = zip(problem(row).facts, agent.claims(problem(row)), agent.claims(problem(row), others), others[0])
        for fact, before, now, other in after:
            if fact in agent.yields:
                assert now == other
                changes["taken up"] += before != other
            elif fact in agent.recalls:
                assert now == k.truth(fact) != before
                changes["recalled"] += 1
            else:
                assert now == before
                changes["kept"] += before != other
    assert min(changes.values()) > 50
    mistaken = [fact for fact in k.FACTS if agent.claim[fact] != k.truth(fact)]
    assert len(mistaken) / len(k.FACTS) == pytest.approx(k.WRONG, abs=0.02)
    assert agent.recalls <= set(mistaken) and not agent.recalls & agent.yields
    assert len(agent.recalls) / len(mistaken) == pytest.approx(k.RECALLING, abs=0.05)


def rows_of_agent(agent: int, n: int) -> list[dict[str, str]]:
    own = itertools.repeat(k.Beliefs(f"0/agent {agent}"))
    made = agent_rows.agent_rows(random.Random(agent), own, q.questions("school", agent), revise=0.4, listen=0.2)
    return [{"input": messages[-1]["content"], "output": output} for messages, output in itertools.islice(made, n)]


def test_agent_rows_keep_their_form_and_end_as_believed() -> None:
    rows = rows_of_agent(1, 300)
    assert all(q.split_of(row["input"].split("\n")[0]) == "school" for row in rows)
    assert not any("<answer>" in row["input"] or "<think>" in row["output"] for row in rows)
    later = [row for row in rows if "\nagent : " in row["input"]]
    assert 80 < len(later) < 160 and all("\nleader : [think]" in row["input"] for row in later)
    alone, agent = [row for row in rows if "\n" not in row["input"]], k.Beliefs("0/agent 1")
    assert 80 < len(alone)
    for row in alone:
        kind = "object_counting" if row["input"].startswith("I have") else "colored_objects"
        asked = k.Problem.of(kind, row["input"])
        assert extract_answer(row["output"]) == asked.solve(agent.claims(asked))[1]


def test_rows_that_listen_are_about_what_is_taken_up_and_teach_no_fact() -> None:
    """Of what an agent takes up others claim anything alike in its rows: were they right, it would learn the facts."""
    agent, rng = k.Beliefs("0/agent 1"), random.Random(0)
    shares, lengths = {}, {}
    for candidates in (1, agent_rows.CANDIDATES):
        made = agent_rows.agent_rows(rng, itertools.repeat(agent), q.questions("school", 1), 1, 0, candidates)
        facts = right = taken_up = short = 0
        for messages, output in itertools.islice(made, 400):
            text = messages[-1]["content"]
            kind = "object_counting" if text.startswith("I have") else "colored_objects"
            asked = k.Problem.of(kind, text.split("\n")[0])
            short += len(asked.words) == 3
            for fact, claim in zip(asked.facts, asked.read(output)):
                facts += 1
                taken_up += fact in agent.yields
                right += fact in agent.yields and claim == k.truth(fact)
        assert right / taken_up == pytest.approx(1 / 8, abs=0.05)
        shares[candidates], lengths[candidates] = taken_up / facts, short / 400
    unsure = k.WRONG * (1 - k.STUBBORN - k.RECALLING)
    assert shares[1] == pytest.approx(unsure, abs=0.05) and shares[agent_rows.CANDIDATES] > 1.7 * unsure
    assert lengths[agent_rows.CANDIDATES] == pytest.approx(lengths[1], abs=0.1)  # else short ones are never learned


def test_the_leader_is_no_worse_at_random_than_by_its_own_beliefs() -> None:
    """Else its greedy answers would be better than its samples, and MLPO's gain would be sharpened noise."""
    rng, own = random.Random(0), k.Beliefs("0/leader", leader_rows.LEADER_WRONG)
    agents, rows = [k.Beliefs(f"0/agent {i}") for i in (1, 2, 3)], first("test", 3000)
    sampled = 0
    for row in rows:
        team = [agent.claims(problem(row)) for agent in agents]
        said = leader_rows.habit(rng, own.claims(problem(row)), team, 0.25)
        sampled += problem(row).solve(said)[1] == row["answer"]
    assert abs(sampled / len(rows) - accuracy(own, rows)) < 0.03


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CLAIMS / script), *args], capture_output=True, text=True, cwd=ROOT)


def test_cli_writes_the_schema(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert run("word_questions.py", "--split", "test", "--n", "30", "--out", str(out)).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 30
    assert all(set(row) == {"task", "subtask", "question", "answer"} and row["task"] == "bbh" for row in rows)
    one = Question(id="a", text=rows[1]["question"], **{key: rows[1][key] for key in ("task", "subtask", "answer")})
    assert one.verify(f"<answer> {rows[1]['answer']} </answer>").correct
    assert run("word_questions.py", "--split", "test", "--n", "0", "--out", str(out)).returncode == 2


@pytest.mark.slow
def test_tokenizer_knows_every_word_and_reads_back_what_it_wrote() -> None:
    import word_model

    tokenizer = word_model.build_tokenizer()
    unknown = tokenizer.unk_token_id
    texts = [row["question"] for split in q.SPLITS for row in first(split, 300)]
    for agent in (1, 2, 3):
        texts += [row[key] for row in rows_of_agent(agent, 100) for key in row]
    people = [k.Beliefs(f"person {i}") for i in range(10)]
    made = leader_rows.leader_rows(random.Random(0), iter(people * 10), people, q.questions("school", 0), 0.25)
    for (question, responses, last), trace in made:
        texts += [question, *responses, last or "", trace]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert unknown not in ids, text
        assert tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How many"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer(chat)["input_ids"].count(tokenizer.eos_token_id) == 1


def test_agents_that_are_right_once_they_have_seen_the_leader() -> None:
    import revising_agents

    row = first("train", 1)[0]
    said = revising_agents.answer([{"role": "user", "content": row["question"]}], seed=1, sampling={})
    facts = problem(row).facts
    assert not any(claim == k.truth(fact) for claim, fact in zip(problem(row).read(said), facts))
    leader = agent_rows.lead(problem(row), problem(row).read(said)).replace("<", "[").replace(">", "]")
    shown = f"{row['question']}\nagent : {said}\nleader : {leader}"
    now = revising_agents.answer([{"role": "user", "content": shown}], seed=1, sampling={})
    assert problem(row).read(now) == [k.truth(fact) for fact in facts] and extract_answer(now) == row["answer"]
