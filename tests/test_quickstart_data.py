"""The quickstart's questions, agent rows and models: right answers, disjoint splits, one seed one file."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_rows import real_rows

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import agent_data  # noqa: E402
import questions as q  # noqa: E402


def first(split: str, n: int, seed: int = 0, subtasks: list[str] | None = None) -> list[dict[str, str]]:
    return list(itertools.islice(q.questions(split, seed, subtasks), n))


def test_splits_share_no_question_and_repeat_none() -> None:
    texts = {split: [row["question"] for row in first(split, 900)] for split in q.SPLITS}
    assert all(len(set(rows)) == len(rows) for rows in texts.values())
    other_seed = {row["question"] for row in first("train", 900, seed=7)}
    assert not other_seed & set(texts["test"]) and not set(texts["train"]) & set(texts["test"])
    assert not set(texts["agents"]) & (set(texts["train"]) | set(texts["test"]))


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    assert first("test", 60) == first("test", 60) != first("test", 60, seed=1)


@pytest.mark.parametrize("subtask", list(q.MAKERS))
def test_answers_are_right(subtask: str) -> None:
    """Each answer against a second way of working it out."""
    for row in first("train", 300, subtasks=[subtask]):
        question, answer, work = row["question"], row["answer"], q.work(subtask, row["question"])
        if subtask == "dyck_languages":
            brackets = [*question[len(q.DYCK_FRAME) :].split(), answer]
            assert work.split()[-1] == "1", "one bracket is open at the end"
            while True:  # cancel neighbours until nothing changes
                i = next((i for i in range(len(brackets) - 1) if q.PAIRS.get(brackets[i]) == brackets[i + 1]), None)
                if i is None:
                    break
                del brackets[i : i + 2]
            assert brackets == []
        elif subtask == "object_counting":
            category = question.split("How many ")[1].removesuffix(" do I have?")
            names = {name for pair in q.NOUNS[category].items() for name in pair}
            parts = [p.removeprefix("and ").split(" ", 1) for p in question[7 : question.index(".")].split(", ")]
            assert str(sum(q.NUMBER_WORDS[n] for n, name in parts if name in names)) == answer == work.split()[-1]
        else:
            liars = question.count("lies")  # the last one is honest when the number of lies on the way is even
            assert answer == ("No" if liars % 2 else "Yes")
            assert work.split()[-1] == ("truth" if answer == "Yes" else "lies")


@pytest.mark.parametrize("agent", [1, 2, 3])
def test_agent_rows_end_right_and_keep_their_form(agent: int) -> None:
    rows = list(itertools.islice(agent_data.rows(agent, 0, revise=0.5), 200))
    before, after = agent_data.PHRASES[agent - 1].split("{}")
    assert all(row["output"].startswith(before) and row["output"].endswith(after) for row in rows)
    assert all(q.split_of(row["input"].split("\nagent : ")[0]) == "agents" for row in rows)
    later = [row for row in rows if "\nagent : " in row["input"]]
    assert 60 < len(later) < 140 and all("\nleader : [think]" in row["input"] for row in later)
    assert not any("<answer>" in row["input"] for row in rows)


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(QUICKSTART / script), *args], capture_output=True, text=True, cwd=ROOT)


def test_cli_writes_the_schema(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert run("questions.py", "--split", "test", "--n", "30", "--out", str(out)).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 30
    assert all(set(row) == {"task", "subtask", "question", "answer"} and row["task"] == "bbh" for row in rows)


@pytest.mark.slow
def test_tokenizer_knows_every_word_and_reads_back_what_it_wrote() -> None:
    import models

    tokenizer = models.build_tokenizer(models.vocabulary(), models.POSITIONS)
    unknown = tokenizer.unk_token_id
    texts = [row["question"] for split in q.SPLITS for row in first(split, 300)]
    for agent in (1, 2, 3):
        texts += [row[k] for row in itertools.islice(agent_data.rows(agent, 0, 0.5), 100) for k in row]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert unknown not in ids, text
        assert tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "True is"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer(chat)["input_ids"].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("subtask", list(q.MAKERS))
def test_real_rows_have_the_same_form(subtask: str) -> None:
    rows = [row for row in real_rows("bbh_sample.jsonl") if row["task"] == subtask]
    assert rows
    made = first("test", 1, subtasks=[subtask])[0]["question"]
    for row in rows:
        assert row["input"].split()[:2] == made.split()[:2] or subtask == "web_of_lies"
        if subtask == "web_of_lies":
            assert q.work(subtask, row["input"]).split()[-1] == {"Yes": "truth", "No": "lies"}[row["target"]]
